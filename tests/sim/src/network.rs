//! Links: how long a frame travels, whether it arrives, and which peers a partition keeps apart.

use crate::{dice::Dice, frame::Peer, time::At};

/// What the links of a run are like.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Of the two farthest peers, one way.
    pub delay_ms_max: u64,
    /// What may come on top, one way.
    pub jitter_ms: u64,
    /// Gossip frames that get lost (queues of a slow peer), in thousandths.
    pub loss_permille: u64,
    /// Spans in which not everybody reaches everybody.
    pub partitions: Vec<Partition>,
}

/// A span in which peers of different sides don't reach each other.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Begins.
    pub from: At,
    /// Heals.
    pub until: At,
    /// Sides it has.
    pub sides: u64,
    /// Who is on which side follows from this.
    pub salt: u64,
}

impl Partition {
    /// The side of a peer.
    fn side(&self, peer: Peer) -> u64 {
        mixed(self.salt ^ u64::from(peer.0)) % self.sides.max(1)
    }

    fn separates(&self, a: Peer, b: Peer, at: At) -> bool {
        (self.from..self.until).contains(&at) && self.side(a) != self.side(b)
    }
}

/// The finisher of splitmix64: one number from another, without a pattern.
fn mixed(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Links {
    /// Whether two peers can reach each other at all.
    pub fn joined(&self, a: Peer, b: Peer, at: At) -> bool {
        !self.partitions.iter().any(|cut| cut.separates(a, b, at))
    }

    /// When a frame arrives; `None`: it does not. What travels on a stream of its own is repeated instead
    /// of lost, and comes a round trip later.
    pub fn arrival(
        &self,
        from: (Peer, u64),
        to: (Peer, u64),
        reliable: bool,
        at: At,
        dice: &mut Dice,
    ) -> Option<At> {
        // What is under way when a partition begins is sent again until it heals (if the connection is not
        // given up before that: whoever takes the frame in looks at that).
        let cuts = self.partitions.iter();
        let cuts = cuts.filter(|cut| cut.separates(from.0, to.0, at));
        let at = cuts.map(|cut| cut.until).max().unwrap_or(at);
        let distance_ms = from.1.abs_diff(to.1) * self.delay_ms_max / 1_000;
        let mut delay_us = 200 + distance_ms * 1_000 + dice.within(0, self.jitter_ms * 1_000);
        if dice.chance(self.loss_permille) {
            if !reliable {
                return None;
            }
            delay_us *= 3;
        }
        Some(At(at.0 + delay_us))
    }

    /// When the last partition has healed.
    pub fn healed(&self) -> At {
        let ends = self.partitions.iter().map(|cut| cut.until);
        ends.max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_separates_while_it_lasts_and_holds_back_what_is_sent_across() {
        let links = Links {
            delay_ms_max: 100,
            partitions: vec![Partition {
                from: At::secs(10),
                until: At::secs(20),
                sides: 2,
                salt: 7,
            }],
            ..Links::default()
        };
        let first = Peer(0);
        let apart = (1..100)
            .map(Peer)
            .find(|peer| !links.joined(first, *peer, At::secs(15)))
            .expect("two sides have somebody on each");
        assert!(links.joined(first, apart, At::secs(9)));
        assert!(links.joined(first, apart, links.healed()));
        let mut dice = Dice::new(1, 1);
        let mut send = |at| links.arrival((first, 0), (apart, 500), true, at, &mut dice);
        assert_eq!(send(At::secs(15)), Some(At(20_050_200)));
        assert_eq!(send(At::secs(9)), Some(At(9_050_200)));
        assert_eq!(send(At::secs(20)), Some(At(20_050_200)));
    }
}
