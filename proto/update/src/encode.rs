//! A dense step to an update and the residue it leaves (spec §10.2). The trainer calls [`encode_update`]; an
//! aggregator that goes block by block takes [`BlockEncoder`] and [`assemble`].
//!
//! One pass takes the norm, one does the rest, each on all of rayon's threads, in the step's own memory: what
//! is an update's step at first is the next residue in the end. The bytes do not depend on the number of
//! threads.

use owm_proto::Sha256;
use rayon::prelude::*;

use crate::{
    block::{Parts, write},
    codec::{BLOCK, CHUNK, Codec, ValueWidth, blocks},
    error::{EncodeError, HeaderError},
    header::{Header, Origin, Subject, is_clip},
    quantise::{eight_bits, two_bits},
    residue::Residue,
    select::Selector,
};

/// How much of a residue comes back in the next round (spec §10.2).
pub const RESIDUE_DECAY: f32 = 0.95;

/// The step is clipped to this much less than the bound, so that rounding to f32 cannot take the decoded norm
/// above it.
const CLIP_MARGIN: f64 = 1.0 / (1 << 22) as f64;

/// Interleaved parts of a sum of squares.
const LANES: usize = 8;

/// What became of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Norm of Δ + 0.95 · residue, before it is clipped.
    pub norm: f64,
    /// Norm after that; at most the published bound.
    pub norm_clipped: f64,
    /// Norm of what is sent.
    pub norm_decoded: f64,
    /// Cosine between what was to be sent and what is; 0 if there is nothing.
    pub cosine: f64,
    /// Values sent.
    pub values: u64,
}

/// An update, ready to be committed to, and what its maker keeps.
#[derive(Debug)]
pub struct Encoded {
    /// As it is in front of the blocks.
    pub header: Header,
    /// The canonical bytes.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes: what the commit signs.
    pub sha256: Sha256,
    /// For the next round; to be stored together with the commit.
    pub residue: Residue,
    /// Figures for whoever watches.
    pub report: Report,
}

/// What one block has become.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockReport {
    /// Values kept.
    pub values: u64,
    /// Sum of the squares of what was given.
    pub given: f64,
    /// Sum of the squares of what is sent ([`crate::Block::square`]).
    pub sent: f64,
    /// Sum of their products.
    pub dot: f64,
}

/// Packs blocks, one after another, with buffers that are kept.
#[derive(Debug)]
pub struct BlockEncoder {
    codec: Codec,
    selector: Selector,
    parts: Parts,
    chunk: Vec<f32>,
    decoded: Vec<f32>,
}

impl BlockEncoder {
    /// For blocks packed as `codec` says.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            selector: Selector::default(),
            parts: Parts::default(),
            chunk: Vec::new(),
            decoded: Vec::new(),
        }
    }

    /// Appends the bytes of a block of finite values to `out`, and leaves in `values` what is not in them:
    /// values − decoded, in f32.
    ///
    /// # Panics
    /// If there are more than 65,536 values.
    pub fn encode(&mut self, values: &mut [f32], out: &mut Vec<u8>) -> BlockReport {
        assert!(values.len() <= BLOCK, "a block has at most 65,536 elements");
        self.parts.clear();
        for (chunk, values) in values.chunks(CHUNK).enumerate() {
            self.take_chunk(chunk, values);
        }
        write(&mut self.parts, self.codec, values.len(), out);
        let sent = self.parts.values(self.codec.values, &mut self.decoded);
        let mut report = BlockReport {
            values: self.decoded.len() as u64,
            given: squares(values),
            sent,
            dot: 0.0,
        };
        for (place, decoded) in self.parts.places.iter().zip(&self.decoded) {
            let value = &mut values[usize::from(*place)];
            report.dot += f64::from(*value) * f64::from(*decoded);
            *value -= decoded;
        }
        report
    }

    /// Chooses and quantises the values of one chunk.
    fn take_chunk(&mut self, chunk: usize, values: &[f32]) {
        let Self {
            codec,
            selector,
            parts,
            chunk: kept,
            ..
        } = self;
        let before = parts.places.len();
        let keep = codec.keep.of(values.len());
        selector.select(values, keep, chunk * CHUNK, &mut parts.places);
        kept.clear();
        let places = parts.places[before..].iter();
        kept.extend(places.map(|place| values[usize::from(*place) % CHUNK]));
        match codec.values {
            ValueWidth::Two => parts.push_two_bits(kept),
            ValueWidth::Eight => parts.push_eight_bits(kept, before),
            ValueWidth::Exact => parts.exact.extend_from_slice(kept),
        }
        let count = (parts.places.len() - before) as u16;
        parts.counts.push(count);
    }
}

impl Parts {
    fn push_two_bits(&mut self, kept: &[f32]) {
        let levels = if kept.is_empty() {
            crate::quantise::Levels { low: 0, high: 0 }
        } else {
            two_bits(kept, &mut self.codes)
        };
        self.levels.push(levels);
    }

    /// Values too small for a code are dropped again; their places are those from `before` on.
    fn push_eight_bits(&mut self, kept: &[f32], before: usize) {
        let start = self.codes.len();
        let maximum = if kept.is_empty() {
            None
        } else {
            eight_bits(kept, &mut self.codes)
        };
        self.maxima.push(maximum.unwrap_or(0.0));
        let mut left = 0;
        if maximum.is_some() {
            for i in 0..kept.len() {
                let code = self.codes[start + i];
                self.codes[start + left] = code;
                self.places[before + left] = self.places[before + i];
                left += usize::from(code != 0);
            }
        }
        self.codes.truncate(start + left);
        self.places.truncate(before + left);
    }
}

