//! A file that grows: bytes written anywhere, pieces declared proved, the log behind them, and the step to a
//! whole file. The exchange's driver and web downloads write it, the server reads what is proved.
//! Must stay true: nothing is written over a proved piece, also not by a write that began before; after a failed sync
//! nothing more is logged.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{
    Store, StoreError, StoredFile,
    log::{PieceLog, Read},
    record::{self, Record, Stamp},
    remove, sync_folder,
    writers::Writers,
};
use crate::exchange::PieceSet;

/// Bytes read at once when a piece is checked again.
const CHECK_BYTES: u64 = 1 << 20;

/// A growing file; clones are the same file and the same writer. When the last one is dropped, what is proved is
/// synced, which blocks.
#[derive(Clone, Debug)]
pub struct Partial(Arc<Growing>, u64);

#[derive(Debug)]
pub(super) struct Growing {
    store: Store,
    ladder: Arc<Ladder>,
    file: File,
    path: PathBuf,
    /// Taken before `state`.
    log: Mutex<PieceLog>,
    state: Mutex<State>,
    /// Writes have ended.
    written: Condvar,
}

#[derive(Debug)]
struct State {
    proved: PieceSet,
    /// Proved, not synced.
    pending: Vec<u32>,
    writers: Writers,
    /// Writers so far.
    handles: u64,
    failed: bool,
    finished: bool,
}

impl Partial {
    /// One more writer of the file.
    pub(super) fn of(growing: Arc<Growing>) -> Self {
        let handle = {
            let mut state = growing.state();
            state.handles += 1;
            state.handles
        };
        Self(growing, handle)
    }

    /// What it is to become.
    pub fn ladder(&self) -> &Arc<Ladder> {
        &self.0.ladder
    }

    /// Bytes it will have.
    pub fn len(&self) -> u64 {
        self.0.ladder.spec().size()
    }

    /// Whether it will have none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes from the front up to the first hole: how far a download from the front has come, also where others have
    /// written further behind. To the block: what lies there is proved by its hash alone.
    pub fn written(&self) -> u64 {
        super::room::first_hole(&self.0.file).unwrap_or(0)
    }

    /// The proved pieces.
    pub fn pieces(&self) -> PieceSet {
        self.0.state().proved.clone()
    }

    /// Bytes that are not in proved pieces.
    pub fn missing_bytes(&self) -> u64 {
        self.0.missing_bytes()
    }

    /// Writes bytes that came in, which nobody is shown before [`Partial::proved`]. Waits while more than
    /// 64 MiB that are proved have not reached the disk.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let growing = &self.0;
        growing.store.0.syncer.wait_for_disk();
        let pieces = if range.end <= self.len() {
            growing.begin_write(self.1, growing.touched(&range))?
        } else {
            None
        };
        let Some(pieces) = pieces else {
            return Err(StoreError::NotWritable {
                sha256: growing.sha256(),
                offset,
                len: bytes.len() as u64,
            });
        };
        let written = growing.file.write_all_at(bytes, offset);
        growing.state().writers.end(pieces);
        growing.written.notify_all();
        written.map_err(|source| growing.no_room(source))
    }

    /// Reads what was written, proved or not: to check it.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), StoreError> {
        let read = self.0.file.read_exact_at(into, offset);
        read.map_err(|source| StoreError::io(&self.0.path, source))
    }

    /// Reads proved pieces only: to serve them.
    pub fn read_proved(&self, offset: u64, into: &mut [u8]) -> Result<(), StoreError> {
        let range = offset..offset.saturating_add(into.len() as u64);
        let is_proved = range.end <= self.len() && {
            let state = self.0.state();
            self.0.usable(&state)?;
            self.0.touched(&range).all(|piece| state.proved.has(piece))
        };
        if !is_proved {
            return Err(StoreError::NotProved {
                sha256: self.0.sha256(),
            });
        }
        self.read(offset, into)
    }

    /// Reads a piece back and says whether it is the ladder's.
    pub fn check(&self, piece: u32) -> Result<bool, StoreError> {
        let checked = self.0.check(piece);
        checked.map_err(|source| StoreError::io(&self.0.path, source))
    }

    /// The caller has checked this piece against the ladder. It may be read by others from now on, and is logged with
    /// the next sync, which happens by itself. If somebody else has written there too, it is looked at on the disk
    /// first; whether it is right.
    pub fn proved(&self, piece: u32) -> Result<bool, StoreError> {
        if self.try_proved(piece) {
            return Ok(true);
        }
        self.settle(piece)
    }

    /// [`Self::proved`] without blocking; `false`: only [`Self::settle`] can say.
    pub(in crate::exchange) fn try_proved(&self, piece: u32) -> bool {
        {
            let mut state = self.0.state();
            if !state.writers.is_sole(self.1, piece) {
                return state.proved.has(piece);
            }
            state.writers.forget(piece);
            if !state.proved.add(piece) {
                return true;
            }
            state.pending.push(piece);
        }
        self.0.has_proved(piece);
        true
    }

    /// Whether what lies there of a piece was all written here, with nothing of others in between.
    pub(in crate::exchange) fn is_sole(&self, piece: u32) -> bool {
        self.0.state().writers.is_sole(self.1, piece)
    }

    /// Waits for all writes to a piece and looks what is there: it is proved or, if wrong, to be written anew.
    pub(in crate::exchange) fn settle(&self, piece: u32) -> Result<bool, StoreError> {
        let growing = &self.0;
        {
            let is_closed = |state: &mut State| state.writers.is_closed(piece);
            let state = growing.written.wait_while(growing.state(), is_closed);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            if state.proved.has(piece) {
                return Ok(true);
            }
            state.writers.close(piece);
            let is_written = |state: &mut State| state.writers.is_written(piece);
            drop(growing.written.wait_while(state, is_written));
        }
        let is_right = self.check(piece);
        let has_proved = matches!(is_right, Ok(true));
        {
            let mut state = growing.state();
            if has_proved {
                state.writers.forget(piece);
            } else {
                state.writers.reopen(piece);
            }
            // Named twice, the log would count as torn from there on.
            if has_proved && state.proved.add(piece) {
                state.pending.push(piece);
            }
        }
        growing.written.notify_all();
        if has_proved {
            growing.has_proved(piece);
        }
        is_right
    }

    /// Syncs and logs what is proved, now.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }

    /// Throws away what there is: it turned out to be something else. Others who hold it can't use it any more.
    pub fn discard(&self) -> Result<(), StoreError> {
        self.0.discard()
    }

    /// All pieces are proved: syncs the file, gives it its name, and takes the log away.
    pub fn finish(&self) -> Result<StoredFile, StoreError> {
        let growing = &self.0;
        let sha256 = growing.sha256();
        growing.finish()?;
        let file = growing.store.complete(&sha256);
        file.ok_or_else(|| StoreError::Changed {
            path: growing.store.blob(&sha256),
        })
    }
}

