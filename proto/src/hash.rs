//! SHA-256 digests as a type: what files, payloads, answers and the network are named by.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Digest;

/// A SHA-256 digest; shown as 64 lowercase hex digits, as `sha256sum` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hex digits, for people; never for comparing.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..4])
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts with nothing hashed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes `bytes` after what came before.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything so far.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// A text that is not what it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected {expected}, got {got:?}")]
pub struct ParseError {
    /// What was wanted, in words.
    pub expected: &'static str,
    /// The start of what came instead (at most 80 characters).
    pub got: String,
}

impl ParseError {
    /// Keeps at most 80 characters of `got`.
    pub fn new(expected: &'static str, got: &str) -> Self {
        Self {
            expected,
            got: got.chars().take(80).collect(),
        }
    }
}

/// Reads exactly `N` bytes of lowercase hex.
pub(crate) fn hex_array<const N: usize>(
    text: &str,
    expected: &'static str,
) -> Result<[u8; N], ParseError> {
    HEXLOWER
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ParseError::new(expected, text))
}

impl FromStr for Sha256 {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        hex_array(text, "64 lowercase hex digits (a SHA-256)").map(Self)
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_abc_is_the_one_of_fips_180_4() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), hex);
        assert_eq!(hex.parse(), Ok(Sha256::of(b"abc")));
    }

    #[test]
    fn uppercase_and_short_hex_are_refused() {
        assert!("BA".repeat(32).parse::<Sha256>().is_err());
        assert!("ba".repeat(31).parse::<Sha256>().is_err());
    }
}