/// The header's bytes in front of the blocks' bytes.
///
/// `lengths` are those of the blocks in `blocks`, in order.
pub fn assemble(
    header: &Header,
    lengths: &[u32],
    blocks: &[&[u8]],
) -> Result<Vec<u8>, HeaderError> {
    let mut bytes = header.write(lengths)?;
    bytes.reserve_exact(blocks.iter().map(|part| part.len()).sum());
    for part in blocks {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// Makes the update of a step: Δ = `step` + 0.95 × `residue`, clipped to the bound in `subject`, packed as
/// `codec` says.
///
/// `step` is θ_end − θ_start in f32, flat, in the order of [`crate::Layout`]; its memory becomes the
/// residue that is returned. `residue` is what the last committed update of the same training has left, `None`
/// at first. Nothing is lost if the update never arrives: [`Residue::put_back`] takes it back.
///
/// Peak memory is `step`, `residue` (given up early) and the update's bytes.
pub fn encode_update(
    subject: Subject,
    codec: Codec,
    mut step: Vec<f32>,
    residue: Option<Residue>,
) -> Result<Encoded, EncodeError> {
    let clip = match subject.origin {
        Origin::Node { clip, .. } if is_clip(clip) => f64::from(clip),
        Origin::Node { clip, .. } => return Err(EncodeError::Clip(clip)),
        Origin::Aggregate { .. } => f64::INFINITY,
    };
    blocks(step.len() as u64)?;
    let residue_before = residue.as_ref().map(Residue::sha256);
    if let Some(residue) = residue {
        residue.check(&subject, step.len() as u64)?;
        step.par_chunks_mut(BLOCK)
            .zip(residue.values().par_chunks(BLOCK))
            .for_each(|(step, residue)| {
                for (step, residue) in step.iter_mut().zip(residue) {
                    *step += RESIDUE_DECAY * residue;
                }
            });
    }
    let norm = norm(&step)?;
    let bound = clip * (1.0 - CLIP_MARGIN);
    let factor = if norm > bound { bound / norm } else { 1.0 };
    let encoded = pack_scaled(codec, &mut step, factor);
    let report = sum(norm, encoded.iter().map(|(_, report)| report));
    let elements = step.len() as u64;
    let residue = Residue::new(&subject, step)?;
    let header = Header {
        subject,
        codec,
        elements,
        residue_before,
        residue_after: Some(residue.sha256()),
    };
    let lengths: Vec<u32> = encoded
        .iter()
        .map(|(bytes, _)| bytes.len() as u32)
        .collect();
    let parts: Vec<&[u8]> = encoded.iter().map(|(bytes, _)| &bytes[..]).collect();
    let bytes = assemble(&header, &lengths, &parts)?;
    Ok(Encoded {
        header,
        sha256: Sha256::of(&bytes),
        bytes,
        residue,
        report,
    })
}

/// Packs a whole vector of finite values, on all of rayon's threads: each block's bytes and report. `values`
/// become what is not in them. Nothing is clipped: [`encode_update`] is for updates.
pub fn pack(codec: Codec, values: &mut [f32]) -> Vec<(Vec<u8>, BlockReport)> {
    pack_scaled(codec, values, 1.0)
}

/// As [`pack`], of the values times `factor`.
fn pack_scaled(codec: Codec, values: &mut [f32], factor: f64) -> Vec<(Vec<u8>, BlockReport)> {
    values
        .par_chunks_mut(BLOCK)
        .map_init(
            || BlockEncoder::new(codec),
            |encoder, values| {
                if factor < 1.0 {
                    for value in values.iter_mut() {
                        *value = (f64::from(*value) * factor) as f32;
                    }
                }
                let mut bytes = Vec::new();
                let report = encoder.encode(values, &mut bytes);
                (bytes, report)
            },
        )
        .collect()
}

/// The sum of the squares, in eight interleaved parts.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, value) in lanes.iter_mut().zip(group) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*value) * f64::from(*value);
    }
    lanes.iter().sum()
}

/// The norm of a whole step. Squares of finite f32s cannot overflow f64 here: 2^256 · 2^38.
fn norm(step: &[f32]) -> Result<f64, EncodeError> {
    let blocks: Vec<f64> = step.par_chunks(BLOCK).map(squares).collect();
    let square: f64 = blocks.iter().sum();
    if square.is_finite() {
        return Ok(square.sqrt());
    }
    let at = step.iter().position(|value| !value.is_finite());
    Err(EncodeError::NotFinite(at.unwrap_or(0) as u64))
}

fn sum<'a>(norm: f64, blocks: impl Iterator<Item = &'a BlockReport>) -> Report {
    let mut all = BlockReport::default();
    for block in blocks {
        all.values += block.values;
        all.given += block.given;
        all.sent += block.sent;
        all.dot += block.dot;
    }
    let norms = all.given.sqrt() * all.sent.sqrt();
    Report {
        norm,
        norm_clipped: all.given.sqrt(),
        norm_decoded: all.sent.sqrt(),
        cosine: if norms > 0.0 { all.dot / norms } else { 0.0 },
        values: all.values,
    }
}
