//! The plan's look at the time: what is due now, and when to look again.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use rand::{Rng, seq::SliceRandom};

use super::{
    DIALS_MAX, DRAWN_MAX, JUMP, Order, Plan, SLEPT, Step, Target, candidate::Candidate,
    tally::Tally,
};
use crate::{Moment, bootstrap::REMEMBERED};

impl Plan {
    /// What is to be done now.
    pub fn step(&mut self, now: Moment, rng: &mut impl Rng) -> Vec<Step> {
        self.wake_up(now);
        let alone = self.is_alone();
        let book = &self.book;
        self.drawn
            .retain(|peer, pause| book.get(peer).is_some() || pause.until(alone) > now.monotonic);
        let missing = self.missing();
        let mut steps = Vec::new();
        for (name, tally) in &mut self.tallies {
            if tally.is_due(now.monotonic, missing > 0) {
                tally.asking = true;
                steps.push(Step::Ask(name));
            }
        }
        let room = DIALS_MAX.saturating_sub(self.orders.len());
        let wanted = missing.saturating_sub(self.orders.len()).min(room);
        steps.extend(self.dials(wanted, now, rng).into_iter().map(Step::Dial));
        steps
    }

    /// When to call [`Plan::step`] again, by the monotonic clock, if nothing happens before; at the latest
    /// so soon that a sleeping machine is noticed.
    pub fn due(&self, now: Moment) -> Duration {
        let latest = now.monotonic + SLEPT / 4;
        let missing = self.missing();
        let asks = self.tallies.values().filter(|t| !t.asking);
        let asks = asks.filter_map(|tally| tally.next_ask(missing > 0));
        let alone = self.is_alone();
        let dialable = missing > self.orders.len() && self.orders.len() < DIALS_MAX;
        let candidates = self
            .candidates
            .iter()
            .filter(|(key, c)| self.is_free(&key.1, c));
        let candidates = candidates.map(|(_, c)| c.pause.until(alone));
        let drawn = self.drawn.iter();
        let drawn = drawn.filter(|(peer, _)| self.is_drawable(peer, now));
        let drawn = drawn.map(|(_, pause)| pause.until(alone));
        let dials = candidates.chain(drawn).filter(|_| dialable);
        asks.chain(dials).min().map_or(latest, |at| at.min(latest))
    }

    /// Connections that are missing: of all, and of those dialled by ourselves, of which it wants half.
    fn missing(&self) -> usize {
        let wanted = self.config.peers_wanted;
        let dialled = self
            .links
            .values()
            .filter(|l| !l.dialled.is_empty())
            .count();
        let all = wanted.saturating_sub(self.links.len());
        all.max((wanted / 2).saturating_sub(dialled))
    }

    fn is_alone(&self) -> bool {
        self.met_count() == 0
    }

    /// A wall clock that runs away says nothing of how old an entry is.
    pub(super) fn watch_clock(&mut self, now: Moment) {
        let jumped = self.seen.is_some_and(|seen| {
            let by_monotonic = now.monotonic.saturating_sub(seen.monotonic);
            now.wall.since(seen.wall).saturating_sub(by_monotonic) >= JUMP
        });
        if jumped {
            self.book.stop_ageing();
        }
    }

    /// After a sleep everything is due at once: addresses, networks and peers have changed meanwhile.
    fn wake_up(&mut self, now: Moment) {
        self.watch_clock(now);
        let slept = self.seen.is_some_and(|seen| {
            let by_wall = now.wall.since(seen.wall);
            let by_monotonic = now.monotonic.saturating_sub(seen.monotonic);
            by_monotonic >= SLEPT || by_wall.saturating_sub(by_monotonic) >= SLEPT
        });
        self.seen = Some(now);
        if slept {
            self.woke = true;
            let candidates = self.candidates.values_mut().map(|c| &mut c.pause);
            for pause in candidates.chain(self.drawn.values_mut()) {
                pause.forgive();
            }
            self.tallies.values_mut().for_each(Tally::forgive);
        }
    }

