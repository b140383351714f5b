//! Connections and frames: who dials whom, when a link stands or falls, and what is sent over it.

use std::collections::BTreeSet;

use owm_p2p::{SwarmConfig, gossip::Topic};
use owm_proto::wire::gossip::MeetRequest;

use super::{DEAD_SECS, DIAL_MS, Event, Kind, Link, State, World};
use crate::{
    frame::{Frame, Peer},
    mesh::{Outbox, Standing},
    scenario::Deed,
};

/// Connections that a peer has at most, times those wanted.
const LINKS_MAX_TIMES: usize = 5;
/// Connections above which it lets spare ones go, times those wanted (`service::tending`).
const SPARE_TIMES: usize = 2;
/// Connections that a coordinator takes, and above which it lets spare ones go (`assemble`, `service::tending`).
const COORDINATOR_LINKS: (usize, usize) = {
    let most = SwarmConfig::CONNECTIONS_MAX as usize;
    (most - most / 4, most * 5 / 8)
};
/// Connections that a liar wants to have.
const LIAR_WANTED: usize = 8;
/// Peers of each topic that a peer wants to be connected with.
const TOPIC_PEERS: usize = 4;
/// Of a hundred looks for connections, so many dial somebody although there are enough: what Kademlia's
/// periodic look-ups do in a real swarm, and what joins the sides of a healed partition.
const WANDER_PERMILLE: u64 = 150;

impl World {
    fn pair(a: Peer, b: Peer) -> (Peer, Peer) {
        (a.min(b), a.max(b))
    }

    pub(super) fn is_linked(&self, a: Peer, b: Peer, number: u64) -> bool {
        let link = self.links.get(&Self::pair(a, b));
        link.is_some_and(|link| link.number == number)
    }

    /// Sends what was put into `out`, in the name of `from`.
    pub(super) fn send(&mut self, from: Peer, out: &mut Outbox) {
        let now = self.now();
        for (to, frame) in out.drain(..) {
            let Some(link) = self.links.get(&Self::pair(from, to)).copied() else {
                continue;
            };
            let bytes = frame.wire_bytes() as u64;
            let actor = &mut self.actors[from.0 as usize];
            actor.cost.bytes_out += bytes;
            actor.cost.frames_out += 1;
            actor.sent.published += u64::from(matches!(frame, Frame::Publish(_)));
            let ends = [from, to].map(|peer| (peer, self.actor(peer).place));
            let arrival = self.scenario.links.arrival(
                ends[0],
                ends[1],
                frame.is_reliable(),
                now,
                &mut self.dice,
            );
            if let Some(at) = arrival {
                let link = link.number;
                self.queue.push(
                    at,
                    Event::Arrive {
                        to,
                        from,
                        link,
                        frame,
                    },
                );
            }
        }
    }

    /// Looks for connections.
    pub(super) fn dial(&mut self, peer: Peer, _out: &mut Outbox) {
        let (life, now) = (self.actor(peer).life, self.now());
        let next = now.after_ms(DIAL_MS / 2 + self.dice.within(0, DIAL_MS));
        self.queue.push(next, Event::Dial(peer, life));
        for to in self.candidates(peer) {
            let delay_ms = 2 * self.scenario.links.delay_ms_max + self.dice.within(0, 20);
            let event = Event::Established { dialler: peer, to };
            self.queue.push(now.after_ms(delay_ms), event);
        }
        self.thin_out(peer);
    }

    fn candidates(&mut self, peer: Peer) -> Vec<Peer> {
        let actor = self.actor(peer);
        let linked = actor.linked.clone();
        if let Kind::Liar(liar) = &actor.kind {
            let everybody: Vec<Peer> = match liar.deed {
                // The first disturbed peer is their victim.
                Deed::Eclipse => vec![Peer(1)],
                _ => self.peers().filter(|other| *other != peer).collect(),
            };
            let wanted = LIAR_WANTED.saturating_sub(linked.len());
            return self.dice.some(&everybody, wanted.min(3));
        }
        let lonely: Vec<Topic> = self.lonely_topics(peer);
        let mut found = Vec::new();
        if let Some(topic) = self.dice.pick(&lonely).copied() {
            // What a provider record of the shard leads to.
            let free = |other: &Peer| *other != peer && !linked.contains(other);
            let providers = self.listeners(topic).into_iter().filter(free);
            let providers: Vec<Peer> = providers.filter(|other| self.is_awake(*other)).collect();
            found = self.dice.some(&providers, 2);
        }
        if self.lacks_links(peer) || self.dice.chance(WANDER_PERMILLE) {
            let free = |other: &Peer| *other != peer && !linked.contains(other);
            let free: Vec<Peer> = if self.scenario.has_rules(peer) {
                let book = self.actor(peer).book.iter().copied();
                book.filter(free).collect()
            } else {
                // It would have heard of all of them.
                let near = self.shards[self.shard(peer) as usize].iter().copied();
                near.filter(free).collect()
            };
            found.extend(self.dice.some(&free, 2));
        }
        found
    }

