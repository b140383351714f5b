//! Parent ⊕ delta: the bytes of the next checkpoint (spec §10.6–7). Nodes that get a delta instead of a file,
//! and the coordinator that publishes one, come to the same bytes on every machine.
//!
//! Full weights: each element with a value becomes RNE(f32(parent) + value): one f32 addition, rounded to
//! nearest, ties to even, to the file's type; every other element keeps its bits. LoRA: each element of an
//! adapted matrix becomes RNE(W + Σ B·A) ([`lora`]). The file's header and other tensors stay byte for byte.
//!
//! The file is cut into pieces that do not depend on each other. [`Stream`] takes them in file order with the
//! memory of one, and checks the parent's SHA-256 on the way; [`Merge::in_place`] works on all cores.

mod convert;
pub mod lora;
#[cfg(test)]
mod tests;

use std::ops::Range;

use owm_proto::{Sha256, hash::Hasher};
use rayon::prelude::*;

use crate::{
    block::Block,
    codec::BLOCK,
    error::UpdateError,
    header::Mode,
    layout::{Dtype, Layout, LayoutError},
    update::Update,
};
use convert::{from_bytes, to_bytes};
use lora::Pairs;
pub use lora::lora_a;

/// By how much an element moves when `value` is added to it as the checkpoint defines it, child − parent in f64; `None`
/// if it would not be finite. Whoever releases a delta keeps the difference to what was wanted as residue (spec §10.6).
///
/// # Panics
/// If `parent` is not one element of `dtype`.
pub fn moved_by(dtype: Dtype, parent: &[u8], value: f32) -> Option<f64> {
    let old = from_bytes(dtype, parent);
    let mut bytes = [0; 4];
    let new = &mut bytes[..dtype.bytes()];
    to_bytes(dtype, f64::from(old + value), new)?;
    Some(f64::from(from_bytes(dtype, new)) - f64::from(old))
}

/// Bytes of a piece that is only copied.
const COPY_BYTES: u64 = 1 << 20;

/// Why no checkpoint comes of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// The delta.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The parent's tensors do not go with the mode.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Made for other tensors.
    #[error(
        "the delta is for the tensor layout {delta}, the parent's is {parent}; fetch its parent"
    )]
    OtherLayout {
        /// By its header.
        delta: Sha256,
        /// Of the file at hand.
        parent: Sha256,
    },
    /// Made for another file.
    #[error(
        "the delta is for the file {delta}, the parent's bytes hash to {parent}; fetch its parent"
    )]
    OtherParent {
        /// By its header.
        delta: Sha256,
        /// Of the bytes at hand.
        parent: Sha256,
    },
    /// A file that is not as long as its header says.
    #[error("the parent is {got} bytes, its header says {expected}; fetch it again")]
    Size {
        /// By its header.
        expected: u64,
        /// What it is.
        got: u64,
    },
    /// No number comes out.
    #[error("element {element} of tensor {tensor} would not be finite; the delta is not for use")]
    NotFinite {
        /// Which tensor, in data order.
        tensor: usize,
        /// Which of its elements.
        element: u64,
    },
    /// Pieces out of order, or not as long as asked for.
    #[error("{got} bytes were given, the next piece is {expected}; give what next_bytes says")]
    Piece {
        /// Its length.
        expected: u64,
        /// What was given.
        got: u64,
    },
}

/// Bytes of the file that are worked on at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    file: Range<u64>,
    work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    /// The header, other tensors.
    Copy,
    /// Elements of one block.
    Full { tensor: usize, first: u64 },
    /// Rows of an adapted matrix.
    Lora { target: usize, first_row: u64 },
}

impl Piece {
    /// Which bytes of the file.
    pub fn range(&self) -> Range<u64> {
        self.file.clone()
    }
}

/// What a checkpoint has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Of the new file.
    pub sha256: Sha256,
    /// Elements whose bits are others than the parent's.
    pub changed: u64,
}

/// Buffers for one thread.
#[derive(Debug, Default)]
pub struct Scratch {
    block: Block,
    /// Which block is in it.
    held: Option<usize>,
    pair: lora::Scratch,
}