    fn is_free(&self, target: &Target, candidate: &Candidate) -> bool {
        let busy = |peer| self.links.contains_key(peer) || self.is_dialling(peer);
        let busy_there = |address: &Multiaddr| {
            let mut dialled = self.links.values().flat_map(|l| &l.dialled);
            let mut orders = self.orders.values();
            dialled.any(|(at, _)| at == address) || orders.any(|o| o.addresses.contains(address))
        };
        candidate.order.is_none()
            && match target {
                Target::Peer(peer) => !busy(peer),
                Target::Address(address) => !busy_there(address),
            }
    }

    fn is_dialling(&self, peer: &PeerId) -> bool {
        self.orders.values().any(|o| o.peer.as_ref() == Some(peer))
    }

    /// Up to `count` orders: the sources in turn, in an order drawn anew, each giving what waited longest.
    fn dials(&mut self, count: usize, now: Moment, rng: &mut impl Rng) -> Vec<Order> {
        let mut sources: Vec<_> = self.tallies.keys().copied().collect();
        if !sources.contains(&REMEMBERED) {
            sources.push(REMEMBERED);
        }
        sources.shuffle(rng);
        let mut orders = Vec::new();
        while orders.len() < count && !sources.is_empty() {
            sources.retain(|source| {
                if orders.len() >= count {
                    return false;
                }
                let order = match *source {
                    REMEMBERED => self.draw(now, rng),
                    source => self.candidate(source, now),
                };
                let found = order.is_some();
                orders.extend(order);
                found
            });
        }
        orders
    }

    fn candidate(&mut self, source: &'static str, now: Moment) -> Option<Order> {
        let alone = self.is_alone();
        let due = self.candidates.iter().filter(|((of, target), c)| {
            *of == source && c.pause.until(alone) <= now.monotonic && self.is_free(target, c)
        });
        let key = due.min_by_key(|(_, c)| c.pause.until(alone))?.0.clone();
        let id = self.next_order;
        let candidate = self.candidates.get_mut(&key)?;
        candidate.order = Some(id);
        let addresses = candidate.addresses.clone();
        let peer = match key.1 {
            Target::Peer(peer) => Some(peer),
            Target::Address(_) => None,
        };
        Some(self.order(peer, addresses, source))
    }

    /// Whether the book could give it, but for its pause: [`Plan::due`] counts no other, or the loop would
    /// spin for what [`Plan::step`] never takes.
    fn is_drawable(&self, peer: &PeerId, now: Moment) -> bool {
        let target = Target::Peer(*peer);
        let mut names = self.tallies.keys();
        let mut is_candidate =
            || names.any(|name| self.candidates.contains_key(&(*name, target.clone())));
        *peer != self.config.ourselves
            && self.book.is_dialable(peer, now.wall)
            && !self.links.contains_key(peer)
            && !self.is_dialling(peer)
            && !is_candidate()
    }

    fn draw(&mut self, now: Moment, rng: &mut impl Rng) -> Option<Order> {
        let alone = self.is_alone();
        let waits = |peer: &PeerId| {
            let pause = self.drawn.get(peer);
            pause.is_some_and(|pause| pause.until(alone) > now.monotonic)
        };
        let skip = |peer: &PeerId| waits(peer) || !self.is_drawable(peer, now);
        let choice = self.book.choose(1, skip, now.wall, rng).pop()?;
        if self.drawn.len() >= DRAWN_MAX {
            self.drawn.retain(|_, p| p.until(alone) > now.monotonic);
        }
        if self.drawn.len() >= DRAWN_MAX {
            return None;
        }
        self.drawn.entry(choice.peer).or_default();
        self.tallies
            .entry(REMEMBERED)
            .or_insert_with(|| Tally::pushed(0));
        Some(self.order(Some(choice.peer), choice.addresses, REMEMBERED))
    }

    fn order(
        &mut self,
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
        source: &'static str,
    ) -> Order {
        let order = Order {
            id: self.next_order,
            peer,
            addresses,
            source,
        };
        self.next_order += 1;
        self.orders.insert(order.id, order.clone());
        order
    }
}
