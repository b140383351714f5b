//! The durable statements that travel by gossip, and the rule by which nodes are spread over shards.
//! (Heartbeats and capabilities are protobuf state messages: `owm/gossip/v1/gossip.proto`.)

use serde::{Deserialize, Serialize};

use crate::{
    envelope::Purpose, hash::Sha256, key::PublicKey, limits::SHARDS_MAX, statement::Statement,
    task::VersionId, time::UnixMillis,
};

/// Payload of `owm/checkpoint/v1`, signed by a release key: which version is the newest. Small enough to
/// be gossiped whatever the manifest's size; the manifest is fetched from whoever announced it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The manifest's: rises over releases and withdrawals; a lower one never replaces a higher.
    pub sequence: u64,
    /// Which version.
    pub version: VersionId,
    /// SHA-256 of the manifest's exact bytes.
    pub manifest_sha256: Sha256,
    /// How many bytes they are.
    pub manifest_bytes: u64,
    /// When the version was made.
    pub created_at_ms: UnixMillis,
}

impl Statement for Checkpoint {
    const PURPOSE: Purpose = Purpose::Checkpoint;
}

/// Payload of `owm/bootstrap/v1`, signed by an instance key: what all peers must agree on. The one issued
/// last holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// When it was decided.
    pub issued_at_ms: UnixMillis,
    /// Shards of the heartbeat and capability topics: a power of two, about 1,000 nodes each.
    pub shards: u32,
    /// Between two heartbeats of a node.
    pub heartbeat_secs: u32,
    /// Between two announcements of an unchanged capability.
    pub capability_secs: u32,
}

impl Statement for Bootstrap {
    const PURPOSE: Purpose = Purpose::Bootstrap;
}

impl Bootstrap {
    /// What holds until a signed one is known (spec §7): one shard, 60 s, 10 min.
    pub fn before_any() -> Self {
        Self {
            issued_at_ms: UnixMillis(0),
            shards: 1,
            heartbeat_secs: 60,
            capability_secs: 600,
        }
    }

    /// Whether its numbers can be used.
    pub fn is_sound(&self) -> bool {
        self.shards.is_power_of_two()
            && self.shards <= SHARDS_MAX
            && (1..=3_600).contains(&self.heartbeat_secs)
            && (1..=86_400).contains(&self.capability_secs)
    }
}

/// The shard of a node: the first four bytes of its key's SHA-256, big-endian, modulo `shards` (a power of
/// two, so doubling the number splits each shard in two).
pub fn shard_of(key: &PublicKey, shards: u32) -> u32 {
    let hash = Sha256::of(&key.0);
    let [a, b, c, d] = [0, 1, 2, 3].map(|at| hash.as_bytes()[at]);
    u32::from_be_bytes([a, b, c, d]) & (shards.max(1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_the_shards_splits_each_in_two() {
        for n in 0..=255 {
            let key = PublicKey([n; 32]);
            assert_eq!(shard_of(&key, 1), 0);
            assert_eq!(shard_of(&key, 8) & 3, shard_of(&key, 4));
        }
    }

    #[test]
    fn unsound_numbers_are_seen() {
        let sound = Bootstrap::before_any();
        assert!(sound.is_sound());
        for (shards, heartbeat_secs) in [(0, 60), (3, 60), (SHARDS_MAX * 2, 60), (1, 0)] {
            let unsound = Bootstrap {
                shards,
                heartbeat_secs,
                ..sound.clone()
            };
            assert!(!unsound.is_sound());
        }
    }
}
