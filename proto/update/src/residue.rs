//! What an update did not carry, kept by its maker for the next round (spec §10.2): one per sub-model and mode,
//! as canonical bytes with a SHA-256. The node writes them to its disk together with the commit; nobody else
//! ever sees the values.

use std::borrow::Cow;

use owm_proto::{Sha256, hash::Hasher};
use rayon::prelude::*;

use crate::{
    codec::BLOCK,
    cursor::Cursor,
    error::{HeaderError, ResidueError},
    header::{HEADER_BYTES_MAX, Header, Subject, Training, VERSION, field},
    update::Update,
};

/// The first four bytes of a residue.
const MAGIC: [u8; 4] = *b"OWMR";

/// Bytes before what it is of: magic, version, two reserved.
const PREFIX_BYTES: usize = 8;

/// Bytes that are hashed at once.
const HASHED_BYTES: usize = 16 << 10;

/// A residue: finite values, no negative zero, of one network's sub-model in one mode (in LoRA mode: of one
/// epoch).
#[derive(Clone, PartialEq)]
pub struct Residue {
    of: Training,
    values: Vec<f32>,
    sha256: Sha256,
}

impl std::fmt::Debug for Residue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Residue")
            .field("sub_model", &self.of.sub_model)
            .field("elements", &self.values.len())
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

impl Residue {
    /// `values` as the residue of what `subject` is of.
    pub fn new(subject: &Subject, values: Vec<f32>) -> Result<Self, ResidueError> {
        let training = subject.training(values.len() as u64);
        Self::checked(training, values, None)
    }

    fn checked(
        training: Training,
        mut values: Vec<f32>,
        sha256: Option<Sha256>,
    ) -> Result<Self, ResidueError> {
        let foreign = sha256.is_some();
        let refused = |value: &f32| !value.is_finite() || (foreign && value.to_bits() == 1 << 31);
        let any = values.par_chunks_mut(BLOCK).any(|values| {
            // Each is looked at, so that it can be done in wide registers.
            let any = values.iter().fold(false, |any, value| any | refused(value));
            if !any {
                // -0.0 + 0.0 is 0.0; nothing else changes.
                for value in values.iter_mut() {
                    *value += 0.0;
                }
            }
            any
        });
        if any {
            let at = values.iter().position(refused);
            return Err(ResidueError::Value(at.unwrap_or_default() as u64));
        }
        let mut residue = Self {
            of: training,
            values,
            sha256: sha256.unwrap_or(Sha256([0; 32])),
        };
        if sha256.is_none() {
            residue.sha256 = residue.hashed();
        }
        Ok(residue)
    }

    /// Reads canonical bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResidueError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<4>()? != MAGIC {
            return Err(HeaderError::Magic("residue").into());
        }
        match (cursor.u16()?, cursor.u16()?) {
            (VERSION, 0) => {}
            (VERSION, reserved) => return Err(field("reserved", reserved).into()),
            (version, _) => return Err(HeaderError::Version(version).into()),
        }
        let training = Training::read(&mut cursor)?;
        let values = cursor.rest();
        let expected = training.elements * 4;
        if values.len() as u64 != expected {
            let got = values.len() as u64;
            return Err(ResidueError::Length { expected, got });
        }
        let (values, _) = values.as_chunks::<4>();
        let values = values
            .par_iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        Self::checked(training, values, Some(Sha256::of(bytes)))
    }

    fn hashed(&self) -> Sha256 {
        let mut hasher = Hasher::default();
        hasher.update(&self.head());
        // A part that stays in the first cache: hashing is what takes the time here, on one core.
        let mut bytes = [0; HASHED_BYTES];
        for values in self.values.chunks(HASHED_BYTES / 4) {
            let (fours, _) = bytes.as_chunks_mut::<4>();
            for (four, value) in fours.iter_mut().zip(values) {
                *four = value.to_le_bytes();
            }
            hasher.update(&bytes[..values.len() * 4]);
        }
        hasher.finish()
    }

    /// What is before the values.
    fn head(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(256);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 2]);
        debug_assert_eq!(header.len(), PREFIX_BYTES);
        self.of.write(&mut header);
        debug_assert!(header.len() as u64 <= HEADER_BYTES_MAX);
        header
    }

    /// The canonical bytes in parts of at most 256 KiB, so that half a gigabyte need not be in memory twice.
    pub fn parts(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        let header = self.head();
        let values = self.values.chunks(BLOCK).map(|values| {
            let mut bytes = vec![0; values.len() * 4];
            let (fours, _) = bytes.as_chunks_mut::<4>();
            for (four, value) in fours.iter_mut().zip(values) {
                *four = value.to_le_bytes();
            }
            Cow::Owned(bytes)
        });
        std::iter::once(Cow::Owned(header)).chain(values)
    }

    /// All canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.values.len() * 4);
        for part in self.parts() {
            bytes.extend_from_slice(&part);
        }
        bytes
    }

    /// Of the canonical bytes.
    pub const fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The values, flat, in the order of the update's elements.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be made the next residue's in their own memory.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Whether it goes with what is trained now; at the end of a LoRA epoch, for example, it no longer does.
    pub fn check(&self, subject: &Subject, elements: u64) -> Result<(), ResidueError> {
        let other = |what| Err(ResidueError::Other(what));
        if self.of.network != subject.network {
            other("network")
        } else if self.of.sub_model != subject.sub_model {
            other("sub-model")
        } else if self.of.layout != subject.layout {
            other("tensor layout")
        } else if self.of.mode != subject.mode {
            other("mode or LoRA epoch")
        } else if self.values.len() as u64 != elements {
            other("size")
        } else {
            Ok(())
        }
    }

    /// Takes back the step of an update that was rejected or never arrived: the residue that it left, plus
    /// what it carried, is the whole clipped Δ again. If another update has been made meanwhile, this is
    /// called on what that one has left; [`Residue::check_after`] tells.
    pub fn put_back(mut self, update: &Update<'_>) -> Result<Self, crate::UpdateError> {
        let header = update.header();
        self.check(&header.subject, header.elements)?;
        update.add_to(&mut self.values)?;
        Ok(self.rehashed()?)
    }

    /// With the hash that the values have now.
    fn rehashed(self) -> Result<Self, ResidueError> {
        Self::checked(self.of, self.values, None)
    }

    /// Whether it is the one that `header`'s update has left behind.
    pub fn check_after(&self, header: &Header) -> Result<(), ResidueError> {
        match header.residue_after {
            Some(expected) if expected != self.sha256 => Err(ResidueError::NotAfter {
                expected,
                got: self.sha256,
            }),
            _ => Ok(()),
        }
    }
}
