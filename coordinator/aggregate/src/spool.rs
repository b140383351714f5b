//! Where a round's updates lie while they are aggregated: read block by block, so that n models never are in memory.
//! [`FileSpool`] is what the coordinator has, [`MemorySpool`] what tests and the attack harness have.

mod files;

use owm_proto::Sha256;
use owm_update::{Block, BlockTable, Header, Update, UpdateError};

pub use files::FileSpool;

use crate::error::SpoolError;

/// What is known of an update once its header has been read.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its header.
    pub header: Header,
    /// Where its blocks are.
    pub table: BlockTable,
}

/// Updates of one round, all of one layout, each verified before it came here. Several threads read at once.
pub trait Spool: Sync {
    /// How many.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header of update `update`.
    fn opened(&self, update: usize) -> &Opened;

    /// Makes `into` the bytes of a block.
    fn bytes(&self, update: usize, block: usize, into: &mut Vec<u8>) -> std::io::Result<()>;

    /// Reads a block; `bytes` is a buffer.
    fn read(
        &self,
        update: usize,
        block: usize,
        bytes: &mut Vec<u8>,
        into: &mut Block,
    ) -> Result<(), SpoolError> {
        self.bytes(update, block, bytes)
            .map_err(|source| SpoolError::Io { update, source })?;
        into.read_at(&self.opened(update).header, block, bytes)
            .map_err(|source| SpoolError::Update { update, source })
    }

    /// Elements of every update in it; refuses updates of different sizes.
    fn elements(&self) -> Result<u64, SpoolError> {
        let expected = match self.len() {
            0 => 0,
            _ => self.opened(0).header.elements,
        };
        for update in 0..self.len() {
            let got = self.opened(update).header.elements;
            if got != expected {
                return Err(SpoolError::Elements {
                    update,
                    expected,
                    got,
                });
            }
        }
        Ok(expected)
    }
}

/// Updates in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySpool {
    updates: Vec<(Opened, Vec<u8>)>,
}

impl MemorySpool {
    /// Takes these updates' bytes.
    pub fn new(updates: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, UpdateError> {
        let mut spool = Self::default();
        for bytes in updates {
            // Whether the lengths are those of the bytes.
            Update::parse(&bytes)?;
            let (header, table) = Header::parse(&bytes)?;
            spool.updates.push((Opened { header, table }, bytes));
        }
        Ok(spool)
    }

    /// SHA-256 of each update's bytes.
    pub fn hashes(&self) -> impl Iterator<Item = Sha256> {
        self.updates.iter().map(|(_, bytes)| Sha256::of(bytes))
    }
}

impl Spool for MemorySpool {
    fn len(&self) -> usize {
        self.updates.len()
    }

    fn opened(&self, update: usize) -> &Opened {
        &self.updates[update].0
    }

    fn bytes(&self, update: usize, block: usize, into: &mut Vec<u8>) -> std::io::Result<()> {
        let (opened, bytes) = &self.updates[update];
        let range = opened.table.range(block);
        into.clear();
        into.extend_from_slice(&bytes[range.start as usize..range.end as usize]);
        Ok(())
    }
}
