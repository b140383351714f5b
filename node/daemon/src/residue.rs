//! What updates did not carry, on this node's disk: one book for each sub-model and mode (spec §10.2). Whoever makes a
//! round's update loads the residue that goes in, keeps the one that is left, and says what became of the update.
//!
//! A training's [`Book`] says all: which residue counts, which update is prepared, which are committed and wait for a
//! verdict, which came back. Each event is one atomic write of that file; residues and updates lie beside it under their
//! hashes, from before a book names them until none does. A rejected update is not added to anything: it is marked as
//! come back, and every later load adds it until an update that was made with it is committed. So it does not matter in
//! which order commits and verdicts come, nor where a process is killed in between.
//!
//! The commit in the task log is the moment that counts: a prepared update whose commit is there counts as committed.
//! Must stay true: a residue never leaves the node; a training has one update in the making at a time.

mod book;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use owm_proto::{Sha256, evaluation::FormerPart, hash::Hasher};
use owm_update::{Encoded, Mode, Residue, ResidueError, Subject, Update, UpdateError};

use crate::home::{HomeError, read_small, sync_folder, write_atomically};
use book::{BOOK_BYTES_MAX, Book, Prepared};

/// What can go wrong with a residue.
#[derive(Debug, thiserror::Error)]
pub enum ResidueStoreError {
    /// The disk.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A file is damaged.
    #[error(
        "{path} is damaged: delete the residues that begin like it; what they held is lost, training goes on without"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An update that came back does not go with the residue.
    #[error("a rejected update cannot be put back")]
    PutBack(#[from] UpdateError),
    /// The same of the residue.
    #[error("a rejected update cannot be put back")]
    Values(#[from] ResidueError),
}

/// The folder of residues; clones take turns.
#[derive(Clone, Debug)]
pub struct ResidueStore {
    folder: PathBuf,
    /// Held while a book is read and written: a job makes a part while the daemon hears of another.
    turn: Arc<Mutex<()>>,
    #[cfg(test)]
    fuse: tests::Fuse,
}

/// Which updates came back and are in a residue that was loaded.
#[derive(Clone, Debug, Default)]
pub struct Absorbed(BTreeSet<Sha256>);

impl ResidueStore {
    /// The store in `folder`, made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            turn: Arc::default(),
            #[cfg(test)]
            fuse: tests::Fuse::default(),
        }
    }

    /// The residue that goes into the next update of this training (`None`: nothing is left over), and what came back and
    /// is in it, which [`Self::prepare`] wants to know. `is_committed` says whether the update of a hash is in the task log: what a killed process has
    /// left half done is settled by it.
    pub fn load(
        &self,
        subject: &Subject,
        is_committed: &dyn Fn(Sha256) -> bool,
    ) -> Result<(Option<Residue>, Absorbed), ResidueStoreError> {
        let _turn = self.turn();
        let stem = stem(subject);
        let mut book = self.book(&stem)?;
        if let Some(prepared) = book.prepared.take() {
            if is_committed(prepared.update) {
                book.commit(&prepared);
            }
            self.write(&stem, &book)?;
        }
        self.clear(&stem, &book)?;
        let mut residue = match book.current {
            Some(current) => Some(self.residue(&stem, current)?),
            None => None,
        };
        for update in &book.returned {
            let path = self.update(&stem, *update);
            let bytes = fs::read(&path).map_err(|error| at(&path, error))?;
            let update = Update::parse(&bytes)?;
            let before = match residue.take() {
                Some(residue) => residue,
                None => nothing(subject, &update)?,
            };
            residue = Some(before.put_back(&update)?);
        }
        Ok((residue, Absorbed(book.returned)))
    }

    /// Settles what a killed process has left half done, of all trainings: at the start, while the log still knows what was
    /// committed.
    pub fn settle(&self, is_committed: &dyn Fn(Sha256) -> bool) -> Result<(), ResidueStoreError> {
        let _turn = self.turn();
        for stem in self.stems()? {
            let mut book = self.book(&stem)?;
            let Some(prepared) = book.prepared.take() else {
                continue;
            };
            if is_committed(prepared.update) {
                book.commit(&prepared);
            }
            self.write(&stem, &book)?;
            self.clear(&stem, &book)?;
        }
        Ok(())
    }

    /// Keeps an update and the residue that it leaves until [`Self::committed`] is said, or the next [`Self::load`] asks.
    /// `absorbs` is what was in its residue before.
    pub fn prepare(
        &self,
        subject: &Subject,
        made: &Encoded,
        absorbs: Absorbed,
    ) -> Result<(), ResidueStoreError> {
        let _turn = self.turn();
        let stem = stem(subject);
        let residue = made.residue.sha256();
        self.put(&self.update(&stem, made.sha256), &made.bytes)?;
        self.put(&self.residue_path(&stem, residue), &made.residue.to_bytes())?;
        let mut book = self.book(&stem)?;
        book.prepared = Some(Prepared {
            update: made.sha256,
            residue,
            absorbs: absorbs.0,
        });
        self.write(&stem, &book)
    }

    /// The update is in the task log: from now on its residue is the one. Said again, nothing happens.
    pub fn committed(&self, subject: &Subject, update: Sha256) -> Result<(), ResidueStoreError> {
        let _turn = self.turn();
        let stem = stem(subject);
        let mut book = self.book(&stem)?;
        match book.prepared.take() {
            Some(prepared) if prepared.update == update => book.commit(&prepared),
            _ => return Ok(()),
        }
        self.write(&stem, &book)?;
        self.clear(&stem, &book)
    }

    /// An update that was committed is not wanted: what it carried comes back. Said again, or of an update that no book
    /// knows (its training is over), nothing happens.
    pub fn put_back(&self, update: Sha256) -> Result<(), ResidueStoreError> {
        self.decided(update, true).map(drop)
    }

