//! An address that a source has given, and the pauses between dials: jittered, doubling, bounded.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use rand::Rng;

use crate::peer::book::ADDRESSES_PER_PEER;

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause: a peer that comes back is found again within this time.
const PAUSE_MAX: Duration = Duration::from_mins(10);

/// The longest pause while we have no peer at all: to be alone costs more than a few packets.
const PAUSE_MAX_ALONE: Duration = Duration::from_secs(30);

/// The pause after a fault that time does not heal (another network).
const PAUSE_LONG: Duration = Duration::from_hours(1);

/// What a dial is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A peer, wherever it is.
    Peer(PeerId),
    /// An address of which nobody said who is there.
    Address(Multiaddr),
}

/// Where a source says that somebody is.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) pause: Pause,
    /// The dial under way.
    pub(super) order: Option<u64>,
}

/// When something may be tried again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pause {
    pub(super) failures: u32,
    since: Duration,
    /// Of the step, at most its full length.
    jitter_permille: u32,
    long: bool,
}

impl Candidate {
    pub(super) fn new(address: Multiaddr) -> Self {
        Self {
            addresses: vec![address],
            pause: Pause::default(),
            order: None,
        }
    }

    pub(super) fn add(&mut self, address: Multiaddr) -> bool {
        let new = !self.addresses.contains(&address);
        if new && self.addresses.len() < ADDRESSES_PER_PEER {
            self.addresses.push(address);
            return true;
        }
        false
    }
}

impl Pause {
    pub(crate) fn fail(&mut self, now: Duration, rng: &mut impl Rng) {
        self.failures = self.failures.saturating_add(1);
        self.begin(now, rng);
    }

    pub(crate) fn fail_for_long(&mut self, now: Duration, rng: &mut impl Rng) {
        self.fail(now, rng);
        self.long = true;
    }

    /// After something that worked.
    pub(crate) fn start_again(&mut self, now: Duration, rng: &mut impl Rng) {
        self.failures = 1;
        self.begin(now, rng);
    }

    /// Due at once, unless the fault was one that lasts.
    pub(crate) fn forgive(&mut self) {
        if !self.long {
            *self = Self::default();
        }
    }

    fn begin(&mut self, now: Duration, rng: &mut impl Rng) {
        self.since = now;
        self.jitter_permille = rng.random_range(500..=1_000);
        self.long = false;
    }

    /// When it ends.
    pub(crate) fn until(&self, alone: bool) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let step = match (self.long, alone) {
            (true, _) => PAUSE_LONG,
            (false, true) => (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX_ALONE),
            (false, false) => (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX),
        };
        match self.failures {
            0 => Duration::ZERO,
            _ => self.since + step * self.jitter_permille / 1_000,
        }
    }
}
