//! Where the bytes of updates lie until their round is over: files named by their SHA-256, on the coordinator's disk.
//! `rpc::update` fills it, whoever aggregates reads it.
//! Must stay true: a file has its name only when its bytes have that hash and are on the disk; what is taken at once is
//! bounded, per update and in all.

pub mod keep;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use keep::Kept;
use owm_proto::{Sha256, UnixMillis, hash::Hasher};
use tempfile::NamedTempFile;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Updates that are received at once: each has a file open and a node that waits.
const RECEIVING_MAX: usize = 32;

/// How the names of unfinished files begin.
const PARTIAL: &str = ".receiving-";

/// How the names of whole files end.
const SUFFIX: &str = ".owmu";

/// Why an update is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// More than was announced.
    #[error("more bytes came than the {0} that the report names")]
    TooLong(u64),
    /// Fewer than were announced.
    #[error("{got} bytes came, the report names {size}")]
    TooShort {
        /// As came.
        got: u64,
        /// As announced.
        size: u64,
    },
    /// Other bytes.
    #[error("the bytes have another SHA-256 than the report names")]
    WrongHash,
    /// Everybody at once.
    #[error("too many updates are being received; try again")]
    Busy,
    /// The folder is full by its own bound.
    #[error("the spool holds as much as [rounds] spool_max allows; try again when a round is over")]
    Full,
    /// The disk.
    #[error("the spool's folder {path}: {source}")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: Arc<PathBuf>,
    bytes_max: u64,
    receiving: Arc<Semaphore>,
    promised: Arc<Mutex<BTreeMap<Sha256, u64>>>,
}

/// Room that is kept for an update while it is received.
#[derive(Debug)]
struct Promise {
    all: Arc<Mutex<BTreeMap<Sha256, u64>>>,
    sha256: Sha256,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.sha256);
    }
}

/// An update that is being received.
#[derive(Debug)]
pub struct Incoming {
    spool: Spool,
    file: NamedTempFile,
    hasher: Hasher,
    got: u64,
    size: u64,
    sha256: Sha256,
    _room: Promise,
    _turn: OwnedSemaphorePermit,
}

impl Spool {
    /// A spool in `dir` (made when it is needed) of at most `bytes_max` bytes.
    pub fn in_folder(dir: &Path, bytes_max: u64) -> Self {
        Self {
            dir: Arc::new(dir.to_owned()),
            bytes_max,
            receiving: Arc::new(Semaphore::new(RECEIVING_MAX)),
            promised: Arc::default(),
        }
    }

    /// Where an update lies, or would.
    pub fn path(&self, sha256: &Sha256) -> PathBuf {
        self.dir.join(format!("{sha256}{SUFFIX}"))
    }

    /// Whether it is here, whole.
    pub fn has(&self, sha256: &Sha256, size: u64) -> bool {
        fs::metadata(self.path(sha256)).is_ok_and(|found| found.len() == size)
    }

    /// Takes it away, if it is here.
    pub fn remove(&self, sha256: &Sha256) -> Result<(), SpoolError> {
        let path = self.path(sha256);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SpoolError::Folder { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Begins to receive one. Blocks.
    pub fn begin(&self, sha256: Sha256, size: u64) -> Result<Incoming, SpoolError> {
        let turn = Arc::clone(&self.receiving).try_acquire_owned();
        let turn = turn.map_err(|_| SpoolError::Busy)?;
        let failed = |source| self.failed(source);
        fs::create_dir_all(&*self.dir).map_err(failed)?;
        let room = self.promise(sha256, size)?;
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix(PARTIAL).tempfile_in(&*self.dir);
        Ok(Incoming {
            file: file.map_err(failed)?,
            spool: self.clone(),
            hasher: Hasher::new(),
            got: 0,
            size,
            sha256,
            _room: room,
            _turn: turn,
        })
    }

    /// Keeps room for an update that is announced, before its bytes come; one sender of it at a time.
    fn promise(&self, sha256: Sha256, size: u64) -> Result<Promise, SpoolError> {
        let mut all = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(&sha256) {
            return Err(SpoolError::Busy);
        }
        let here = self.used().map_err(|source| self.failed(source))?;
        let coming = all
            .values()
            .fold(0_u64, |sum, size| sum.saturating_add(*size));
        let used = here.saturating_add(coming);
        if used.saturating_add(size) > self.bytes_max {
            return Err(SpoolError::Full);
        }
        all.insert(sha256, size);
        drop(all);
        Ok(Promise {
            all: Arc::clone(&self.promised),
            sha256,
        })
    }

    /// All whole updates. Blocks.
    pub fn kept(&self) -> Result<Vec<Kept>, SpoolError> {
        let entries = match fs::read_dir(&*self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| self.failed(source))?,
        };
        let mut kept = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let sha256 = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(sha256) = sha256.and_then(|sha256| sha256.parse().ok()) else {
                continue;
            };
            // One that goes away meanwhile is none.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let at = found.modified().map_err(|source| self.failed(source))?;
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            kept.push(Kept {
                sha256,
                size: found.len(),
                at: UnixMillis(0).after(at),
            });
        }
        Ok(kept)
    }

