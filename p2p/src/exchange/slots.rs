//! Who is served when more peers ask than there are upload slots: eight go to those who have taken most since the
//! last round, two to peers drawn by lot, two are kept for newcomers, so that nobody waits for ever and a fast peer
//! is not slowed down for ten slow ones. Who has no slot is told to come back after the next round: nothing queues.
//!
//! Pure: the caller brings the time and the seed. Used by [`super::serve`].

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha20Rng;

/// Slots for those who take fastest.
pub const FASTEST: usize = 8;

/// Slots by lot.
pub const OPTIMISTIC: usize = 2;

/// Slots for who has just come.
pub const NEWCOMERS: usize = 2;

/// Slots are given anew so often.
pub const ROUND: Duration = Duration::from_secs(10);

/// Who has not asked for so long wants nothing any more.
pub const FORGET: Duration = Duration::from_secs(30);

/// Peers that are remembered; more are told that we are busy.
pub const ASKERS_MAX: usize = 1_024;

/// What is known of one who asks.
#[derive(Clone, Copy, Debug)]
struct Asker {
    asked: Duration,
    taken: u64,
    slot: bool,
    /// It has not been through a round yet.
    new: bool,
}

/// The slots.
#[derive(Debug)]
pub struct Slots {
    askers: BTreeMap<PeerId, Asker>,
    rng: ChaCha20Rng,
    round: Duration,
}

/// Not now; again after so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy(pub Duration);

impl Slots {
    /// Nobody has asked yet.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            askers: BTreeMap::new(),
            rng: ChaCha20Rng::from_seed(seed),
            round: Duration::ZERO,
        }
    }

    /// Whether `peer` is served now.
    ///
    /// # Errors
    /// [`Busy`] when it has no slot.
    pub fn admit(&mut self, peer: PeerId, now: Duration) -> Result<(), Busy> {
        if now >= self.round + ROUND {
            self.deal(now);
        }
        let again = Busy((self.round + ROUND).saturating_sub(now));
        let used = self.askers.values().filter(|asker| asker.slot).count();
        let known = self.askers.len();
        if let Some(asker) = self.askers.get_mut(&peer) {
            asker.asked = now;
            asker.slot |= used < FASTEST + OPTIMISTIC;
            return if asker.slot { Ok(()) } else { Err(again) };
        }
        if known >= ASKERS_MAX {
            return Err(again);
        }
        // Who is new finds the kept slots too.
        let slot = used < FASTEST + OPTIMISTIC + NEWCOMERS;
        let asker = Asker {
            asked: now,
            taken: 0,
            slot,
            new: true,
        };
        self.askers.insert(peer, asker);
        if slot { Ok(()) } else { Err(again) }
    }

    /// It has taken so many bytes.
    pub fn took(&mut self, peer: &PeerId, bytes: u64) {
        if let Some(asker) = self.askers.get_mut(peer) {
            asker.taken = asker.taken.saturating_add(bytes);
        }
    }

    /// Gives the slots anew.
    fn deal(&mut self, now: Duration) {
        self.round = now;
        self.askers
            .retain(|_, asker| now.saturating_sub(asker.asked) < FORGET);
        let mut order: Vec<PeerId> = self.askers.keys().copied().collect();
        order.shuffle(&mut self.rng);
        // Stable: among equals the lot decides.
        order.sort_by_key(|peer| std::cmp::Reverse(self.askers[peer].taken));
        let split = order.len().min(FASTEST);
        let (fastest, others) = order.split_at_mut(split);
        others.shuffle(&mut self.rng);
        // Who came in this round is drawn before who has been passed over for rounds.
        for peer in fastest.iter().chain(others.iter().take(OPTIMISTIC)) {
            if let Some(asker) = self.askers.get_mut(peer) {
                (asker.slot, asker.taken, asker.new) = (true, 0, false);
            }
        }
        for peer in others.iter().skip(OPTIMISTIC) {
            if let Some(asker) = self.askers.get_mut(peer) {
                (asker.slot, asker.taken, asker.new) = (false, 0, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{NodeKey, Sha256};

    use super::*;
    use crate::peer;

    fn peers(n: usize) -> Vec<PeerId> {
        // The same in each run.
        let key = |n: usize| NodeKey::from_seed(&Sha256::of(&n.to_be_bytes()).0);
        let peer = |n| peer::peer_id(&key(n).public()).expect("a key");
        (0..n).map(peer).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn while_there_are_slots_everybody_is_served() {
        let mut slots = Slots::new([1; 32]);
        for peer in peers(FASTEST + OPTIMISTIC + NEWCOMERS) {
            assert_eq!(slots.admit(peer, at(1)), Ok(()));
        }
        let (late, wait) = (PeerId::random(), ROUND.saturating_sub(at(1)));
        assert_eq!(slots.admit(late, at(1)), Err(Busy(wait)));
    }

    #[test]
    fn the_fastest_keep_their_slots_and_nobody_waits_for_ever() {
        let mut slots = Slots::new([2; 32]);
        let all = peers(40);
        let mut served = vec![0; all.len()];
        for second in 1..=1_000 {
            for (n, peer) in all.iter().enumerate() {
                if slots.admit(*peer, at(second)).is_ok() {
                    served[n] += 1;
                    slots.took(peer, if n < FASTEST { 1_000 } else { 1 });
                }
            }
        }
        assert!(served[..FASTEST].iter().all(|n| *n > 900), "{served:?}");
        // Two of 32 at a time: everybody has had a turn of ten seconds.
        assert!(served.iter().all(|n| *n >= 10), "{served:?}");
    }

    #[test]
    fn a_newcomer_is_served_while_all_others_hold_their_slots() {
        let mut slots = Slots::new([3; 32]);
        let all = peers(30);
        for second in 1..=60 {
            for peer in &all {
                let _ = slots.admit(*peer, at(second));
                slots.took(peer, 100);
            }
        }
        assert_eq!(slots.admit(PeerId::random(), at(60)), Ok(()));
    }

    #[test]
    fn a_crowd_of_names_is_not_remembered() {
        let mut slots = Slots::new([4; 32]);
        for peer in peers(10_000) {
            let _ = slots.admit(peer, at(1));
        }
        assert_eq!(slots.askers.len(), ASKERS_MAX);
        assert!(slots.admit(PeerId::random(), at(100)).is_ok());
    }
}
