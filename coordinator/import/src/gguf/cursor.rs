//! Reads little-endian values from a slice, never past its end.
//!
//! Called by `gguf` and its parts. Every method advances only when the bytes are there.

use super::GgufError;

/// A position in the header's bytes.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    /// The next `wanted` bytes.
    pub(super) fn take(&mut self, wanted: u64) -> Result<&'a [u8], GgufError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(wanted)
            .ok()
            .and_then(|wanted| rest.get(..wanted));
        let Some(taken) = taken else {
            return Err(GgufError::Truncated {
                at: self.at(),
                wanted,
                left: rest.len() as u64,
            });
        };
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64)?;
        Ok(taken.try_into().expect("take returned N bytes"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count or length of at most `limit`.
    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let found = self.u64()?;
        if found > limit {
            return Err(GgufError::TooLarge { what, found, limit });
        }
        Ok(found)
    }

    /// A string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<&'a str, GgufError> {
        let length = self.count(what, limit)?;
        let at = self.at();
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::NotUtf8 { at })
    }

    /// Fails unless `count` elements of at least `least_bytes` each can still follow, so that
    /// room may be reserved for them.
    pub(super) fn room_for(&self, count: u64, least_bytes: u64) -> Result<(), GgufError> {
        let left = (self.bytes.len() - self.at) as u64;
        let wanted = count.saturating_mul(least_bytes);
        if wanted > left {
            return Err(GgufError::Truncated {
                at: self.at(),
                wanted,
                left,
            });
        }
        Ok(())
    }
}
