//! Gossipsub as far as the rules need it: a mesh of bounded degree for each topic, what was accepted is
//! forwarded to it, ids of what is cached go to a few others who ask for what they miss.
//!
//! The numbers are the product's (`owm_p2p::gossip::mesh`), the rules those of libp2p-gossipsub: own messages go to
//! all who listen, others' to the mesh; one peer at a time is asked for what was missed. Simplified: subscriptions
//! are known the moment a connection stands; no peer exchange on prune, no fanout, no opportunistic grafting, no
//! IDONTWANT (messages here are below its threshold). Which peers are listened to follows from a score that is
//! passed in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use owm_p2p::{
    NetworkPolicy,
    gossip::{
        Topic,
        mesh::{
            BACKOFF, DIALLED_MIN, PEERS_HIGH, PEERS_LOW, PEERS_WANTED, PROMISE_TIME, ROUNDS_KEPT,
            ROUNDS_TOLD, TOLD_MIN, TOLD_ONE_OF, floods,
        },
    },
};

use crate::{
    dice::{Dice, FixedMap, FixedSet},
    frame::{Frame, Message, MessageId, Peer},
    time::At,
};

/// Ids that one peer may have us answer within a tick.
const WANTS_MAX: usize = 500;

/// Where frames to send are put.
pub type Outbox = Vec<(Peer, Frame)>;

/// What a router thinks of a peer, from the rules' score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing it says is looked at.
    Graylisted,
    /// It is told nothing of our own.
    Untold,
    /// Not in the mesh, and no ids are exchanged with it.
    Shunned,
    /// Not in the mesh: its score is below zero.
    Wary,
    /// As any other.
    Fair,
}

/// The gossip of one peer.
#[derive(Debug)]
pub struct Router {
    topics: BTreeMap<Topic, Mesh>,
    peers: BTreeMap<Peer, Neighbour>,
    seen: FixedSet<MessageId>,
    seen_order: VecDeque<(At, MessageId)>,
    seen_secs: u64,
    windows: VecDeque<Vec<Arc<Message>>>,
    cached: FixedMap<MessageId, Arc<Message>>,
    /// Asked for, and until when nobody else is.
    promised: FixedMap<MessageId, At>,
}

#[derive(Debug, Default)]
struct Mesh {
    peers: BTreeSet<Peer>,
    backoff: BTreeMap<Peer, At>,
}

#[derive(Debug)]
struct Neighbour {
    topics: BTreeSet<Topic>,
    outbound: bool,
    wants: usize,
}

impl Router {
    /// Subscribed to `topics`; ids are remembered for `seen_secs`.
    pub fn new(topics: impl IntoIterator<Item = Topic>, seen_secs: u64) -> Self {
        Self {
            topics: topics.into_iter().map(|t| (t, Mesh::default())).collect(),
            peers: BTreeMap::new(),
            seen: FixedSet::default(),
            seen_order: VecDeque::new(),
            seen_secs,
            windows: VecDeque::from([Vec::new()]),
            cached: FixedMap::default(),
            promised: FixedMap::default(),
        }
    }

    /// What it subscribes to.
    pub fn topics(&self) -> BTreeSet<Topic> {
        self.topics.keys().copied().collect()
    }

    /// A connection stands: it is grafted where a mesh lacks peers.
    pub fn connected(
        &mut self,
        peer: Peer,
        (topics, outbound): (BTreeSet<Topic>, bool),
        standing: Standing,
        out: &mut Outbox,
    ) {
        for topic in &topics {
            if let Some(mesh) = self.topics.get_mut(topic)
                && mesh.peers.len() < PEERS_LOW
                && standing == Standing::Fair
                && !mesh.backoff.contains_key(&peer)
                && mesh.peers.insert(peer)
            {
                out.push((peer, Frame::Graft(*topic)));
            }
        }
        let neighbour = Neighbour {
            topics,
            outbound,
            wants: 0,
        };
        self.peers.insert(peer, neighbour);
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, peer: Peer) {
        self.peers.remove(&peer);
        for mesh in self.topics.values_mut() {
            mesh.peers.remove(&peer);
        }
    }

    /// Sends a message of our own: to all who listen.
    pub fn publish(
        &mut self,
        message: &Arc<Message>,
        now: At,
        standing: &dyn Fn(Peer) -> Standing,
        out: &mut Outbox,
    ) {
        self.is_new(message, now);
        if !floods(NetworkPolicy::Clearnet) {
            self.accepted(message, None, out);
            return;
        }
        self.cache(message);
        let all = listeners(&self.peers, message.topic, Standing::Shunned, standing);
        out.extend(all.map(|peer| (peer, Frame::Publish(message.clone()))));
    }

