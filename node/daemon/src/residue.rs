//! What updates did not carry, on this node's disk: one file for each sub-model and mode (spec §10.2). Whoever makes a
//! round's update loads the residue that goes in, keeps the one that is left, and says what became of the update.
//!
//! The commit in the task log is the moment that counts. Before it the new residue lies beside the old one under the
//! update's hash; after it the new one takes the old one's place. So a kill at any moment leaves the residue that goes
//! with what was committed: nothing is lost, nothing counts twice. In the same way an update that is put back is so at
//! the moment its own file is gone.
//! Must stay true: a residue never leaves the node; no file has its name before its bytes are on the disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use owm_proto::{Sha256, hash::Hasher};
use owm_update::{Mode, Residue, ResidueError, Subject, Update, UpdateError};

use crate::home::{HomeError, sync_folder, write_atomically};

/// What can go wrong with a residue.
#[derive(Debug, thiserror::Error)]
pub enum ResidueStoreError {
    /// The disk.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The file is damaged.
    #[error(
        "the residue at {path} is damaged: delete it; what it held is lost, training goes on without"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: ResidueError,
    },
    /// The update does not go with it.
    #[error("the rejected update cannot be put back")]
    PutBack(#[from] UpdateError),
}

/// The folder of residues.
#[derive(Clone, Debug)]
pub struct ResidueStore {
    folder: PathBuf,
    /// Where updates lie, `<sha256>.owmu`.
    updates: PathBuf,
}

impl ResidueStore {
    /// The store in `folder`, made when it is needed, of updates that lie in `updates`.
    pub fn new(folder: PathBuf, updates: PathBuf) -> Self {
        Self { folder, updates }
    }

    /// The residue that goes into the next update of this training. `is_committed` says whether the update of a hash
    /// is in the task log: what a killed process has left half done is settled by it.
    pub fn load(
        &self,
        subject: &Subject,
        is_committed: &dyn Fn(Sha256) -> bool,
    ) -> Result<Option<Residue>, ResidueStoreError> {
        self.settle(subject, is_committed)?;
        Self::read(&self.current(subject))
    }

    /// Keeps the residue that an update leaves, until [`Self::committed`] is said, or the next [`Self::load`] asks.
    pub fn prepare(
        &self,
        subject: &Subject,
        update: Sha256,
        residue: &Residue,
    ) -> Result<(), ResidueStoreError> {
        let path = self.pending(subject, update);
        Ok(write_atomically(&path, &residue.to_bytes())?)
    }

    /// The update is in the task log: from now on its residue is the one.
    pub fn committed(&self, subject: &Subject, update: Sha256) -> Result<(), ResidueStoreError> {
        let (from, to) = (self.pending(subject, update), self.current(subject));
        match fs::rename(&from, &to) {
            // Settled before, by a process that was killed then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at(&from, error)),
            Ok(()) => sync_folder(&self.folder).map_err(|error| at(&to, error)),
        }
    }

    /// An update that was committed is not wanted: what it carried goes back, and its file goes. If another update has
    /// been made meanwhile, it goes onto what that one has left. Of an update without a file this has been done.
    pub fn put_back(&self, update: Sha256) -> Result<(), ResidueStoreError> {
        let path = self.update(update);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            bytes => bytes.map_err(|error| at(&path, error))?,
        };
        let parsed = Update::parse(&bytes)?;
        let subject = &parsed.header().subject;
        self.settle_back(subject)?;
        if let Some(residue) = Self::read(&self.current(subject))? {
            let whole = residue.put_back(&parsed)?;
            write_atomically(&self.back(subject, update), &whole.to_bytes())?;
        }
        fs::remove_file(&path).map_err(|error| at(&path, error))?;
        sync_folder(&self.updates).map_err(|error| at(&path, error))?;
        self.settle_back(subject)
    }

    /// Drops what belongs to a training that is over: the end of a LoRA epoch.
    pub fn drop_of(&self, subject: &Subject) -> Result<(), ResidueStoreError> {
        for name in self.names(&stem(subject)) {
            let path = self.folder.join(name);
            fs::remove_file(&path).map_err(|error| at(&path, error))?;
        }
        Ok(())
    }

    fn settle(
        &self,
        subject: &Subject,
        is_committed: &dyn Fn(Sha256) -> bool,
    ) -> Result<(), ResidueStoreError> {
        self.settle_back(subject)?;
        let prefix = format!("{}.next-", stem(subject));
        for name in self.names(&prefix) {
            let path = self.folder.join(&name);
            let update: Option<Sha256> = name[prefix.len()..].parse().ok();
            match update {
                Some(update) if is_committed(update) => self.committed(subject, update)?,
                _ => fs::remove_file(&path).map_err(|error| at(&path, error))?,
            }
        }
        Ok(())
    }

    /// What was being put back when a process was killed: done if the update's file is gone, else not begun.
    fn settle_back(&self, subject: &Subject) -> Result<(), ResidueStoreError> {
        let prefix = format!("{}.back-", stem(subject));
        for name in self.names(&prefix) {
            let path = self.folder.join(&name);
            let update: Option<Sha256> = name[prefix.len()..].parse().ok();
            if update.is_some_and(|update| !self.update(update).exists()) {
                let to = self.current(subject);
                fs::rename(&path, &to).map_err(|error| at(&path, error))?;
                sync_folder(&self.folder).map_err(|error| at(&to, error))?;
            } else {
                fs::remove_file(&path).map_err(|error| at(&path, error))?;
            }
        }
        Ok(())
    }

    fn read(path: &Path) -> Result<Option<Residue>, ResidueStoreError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| at(path, error))?,
        };
        let parsed = Residue::parse(&bytes).map_err(|source| ResidueStoreError::Damaged {
            path: path.to_owned(),
            source,
        });
        parsed.map(Some)
    }

    fn names(&self, stem: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(stem)).collect();
        names.sort();
        names
    }

    fn current(&self, subject: &Subject) -> PathBuf {
        self.folder.join(format!("{}.owmr", stem(subject)))
    }

    fn pending(&self, subject: &Subject, update: Sha256) -> PathBuf {
        self.folder.join(format!("{}.next-{update}", stem(subject)))
    }

    fn back(&self, subject: &Subject, update: Sha256) -> PathBuf {
        self.folder.join(format!("{}.back-{update}", stem(subject)))
    }

    fn update(&self, update: Sha256) -> PathBuf {
        self.updates.join(format!("{update}.owmu"))
    }
}

/// What all files of one training begin with: network, sub-model, layout and mode (with a LoRA epoch's number, rank,
/// seed and matrices) decide it.
fn stem(subject: &Subject) -> String {
    let mut hash = Hasher::new();
    hash.update(subject.network.0.as_bytes());
    hash.update(subject.layout.as_bytes());
    match &subject.mode {
        Mode::Full => hash.update(b"full"),
        Mode::Lora(lora) => {
            hash.update(b"lora");
            hash.update(&lora.epoch.to_le_bytes());
            hash.update(&lora.rank.to_le_bytes());
            hash.update(&lora.seed);
            // `Debug` of a set of places: the same set, the same text.
            hash.update(format!("{:?}", lora.targets).as_bytes());
        }
    }
    format!("{}-{}", subject.sub_model, hash.finish())
}

fn at(path: &Path, source: io::Error) -> ResidueStoreError {
    ResidueStoreError::Home(HomeError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