    /// Bytes of all whole files.
    fn used(&self) -> io::Result<u64> {
        let mut used = 0;
        for entry in fs::read_dir(&*self.dir)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                used += entry.metadata().map_or(0, |found| found.len());
            }
        }
        Ok(used)
    }

    /// Clears away what a former process has left unfinished. Only at start, before anything is received.
    pub fn clear_unfinished(&self) -> Result<(), SpoolError> {
        let entries = match fs::read_dir(&*self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|source| self.failed(source))?,
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                fs::remove_file(entry.path()).map_err(|source| self.failed(source))?;
            }
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> SpoolError {
        SpoolError::Folder {
            path: self.dir.to_path_buf(),
            source,
        }
    }
}

impl Incoming {
    /// Adds bytes. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.got += bytes.len() as u64;
        if self.got > self.size {
            return Err(SpoolError::TooLong(self.size));
        }
        self.hasher.update(bytes);
        let written = io::Write::write_all(&mut self.file, bytes);
        written.map_err(|source| self.spool.failed(source))
    }

    /// All are here: they get their name, if they are the announced ones. Blocks.
    pub fn finish(self) -> Result<PathBuf, SpoolError> {
        if self.got < self.size {
            return Err(SpoolError::TooShort {
                got: self.got,
                size: self.size,
            });
        }
        if self.hasher.finish() != self.sha256 {
            return Err(SpoolError::WrongHash);
        }
        let path = self.spool.path(&self.sha256);
        let failed = |source| self.spool.failed(source);
        self.file.as_file().sync_all().map_err(failed)?;
        let kept = self.file.persist(&path).map_err(|error| error.error);
        kept.map_err(failed)?;
        fs::File::open(&*self.spool.dir)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_announced_bytes_get_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::in_folder(&folder.path().join("spool"), 100);
        let bytes = b"an update";
        let (sha256, size) = (Sha256::of(bytes), bytes.len() as u64);
        let send = |parts: &[&[u8]]| {
            let mut incoming = spool.begin(sha256, size)?;
            for part in parts {
                incoming.write(part)?;
            }
            incoming.finish()
        };
        assert!(matches!(
            send(&[b"an"]),
            Err(SpoolError::TooShort { got: 2, .. })
        ));
        assert!(matches!(send(&[b"an updatf"]), Err(SpoolError::WrongHash)));
        assert!(matches!(
            send(&[b"an update", b"!"]),
            Err(SpoolError::TooLong(9))
        ));
        assert!(!spool.has(&sha256, size));
        let path = send(&[b"an ", b"update"]).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
        assert!(spool.has(&sha256, size));
        let names = fs::read_dir(folder.path().join("spool")).unwrap().count();
        assert_eq!(names, 1, "nothing unfinished stays");
        spool.remove(&sha256).unwrap();
        spool.remove(&sha256).unwrap();
        assert!(!spool.has(&sha256, size));
    }

    #[test]
    fn what_is_received_at_once_and_in_all_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::in_folder(folder.path(), 100);
        let begin = |n: u8, size| spool.begin(Sha256([n; 32]), size);
        assert!(matches!(begin(1, 101), Err(SpoolError::Full)));
        let all: Vec<_> = (0..RECEIVING_MAX)
            .map(|n| begin(n as u8, 1).unwrap())
            .collect();
        assert!(matches!(begin(99, 1), Err(SpoolError::Busy)));
        drop(all);
        // What is announced counts before a byte of it has come, and comes from one sender at a time.
        let mut left = begin(1, 60).unwrap();
        assert!(matches!(begin(2, 60), Err(SpoolError::Full)));
        assert!(matches!(begin(1, 10), Err(SpoolError::Busy)));
        left.write(&[0; 60]).unwrap();
        // What a killed process leaves.
        let (_, path) = left.file.keep().unwrap();
        assert!(path.exists());
        let next = Spool::in_folder(folder.path(), 100);
        next.clear_unfinished().unwrap();
        assert!(!path.exists() && next.begin(Sha256([2; 32]), 60).is_ok());
    }
}
