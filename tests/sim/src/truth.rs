//! What was really said in a run, by whoever holds the key. Whatever a peer believes must be found here.

use std::collections::{BTreeMap, BTreeSet};

use owm_proto::{Envelope, PublicKey, Purpose, Sha256};

use crate::dice::FixedMap;

/// What was signed by the keys' holders.
#[derive(Debug, Default)]
pub struct Truth {
    said: FixedMap<[u8; 32], ()>,
    /// Bodies of one (key, purpose, sequence).
    bodies: BTreeMap<(PublicKey, &'static str, u64), BTreeSet<Sha256>>,
    /// The highest honest checkpoint.
    newest_checkpoint: u64,
    split_releases: BTreeSet<u64>,
}

impl Truth {
    /// A key's holder has signed something.
    pub fn said(&mut self, envelope: &Envelope, purpose: Purpose, sequence: u64) {
        let payload = Sha256::of(envelope.unverified_payload());
        let key = envelope.claimed_signer();
        self.said.insert(name(&key, purpose, &payload), ());
        let bodies = self.bodies.entry((key, purpose.as_str(), sequence));
        bodies.or_default().insert(payload);
    }

    /// An honest checkpoint has been published.
    pub fn published(&mut self, sequence: u64) {
        self.newest_checkpoint = self.newest_checkpoint.max(sequence);
    }

    /// A stolen release key has signed another checkpoint under this sequence.
    pub fn split(&mut self, sequence: u64) {
        self.split_releases.insert(sequence);
    }

    /// Sequences under which a release key has said two things.
    pub fn split_releases(&self) -> &BTreeSet<u64> {
        &self.split_releases
    }

    /// The highest honest checkpoint, 0: none.
    pub fn newest_checkpoint(&self) -> u64 {
        self.newest_checkpoint
    }

    /// Whether `key` has really signed this payload for this purpose.
    pub fn holds(&self, key: &PublicKey, purpose: Purpose, payload: &[u8]) -> bool {
        let name = name(key, purpose, &Sha256::of(payload));
        self.said.contains_key(&name)
    }

    /// Whether `key` has said two things under one sequence.
    pub fn is_split(&self, key: &PublicKey, purpose: Purpose, sequence: u64) -> bool {
        let bodies = self.bodies.get(&(*key, purpose.as_str(), sequence));
        bodies.is_some_and(|bodies| bodies.len() > 1)
    }
}

fn name(key: &PublicKey, purpose: Purpose, payload: &Sha256) -> [u8; 32] {
    let mut hasher = owm_proto::hash::Hasher::new();
    hasher.update(purpose.as_str().as_bytes());
    hasher.update(&key.0);
    hasher.update(payload.as_bytes());
    hasher.finish().0
}