    /// Topics of a peer with too few connected listeners.
    fn lonely_topics(&self, peer: Peer) -> Vec<Topic> {
        let linked = &self.actor(peer).linked;
        let listens = |other: &Peer, topic: &Topic| {
            let shard = self.shard(*other);
            match topic {
                Topic::Checkpoint => true,
                Topic::Heartbeat(of) | Topic::Capability(of) => *other == Peer(0) || *of == shard,
            }
        };
        let listeners = |topic: &Topic| linked.iter().filter(|p| listens(p, topic)).count();
        let own = self.subscriptions(peer).into_iter();
        own.filter(|topic| listeners(topic) < TOPIC_PEERS).collect()
    }

    /// Who subscribes to a topic, by number.
    fn listeners(&self, topic: Topic) -> Vec<Peer> {
        match topic {
            Topic::Checkpoint => self.peers().collect(),
            Topic::Heartbeat(shard) | Topic::Capability(shard) => {
                let near = self.shards[shard as usize].iter().copied();
                let others = near.filter(|peer| *peer != Peer(0));
                std::iter::once(Peer(0)).chain(others).collect()
            }
        }
    }

    /// Whether a peer has too few connections, or too few that it has dialled itself (`bootstrap::plan`).
    fn lacks_links(&self, peer: Peer) -> bool {
        let (linked, wanted) = (&self.actor(peer).linked, self.scenario.links_wanted);
        let dialled = |other: &&Peer| {
            let link = self.links.get(&Self::pair(peer, **other));
            link.is_some_and(|link| link.dialler == peer)
        };
        linked.len() < wanted || linked.iter().filter(dialled).count() < wanted / 2
    }

    /// What a peer subscribes to.
    pub(super) fn subscriptions(&self, peer: Peer) -> BTreeSet<Topic> {
        let topics = self.lore.topics;
        if peer == Peer(0) {
            return topics.all().collect();
        }
        topics.of_node(&self.actor(peer).identity.public).into()
    }

    /// Too many connections: one that no mesh needs goes.
    fn thin_out(&mut self, peer: Peer) {
        let Some(node) = self.actor(peer).node() else {
            return;
        };
        let linked = &self.actor(peer).linked;
        let enough = if peer == Peer(0) {
            COORDINATOR_LINKS.1
        } else {
            SPARE_TIMES * self.scenario.links_wanted
        };
        if linked.len() <= enough {
            return;
        }
        let needed: BTreeSet<Peer> = node.meshes();
        // Whom it has dialled itself it wants.
        let is_inbound = |other: &&Peer| {
            let link = self.links.get(&Self::pair(peer, **other));
            link.is_some_and(|link| link.dialler != peer)
        };
        let free = linked.difference(&needed).filter(is_inbound);
        let free: Vec<Peer> = free.copied().collect();
        if let Some(other) = self.dice.pick(&free).copied() {
            self.unlink(peer, other);
        }
    }