    fn cache(&mut self, message: &Arc<Message>) {
        if let Some(window) = self.windows.front_mut() {
            window.push(message.clone());
        }
        self.cached.insert(message.id, message.clone());
    }

    /// Whether a message has not been seen lately; from now on it has.
    pub fn is_new(&mut self, message: &Message, now: At) -> bool {
        let new = self.seen.insert(message.id);
        if new {
            self.promised.remove(&message.id);
            self.seen_order.push_back((now, message.id));
        }
        new
    }

    /// The rules accepted it: to the mesh, and into the cache.
    pub fn accepted(&mut self, message: &Arc<Message>, from: Option<Peer>, out: &mut Outbox) {
        self.cache(message);
        let Some(mesh) = self.topics.get(&message.topic) else {
            return;
        };
        let others = mesh.peers.iter().filter(|peer| Some(**peer) != from);
        out.extend(others.map(|peer| (*peer, Frame::Publish(message.clone()))));
    }

    /// A control frame of `from`.
    pub fn control(
        &mut self,
        from: Peer,
        frame: &Frame,
        standing: Standing,
        now: At,
        out: &mut Outbox,
    ) {
        match frame {
            Frame::Graft(topic) => self.grafted(from, *topic, standing, now, out),
            Frame::Prune(topic) => {
                if let Some(mesh) = self.topics.get_mut(topic) {
                    mesh.peers.remove(&from);
                    mesh.backoff.insert(from, now.after(BACKOFF));
                }
            }
            Frame::Have(topic, ids) if self.topics.contains_key(topic) => {
                if standing < Standing::Wary {
                    return;
                }
                let (seen, promised) = (&self.seen, &self.promised);
                let is_missing = |id: &&MessageId| !seen.contains(id) && !promised.contains_key(id);
                let missing = ids.iter().filter(is_missing).copied();
                let missing: Vec<_> = missing.take(WANTS_MAX).collect();
                if !missing.is_empty() {
                    let until = now.after(PROMISE_TIME);
                    self.promised.extend(missing.iter().map(|id| (*id, until)));
                    out.push((from, Frame::Want(missing)));
                }
            }
            Frame::Want(ids) => {
                let Some(neighbour) = self.peers.get_mut(&from) else {
                    return;
                };
                for id in ids {
                    if neighbour.wants >= WANTS_MAX {
                        return;
                    }
                    if let Some(message) = self.cached.get(id) {
                        neighbour.wants += 1;
                        out.push((from, Frame::Publish(message.clone())));
                    }
                }
            }
            _ => {}
        }
    }

    fn grafted(&mut self, from: Peer, topic: Topic, standing: Standing, now: At, out: &mut Outbox) {
        let Some(neighbour) = self.peers.get(&from) else {
            return;
        };
        let Some(mesh) = self.topics.get_mut(&topic) else {
            return;
        };
        let full = mesh.peers.len() >= PEERS_HIGH && !neighbour.outbound;
        let early = mesh.backoff.get(&from).is_some_and(|until| *until > now);
        if standing < Standing::Fair || full || early {
            mesh.backoff.insert(from, now.after(BACKOFF));
            out.push((from, Frame::Prune(topic)));
        } else {
            mesh.peers.insert(from);
        }
    }

    /// Once a second: meshes are filled or cut, ids told, old things forgotten.
    pub fn tick(
        &mut self,
        now: At,
        standing: &dyn Fn(Peer) -> Standing,
        dice: &mut Dice,
        out: &mut Outbox,
    ) {
        while self
            .seen_order
            .front()
            .is_some_and(|(at, _)| at.after_secs(self.seen_secs) <= now)
        {
            if let Some((_, id)) = self.seen_order.pop_front() {
                self.seen.remove(&id);
            }
        }
        self.promised.retain(|_, until| *until > now);
        for (topic, mesh) in &mut self.topics {
            mesh.backoff.retain(|_, until| *until > now);
            mesh.tend(*topic, &self.peers, now, standing, dice, out);
        }
        self.tell(standing, dice, out);
        self.windows.push_front(Vec::new());
        while self.windows.len() > ROUNDS_KEPT {
            for message in self.windows.pop_back().into_iter().flatten() {
                self.cached.remove(&message.id);
            }
        }
        for neighbour in self.peers.values_mut() {
            neighbour.wants = 0;
        }
    }

