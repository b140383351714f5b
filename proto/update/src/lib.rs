#![doc = include_str!("../README.md")]

pub mod apply;
mod block;
mod codec;
mod cursor;
mod encode;
mod error;
mod header;
pub mod layout;
mod published;
mod quantise;
mod residue;
mod select;
mod update;

pub use apply::ApplyError;
pub use block::{Block, BlockFault};
pub use codec::{
    BLOCK, BLOCK_BYTES_MAX, CHUNK, Codec, ELEMENTS_MAX, IndexCoding, Keep, ValueWidth,
};
pub use encode::{
    BlockEncoder, BlockReport, Encoded, RESIDUE_DECAY, Report, assemble, encode_update, pack,
};
pub use error::{EncodeError, HeaderError, ResidueError, UpdateError};
pub use header::{BlockTable, HEADER_BYTES_MAX, Header, LoraEpoch, Mode, Origin, Subject, Targets};
pub use layout::{Layout, LayoutError};
pub use published::Published;
pub use residue::Residue;
pub use update::{Summary, Update};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
