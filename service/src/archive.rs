//! Backups: one tar file that tells what it is, checks itself and is restored whole or not at all.
//!
//! The daemons' `backup` and `restore` call it; what belongs into a backup is theirs to say. A backup is
//! plain POSIX tar: first `manifest.json` (program, version, network, key, SHA-256 and size of each
//! member), then the members, last `SHA256SUMS` over all of it, so that
//! `tar -xf FILE && sha256sum -c SHA256SUMS` checks it without us.
//!
//! Must stay true: a backup has mode 0600 and its name only when it is whole and on the disk; nothing is
//! written by a restore before every byte has been checked; a folder is restored under another name and
//! then renamed; what a foreign file says is bounded and never a path outside the folder.

mod read;
mod write;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use read::{Archive, Staging};
pub use write::{Plan, Written, note_last, write};

/// The layout described above.
pub const FORMAT: u32 = 1;
/// The first member.
pub const MANIFEST: &str = "manifest.json";
/// The last member.
pub const SUMS: &str = "SHA256SUMS";
/// Where `doctor` looks for the age of the last backup, in the data folder.
pub const LAST_BACKUP: &str = "last-backup.json";
/// Members of a backup: keys, documents and a file per published model file, far fewer in practice. All
/// are held open while they are packed.
pub const MEMBERS_MAX: usize = 512;
/// Bytes of a manifest: [`MEMBERS_MAX`] entries of some 200 bytes, ten times over.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a member's name: what a tar header holds without extensions.
const NAME_BYTES_MAX: usize = 100;
/// Bytes of a tar record, and of each header.
const RECORD: u64 = 512;

/// What a backup is, as written in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that made it.
    pub format: u32,
    /// `owm-node`, `owm-coordinator`.
    pub program: String,
    /// That program's version.
    pub version: String,
    /// The network's id, hex.
    pub network: String,
    /// The node's or the coordinator instance's public key, hex.
    pub key: String,
    /// When it was made, Unix milliseconds.
    pub created_at_ms: u64,
    /// What else the program needs to know before it restores, such as a schema's version.
    pub facts: BTreeMap<String, String>,
    /// The members in their order, without manifest and sums.
    pub members: Vec<Entry>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the backup, with `/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lowercase hex.
    pub sha256: String,
}

/// Why there is no backup, or no restore.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file or folder can't be used.
    #[error("{}: {source}; check that the path is right, belongs to this user and has room", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A backup never overwrites anything.
    #[error("{} is there already; a backup overwrites nothing: choose another name", .0.display())]
    Exists(PathBuf),
    /// A file changed while it was packed.
    #[error("{} changed while it was read; run the backup again", .0.display())]
    Changed(PathBuf),
    /// A name that no backup may hold, or too many.
    #[error("a backup cannot hold `{name}`: {why}")]
    Member {
        /// As given.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// Not one of ours.
    #[error("{} is no OWM backup ({why}); is it the right file, and decrypted?", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Its end is missing.
    #[error(
        "the backup {} is cut off: it has {found} of {wanted} bytes; copy it again or take an older one",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// What its manifest says.
        wanted: u64,
    },
    /// A byte is not what it was.
    #[error("the backup {} is damaged: {what}; copy it again or take an older one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        what: String,
    },
    /// Another program's.
    #[error("{} is a backup of {found}; restore it with `{found} restore`", path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// A newer program's.
    #[error(
        "{} was made by version {version} in format {found}, this program knows up to {FORMAT}: \
         restore it with version {version} or newer",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The version of the program that made it.
        version: String,
    },
    /// There is something in the way.
    #[error(
        "{} is not empty; a restore overwrites nothing: name a folder that is empty or not there yet",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// The folder cannot be put in its place.
    #[error(
        "{} is {what}, which a restored folder cannot replace: name a folder below it, such as {}/restored",
        path.display(), path.display()
    )]
    NotReplaceable {
        /// The folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

impl ArchiveError {
    /// For `map_err` at a path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl Manifest {
    /// The exact bytes of `SHA256SUMS` when the manifest's own hash is `own`.
    fn sums(&self, own: &str) -> String {
        let members = self
            .members
            .iter()
            .map(|entry| format!("{}  {}\n", entry.sha256, entry.name));
        std::iter::once(format!("{own}  {MANIFEST}\n"))
            .chain(members)
            .collect()
    }

    /// Bytes of the whole file, given the manifest's and the sums' length; `None` for nonsense.
    fn file_bytes(&self, manifest: u64, sums: u64) -> Option<u64> {
        let sizes = self.members.iter().map(|entry| entry.size);
        // Two empty records end a tar file.
        sizes
            .chain([manifest, sums])
            .try_fold(2 * RECORD, |sum, size| {
                sum.checked_add(RECORD)?
                    .checked_add(size.checked_next_multiple_of(RECORD)?)
            })
    }
}

/// Says what is wrong with a member's name: it must stay below the folder it is restored to.
fn check_name(name: &str) -> Result<(), ArchiveError> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let why = if name.len() > NAME_BYTES_MAX {
        "its name is longer than 100 bytes"
    } else if !name.bytes().all(|byte| byte.is_ascii_graphic()) || name.contains('\\') {
        "its name has characters other than printable ASCII"
    } else if !name.split('/').all(plain) {
        "its name does not stay below a folder"
    } else if name == MANIFEST || name == SUMS {
        "that name is the backup's own"
    } else {
        return Ok(());
    };
    let name = name.to_owned();
    Err(ArchiveError::Member { name, why })
}

/// Lowercase hex.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests;
