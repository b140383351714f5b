//! The store as what the exchange serves from and fetches into.

use std::sync::Arc;

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{FileError, Growing, Served, Shelf, Target};
use crate::exchange::{
    PieceSet,
    store::{Partial, Store, StoreError, StoredFile},
    wire::Have,
};

impl From<StoreError> for FileError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Changed { .. } => Self::Changed,
            StoreError::NotProved { .. } => Self::Unproven,
            StoreError::NotWritable { .. } => Self::Taken,
            other => Self::Store(other),
        }
    }
}

/// A whole file with the store that watches over it.
#[derive(Debug)]
struct Whole(Store, StoredFile);

impl Served for Whole {
    fn have(&self) -> Have {
        Have::All
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(self.0.read(&self.1, offset, into)?)
    }
}

impl Served for Partial {
    fn have(&self) -> Have {
        Have::Some(self.pieces())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(self.read_proved(offset, into)?)
    }
}

impl Shelf for Store {
    fn find(&self, file: &Sha256) -> Option<Arc<dyn Served>> {
        if let Some(partial) = self.partial(file) {
            return Some(Arc::new(partial));
        }
        let whole = self.complete(file)?;
        Some(Arc::new(Whole(self.clone(), whole)))
    }
}

impl Growing for Partial {
    fn proven(&self) -> PieceSet {
        self.pieces()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        Ok(Self::write(self, offset, bytes)?)
    }

    fn read_back(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(Self::read(self, offset, into)?)
    }

    fn proved(&self, piece: u32) -> bool {
        self.try_proved(piece)
    }

    fn is_sole(&self, piece: u32) -> bool {
        Self::is_sole(self, piece)
    }

    fn settle(&self, piece: u32) -> Result<bool, FileError> {
        Ok(Self::settle(self, piece)?)
    }

    fn finish(&self) -> Result<(), FileError> {
        Self::finish(self)?;
        Ok(())
    }
}

impl Target for Store {
    fn ladder(&self, file: &FileSpec) -> Option<Ladder> {
        let kept = self.complete(&file.ladder_sha256()?)?;
        if kept.size() != file.ladder_bytes() {
            return None;
        }
        let mut bytes = vec![0; kept.size() as usize];
        self.read(&kept, 0, &mut bytes).ok()?;
        Ladder::parse(*file, bytes).ok()
    }

    fn keep_ladder(&self, ladder: &Ladder) -> Result<(), FileError> {
        let Some(sha256) = ladder.spec().ladder_sha256() else {
            return Ok(());
        };
        let bytes = ladder.to_bytes();
        let spec = FileSpec::new(sha256, bytes.len() as u64, None, None);
        let spec = spec.expect("a file of one piece");
        self.put(spec, &bytes)?;
        Ok(())
    }

    fn begin(&self, ladder: &Arc<Ladder>) -> Result<Option<Arc<dyn Growing>>, FileError> {
        match Self::begin(self, Arc::clone(ladder)) {
            Ok(partial) => Ok(Some(Arc::new(partial))),
            Err(StoreError::Whole { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
