//! The content-addressed store on disk: whole files under their SHA-256, files that grow piece by piece,
//! pins, a quota. The exchange serves from it and writes to it, web downloads too; `owm-node models`
//! shows and tidies it. Calls block on the disk: from async code use a blocking thread.
//!
//! In the folder: `blobs/<sha256>` whole, `blobs/<sha256>.part` growing, `blobs/<sha256>.pieces` its piece
//! log, `records/<sha256>` what the file looked like when it was verified, `pins/<sha256>`.
//!
//! What must stay true: a file gets the name `<sha256>` only once every piece of it is proved and synced;
//! nothing is handed to a reader that was not verified, or that changed on the disk since; a piece stands
//! in the log only after the `fdatasync` of its bytes; pinned, kept and open files are never removed.

mod error;
mod file;
mod ladders;
mod log;
mod partial;
mod record;
mod room;
mod sync;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

pub use error::StoreError;
use file::OpenFile;
pub use file::StoredFile;
use log::PieceLog;
use owm_proto::{FileSpec, Ladder, Sha256};
use partial::Growing;
pub use partial::Partial;
use record::{Record, Stamp};
pub use room::{Idle, Usage};
use sync::Syncer;
use tokio::sync::watch;

/// Where a store lies and how much it may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The folder; made if it is not there.
    pub dir: PathBuf,
    /// Bytes that all files together may take; `None`: as many as the disk has.
    pub quota: Option<u64>,
    /// Bytes of the disk that are left free for everything else.
    pub spare: u64,
    /// Called when a file is whole, proved and synced and still has its temporary name, whoever brought
    /// it; after an error it keeps that name. A program's failpoint for the harness that kills it there.
    pub before_rename: Option<fn() -> io::Result<()>>,
}

impl StoreConfig {
    /// Room that is left for everything else on the disk, in bytes.
    pub const SPARE: u64 = 64 << 20;

    /// A store in `dir` without a quota.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            quota: None,
            spare: Self::SPARE,
            before_rename: None,
        }
    }
}

/// The store of one folder; clones share it. One process fetches into a folder at a time (the daemon
/// and its commands take turns), any number may read.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    open: Mutex<Open>,
    /// Held while a file begins, so that two that begin the same one get the same one.
    beginning: Mutex<()>,
    syncer: Arc<Syncer>,
    changes: watch::Sender<u64>,
}

/// What this process has open.
#[derive(Debug, Default)]
struct Open {
    whole: HashMap<Sha256, Weak<OpenFile>>,
    growing: HashMap<Sha256, Weak<Growing>>,
    /// Not to be removed for room.
    kept: BTreeSet<Sha256>,
    /// When each was used last in this process, by [`Open::uses`].
    used: BTreeMap<Sha256, u64>,
    uses: u64,
}

