//! Keys, made once for all runs of a process, and signature checks that are remembered by (key, message,
//! signature): what a key's holder has just signed holds, everything else is computed, once. A run's peers
//! check the same messages over and over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use owm_proto::{NodeKey, PublicKey, hash::Hasher};

use crate::dice::FixedMap;

/// A key pair with its public half at hand.
#[derive(Debug)]
pub struct Identity {
    /// The private half.
    pub key: NodeKey,
    /// The public half.
    pub public: PublicKey,
}

/// Identity number `number`, the same in every run.
pub fn identity(number: u32) -> Arc<Identity> {
    static MADE: OnceLock<Mutex<BTreeMap<u32, Arc<Identity>>>> = OnceLock::new();
    let made = MADE.get_or_init(Mutex::default);
    let mut made = made.lock().expect("making a key does not panic");
    let new = || {
        let mut seed = [0x51; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let key = NodeKey::from_seed(&seed);
        let public = key.public();
        Arc::new(Identity { key, public })
    };
    made.entry(number).or_insert_with(new).clone()
}

/// Signature checks, remembered.
#[derive(Debug, Default)]
pub struct Memo {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    holds: FixedMap<[u8; 32], bool>,
    asked: u64,
}

impl Memo {
    /// Whether a signature holds; computed only the first time.
    pub fn verifies(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
        let question = question(key, message, signature);
        let mut known = self.known.lock().expect("a check does not panic");
        known.asked += 1;
        let compute = || key.verifies(message, signature);
        *known.holds.entry(question).or_insert_with(compute)
    }

    /// A key's holder has made this signature just now: it holds, and need not be computed.
    pub fn made(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) {
        let mut known = self.known.lock().expect("a check does not panic");
        known.holds.insert(question(key, message, signature), true);
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.known.lock().expect("a check does not panic").asked
    }

    /// How many it knows.
    pub fn known(&self) -> u64 {
        let known = self.known.lock().expect("a check does not panic");
        known.holds.len() as u64
    }
}

fn question(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.update(&key.0);
    hasher.update(signature);
    hasher.update(message);
    hasher.finish().0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remembered_answer_is_the_computed_one() {
        let memo = Memo::default();
        let one = identity(1);
        let mut signature = one.key.sign(b"m");
        for _ in 0..2 {
            assert!(memo.verifies(&one.public, b"m", &signature));
            assert!(!memo.verifies(&one.public, b"n", &signature));
            assert!(!memo.verifies(&identity(2).public, b"m", &signature));
        }
        signature[0] ^= 1;
        assert!(!memo.verifies(&one.public, b"m", &signature));
        assert_eq!((memo.asked(), memo.known()), (7, 4));
    }
}
