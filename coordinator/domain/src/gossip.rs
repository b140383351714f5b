//! Heartbeats heard by gossip, gathered until the next batch is written (spec §7: once a second). The swarm's
//! loop feeds it verified heartbeats, the server's fold takes batches out, `tests/bench` measures it.
//!
//! Must stay true: no heartbeat costs more than one look-up; memory is bounded; a minute in which a node was
//! heard is kept while the database is away, so that an outage of ours lowers nobody's uptime.

use std::collections::HashMap;

use owm_proto::{PublicKey, UnixMillis};

use crate::liveness::minute_of;

/// Minutes of nodes that wait to be written: two minutes of 65 thousand nodes, or half an hour's outage of
/// the database with four thousand; about 12 MB.
pub const PENDING_MAX: usize = 131_072;

/// A node was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Which node.
    pub node: PublicKey,
    /// Its heartbeat's sequence: the highest of that minute.
    pub sequence: u64,
    /// When it arrived here, by the coordinator's clock.
    pub at: UnixMillis,
}

/// What a heartbeat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathered {
    /// It is in the next batch.
    Kept,
    /// That minute of the node is in the next batch already, with a sequence as high.
    Known,
    /// There is no room: it is lost, the next one says the same.
    Dropped,
}

/// What waits to be written: for each node and minute the highest sequence.
#[derive(Clone, Debug, Default)]
pub struct Gathering {
    pending: HashMap<(PublicKey, u64), Heard>,
}

impl Gathering {
    /// Takes one verified heartbeat.
    pub fn hear(&mut self, heard: Heard) -> Gathered {
        let full = self.pending.len() >= PENDING_MAX;
        let key = (heard.node, minute_of(heard.at));
        match self.pending.get_mut(&key) {
            Some(known) if known.sequence >= heard.sequence => Gathered::Known,
            Some(known) => {
                *known = heard;
                Gathered::Kept
            }
            None if full => Gathered::Dropped,
            None => {
                self.pending.insert(key, heard);
                Gathered::Kept
            }
        }
    }

    /// Takes at most `max` out, the oldest minutes first: of one node an earlier sequence written after a
    /// later one would count as a replay. What could not be written is put back with [`Gathering::hear`].
    pub fn batch(&mut self, max: usize) -> Vec<Heard> {
        if self.pending.len() <= max {
            return self.pending.drain().map(|(_, heard)| heard).collect();
        }
        let mut keys: Vec<_> = self.pending.keys().copied().collect();
        keys.select_nth_unstable_by_key(max, |(_, minute)| *minute);
        keys[..max]
            .iter()
            .filter_map(|key| self.pending.remove(key))
            .collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(n: u32, sequence: u64, at_ms: u64) -> Heard {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        Heard {
            node: PublicKey(key),
            sequence,
            at: UnixMillis(at_ms),
        }
    }

    #[test]
    fn a_minute_of_a_node_is_written_once_with_its_highest_sequence() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.hear(heard(1, 5, 60_000)), Gathered::Kept);
        assert_eq!(gathering.hear(heard(1, 5, 60_001)), Gathered::Known);
        assert_eq!(gathering.hear(heard(1, 4, 60_002)), Gathered::Known);
        assert_eq!(gathering.hear(heard(1, 7, 119_999)), Gathered::Kept);
        assert_eq!(gathering.batch(10), [heard(1, 7, 119_999)]);
        assert!(gathering.is_empty());
    }

    #[test]
    fn minutes_are_kept_apart_while_the_database_is_away() {
        let mut gathering = Gathering::default();
        for minute in 1..=30 {
            gathering.hear(heard(1, minute, minute * 60_000));
        }
        assert_eq!(gathering.len(), 30);
        let written = gathering.batch(100);
        for again in written {
            gathering.hear(again);
        }
        assert_eq!(gathering.len(), 30, "what was put back is there");
    }

    #[test]
    fn batches_are_bounded_and_so_is_memory() {
        let mut gathering = Gathering::default();
        let room = u32::try_from(PENDING_MAX).unwrap();
        for n in 0..room {
            assert_eq!(gathering.hear(heard(n, 1, 60_000)), Gathered::Kept);
        }
        assert_eq!(gathering.hear(heard(room, 1, 60_000)), Gathered::Dropped);
        assert_eq!(gathering.hear(heard(0, 2, 60_000)), Gathered::Kept, "known");
        gathering.batch(1);
        gathering.hear(heard(room, 1, 1));
        let oldest = gathering.batch(1);
        assert_eq!(oldest, [heard(room, 1, 1)], "earlier minutes go first");
        assert_eq!(gathering.batch(4_095).len(), 4_095);
        assert_eq!(gathering.len(), PENDING_MAX - 4_096);
    }
}