impl Growing {
    /// Opens what is there and checks what the log names. Without a log that is this file's (a download of
    /// a former version, a damaged header), everything that lies there whole is checked.
    pub(super) fn open(store: &Store, ladder: Arc<Ladder>) -> Result<Self, StoreError> {
        let sha256 = ladder.spec().sha256();
        let (path, log_path) = (store.part(&sha256), store.pieces(&sha256));
        let failed = |source| StoreError::io(&path, source);
        let log_failed = |source| StoreError::io(&log_path, source);
        let syncer = &store.0.syncer;
        syncer.start().map_err(failed)?;
        let log = PieceLog::open(&log_path, ladder.spec()).map_err(log_failed)?;
        let mut log = log.ok_or(StoreError::Busy { sha256 })?;
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > ladder.spec().size() {
            file.set_len(0).map_err(failed)?;
        }
        let pieces = ladder.pieces();
        let said = log.read(pieces).map_err(log_failed)?;
        let growing = Self {
            store: store.clone(),
            ladder,
            file,
            path: path.clone(),
            log: Mutex::new(log),
            state: Mutex::new(State {
                proved: PieceSet::none(pieces),
                pending: Vec::new(),
                writers: Writers::default(),
                handles: 0,
                failed: false,
                finished: false,
            }),
            written: Condvar::new(),
        };
        let proved = growing.still_right(&said).map_err(failed)?;
        if said != Read::Pieces(proved.clone()) {
            growing.file.sync_data().map_err(failed)?;
            growing.log().rewrite(&proved).map_err(log_failed)?;
        }
        growing.state().proved = proved;
        Ok(growing)
    }

    fn still_right(&self, said: &Read) -> io::Result<PieceSet> {
        let length = self.file.metadata()?.len();
        let pieces = self.ladder.pieces();
        let mut right = PieceSet::none(pieces);
        for piece in 0..pieces {
            let is_named = match said {
                Read::Fresh | Read::Foreign => true,
                Read::Torn(named) | Read::Pieces(named) => named.has(piece),
            };
            if is_named && self.range(piece).end <= length && self.check(piece)? {
                right.add(piece);
            }
        }
        Ok(right)
    }

