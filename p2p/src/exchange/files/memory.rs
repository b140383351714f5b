//! Files in memory, for tests and measurements: what the store does on disk, without one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{FileError, Growing, Served, Shelf, Target};
use crate::exchange::{PieceSet, wire::Have};

/// A shelf in memory; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryShelf(Arc<Mutex<BTreeMap<Sha256, Arc<MemoryFile>>>>);

/// A file in memory.
pub struct MemoryFile {
    ladder: Arc<Ladder>,
    inner: Mutex<Inner>,
}

struct Inner {
    bytes: Vec<u8>,
    proven: PieceSet,
    changed: bool,
}

impl std::fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryFile({})", self.ladder.spec().sha256())
    }
}

impl MemoryFile {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is as if somebody had written into it.
    pub fn change(&self) {
        self.inner().changed = true;
    }

    /// All its bytes, if it is complete.
    pub fn complete(&self) -> Option<Vec<u8>> {
        let inner = self.inner();
        inner.proven.is_full().then(|| inner.bytes.clone())
    }

    fn copy(&self, offset: u64, into: &mut [u8], proven: bool) -> Result<(), FileError> {
        let inner = self.inner();
        if inner.changed {
            return Err(FileError::Changed);
        }
        let end = offset.saturating_add(into.len() as u64);
        let piece_len = self.ladder.piece_len().max(1);
        if end > self.ladder.spec().size() {
            return Err(FileError::Unproven);
        }
        let mut pieces = offset / piece_len..end.div_ceil(piece_len);
        if proven && !pieces.all(|piece| inner.proven.has(piece as u32)) {
            return Err(FileError::Unproven);
        }
        into.copy_from_slice(&inner.bytes[offset as usize..end as usize]);
        Ok(())
    }
}

fn file(ladder: &Arc<Ladder>, bytes: Vec<u8>, proven: PieceSet) -> Arc<MemoryFile> {
    let inner = Inner {
        bytes,
        proven,
        changed: false,
    };
    Arc::new(MemoryFile {
        ladder: Arc::clone(ladder),
        inner: Mutex::new(inner),
    })
}

impl MemoryShelf {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Sha256, Arc<MemoryFile>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a file there, of which the `proven` pieces are served.
    pub fn put(&self, ladder: &Arc<Ladder>, bytes: Vec<u8>, proven: PieceSet) -> Arc<MemoryFile> {
        let file = file(ladder, bytes, proven);
        self.all().insert(ladder.spec().sha256(), Arc::clone(&file));
        self.put_ladder(ladder);
        file
    }

    fn put_ladder(&self, ladder: &Ladder) {
        let (Some(sha256), bytes) = (ladder.spec().ladder_sha256(), ladder.to_bytes()) else {
            return;
        };
        let spec = FileSpec::new(sha256, bytes.len() as u64, None, None);
        let spec = spec.expect("a file of one piece");
        let of_ladder = Ladder::none(spec).expect("it has none");
        let file = MemoryFile {
            inner: Mutex::new(Inner {
                bytes,
                proven: PieceSet::all(of_ladder.pieces()),
                changed: false,
            }),
            ladder: Arc::new(of_ladder),
        };
        self.all().insert(sha256, Arc::new(file));
    }

    /// The file with this hash.
    pub fn get(&self, file: &Sha256) -> Option<Arc<MemoryFile>> {
        self.all().get(file).cloned()
    }
}

impl Shelf for MemoryShelf {
    fn find(&self, file: &Sha256) -> Option<Arc<dyn Served>> {
        let file = self.get(file)?;
        Some(file)
    }
}

impl Target for MemoryShelf {
    fn ladder(&self, file: &FileSpec) -> Option<Ladder> {
        let kept = self.get(&file.sha256())?;
        (kept.ladder.spec() == file).then(|| Ladder::clone(&kept.ladder))
    }

    fn keep_ladder(&self, ladder: &Ladder) -> Result<(), FileError> {
        self.put_ladder(ladder);
        Ok(())
    }

    fn begin(&self, ladder: &Arc<Ladder>) -> Result<Option<Arc<dyn Growing>>, FileError> {
        let (spec, none) = (ladder.spec(), PieceSet::none(ladder.pieces()));
        let kept = {
            let mut all = self.all();
            let kept = all.entry(spec.sha256());
            let file = kept.or_insert_with(|| file(ladder, vec![0; spec.size() as usize], none));
            Arc::clone(file)
        };
        self.put_ladder(ladder);
        let is_complete = kept.inner().proven.is_full();
        Ok(if is_complete { None } else { Some(kept) })
    }
}

impl Served for MemoryFile {
    fn have(&self) -> Have {
        let inner = self.inner();
        if inner.proven.is_full() {
            Have::All
        } else {
            Have::Some(inner.proven.clone())
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        self.copy(offset, into, true)
    }
}

impl Growing for MemoryFile {
    fn proven(&self) -> PieceSet {
        self.inner().proven.clone()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let offset = offset as usize;
        let end = offset.saturating_add(bytes.len());
        let mut inner = self.inner();
        let place = inner.bytes.get_mut(offset..end);
        place.ok_or(FileError::Unproven)?.copy_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        self.copy(offset, into, false)
    }

    fn proved(&self, piece: u32) -> bool {
        self.inner().proven.add(piece);
        true
    }

    fn is_sole(&self, _piece: u32) -> bool {
        true
    }

    fn settle(&self, piece: u32) -> Result<bool, FileError> {
        Ok(self.proved(piece))
    }

    fn finish(&self) -> Result<(), FileError> {
        Ok(())
    }
}
