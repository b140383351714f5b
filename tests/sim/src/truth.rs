//! What was really said in a run, by whoever holds the key. Whatever a peer believes must be found here.

use std::collections::BTreeSet;

use owm_proto::{Envelope, PublicKey, Purpose, Sha256};

use crate::{dice::FixedMap, frame::MessageId};

/// What was signed by the keys' holders.
#[derive(Debug, Default)]
pub struct Truth {
    said: FixedMap<[u8; 32], ()>,
    /// The highest honest checkpoint.
    newest_checkpoint: u64,
    split_releases: BTreeSet<u64>,
    splits: FixedMap<u64, Split>,
}

/// One of several things that a key has said under one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Whose.
    pub key: PublicKey,
    /// What for.
    pub purpose: Purpose,
    /// Under which.
    pub sequence: u64,
}

impl Truth {
    /// A key's holder has signed something.
    pub fn said(&mut self, envelope: &Envelope, purpose: Purpose) {
        let payload = Sha256::of(envelope.unverified_payload());
        let key = envelope.claimed_signer();
        self.said.insert(name(&key, purpose, &payload), ());
    }

    /// An honest checkpoint has been published.
    pub fn published(&mut self, sequence: u64) {
        self.newest_checkpoint = self.newest_checkpoint.max(sequence);
    }

    /// A stolen release key has signed another checkpoint under this sequence.
    pub fn split(&mut self, sequence: u64) {
        self.split_releases.insert(sequence);
    }

    /// This message is one of several under one sequence.
    pub fn split_by(&mut self, message: MessageId, split: Split) {
        self.splits.insert(message.0, split);
    }

    /// Whether a message is one of several under one sequence.
    pub fn split_of(&self, message: MessageId) -> Option<Split> {
        self.splits.get(&message.0).copied()
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
}

fn name(key: &PublicKey, purpose: Purpose, payload: &Sha256) -> [u8; 32] {
    let mut hasher = owm_proto::hash::Hasher::new();
    hasher.update(purpose.as_str().as_bytes());
    hasher.update(&key.0);
    hasher.update(payload.as_bytes());
    hasher.finish().0
}
