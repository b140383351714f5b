//! Whom to dial, whom to ask, and when: a state machine without I/O. What happens goes in with its time;
//! [`Plan::step`] gives what is to be done now, [`Plan::due`] when to come back.
//!
//! Must stay true: nothing is dialled twice at once or sooner than its back-off allows; every source that has
//! something due gets a dial in each round, so one live way in is enough however many dead ones there are;
//! connections from outside do not make up for dialled ones (who surrounds us chooses those); the same events
//! and seed give the same dials.

mod candidate;
mod step;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use candidate::Candidate;
pub(crate) use candidate::Pause;
pub use candidate::Target;
use libp2p::{Multiaddr, PeerId};
use rand::Rng;
use tally::Tally;

use super::{REMEMBERED, diagnose::DialFailure};
use crate::{
    Moment, NetworkPolicy, Unavailable,
    error::FailedLayer,
    peer::{
        Book, Origin,
        group::{Group, allowed, peer_of, without_peer},
    },
    view::SourceView,
};

/// Dials under way at once: at most so many half-open connections, whatever is wanted.
pub const DIALS_MAX: usize = 16;

/// Addresses kept of one source; later ones replace those that have failed most.
pub const CANDIDATES_PER_SOURCE: usize = 64;

/// A gap between two looks at the clock, or between the two clocks, that means this machine slept.
pub const SLEPT: Duration = Duration::from_mins(1);

/// The wall clock is so much further than the monotonic one: a clock fault or a very long sleep. The book does
/// not age from then on; the next start looks at the time again.
const JUMP: Duration = Duration::from_hours(24);

/// A source that answered is asked again after so long, while peers are missing.
const ASK_AGAIN: Duration = Duration::from_mins(5);

/// A connection shorter than this counts as a failure: a peer that accepts and hangs up is not dialled in a
/// circle.
const SHORT_CONNECTION: Duration = Duration::from_mins(1);

/// Peers' back-off records that are kept beside the sources' candidates: for remembered peers.
const DRAWN_MAX: usize = 256;

/// What a plan goes by.
#[derive(Clone, Debug)]
pub struct PlanConfig {
    /// Where it may connect to.
    pub policy: NetworkPolicy,
    /// Who we are: never dialled.
    pub ourselves: PeerId,
    /// Peers it wants to be connected with.
    pub peers_wanted: usize,
}

/// A dial to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Names it in what comes back.
    pub id: u64,
    /// Whom; `None`: the handshake will tell.
    pub peer: Option<PeerId>,
    /// Where, best first; without `/p2p`; names not resolved.
    pub addresses: Vec<Multiaddr>,
    /// On whose word.
    pub source: &'static str,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Dial.
    Dial(Order),
    /// Ask this source; its answer goes to [`Plan::given`].
    Ask(&'static str),
}

