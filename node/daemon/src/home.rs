//! The node's folder: names of all files in it, the lock that keeps a second process out, and atomic
//! small writes. Everyone who touches a file of the data folder asks here for its path.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// What can go wrong with the data folder.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file or folder can't be used.
    #[error("{}: {source}; check that the folder exists, belongs to this user and has room", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process runs here.
    #[error(
        "another owm-node runs in {} (it holds the lock): stop it first, or start this one with a \
         folder of its own (owm-node init --dir)", .0.display()
    )]
    Locked(PathBuf),
}

/// The data folder.
#[derive(Clone, Debug)]
pub struct Home(PathBuf);

/// A lock file, held until this is dropped (the system drops it with the process).
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holding it is its use")] Flock<File>);

/// Takes a lock file, made if it is not there; `None`: another process (or part of this one) has it.
pub fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(Lock(lock))),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

impl Home {
    /// Makes the folder (mode 0700) if it is not there.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let io = |source| HomeError::Io {
            path: folder.to_owned(),
            source,
        };
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        Ok(Self(folder.to_owned()))
    }

    /// The folder as it is, not made if it is absent: for those who only look.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The identity key.
    pub fn key(&self) -> PathBuf {
        self.0.join("node.pem")
    }

    /// The owner binding, if the node has another owner than itself.
    pub fn owner_binding(&self) -> PathBuf {
        self.0.join("owner-binding.pb")
    }

    /// The task log.
    pub fn tasks(&self) -> PathBuf {
        self.0.join("tasks.sqlite")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The membership statement.
    pub fn membership(&self) -> PathBuf {
        self.0.join("membership.pb")
    }

    /// The network's documents, for checking receipts offline.
    pub fn network(&self) -> PathBuf {
        self.0.join("network")
    }

    /// The newest checkpoint with its manifest.
    pub fn newest_checkpoint(&self) -> PathBuf {
        self.0.join("newest-checkpoint.pb")
    }

    /// Peers of former runs.
    pub fn peers(&self) -> PathBuf {
        self.0.join("peers.json")
    }

    /// The pause that holds, if one does.
    pub fn pause(&self) -> PathBuf {
        self.0.join("paused.json")
    }

    /// How the last run ended, or that one is under way.
    pub fn last_exit(&self) -> PathBuf {
        self.0.join("last-exit.json")
    }

    /// Updates that the coordinator has not acknowledged.
    pub fn updates(&self) -> PathBuf {
        self.0.join("updates")
    }

    /// What the updates of rounds did not carry.
    pub fn residues(&self) -> PathBuf {
        self.0.join("residues")
    }

    /// Models.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// Keeps other processes out until the result is dropped.
    pub fn lock(&self) -> Result<Lock, HomeError> {
        let path = self.0.join("lock");
        match try_lock(&path) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(HomeError::Locked(self.0.clone())),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), HomeError> {
    let io = |source| HomeError::Io {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io)?;
    // A name of its own: two processes may write the same file.
    let mut file = tempfile::Builder::new()
        .prefix(path.file_name().unwrap_or_default())
        .suffix(".new")
        // Less what the umask takes, as for every file.
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(io)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    sync_folder(folder).map_err(io)
}

/// Brings a folder's names to the disk.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a small file, `None` if it is not there; at most `limit` bytes.
pub fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, HomeError> {
    use io::Read as _;
    let io = |source| HomeError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(io(io::Error::other(format!(
            "the file has more than {limit} bytes"
        ))));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_kept_out_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("data")).unwrap();
        let lock = home.lock().unwrap();
        let error = home.lock().unwrap_err();
        assert!(matches!(error, HomeError::Locked(_)), "{error}");
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn many_who_write_the_same_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomically(path, &[n; 1_000]).unwrap();
                    }
                });
            }
        });
        let found = read_small(&path, 2_000).unwrap().unwrap();
        assert!(found.len() == 1_000 && found.iter().all(|byte| *byte == found[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_small_file_is_written_whole_and_bounded_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert_eq!(read_small(&path, 10).unwrap(), None);
        write_atomically(&path, b"hello").unwrap();
        assert_eq!(
            read_small(&path, 5).unwrap().as_deref(),
            Some(&b"hello"[..])
        );
        assert!(read_small(&path, 4).is_err());
    }
}
