//! An update's bytes, read: header at once, blocks one by one. The coordinator checks with it what nodes hand
//! in ([`Update::verify`]), aggregators and whoever applies a delta read the blocks.

use rayon::prelude::*;

use crate::{
    block::Block,
    codec::BLOCK,
    error::{HeaderError, UpdateError},
    header::{BlockTable, Header},
    published::Published,
};

/// How far above the published bound the decoded norm may be (spec §10.4, structure).
const CLIP_SLACK: f64 = 1.01;

/// An update or a delta whose header holds; each block is checked when it is read.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    header: Header,
    table: BlockTable,
    bytes: &'a [u8],
}

/// What the whole of an update is, once all its blocks have been read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Values in it.
    pub values: u64,
    /// Its norm, the same on every machine: the square root of the sum of [`Block::square`] in order.
    pub norm: f64,
}

impl<'a> Update<'a> {
    /// Reads the header. Nothing is allocated but what the bytes at hand can justify.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UpdateError> {
        let (header, table) = Header::parse(bytes)?;
        let (said, is) = (table.total(), bytes.len() as u64);
        if said != is {
            return Err(HeaderError::Total { said, is }.into());
        }
        Ok(Self {
            header,
            table,
            bytes,
        })
    }

    /// What it is of and how it is packed.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.table.len()
    }

    /// Reads block `block` into `into`.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn read(&self, block: usize, into: &mut Block) -> Result<(), UpdateError> {
        let range = self.table.range(block);
        let bytes = &self.bytes[range.start as usize..range.end as usize];
        into.read_at(&self.header, block, bytes)
    }

    /// Whether it is one of a node's updates of that round: its header says what `published` does, every block
    /// is canonical, and the norm is within the published bound (spec §10.4, structure). On all of rayon's
    /// threads; of several faults it names the first, in the order of the bytes.
    pub fn verify(&self, published: &Published) -> Result<Summary, UpdateError> {
        published.check(&self.header)?;
        let summary = self.summary()?;
        if summary.norm > f64::from(published.clip) * CLIP_SLACK {
            return Err(UpdateError::Norm {
                norm: summary.norm,
                clip: published.clip,
            });
        }
        Ok(summary)
    }

    /// Reads every block, on all of rayon's threads: whether they are canonical, and what they come to. For a
    /// delta this is all there is to check; of a node's update see [`Update::verify`].
    pub fn summary(&self) -> Result<Summary, UpdateError> {
        let mut blocks = vec![(0_u64, 0.0_f64); self.blocks()];
        let refused = blocks
            .par_iter_mut()
            .enumerate()
            .map_init(Block::default, |block, (i, sums)| {
                self.read(i, block)?;
                *sums = (block.values().len() as u64, block.square());
                Ok(())
            })
            .find_map_first(Result::err);
        if let Some(refused) = refused {
            return Err(refused);
        }
        Ok(Summary {
            values: blocks.iter().map(|(values, _)| values).sum(),
            norm: blocks
                .iter()
                .fold(0.0, |sum, (_, square)| sum + square)
                .sqrt(),
        })
    }

    /// Adds every value to the element it is of, in f32. `elements` is as long as the layout of whoever asks
    /// says: a few bytes can claim to be a step of billions of zeros, so nothing is allocated for them here.
    pub fn add_to(&self, elements: &mut [f32]) -> Result<(), UpdateError> {
        self.each(elements, |element, value| *element += value)
    }

    fn each(
        &self,
        elements: &mut [f32],
        one: impl Fn(&mut f32, f32) + Sync,
    ) -> Result<(), UpdateError> {
        if elements.len() as u64 != self.header.elements {
            return Err(UpdateError::Elements {
                update: self.header.elements,
                other: elements.len() as u64,
            });
        }
        elements
            .par_chunks_mut(BLOCK)
            .enumerate()
            .map_init(Block::default, |block, (i, elements)| {
                self.read(i, block)?;
                for (place, value) in block.iter() {
                    one(&mut elements[place], value);
                }
                Ok(())
            })
            .find_map_first(Result::err)
            .map_or(Ok(()), Err)
    }
}

impl Block {
    /// Reads the bytes of block `block` of an update with this header: for whoever keeps updates on disk and
    /// holds one block of each.
    pub fn read_at(
        &mut self,
        header: &Header,
        block: usize,
        bytes: &[u8],
    ) -> Result<(), UpdateError> {
        let first = block as u64 * BLOCK as u64;
        let len = header.block_len(block);
        self.read(header.codec, first, len, bytes)
            .map_err(|fault| UpdateError::Block { block, fault })
    }
}
