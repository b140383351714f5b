//! A whole file that was verified, opened for readers. Every read looks whether it changed on the disk.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use owm_proto::{Sha256, hash::Hasher};

use super::{StoreError, record::Stamp};

/// Bytes read at once when a file is hashed.
const HASH_BYTES: usize = 1 << 20;

/// A whole, verified file. While one is held, the file is not removed for room.
#[derive(Clone, Debug)]
pub struct StoredFile(pub(super) Arc<OpenFile>);

impl StoredFile {
    /// What it hashes to: its name.
    pub fn sha256(&self) -> Sha256 {
        self.0.sha256
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

#[derive(Debug)]
pub(super) struct OpenFile {
    sha256: Sha256,
    size: u64,
    path: PathBuf,
    file: File,
    stamp: Mutex<Stamp>,
}

impl OpenFile {
    pub(super) fn open(sha256: Sha256, path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let stamp = Stamp::from(file.metadata()?);
        Ok(Self {
            sha256,
            size: stamp.size,
            path: path.to_owned(),
            file,
            stamp: Mutex::new(stamp),
        })
    }

    pub(super) fn stamp(&self) -> Stamp {
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the bytes are still those at the time of opening.
    pub(super) fn is_unchanged(&self) -> bool {
        let Ok(now) = self.file.metadata().map(Stamp::from) else {
            return false;
        };
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let same = stamp.is_same(&now);
        if same {
            *stamp = now;
        }
        same
    }

    /// Whether `path` still leads to it.
    pub(super) fn is_there(&self, path: &Path) -> bool {
        Stamp::of(path).is_ok_and(|now| self.stamp().is_inode_of(&now))
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), StoreError> {
        let changed = || StoreError::Changed {
            path: self.path.clone(),
        };
        match self.file.read_exact_at(into, offset) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
            Err(source) => return Err(StoreError::io(&self.path, source)),
        }
        // Afterwards: a change while it was read counts too.
        if self.is_unchanged() {
            Ok(())
        } else {
            Err(changed())
        }
    }

    /// The SHA-256 of what lies there; fails if it changes meanwhile.
    pub(super) fn hash(&self, progress: &dyn Fn(u64)) -> Result<Sha256, StoreError> {
        let failed = |source| StoreError::io(&self.path, source);
        let (mut hasher, mut done) = (Hasher::new(), 0);
        let mut buffer = vec![0; HASH_BYTES];
        let mut file = &self.file;
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            done += read as u64;
            progress(done);
        }
        if self.is_unchanged() {
            return Ok(hasher.finish());
        }
        Err(StoreError::Changed {
            path: self.path.clone(),
        })
    }
}
