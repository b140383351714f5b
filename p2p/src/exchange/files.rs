//! What the exchange needs of the disk, as two small traits: a file that is served ([`Served`]) and one that is
//! being fetched ([`Growing`]). [`super::store::Store`] is one of them, [`memory`] another for tests.
//! All calls may block unless they say otherwise, and so may dropping the last handle of a file.

pub mod memory;
mod stored;

use std::{fmt, sync::Arc};

use owm_proto::{FileSpec, Ladder, Sha256};

use super::{PieceSet, store::StoreError, wire::Have};

/// Why bytes of a file can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not all of these bytes have been proven: they are neither read nor sent.
    #[error("these bytes are not proven yet")]
    Unproven,
    /// It is not the file any more that was proven; verify it again.
    #[error("the file was changed on disk since it was proven; run `owm-node models verify`")]
    Changed,
    /// Somebody else fetches the same file into the same place and has proven them meanwhile.
    #[error("these bytes are proven already")]
    Taken,
    /// The disk.
    #[error(transparent)]
    Store(StoreError),
}

/// A file that can be served: proven bytes only.
pub trait Served: Send + Sync + fmt::Debug {
    /// Which pieces are proven.
    fn have(&self) -> Have;

    /// Fills `into` with what stands at `offset`.
    ///
    /// # Errors
    /// When not all of it is proven, the file has changed, or the disk fails.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError>;
}

/// Where the server finds files.
pub trait Shelf: Send + Sync + fmt::Debug {
    /// The file with this hash, complete or partly there.
    fn find(&self, file: &Sha256) -> Option<Arc<dyn Served>>;
}

/// A file that is being fetched.
pub trait Growing: Send + Sync + fmt::Debug {
    /// The pieces that are proven already, from an earlier run.
    fn proven(&self) -> PieceSet;

    /// Keeps bytes, which may be overwritten and are served to nobody until they are proven.
    ///
    /// # Errors
    /// When the disk fails, or is full.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError>;

    /// What was written at `offset`, to be hashed.
    ///
    /// # Errors
    /// When the disk fails.
    fn read_back(&self, offset: u64, into: &mut [u8]) -> Result<(), FileError>;

    /// A piece has been proven: it may be served, and need not be fetched again after a restart. Does not block.
    /// `false`: somebody else has written there too, and only [`Growing::settle`] can say what lies there.
    fn proved(&self, piece: u32) -> bool;

    /// Whether what lies there of a piece that is not proved was all written through this handle. If not, it speaks
    /// against nobody. Does not block.
    fn is_sole(&self, piece: u32) -> bool;

    /// Looks at the piece on the disk, when all writes to it have ended: it is proven, or (`false`) wrong and to be
    /// fetched again. Nobody who wrote it is to blame.
    ///
    /// # Errors
    /// When the disk fails.
    fn settle(&self, piece: u32) -> Result<bool, FileError>;

    /// All pieces are proven: the file gets its final name.
    ///
    /// # Errors
    /// When the disk fails.
    fn finish(&self) -> Result<(), FileError>;
}

/// Where fetched files go.
pub trait Target: Send + Sync + fmt::Debug {
    /// The ladder of a file, if it is kept already.
    fn ladder(&self, file: &FileSpec) -> Option<Ladder>;

    /// Keeps a ladder, so that others can be given it too.
    ///
    /// # Errors
    /// When the disk fails.
    fn keep_ladder(&self, ladder: &Ladder) -> Result<(), FileError>;

    /// Begins a file, or goes on with it. `None`: it is complete already.
    ///
    /// # Errors
    /// When the disk fails or there is no room for it.
    fn begin(&self, ladder: &Arc<Ladder>) -> Result<Option<Arc<dyn Growing>>, FileError>;
}