/// A connected peer.
#[derive(Clone, Debug)]
struct Link {
    since: Duration,
    /// Where our own dials have reached it, on whose word.
    dialled: Vec<(Multiaddr, &'static str)>,
    met: bool,
}

/// The state.
#[derive(Debug)]
pub struct Plan {
    config: PlanConfig,
    book: Book,
    tallies: BTreeMap<&'static str, Tally>,
    candidates: BTreeMap<(&'static str, Target), Candidate>,
    /// Remembered peers that have been drawn: their back-off.
    drawn: BTreeMap<PeerId, Pause>,
    orders: BTreeMap<u64, Order>,
    next_order: u64,
    links: BTreeMap<PeerId, Link>,
    barred: BTreeSet<PeerId>,
    seen: Option<Moment>,
    woke: bool,
}

impl Plan {
    /// Nothing is known yet but the book; all `sources` are due to be asked.
    pub fn new(config: PlanConfig, book: Book, sources: &[&'static str]) -> Self {
        let mut tallies = BTreeMap::new();
        for name in sources {
            tallies.insert(*name, Tally::asked_for());
        }
        if !book.is_empty() {
            tallies.insert(REMEMBERED, Tally::pushed(book.len()));
        }
        Self {
            config,
            book,
            tallies,
            candidates: BTreeMap::new(),
            drawn: BTreeMap::new(),
            orders: BTreeMap::new(),
            next_order: 0,
            links: BTreeMap::new(),
            barred: BTreeSet::new(),
            seen: None,
            woke: false,
        }
    }

    /// The remembered peers.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The same, to add what is heard of peers.
    pub fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Peers connected and met.
    pub fn met_count(&self) -> usize {
        self.links.values().filter(|link| link.met).count()
    }

    /// Whether an order of ours has led to this connected peer: such a connection is meant to last.
    pub fn has_dialled(&self, peer: &PeerId) -> bool {
        let link = self.links.get(peer);
        link.is_some_and(|link| !link.dialled.is_empty())
    }

    /// What each way in has brought.
    pub fn views(&self) -> Vec<SourceView> {
        let view = |(name, tally): (&&'static str, &Tally)| tally.view(name);
        self.tallies.iter().map(view).collect()
    }

    /// A source has answered, or something was pushed in its name.
    pub fn given(
        &mut self,
        source: &'static str,
        answer: Result<Vec<Multiaddr>, Vec<Unavailable>>,
        now: Moment,
        rng: &mut impl Rng,
    ) {
        let tally = self
            .tallies
            .entry(source)
            .or_insert_with(|| Tally::pushed(0));
        let addresses = match answer {
            Ok(addresses) => {
                tally.answered(now.monotonic, ASK_AGAIN, rng);
                addresses
            }
            Err(failures) => {
                tally.failed_to_answer(failures, now.monotonic, rng);
                return;
            }
        };
        self.watch_clock(now);
        for address in addresses {
            if !allowed(self.config.policy, &address) {
                let told = super::diagnose::forbidden(&address, self.config.policy);
                self.tally(source).fault(told);
                continue;
            }
            self.add_candidate(source, &address, now);
        }
    }

    fn add_candidate(&mut self, source: &'static str, address: &Multiaddr, now: Moment) {
        let (peer, bare) = (peer_of(address), without_peer(address));
        if peer.is_some_and(|p| p == self.config.ourselves || self.barred.contains(&p)) {
            return;
        }
        let target = peer.map_or_else(|| Target::Address(bare.clone()), Target::Peer);
        if let Some(peer) = peer.filter(|_| source != super::MDNS) {
            let origin = Origin::source(source);
            self.book
                .learn(peer, std::slice::from_ref(&bare), &origin, now.wall);
        }
        let key = (source, target);
        if let Some(known) = self.candidates.get_mut(&key) {
            let new = known.add(bare);
            self.tally(source).given += usize::from(new);
            return;
        }
        let of_source = |((s, _), _): &(&(&'static str, Target), &Candidate)| *s == source;
        if self.candidates.iter().filter(of_source).count() >= CANDIDATES_PER_SOURCE {
            let of_source = self.candidates.iter().filter(of_source);
            let failed = of_source.filter(|(_, c)| c.pause.failures > 0 && c.order.is_none());
            let worst = failed.max_by_key(|(_, c)| c.pause.failures);
            let Some(worst) = worst.map(|(key, _)| key.clone()) else {
                return;
            };
            self.candidates.remove(&worst);
        }
        self.candidates.insert(key, Candidate::new(bare));
        self.tally(source).given += 1;
    }

    fn tally(&mut self, source: &'static str) -> &mut Tally {
        self.tallies
            .entry(source)
            .or_insert_with(|| Tally::pushed(0))
    }

    /// A peer, itself at `from`, says that `peer` is at `addresses`; also what identify says of a peer itself.
    /// Returns whether that was new.
    pub fn heard(
        &mut self,
        peer: PeerId,
        addresses: &[Multiaddr],
        teller: PeerId,
        from: Option<Group>,
        now: Moment,
    ) -> bool {
        if peer == self.config.ourselves || self.barred.contains(&peer) {
            return false;
        }
        self.watch_clock(now);
        let origin = Origin::Peer {
            peer: teller,
            group: from.unwrap_or(Group::Other),
        };
        self.book.learn(peer, addresses, &origin, now.wall)
    }

    /// A connection stands. `order`: the dial that made it
    /// and its source; `None`: it came from outside, or another part of
    /// the swarm dialled. It counts as a success once [`Plan::met`] says so.
    pub fn connected(
        &mut self,
        order: Option<(u64, &'static str)>,
        peer: PeerId,
        at: &Multiaddr,
        now: Moment,
    ) {
        order.and_then(|(id, _)| self.take(id));
        let dialled = order.map(|(_, source)| (without_peer(at), source));
        let link = self.links.entry(peer).or_insert_with(|| Link {
            since: now.monotonic,
            dialled: Vec::new(),
            met: false,
        });
        link.dialled.extend(dialled);
        link.dialled.dedup();
        if link.met {
            self.met(peer, now);
        }
    }

    /// The peer belongs to our network.
    pub fn met(&mut self, peer: PeerId, now: Moment) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.met = true;
        let dialled = link.dialled.clone();
        let mut targets = vec![Target::Peer(peer)];
        for (address, source) in dialled {
            let origin = Origin::source(source);
            self.book.reached(peer, &address, &origin, now.wall);
            self.tally(source).reached(peer);
            targets.push(Target::Address(address));
        }
        for source in self.who_named(&targets) {
            self.tally(source).reached(peer);
        }
    }

    /// Something is wrong with a connected peer; it stays.
    pub fn note(&mut self, peer: &PeerId, told: Unavailable) {
        let dialled = self.links.get(peer).map(|link| link.dialled.as_slice());
        let source = dialled.and_then(<[_]>::first).map(|(_, source)| *source);
        self.tally(source.unwrap_or(super::INBOUND)).fault(told);
    }

    /// The peer is connected but of no use (another network, another version, it lies): the service closes the
    /// connection, and it is not dialled for long.
    pub fn refused(&mut self, peer: PeerId, told: &Unavailable, now: Moment, rng: &mut impl Rng) {
        let Some(link) = self.links.remove(&peer) else {
            return;
        };
        for (address, source) in link.dialled {
            self.book.failed(&peer, &address, told.layer, now.wall);
            self.tally(source).fault(told.clone());
            let target = Target::Address(address);
            self.pause(&target, |pause| pause.fail_for_long(now.monotonic, rng));
        }
        let target = Target::Peer(peer);
        self.pause(&target, |pause| pause.fail_for_long(now.monotonic, rng));
    }

    /// The last connection with the peer is gone. Whether it lasted for a good while; `None`: it was refused.
    pub fn closed(&mut self, peer: PeerId, now: Moment, rng: &mut impl Rng) -> Option<bool> {
        let link = self.links.remove(&peer)?;
        let lasted = now.monotonic.saturating_sub(link.since) >= SHORT_CONNECTION;
        let dialled = link.dialled.into_iter();
        let addresses = dialled.map(|(address, _)| Target::Address(address));
        for target in addresses.chain([Target::Peer(peer)]) {
            self.pause(&target, |pause| {
                if lasted {
                    pause.start_again(now.monotonic, rng);
                } else {
                    pause.fail(now.monotonic, rng);
                }
            });
        }
        Some(lasted)
    }

    /// A dial has failed. Without `failures` nothing is wrong with the peer: connected already, or ourselves.
    pub fn dial_failed(
        &mut self,
        order: u64,
        failures: Vec<DialFailure>,
        now: Moment,
        rng: &mut impl Rng,
    ) {
        let Some(order) = self.take(order) else {
            return;
        };
        self.watch_clock(now);
        let targets: Vec<_> = match order.peer {
            Some(peer) => vec![Target::Peer(peer)],
            None => order
                .addresses
                .iter()
                .cloned()
                .map(Target::Address)
                .collect(),
        };
        let lasting = |f: &DialFailure| matches!(f.told.layer, FailedLayer::Version);
        let for_long = failures.iter().any(lasting);
        for target in &targets {
            self.pause(target, |pause| match (failures.is_empty(), for_long) {
                (true, _) => pause.start_again(now.monotonic, rng),
                (false, true) => pause.fail_for_long(now.monotonic, rng),
                (false, false) => pause.fail(now.monotonic, rng),
            });
        }
        for failure in failures {
            if let (Some(peer), Some(address)) = (&order.peer, &failure.address) {
                self.book
                    .failed(peer, address, failure.told.layer, now.wall);
            }
            // All who gave this address learn of it: it is dialled once, not once for each of them.
            let mut told = self.who_named(&targets);
            told.insert(order.source);
            for source in told {
                self.tally(source).fault(failure.told.clone());
            }
        }
    }

    /// A dial that was none of the plan's has failed: the peer is not tried again sooner for that.
    pub fn other_dial_failed(
        &mut self,
        peer: PeerId,
        failures: &[DialFailure],
        now: Moment,
        rng: &mut impl Rng,
    ) {
        self.pause(&Target::Peer(peer), |pause| pause.fail(now.monotonic, rng));
        for failure in failures {
            if let Some(address) = &failure.address {
                self.book
                    .failed(&peer, address, failure.told.layer, now.wall);
            }
        }
    }

    /// Whether the machine has slept since this was asked last.
    pub fn take_woke(&mut self) -> bool {
        std::mem::take(&mut self.woke)
    }

    /// Whether there is a connection with this peer.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.links.contains_key(peer)
    }

    fn who_named(&self, targets: &[Target]) -> BTreeSet<&'static str> {
        let named = self.candidates.keys().filter(|(_, t)| targets.contains(t));
        named.map(|(source, _)| *source).collect()
    }

    /// The order's addresses lead to ourselves.
    pub fn is_ourselves(&mut self, order: u64) {
        let Some(order) = self.take(order) else {
            return;
        };
        let ours = |t: &Target| matches!(t, Target::Address(a) if order.addresses.contains(a));
        self.candidates.retain(|(_, target), _| !ours(target));
        if let Some(peer) = order.peer {
            self.bar(peer);
        }
    }

    /// Never again.
    pub fn bar(&mut self, peer: PeerId) {
        self.book.forget(&peer);
        self.candidates
            .retain(|(_, target), _| *target != Target::Peer(peer));
        self.barred.insert(peer);
    }

    fn take(&mut self, id: u64) -> Option<Order> {
        let order = self.orders.remove(&id)?;
        for candidate in self.candidates.values_mut() {
            candidate.order = candidate.order.filter(|of| *of != id);
        }
        Some(order)
    }

    fn pause(&mut self, target: &Target, mut change: impl FnMut(&mut Pause)) {
        let same = self.candidates.iter_mut().filter(|((_, t), _)| t == target);
        for (_, candidate) in same {
            change(&mut candidate.pause);
        }
        if let Target::Peer(peer) = target
            && let Some(pause) = self.drawn.get_mut(peer)
        {
            change(pause);
        }
    }
}

#[cfg(test)]
mod tests;