/// A delta and the layout of its parent, cut into pieces.
#[derive(Debug)]
pub struct Merge<'a> {
    layout: &'a Layout,
    update: &'a Update<'a>,
    pairs: Option<Pairs>,
    pieces: Vec<Piece>,
}

impl<'a> Merge<'a> {
    /// Plans the work; in LoRA mode it reads all of B. `file_bytes` is how long the parent's file really is:
    /// what its header claims beyond that is refused before anything is planned or allocated for it. The
    /// parent's hash is checked by [`Stream::finish`] and [`Merge::in_place`].
    pub fn new(
        layout: &'a Layout,
        file_bytes: u64,
        update: &'a Update<'a>,
    ) -> Result<Self, ApplyError> {
        let expected = layout.data().end;
        if expected != file_bytes {
            return Err(ApplyError::Size {
                expected,
                got: file_bytes,
            });
        }
        let header = update.header();
        if header.subject.layout != layout.id() {
            return Err(ApplyError::OtherLayout {
                delta: header.subject.layout,
                parent: layout.id(),
            });
        }
        let expected = layout.elements(&header.subject.mode)?;
        if expected != header.elements {
            return Err(UpdateError::Elements {
                update: header.elements,
                other: expected,
            }
            .into());
        }
        let pairs = match &header.subject.mode {
            Mode::Full => None,
            Mode::Lora(epoch) => Some(Pairs::new(layout, epoch, update)?),
        };
        let mut merge = Self {
            layout,
            update,
            pairs,
            pieces: Vec::new(),
        };
        merge.plan();
        Ok(merge)
    }

    fn plan(&mut self) {
        let layout = self.layout;
        self.plan_copy(0..layout.data().start);
        for (at, tensor) in layout.tensors().iter().enumerate() {
            let target = self.pairs.as_ref().and_then(|pairs| pairs.find(at));
            match (tensor.dtype, &self.pairs) {
                (Some(dtype), None) => {
                    let mut first = tensor.elements.start;
                    while first < tensor.elements.end {
                        let block = (first / BLOCK as u64 + 1) * BLOCK as u64;
                        let end = block.min(tensor.elements.end);
                        let work = Work::Full { tensor: at, first };
                        self.push((end - first) * dtype.bytes() as u64, work);
                        first = end;
                    }
                }
                (Some(dtype), Some(pairs)) if target.is_some() => {
                    let target = target.unwrap_or_default();
                    let (rows, columns) = pairs.sides(target);
                    let step = (BLOCK as u64 / columns).max(1);
                    for first_row in (0..rows).step_by(step as usize) {
                        let taken = step.min(rows - first_row);
                        let work = Work::Lora { target, first_row };
                        self.push(taken * columns * dtype.bytes() as u64, work);
                    }
                }
                _ => self.plan_copy(tensor.bytes.clone()),
            }
        }
    }

    fn plan_copy(&mut self, mut range: Range<u64>) {
        while !range.is_empty() {
            let bytes = COPY_BYTES.min(range.end - range.start);
            self.push(bytes, Work::Copy);
            range.start += bytes;
        }
    }

    /// The next piece, right behind the last.
    fn push(&mut self, bytes: u64, work: Work) {
        let start = self.pieces.last().map_or(0, |piece| piece.file.end);
        self.pieces.push(Piece {
            file: start..start + bytes,
            work,
        });
    }