    /// An update that was committed counts: nothing of it comes back.
    pub fn accepted(&self, update: Sha256) -> Result<(), ResidueStoreError> {
        self.decided(update, false).map(drop)
    }

    /// What a coordinator says of former parts, each as often as it likes; the next [`Self::load`] goes by it. How many
    /// have come back by it.
    pub fn heard(&self, former: &[FormerPart]) -> Result<usize, ResidueStoreError> {
        let mut back = 0;
        for part in former {
            let is_news = self.decided(part.update, !part.counted)?;
            back += usize::from(is_news && !part.counted);
        }
        Ok(back)
    }

    /// Whether it was waited for.
    fn decided(&self, update: Sha256, comes_back: bool) -> Result<bool, ResidueStoreError> {
        let _turn = self.turn();
        let mut is_news = false;
        for stem in self.stems()? {
            let mut book = self.book(&stem)?;
            // Who has a verdict has been handed in, so it was committed.
            let prepared = book.prepared.take_if(|prepared| prepared.update == update);
            if let Some(prepared) = prepared {
                book.commit(&prepared);
            }
            if !book.open.contains(&update) {
                continue;
            }
            is_news = true;
            book.open.retain(|open| *open != update);
            if comes_back {
                book.returned.insert(update);
            }
            self.write(&stem, &book)?;
            self.clear(&stem, &book)?;
        }
        Ok(is_news)
    }

    /// Drops what belongs to a training that is over: the end of a LoRA epoch.
    pub fn drop_of(&self, subject: &Subject) -> Result<(), ResidueStoreError> {
        let _turn = self.turn();
        let stem = stem(subject);
        let path = self.book_path(&stem);
        self.may_write(&path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path, error)),
            Err(_) => {}
            Ok(()) => sync_folder(&self.folder).map_err(|error| at(&path, error))?,
        }
        self.clear(&stem, &Book::default())
    }

    /// What a panic has left is as good as what a kill leaves.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes files of a training that its book does not name.
    fn clear(&self, stem: &str, book: &Book) -> Result<(), ResidueStoreError> {
        let mut named: BTreeSet<PathBuf> = [self.book_path(stem)].into();
        named.extend(book.residues().map(|hash| self.residue_path(stem, hash)));
        named.extend(book.updates().map(|hash| self.update(stem, hash)));
        for path in self.files(stem)? {
            if !named.contains(&path) {
                self.may_write(&path)?;
                fs::remove_file(&path).map_err(|error| at(&path, error))?;
            }
        }
        Ok(())
    }

    fn book(&self, stem: &str) -> Result<Book, ResidueStoreError> {
        let path = self.book_path(stem);
        let Some(bytes) = read_small(&path, BOOK_BYTES_MAX)? else {
            return Ok(Book::default());
        };
        serde_json::from_slice(&bytes).map_err(|source| damaged(&path, source))
    }

    fn write(&self, stem: &str, book: &Book) -> Result<(), ResidueStoreError> {
        let bytes = serde_json::to_vec(book).expect("a book is plain JSON");
        self.put(&self.book_path(stem), &bytes)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), ResidueStoreError> {
        self.may_write(path)?;
        Ok(write_atomically(path, bytes)?)
    }

    fn residue(&self, stem: &str, hash: Sha256) -> Result<Residue, ResidueStoreError> {
        let path = self.residue_path(stem, hash);
        let bytes = fs::read(&path).map_err(|error| at(&path, error))?;
        Residue::parse(&bytes).map_err(|source| damaged(&path, source))
    }

    /// Files of one training, its book among them.
    fn files(&self, stem: &str) -> Result<Vec<PathBuf>, ResidueStoreError> {
        let is_its = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let rest = name.and_then(|name| name.strip_prefix(stem));
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        Ok(self.all()?.into_iter().filter(is_its).collect())
    }

    fn all(&self) -> Result<Vec<PathBuf>, ResidueStoreError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| at(&self.folder, error))?,
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths
            .collect::<Result<_, _>>()
            .map_err(|error| at(&self.folder, error))
    }

    fn stems(&self) -> Result<Vec<String>, ResidueStoreError> {
        let stem = |path: PathBuf| {
            let name = path.file_name()?.to_str()?;
            name.strip_suffix(BOOK).map(str::to_owned)
        };
        Ok(self.all()?.into_iter().filter_map(stem).collect())
    }

    fn book_path(&self, stem: &str) -> PathBuf {
        self.folder.join(format!("{stem}{BOOK}"))
    }

    fn residue_path(&self, stem: &str, hash: Sha256) -> PathBuf {
        self.folder.join(format!("{stem}.{hash}.owmr"))
    }

    fn update(&self, stem: &str, hash: Sha256) -> PathBuf {
        self.folder.join(format!("{stem}.{hash}.owmu"))
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "tests let the disk fail here"
    )]
    fn may_write(&self, _: &Path) -> Result<(), ResidueStoreError> {
        Ok(())
    }

    #[cfg(test)]
    fn may_write(&self, path: &Path) -> Result<(), ResidueStoreError> {
        self.fuse.burn().map_err(|error| at(path, error))
    }
}

/// How a book's file ends.
const BOOK: &str = ".book.json";

/// A residue of zeros, for the update to be added to.
fn nothing(subject: &Subject, update: &Update<'_>) -> Result<Residue, ResidueError> {
    let elements = usize::try_from(update.header().elements).unwrap_or(usize::MAX);
    Residue::new(subject, vec![0.0; elements])
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

fn damaged(
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> ResidueStoreError {
    ResidueStoreError::Damaged {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

fn at(path: &Path, source: io::Error) -> ResidueStoreError {
    ResidueStoreError::Home(HomeError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
