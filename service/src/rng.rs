//! Chance as a parameter: one seed per process, independent named streams from it.
//!
//! Every place that needs randomness takes a generator or a [`Seed`]; nothing asks the operating
//! system but [`Seed::from_os`], called once by `run`. Must stay true: the same seed and stream name
//! give the same numbers on every platform and version (tests and simulations keep seeds).
//!
//! Keys are no use for this: long-term keys come straight from the operating system.

use std::fmt;

use rand::{SeedableRng, TryRngCore, rngs::OsRng};
use rand_chacha::ChaCha20Rng;
use sha2::{Digest, Sha256};

/// Domain separation of stream derivation; a new rule needs a new tag.
const STREAM_TAG: &[u8] = b"owm.rng.stream.v1\0";
const CHILD_TAG: &[u8] = b"owm.rng.child.v1\0";

/// The root of a process's randomness. Its `Debug` hides the bytes: nonces come from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed of known bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh seed from the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can run then.
    pub fn from_os() -> Self {
        let mut bytes = [0; 32];
        OsRng
            .try_fill_bytes(&mut bytes)
            .expect("without the operating system's randomness no daemon may start");
        Self(bytes)
    }

    /// A seed for tests and simulations: `number`, little-endian, then zeros.
    pub fn from_u64(number: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Self(bytes)
    }

    /// The generator named `stream`, from its start: ChaCha20 keyed with
    /// SHA-256(tag ‖ seed ‖ name). Different names are independent; the same name asked twice gives
    /// the same numbers twice, so a name belongs to one user (add an index: `"lease/17"`).
    pub fn rng(&self, stream: &str) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.derive(STREAM_TAG, stream))
    }

    /// A seed of its own for a part that draws named streams itself.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(self.derive(CHILD_TAG, name))
    }

    fn derive(&self, tag: &[u8], name: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(tag)
            .chain_update(self.0)
            .chain_update(name.as_bytes())
            .finalize()
            .into()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn a_stream_repeats_and_names_are_independent() {
        let seed = Seed::from_u64(7);
        let draw = |seed: &Seed, name: &str| seed.rng(name).next_u64();
        assert_eq!(draw(&seed, "lease"), draw(&seed, "lease"));
        assert_ne!(draw(&seed, "lease"), draw(&seed, "backoff"));
        assert_ne!(draw(&seed, "lease"), draw(&Seed::from_u64(8), "lease"));
        assert_ne!(draw(&seed.child("a"), "lease"), draw(&seed, "lease"));
        assert_ne!(seed.child("a"), seed.child("b"));
    }

    #[test]
    fn the_derivation_is_frozen() {
        // Kept seeds of simulations depend on it: a change here is a new tag.
        let mut rng = Seed::from_u64(1).rng("golden");
        assert_eq!(rng.next_u64(), GOLDEN);
    }

    /// Also by `openssl enc -chacha20` (zero IV) keyed with SHA-256(tag ‖ seed ‖ name).
    const GOLDEN: u64 = 9_212_827_898_955_092_796;

    #[test]
    fn seeds_of_the_system_differ_and_are_not_printed() {
        assert_ne!(Seed::from_os(), Seed::from_os());
        assert_eq!(format!("{:?}", Seed::from_u64(5)), "Seed(…)");
    }
}
