//! Where the blocks of an update are.

use std::ops::Range;

use crate::{codec::BLOCK_BYTES_MAX, error::HeaderError};

/// Where each block is: behind the header, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTable {
    /// Of block 0, from the first byte of the header; then of each end.
    bounds: Vec<u64>,
}

impl BlockTable {
    pub(super) fn new(
        header_bytes: u64,
        lengths: impl ExactSizeIterator<Item = u32>,
    ) -> Result<Self, HeaderError> {
        let mut bounds = Vec::with_capacity(lengths.len() + 1);
        let mut end = header_bytes;
        bounds.push(end);
        for (block, bytes) in lengths.enumerate() {
            if bytes as usize > BLOCK_BYTES_MAX {
                return Err(HeaderError::BlockLength { block, bytes });
            }
            end += u64::from(bytes);
            bounds.push(end);
        }
        Ok(Self { bounds })
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Never: an update has a block.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where block `block` is, in bytes from the first of the header.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn range(&self, block: usize) -> Range<u64> {
        self.bounds[block]..self.bounds[block + 1]
    }

    /// Bytes of the whole update, header included.
    pub fn total(&self) -> u64 {
        self.bounds[self.len()]
    }
}