    fn check(&self, piece: u32) -> io::Result<bool> {
        let range = self.range(piece);
        let mut check = self.ladder.check(piece);
        let mut buffer = vec![0; CHECK_BYTES.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let length = CHECK_BYTES.min(range.end - at) as usize;
            match self.file.read_exact_at(&mut buffer[..length], at) {
                Ok(()) => check.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
            at += length as u64;
        }
        Ok(check.finish())
    }

    /// A write to these pieces begins; `None`: they are not to be written.
    fn begin_write(
        &self,
        handle: u64,
        pieces: Range<u32>,
    ) -> Result<Option<Range<u32>>, StoreError> {
        let mut state = self.state();
        self.usable(&state)?;
        let is_open = !state.finished && pieces.clone().all(|piece| !state.proved.has(piece));
        Ok((is_open && state.writers.begin(handle, pieces.clone())).then_some(pieces))
    }

    fn has_proved(self: &Arc<Self>, piece: u32) {
        self.store.0.syncer.wake(self, self.bytes(piece));
        self.store.tell();
    }

    /// First the bytes, then the log.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut log = self.log();
        let pending = {
            let mut state = self.state();
            self.usable(&state)?;
            if state.finished {
                return Ok(());
            }
            std::mem::take(&mut state.pending)
        };
        if pending.is_empty() {
            return Ok(());
        }
        let synced = self.file.sync_data().and_then(|()| log.append(&pending));
        if let Err(source) = synced {
            // The system may have dropped the bytes: only a new start, from the log, knows what is there.
            self.state().failed = true;
            return Err(self.no_room(source));
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), StoreError> {
        let log = self.log();
        let sha256 = self.sha256();
        {
            let state = self.state();
            self.usable(&state)?;
            if state.finished {
                return Ok(());
            }
            if !state.proved.is_full() {
                return Err(StoreError::NotProved { sha256 });
            }
        }
        let blob = self.store.blob(&sha256);
        let failed = |source| StoreError::io(&blob, source);
        if let Err(source) = self.file.sync_all() {
            self.state().failed = true;
            return Err(self.no_room(source));
        }
        if let Some(check) = self.store.0.config.before_rename {
            check().map_err(failed)?;
        }
        fs::rename(&self.path, &blob).map_err(failed)?;
        sync_folder(&blob).map_err(failed)?;
        let stamp = self.file.metadata().map(Stamp::from).map_err(failed)?;
        let ladder = self.spec().ladder_sha256();
        let record = Record { stamp, ladder };
        record::store(&self.store.record(&sha256), &record).map_err(failed)?;
        // Until here askers are answered from the partial file, from here on from the whole one.
        self.state().finished = true;
        remove(&self.store.pieces(&sha256))?;
        drop(log);
        self.store.tell();
        Ok(())
    }

    fn discard(&self) -> Result<(), StoreError> {
        // Nobody begins it anew before both are gone.
        let _log = self.log();
        {
            let mut state = self.state();
            if state.finished {
                return Ok(());
            }
            state.failed = true;
        }
        remove(&self.path)?;
        remove(&self.store.pieces(&self.sha256()))?;
        self.store.tell();
        Ok(())
    }

    pub(super) fn is_finished(&self) -> bool {
        let state = self.state();
        state.finished || state.failed
    }

    pub(super) fn missing_bytes(&self) -> u64 {
        let state = self.state();
        let proved: u64 = state.proved.iter().map(|p| self.bytes(p)).sum();
        self.ladder.spec().size() - proved
    }

    fn usable(&self, state: &State) -> Result<(), StoreError> {
        if state.failed {
            let source = io::Error::other("a former write to this file did not reach the disk");
            return Err(StoreError::io(&self.path, source));
        }
        Ok(())
    }

    /// What a failed write means for whoever has to make room.
    fn no_room(&self, source: io::Error) -> StoreError {
        let folder = self.store.dir().to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::DiskFull {
                needed: self.missing_bytes(),
                free: super::room::free_bytes(&folder).unwrap_or_default(),
                folder,
            },
            io::ErrorKind::FileTooLarge => StoreError::FileTooLarge {
                size: self.ladder.spec().size(),
                folder,
            },
            _ => StoreError::io(&self.path, source),
        }
    }

    fn touched(&self, range: &Range<u64>) -> Range<u32> {
        let length = self.ladder.piece_len().max(1);
        // A file's pieces fit into 32 bits, and the range is inside of it.
        (range.start / length) as u32..range.end.div_ceil(length) as u32
    }

    fn range(&self, piece: u32) -> Range<u64> {
        self.ladder.range(piece)
    }

    fn bytes(&self, piece: u32) -> u64 {
        let range = self.range(piece);
        range.end - range.start
    }

    pub(super) fn spec(&self) -> &FileSpec {
        self.ladder.spec()
    }

    fn sha256(&self) -> Sha256 {
        self.ladder.spec().sha256()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, PieceLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // What is lost by a failure here is fetched again.
        drop(self.sync());
    }
}