impl Store {
    /// Opens the folder and makes it if it is not there. Logs of files that are whole (the process was
    /// killed between the two steps of finishing) are removed.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        for name in ["blobs", "records", "pins"] {
            let folder = config.dir.join(name);
            fs::create_dir_all(&folder).map_err(|source| StoreError::io(&folder, source))?;
        }
        let store = Self(Arc::new(Inner {
            config,
            open: Mutex::default(),
            beginning: Mutex::default(),
            syncer: Arc::default(),
            changes: watch::Sender::new(0),
        }));
        for (name, path, _) in store.blobs()? {
            let whole = name.strip_suffix(".pieces").map(str::parse::<Sha256>);
            if let Some(Ok(sha256)) = whole
                && !store.part(&sha256).exists()
            {
                // One that another handle holds is of a file that begins just now.
                PieceLog::remove_left(&path).map_err(|source| StoreError::io(&path, source))?;
            }
        }
        Ok(store)
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.0.config.dir
    }

    /// The file if it is whole, was verified, and has not changed since. A file that this store has not
    /// verified itself (from a former version, or put there by hand) has to be [`Store::verify`]-ed first.
    pub fn complete(&self, sha256: &Sha256) -> Option<StoredFile> {
        let mut open = self.lock();
        if let Some(file) = open.whole.get(sha256).and_then(Weak::upgrade) {
            if file.is_unchanged() && file.is_there(&self.blob(sha256)) {
                open.touch(sha256);
                return Some(StoredFile(file));
            }
            open.whole.remove(sha256);
        }
        let record = record::load(&self.record(sha256))?;
        let file = OpenFile::open(*sha256, &self.blob(sha256)).ok()?;
        if !record.stamp.is_same(&file.stamp()) {
            drop(open);
            self.forget(sha256);
            return None;
        }
        let first = open.touch(sha256);
        let file = Arc::new(file);
        open.whole.insert(*sha256, Arc::downgrade(&file));
        drop(open);
        if first {
            // The record's time is when the file was used last, for the next process.
            let stamp = file.stamp();
            let record = Record { stamp, ..record };
            drop(record::store(&self.record(sha256), &record));
        }
        Some(StoredFile(file))
    }

    /// Reads `into.len()` bytes from `offset`: the verified ones, or an error. Fails with
    /// [`StoreError::Changed`] if the file changed on the disk; it is not given out again then before
    /// [`Store::verify`] found it right.
    pub fn read(&self, file: &StoredFile, offset: u64, into: &mut [u8]) -> Result<(), StoreError> {
        // A stranger's numbers: beyond the end nothing is proved, and nothing has changed either.
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > file.size()) {
            let sha256 = file.sha256();
            return Err(StoreError::NotProved { sha256 });
        }
        let read = file.0.read(offset, into);
        if let Err(StoreError::Changed { .. }) = &read {
            self.forget(&file.sha256());
        }
        read
    }

    /// Hashes the whole file that lies under `sha256`, and takes it as verified if it is what its name
    /// says; `progress` hears bytes hashed so far. `None`: it is not there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is something else; it stays where it is.
    pub fn verify(
        &self,
        sha256: &Sha256,
        progress: &dyn Fn(u64),
    ) -> Result<Option<StoredFile>, StoreError> {
        let path = self.blob(sha256);
        let file = match OpenFile::open(*sha256, &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::io(&path, source)),
        };
        let found = file.hash(progress)?;
        if found != *sha256 {
            self.forget(sha256);
            return Err(StoreError::Damaged { path, found });
        }
        self.write_record(sha256, file.stamp())?;
        drop(file);
        self.tell();
        Ok(self.complete(sha256))
    }

    /// Takes the file that lies under `sha256` as verified: the caller has hashed every byte of it just now.
    pub fn adopt(&self, sha256: &Sha256) -> Result<(), StoreError> {
        let path = self.blob(sha256);
        let stamp = Stamp::of(&path).map_err(|source| StoreError::io(&path, source))?;
        self.write_record(sha256, stamp)?;
        self.tell();
        Ok(())
    }

    /// As verified now; the ladder that a former record names stays its ladder.
    fn write_record(&self, sha256: &Sha256, stamp: Stamp) -> Result<(), StoreError> {
        let path = self.record(sha256);
        let ladder = record::load(&path).and_then(|record| record.ladder);
        let written = record::store(&path, &Record { stamp, ladder });
        written.map_err(|source| StoreError::io(&path, source))
    }

    /// The file while it grows in this process: its proved pieces may be read.
    pub fn partial(&self, sha256: &Sha256) -> Option<Partial> {
        let growing = self.lock().growing.get(sha256)?.upgrade()?;
        (!growing.is_finished()).then(|| Partial::of(growing))
    }

    /// Begins a file, or goes on with it. Pieces that the log names are checked against the ladder; what
    /// the log does not name is fetched again. A second call for the same file gives the same one.
    ///
    /// # Errors
    /// [`StoreError::Whole`] if it is there already, [`StoreError::Quota`] or [`StoreError::DiskFull`] if
    /// there is no room, [`StoreError::Busy`] if another process is at it.
    pub fn begin(&self, ladder: Arc<Ladder>) -> Result<Partial, StoreError> {
        let sha256 = ladder.spec().sha256();
        self.keep_ladder(&ladder)?;
        let beginning = &self.0.beginning;
        let _one = beginning.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(partial) = self.partial(&sha256) {
            return Ok(partial);
        }
        if self.complete(&sha256).is_some() {
            return Err(StoreError::Whole { sha256 });
        }
        let proof = ladder.spec().ladder_sha256();
        let growing = Arc::new(Growing::open(self, ladder)?);
        let stays = [sha256].into_iter().chain(proof).collect();
        self.make_room(growing.missing_bytes(), &stays)?;
        let weak = Arc::downgrade(&growing);
        self.lock().growing.insert(sha256, weak);
        self.tell();
        Ok(Partial::of(growing))
    }

    /// Takes a small whole file (a ladder) that is in memory.
    pub fn put(&self, spec: FileSpec, bytes: &[u8]) -> Result<StoredFile, StoreError> {
        let sha256 = spec.sha256();
        if let Some(file) = self.complete(&sha256) {
            return Ok(file);
        }
        let ladder = Ladder::none(spec).map_err(|_| StoreError::NotProved { sha256 })?;
        if ladder.pieces() > 0 && !ladder.check_whole(0, bytes) {
            return Err(StoreError::NotProved { sha256 });
        }
        let partial = self.begin(Arc::new(ladder))?;
        // All there, if an earlier call was ended between its log and its last step.
        if !partial.pieces().is_full() {
            match partial.write(0, bytes) {
                // Somebody else has just put it, or is about to.
                Ok(()) | Err(StoreError::NotWritable { .. }) => {}
                Err(error) => return Err(error),
            }
            if !partial.is_empty() {
                partial.proved(0)?;
            }
        }
        partial.finish()
    }

    /// Rises whenever a file begins, gains a synced piece, is finished, found changed, or removed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Whole files that were verified and have not changed, without opening them: what may be announced.
    pub fn verified(&self) -> Result<BTreeSet<Sha256>, StoreError> {
        let mut verified = BTreeSet::new();
        for (name, path, _) in self.blobs()? {
            if let Ok(sha256) = name.parse::<Sha256>()
                && let Some(record) = record::load(&self.record(&sha256))
                && Stamp::of(&path).is_ok_and(|now| record.stamp.is_same(&now))
            {
                verified.insert(sha256);
            }
        }
        Ok(verified)
    }

    /// Takes a whole file away, right or not, with all that is kept about it but its pin.
    pub fn discard(&self, sha256: &Sha256) -> Result<(), StoreError> {
        self.forget(sha256);
        remove(&self.blob(sha256))?;
        self.tell();
        Ok(())
    }

    /// A file that does not look as it did when it was verified is unknown from now on.
    fn forget(&self, sha256: &Sha256) {
        self.lock().whole.remove(sha256);
        // Best effort: a record that stays does not fit the file either.
        drop(remove(&self.record(sha256)));
        self.tell();
    }

    fn tell(&self) {
        self.0.changes.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing under this lock can be left half done.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob(&self, sha256: &Sha256) -> PathBuf {
        self.blob_named(&sha256.to_string())
    }

    fn part(&self, sha256: &Sha256) -> PathBuf {
        self.blob_named(&format!("{sha256}.part"))
    }

    fn pieces(&self, sha256: &Sha256) -> PathBuf {
        self.blob_named(&format!("{sha256}.pieces"))
    }

    fn blob_named(&self, name: &str) -> PathBuf {
        self.dir().join("blobs").join(name)
    }

    fn record(&self, sha256: &Sha256) -> PathBuf {
        self.dir().join("records").join(sha256.to_string())
    }
}

impl Open {
    /// Notes a use; whether it was the first in this process.
    fn touch(&mut self, sha256: &Sha256) -> bool {
        self.uses += 1;
        self.used.insert(*sha256, self.uses).is_none()
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(path, error)),
        _ => Ok(()),
    }
}

/// Makes names in a folder survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}
