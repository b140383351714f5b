//! The store as the exchange sees it: where the server finds files, where the driver puts them.

use std::{io, sync::Arc};

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{Partial, Store, StoreError, StoredFile};
use crate::exchange::{
    PieceSet,
    files::{FileError, Growing, Served, Shelf, Target},
    wire::Have,
};

impl From<StoreError> for FileError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotProved { .. } => Self::Unproven,
            StoreError::Changed { .. } => Self::Changed,
            StoreError::Io { source, .. } => Self::Io(source),
            other => Self::Io(io::Error::other(other)),
        }
    }
}

/// A whole file and where it may be read.
#[derive(Debug)]
struct Whole(Store, StoredFile);

impl Served for Whole {
    fn size(&self) -> u64 {
        self.1.size()
    }

    fn have(&self) -> Have {
        Have::All
    }

    fn ladder(&self) -> Option<Vec<u8>> {
        self.0.ladder_bytes(&self.1.sha256())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(self.0.read(&self.1, offset, into)?)
    }
}

impl Served for Partial {
    fn size(&self) -> u64 {
        self.len()
    }

    fn have(&self) -> Have {
        Have::Some(self.pieces())
    }

    fn ladder(&self) -> Option<Vec<u8>> {
        let states = Self::ladder(self).to_bytes();
        (!states.is_empty()).then_some(states)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(self.read_proved(offset, into)?)
    }
}

impl Shelf for Store {
    fn find(&self, file: &Sha256) -> Option<Arc<dyn Served>> {
        if let Some(whole) = self.complete(file) {
            return Some(Arc::new(Whole(self.clone(), whole)));
        }
        Some(Arc::new(self.partial(file)?))
    }
}

impl Growing for Partial {
    fn ladder(&self) -> &Arc<Ladder> {
        Self::ladder(self)
    }

    fn proven(&self) -> PieceSet {
        self.pieces()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        Ok(Self::write(self, offset, bytes)?)
    }

    fn read_back(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError> {
        Ok(Self::read(self, offset, into)?)
    }

    fn proved(&self, piece: u32) -> Result<(), FileError> {
        Self::proved(self, piece);
        Ok(())
    }

    fn finish(&self) -> Result<(), FileError> {
        Ok(Self::finish(self).map(drop)?)
    }
}

impl Target for Store {
    fn ladder(&self, file: &FileSpec) -> Option<Ladder> {
        Self::ladder(self, file)
    }

    fn begin(&self, ladder: &Arc<Ladder>) -> Result<Option<Arc<dyn Growing>>, FileError> {
        match Self::begin(self, Arc::clone(ladder)) {
            Ok(partial) => Ok(Some(Arc::new(partial))),
            Err(StoreError::Whole { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