    /// Tells ids of the last windows to a few peers outside the mesh.
    fn tell(&self, standing: &dyn Fn(Peer) -> Standing, dice: &mut Dice, out: &mut Outbox) {
        if self.windows.iter().take(ROUNDS_TOLD).all(Vec::is_empty) {
            return;
        }
        for (topic, mesh) in &self.topics {
            let windows = self.windows.iter().take(ROUNDS_TOLD).flatten();
            let of_topic = windows.filter(|message| message.topic == *topic);
            let ids: Arc<[MessageId]> = of_topic.map(|message| message.id).collect();
            if ids.is_empty() {
                continue;
            }
            let outside = |peer: &Peer| !mesh.peers.contains(peer);
            let others: Vec<Peer> = listeners(&self.peers, *topic, Standing::Wary, standing)
                .filter(outside)
                .collect();
            let count = TOLD_MIN.max(others.len() / TOLD_ONE_OF);
            for peer in dice.some(&others, count) {
                out.push((peer, Frame::Have(*topic, ids.clone())));
            }
        }
    }

    /// Peers of a topic's mesh.
    pub fn mesh(&self, topic: Topic) -> impl Iterator<Item = Peer> {
        let mesh = self.topics.get(&topic);
        mesh.into_iter().flat_map(|mesh| mesh.peers.iter().copied())
    }

    /// Ids remembered and messages cached.
    pub fn sizes(&self) -> (usize, usize) {
        (self.seen.len(), self.cached.len())
    }
}

/// Peers that listen to a topic and stand at least so well.
fn listeners(
    peers: &BTreeMap<Peer, Neighbour>,
    topic: Topic,
    least: Standing,
    standing: &dyn Fn(Peer) -> Standing,
) -> impl Iterator<Item = Peer> {
    let listens = move |(_, neighbour): &(&Peer, &Neighbour)| neighbour.topics.contains(&topic);
    let of_topic = peers.iter().filter(listens).map(|(peer, _)| *peer);
    of_topic.filter(move |peer| standing(*peer) >= least)
}

impl Mesh {
    fn tend(
        &mut self,
        topic: Topic,
        peers: &BTreeMap<Peer, Neighbour>,
        now: At,
        standing: &dyn Fn(Peer) -> Standing,
        dice: &mut Dice,
        out: &mut Outbox,
    ) {
        let bad = |peer: &Peer| standing(*peer) < Standing::Fair;
        let leaving: Vec<Peer> = self.peers.iter().copied().filter(bad).collect();
        for peer in leaving {
            self.prune(peer, topic, now, out);
        }
        let outbound = |peer: &Peer| peers.get(peer).is_some_and(|n| n.outbound);
        if self.peers.len() >= PEERS_HIGH {
            let all: Vec<Peer> = self.peers.iter().copied().collect();
            let mut ours = all.iter().filter(|peer| outbound(peer)).count();
            for peer in dice.some(&all, all.len()) {
                if self.peers.len() <= PEERS_WANTED {
                    break;
                }
                if outbound(&peer) {
                    if ours <= DIALLED_MIN {
                        continue;
                    }
                    ours -= 1;
                }
                self.prune(peer, topic, now, out);
            }
        }
        let ours = self.peers.iter().filter(|peer| outbound(peer)).count();
        if self.peers.len() >= PEERS_LOW && ours >= DIALLED_MIN {
            return;
        }
        let free = |peer: &Peer| !self.peers.contains(peer) && !self.backoff.contains_key(peer);
        let mut free: Vec<Peer> = listeners(peers, topic, Standing::Fair, standing)
            .filter(free)
            .collect();
        let new = if self.peers.len() < PEERS_LOW {
            dice.some(&free, PEERS_WANTED - self.peers.len())
        } else {
            free.retain(outbound);
            dice.some(&free, DIALLED_MIN - ours)
        };
        for peer in new {
            if self.peers.insert(peer) {
                out.push((peer, Frame::Graft(topic)));
            }
        }
    }

    fn prune(&mut self, peer: Peer, topic: Topic, now: At, out: &mut Outbox) {
        self.peers.remove(&peer);
        self.backoff.insert(peer, now.after(BACKOFF));
        out.push((peer, Frame::Prune(topic)));
    }
}
