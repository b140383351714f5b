//! An update's bytes, read: header at once, blocks one by one. The coordinator checks with it what nodes hand
//! in ([`Update::verify`]), aggregators and whoever applies a delta read the blocks.

use rayon::prelude::*;

use crate::{
    block::Block,
    codec::BLOCK,
    error::{HeaderError, UpdateError},
    header::{BlockTable, Header},
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

    /// Reads every block, on all of rayon's threads: whether they are canonical, and the norm within the bound
    /// (spec §10.4, structure).
    pub fn verify(&self) -> Result<Summary, UpdateError> {
        let blocks: Vec<(u64, f64)> = (0..self.blocks())
            .into_par_iter()
            .map_init(Block::default, |block, i| {
                self.read(i, block)?;
                Ok((block.values().len() as u64, block.square()))
            })
            .collect::<Result<_, UpdateError>>()?;
        let summary = Summary {
            values: blocks.iter().map(|(values, _)| values).sum(),
            norm: blocks
                .iter()
                .fold(0.0, |sum, (_, square)| sum + square)
                .sqrt(),
        };
        match self.header.clip() {
            Some(clip) if summary.norm > f64::from(clip) * CLIP_SLACK => Err(UpdateError::Norm {
                norm: summary.norm,
                clip,
            }),
            _ => Ok(summary),
        }
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
            .collect()
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
