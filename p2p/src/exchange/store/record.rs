//! What a file looked like when it was verified, and whether it still does.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use owm_proto::Sha256;
use serde::{Deserialize, Serialize};

/// A file as the system sees it: it changes when the file's bytes may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    links: u64,
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// As `modified`; no program can set it back.
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(found: Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            links: found.nlink(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// Of what lies at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(Self::from)
    }

    /// Whether the bytes are the same as at `now`. A hard link made or removed changes the system's
    /// time of change too: that alone is no other file.
    pub(super) fn is_same(&self, now: &Self) -> bool {
        let same = (self.device, self.inode, self.size, self.modified)
            == (now.device, now.inode, now.size, now.modified);
        same && (self.changed == now.changed || self.links != now.links)
    }

    /// Whether `now` is the same file.
    pub(super) fn is_inode_of(&self, now: &Self) -> bool {
        (self.device, self.inode) == (now.device, now.inode)
    }
}

/// What is kept about a verified file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What it looked like.
    #[serde(flatten)]
    pub(super) stamp: Stamp,
    /// The ladder that proved it; it stays as long as the file.
    #[serde(default)]
    pub(super) ladder: Option<Sha256>,
}

/// Reads a record; one that is damaged counts as none.
pub(super) fn load(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes it, whole or not at all. It is not synced: without it the file is hashed again.
pub(super) fn store(path: &Path, record: &Record) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(record)?)?;
    fs::rename(&new, path)
}