    /// The pieces in file order, without gaps from the first byte to the last.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Makes the parent's bytes of a piece those of the next checkpoint; gives how many elements changed.
    pub fn apply(
        &self,
        piece: &Piece,
        bytes: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<u64, ApplyError> {
        let (expected, got) = (piece.file.end - piece.file.start, bytes.len() as u64);
        if expected != got {
            return Err(ApplyError::Piece { expected, got });
        }
        match (&piece.work, &self.pairs) {
            (Work::Full { tensor, first }, _) => self.full(*tensor, *first, bytes, scratch),
            (Work::Lora { target, first_row }, Some(pairs)) => {
                pairs.apply(*target, *first_row, bytes, &mut scratch.pair)
            }
            _ => Ok(0),
        }
    }

    fn full(
        &self,
        at: usize,
        first: u64,
        bytes: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<u64, ApplyError> {
        let tensor = &self.layout.tensors()[at];
        let dtype = tensor.dtype.unwrap_or(Dtype::F32);
        let block = (first / BLOCK as u64) as usize;
        if scratch.held != Some(block) {
            scratch.held = None;
            self.update.read(block, &mut scratch.block)?;
            scratch.held = Some(block);
        }
        let start = (first - scratch.block.first()) as usize;
        let end = start + bytes.len() / dtype.bytes();
        let places = scratch.block.places();
        let from = places.partition_point(|place| usize::from(*place) < start);
        let to = places.partition_point(|place| usize::from(*place) < end);
        let values = &scratch.block.values()[from..to];
        let mut changed = 0;
        for (place, value) in places[from..to].iter().zip(values) {
            let element = usize::from(*place) - start;
            let bytes = &mut bytes[element * dtype.bytes()..][..dtype.bytes()];
            let sum = from_bytes(dtype, bytes) + value;
            let is_new = to_bytes(dtype, f64::from(sum), bytes).ok_or(ApplyError::NotFinite {
                tensor: at,
                element: first - tensor.elements.start + element as u64,
            })?;
            changed += u64::from(is_new);
        }
        Ok(changed)
    }

    /// Makes a whole parent in memory the next checkpoint, on all of rayon's threads. After an error the bytes
    /// are neither.
    pub fn in_place(&self, file: &mut [u8]) -> Result<Merged, ApplyError> {
        let (expected, got) = (self.layout.data().end, file.len() as u64);
        if expected != got {
            return Err(ApplyError::Size { expected, got });
        }
        self.check_parent(Sha256::of(file))?;
        let mut rest = &mut *file;
        let mut parts = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let bytes = (piece.file.end - piece.file.start) as usize;
            let (part, after) = rest.split_at_mut(bytes);
            parts.push((piece, part));
            rest = after;
        }
        let changed = parts
            .into_par_iter()
            .map_init(Scratch::default, |scratch, (piece, bytes)| {
                self.apply(piece, bytes, scratch)
            })
            // The first error in the file's order, not the first in time.
            .reduce(|| Ok(0), |a, b| Ok(a? + b?))?;
        Ok(Merged {
            sha256: Sha256::of(file),
            changed,
        })
    }

    /// Takes the parent piece by piece.
    pub fn stream(&self) -> Stream<'_, 'a> {
        Stream {
            merge: self,
            next: 0,
            scratch: Scratch::default(),
            parent: Hasher::default(),
            child: Hasher::default(),
            changed: 0,
        }
    }

    fn check_parent(&self, parent: Sha256) -> Result<(), ApplyError> {
        let delta = self.update.header().subject.base;
        if parent == delta {
            Ok(())
        } else {
            Err(ApplyError::OtherParent { delta, parent })
        }
    }
}

/// A merge that goes through the file once, from the first byte to the last.
#[derive(Debug)]
pub struct Stream<'m, 'a> {
    merge: &'m Merge<'a>,
    next: usize,
    scratch: Scratch,
    parent: Hasher,
    child: Hasher,
    changed: u64,
}

impl Stream<'_, '_> {
    /// How many bytes to read from the parent and give next; `None`: that was all.
    pub fn next_bytes(&self) -> Option<usize> {
        let piece = self.merge.pieces.get(self.next)?;
        Some((piece.file.end - piece.file.start) as usize)
    }

    /// Turns the parent's next bytes into the checkpoint's.
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), ApplyError> {
        let piece = self.merge.pieces.get(self.next).ok_or(ApplyError::Piece {
            expected: 0,
            got: bytes.len() as u64,
        })?;
        self.parent.update(bytes);
        self.changed += self.merge.apply(piece, bytes, &mut self.scratch)?;
        self.child.update(bytes);
        self.next += 1;
        Ok(())
    }

    /// The new file's hash; what has been written may be used only if this says so.
    pub fn finish(self) -> Result<Merged, ApplyError> {
        if let Some(expected) = self.next_bytes() {
            let expected = expected as u64;
            return Err(ApplyError::Piece { expected, got: 0 });
        }
        self.merge.check_parent(self.parent.finish())?;
        Ok(Merged {
            sha256: self.child.finish(),
            changed: self.changed,
        })
    }
}
