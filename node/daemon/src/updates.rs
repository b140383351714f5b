//! Updates that the coordinator has not acknowledged: one file for each lease, written before the result that names it
//! is logged, gone once that result is booked. `roles::evaluate` writes, `daemon` hands in, removes and sweeps.
//! Must stay true: while a result waits in the task log, its file stays; two leases never share one.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    home::{HomeError, write_atomically},
    tasklog::LeaseKey,
};

/// The folder of updates. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Updates(PathBuf);

impl Updates {
    /// Those in `folder`, made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Keeps a lease's update.
    pub fn keep(&self, key: LeaseKey, bytes: &[u8]) -> Result<(), HomeError> {
        write_atomically(&self.path(key), bytes)
    }

    /// A lease's update and its length; `None`: there is none (any more).
    pub fn open(&self, key: LeaseKey) -> Result<Option<(fs::File, u64)>, HomeError> {
        let path = self.path(key);
        let open = || -> io::Result<_> {
            let file = fs::File::open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        match open() {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// Nobody needs a lease's update any more. What can't be removed is told and swept at the next start.
    pub fn remove(&self, key: LeaseKey) {
        Self::remove_file(&self.path(key));
    }

    /// Removes what a killed process has left: everything but the updates of these leases.
    pub fn sweep(&self, waiting: &[LeaseKey]) {
        let kept: BTreeSet<PathBuf> = waiting.iter().map(|key| self.path(*key)).collect();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if !kept.contains(&path) && path.is_file() {
                Self::remove_file(&path);
            }
        }
    }

    fn remove_file(path: &Path) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "an update that nobody needs stays on the disk");
            }
            _ => {}
        }
    }

    fn path(&self, key: LeaseKey) -> PathBuf {
        self.0.join(format!("{}-{}.owmu", key.task, key.epoch))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use owm_proto::TaskId;

    use super::*;

    fn key(n: u8) -> LeaseKey {
        LeaseKey {
            task: TaskId::from_random([n; 16]),
            epoch: 1,
        }
    }

    fn read(updates: &Updates, key: LeaseKey) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let (mut file, length) = updates.open(key).unwrap()?;
        assert_eq!(file.read_to_end(&mut bytes).unwrap() as u64, length);
        Some(bytes)
    }

    #[test]
    fn two_results_of_the_same_bytes_each_keep_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let updates = Updates::new(folder.path().join("updates"));
        updates.sweep(&[]);
        assert!(updates.open(key(1)).unwrap().is_none());
        updates.keep(key(1), b"same").unwrap();
        updates.keep(key(2), b"same").unwrap();
        updates.remove(key(1));
        updates.remove(key(1));
        assert_eq!(read(&updates, key(1)), None);
        assert_eq!(read(&updates, key(2)).as_deref(), Some(&b"same"[..]));
    }

    #[test]
    fn a_start_clears_what_no_result_waits_with() {
        let folder = tempfile::tempdir().unwrap();
        let updates = Updates::new(folder.path().to_owned());
        for n in 1..=3 {
            updates.keep(key(n), b"bytes").unwrap();
        }
        fs::write(folder.path().join("x.owmu.abc.new"), b"half").unwrap();
        updates.sweep(&[key(2)]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(read(&updates, key(2)).is_some());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_not_a_file_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        // Not a folder: an error, and not "not found".
        assert!(Updates::new(file).open(key(1)).is_err());
    }
}