    /// A dial has got through, if both still want it.
    pub(super) fn established(&mut self, dialler: Peer, to: Peer, out: &mut Outbox) {
        let now = self.now();
        let both_awake = self.is_awake(dialler) && self.is_awake(to);
        let key = Self::pair(dialler, to);
        let joined = self.scenario.links.joined(dialler, to, now);
        if dialler == to || !both_awake || !joined || self.links.contains_key(&key) {
            return;
        }
        let full = |peer: Peer| {
            let most = if peer == Peer(0) {
                COORDINATOR_LINKS.0
            } else {
                LINKS_MAX_TIMES * self.scenario.links_wanted
            };
            self.actor(peer).linked.len() >= most
        };
        if full(to) || full(dialler) || self.refuses(dialler, to) || self.refuses(to, dialler) {
            return;
        }
        self.links_made += 1;
        let number = self.links_made;
        self.links.insert(key, Link { number, dialler });
        self.trace
            .note(now, format_args!("{} dials {}", dialler.0, to.0));
        for (one, other) in [(dialler, to), (to, dialler)] {
            let topics = self.subscriptions(other);
            let other_key = self.actor(other).identity.public;
            let outbound = one == dialler;
            let actor = self.actor_mut(one);
            let at = actor.clock.moment(now);
            actor.linked.insert(other);
            match &mut actor.kind {
                Kind::Honest {
                    node: Some(node), ..
                } => {
                    node.connected(at, (other, other_key), (topics, outbound), out);
                }
                Kind::Liar(liar) => {
                    let standing = Self::LIARS_AMONG_THEMSELVES;
                    liar.router
                        .connected(other, (topics, outbound), standing, out);
                }
                Kind::Honest { node: None, .. } => {}
            }
            self.send(one, out);
        }
        let ask = self.ask_of(dialler);
        out.push((to, Frame::Ask(ask.into())));
        self.send(dialler, out);
    }

    /// Whether `one` has cut `other` off.
    fn refuses(&self, one: Peer, other: Peer) -> bool {
        let key = self.actor(other).identity.public;
        let actor = self.actor(one);
        let at = actor.clock.moment(self.now());
        actor.node().is_some_and(|node| node.is_banned(at, &key))
    }

    /// A connection ends for both.
    pub(super) fn unlink(&mut self, a: Peer, b: Peer) {
        let Some(link) = self.links.remove(&Self::pair(a, b)) else {
            return;
        };
        let now = self.now();
        self.trace.note(
            now,
            format_args!(
                "link {} of {} and {} ends",
                link.number,
                link.dialler.0,
                b.0.max(a.0)
            ),
        );
        for (one, other) in [(a, b), (b, a)] {
            let actor = self.actor_mut(one);
            actor.linked.remove(&other);
            match &mut actor.kind {
                Kind::Honest {
                    node: Some(node), ..
                } => node.disconnected(other),
                Kind::Liar(liar) => liar.router.disconnected(other),
                Kind::Honest { node: None, .. } => {}
            }
        }
    }

    /// All connections of a peer end.
    pub(super) fn unlink_all(&mut self, peer: Peer) {
        for other in self.actor(peer).linked.clone() {
            self.unlink(peer, other);
        }
    }

    /// A peer has gone to sleep: its connections are given up when it has been silent for long.
    pub(super) fn fall_silent(&mut self, peer: Peer) {
        let found = self.now().after_secs(DEAD_SECS);
        for other in self.actor(peer).linked.clone() {
            if let Some(link) = self.links.get(&Self::pair(peer, other)) {
                let (a, b, link) = (peer, other, link.number);
                self.queue.push(found, Event::Dead { a, b, link });
            }
        }
    }

    /// A partition has lasted: connections across it are found dead.
    pub(super) fn cut(&mut self, _number: usize) {
        let now = self.now();
        let across = |(a, b): &&(Peer, Peer)| !self.scenario.links.joined(*a, *b, now);
        let mut dead: Vec<(Peer, Peer)> = self.links.keys().filter(across).copied().collect();
        dead.sort_unstable();
        for (a, b) in dead {
            self.unlink(a, b);
        }
    }

    /// What a peer asks on a new connection.
    fn ask_of(&self, peer: Peer) -> MeetRequest {
        let (actor, now) = (self.actor(peer), self.now());
        match &actor.kind {
            Kind::Honest {
                node: Some(node), ..
            } => node.ask(actor.clock.moment(now)),
            Kind::Honest { node: None, .. } => MeetRequest::default(),
            Kind::Liar(liar) => liar.ask(now),
        }
    }

    /// The shard of a peer.
    pub(super) fn shard(&self, peer: Peer) -> u32 {
        self.actor(peer).shard
    }

    /// Whether a peer is there at all.
    pub(super) fn is_away(&self, peer: Peer) -> bool {
        self.actor(peer).state == State::Away
    }

    /// How a liar stands with other liars: well.
    pub(super) const LIARS_AMONG_THEMSELVES: Standing = Standing::Fair;
}
