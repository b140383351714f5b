//! How the weights of a parent are laid out, read from the head of its file in the object store: what an update's claims
//! are held against. `verdict::update` calls it; rounds will.

use owm_proto::Sha256;
use owm_update::{Layout, LayoutError};

use crate::blobs::{BlobError, Blobs};

/// Read at first; most headers fit.
const HEAD_BYTES: u64 = 128 << 10;

/// Longest header that is read: some hundred thousand tensors.
const HEAD_BYTES_MAX: u64 = 64 << 20;

/// Why the layout is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParentError {
    /// It is gone.
    #[error(
        "the parent {0} is not in the object store; restore it, or publish the version again with `owm-coordinator \
         model publish`"
    )]
    Missing(Sha256),
    /// What it begins with.
    #[error("the parent {sha256} is no file to train on: {source}")]
    Layout {
        /// Which file.
        sha256: Sha256,
        /// Why.
        source: LayoutError,
    },
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// The layout of the safetensors file with this hash.
pub(crate) async fn layout_of(blobs: &Blobs, sha256: Sha256) -> Result<Layout, ParentError> {
    let mut bytes = HEAD_BYTES;
    loop {
        let head = blobs.head(&sha256, bytes).await?;
        let head = head.ok_or(ParentError::Missing(sha256))?;
        match Layout::parse(&head) {
            Err(LayoutError::Short { needed, got })
                if needed > got && bytes < needed && needed <= HEAD_BYTES_MAX =>
            {
                bytes = needed;
            }
            parsed => return parsed.map_err(|source| ParentError::Layout { sha256, source }),
        }
    }
}
