//! Gossipsub as far as the rules need it: a mesh of bounded degree for each topic, what was accepted is
//! forwarded to it, ids of what is cached go to a few others who ask for what they miss.
//!
//! Simplified: subscriptions are known the moment a connection stands; no peer exchange on prune, no fanout,
//! no opportunistic grafting, no IDONTWANT (messages here are below its threshold). The numbers are
//! libp2p-gossipsub's defaults. Which peers are listened to follows from a score that is passed in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use owm_p2p::gossip::Topic;

use crate::{
    dice::{Dice, FixedMap, FixedSet},
    frame::{Frame, Message, MessageId, Peer},
    time::At,
};

/// Degree that a mesh is filled to.
pub const MESH: usize = 6;
/// Below it a mesh is filled up.
const MESH_LOW: usize = 5;
/// Above it a mesh is cut down.
pub const MESH_HIGH: usize = 12;
/// Peers of the mesh that we have dialled ourselves, at least: nobody fills it from outside alone.
const MESH_OUTBOUND: usize = 2;
/// Peers outside the mesh that are told ids, at least.
const LAZY: usize = 6;
/// Windows (of one tick) that are kept for those who ask.
const HISTORY: usize = 5;
/// Of these, windows whose ids are told.
const HISTORY_TOLD: usize = 3;
/// How long a pruned peer is not grafted.
const BACKOFF_SECS: u64 = 60;
/// Ids that one peer may have us answer within a tick.
const WANTS_MAX: usize = 500;

/// Where frames to send are put.
pub type Outbox = Vec<(Peer, Frame)>;

/// What a router thinks of a peer, from the rules' score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing it says is looked at.
    Graylisted,
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
        }
    }

    /// What it subscribes to.
    pub fn topics(&self) -> BTreeSet<Topic> {
        self.topics.keys().copied().collect()
    }

    /// Whether a neighbour hears the heartbeats of a shard that we hear.
    pub fn is_near(&self, peer: Peer) -> bool {
        let ours = |topic: &&Topic| matches!(topic, Topic::Heartbeat(_));
        let neighbour = self.peers.get(&peer);
        neighbour.is_some_and(|neighbour| {
            self.topics
                .keys()
                .filter(ours)
                .any(|topic| neighbour.topics.contains(topic))
        })
    }

    /// A connection stands.
    pub fn connected(&mut self, peer: Peer, topics: BTreeSet<Topic>, outbound: bool) {
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

    /// Sends a message of our own.
    pub fn publish(&mut self, message: &Arc<Message>, now: At, out: &mut Outbox) {
        self.is_new(message, now);
        self.accepted(message, None, out);
    }

    /// Whether a message has not been seen lately; from now on it has.
    pub fn is_new(&mut self, message: &Message, now: At) -> bool {
        let new = self.seen.insert(message.id);
        if new {
            self.seen_order.push_back((now, message.id));
        }
        new
    }

    /// The rules accepted it: to the mesh, and into the cache.
    pub fn accepted(&mut self, message: &Arc<Message>, from: Option<Peer>, out: &mut Outbox) {
        if let Some(window) = self.windows.front_mut() {
            window.push(message.clone());
        }
        self.cached.insert(message.id, message.clone());
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
                    mesh.backoff.insert(from, now.after_secs(BACKOFF_SECS));
                }
            }
            Frame::Have(topic, ids) if self.topics.contains_key(topic) => {
                let missing = ids.iter().filter(|id| !self.seen.contains(id));
                let missing: Vec<_> = missing.copied().take(WANTS_MAX).collect();
                if !missing.is_empty() && standing >= Standing::Wary {
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
        let full = mesh.peers.len() >= MESH_HIGH && !neighbour.outbound;
        let early = mesh.backoff.get(&from).is_some_and(|until| *until > now);
        if standing < Standing::Fair || full || early {
            mesh.backoff.insert(from, now.after_secs(BACKOFF_SECS));
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
        for (topic, mesh) in &mut self.topics {
            mesh.backoff.retain(|_, until| *until > now);
            mesh.tend(*topic, &self.peers, now, standing, dice, out);
        }
        self.tell(standing, dice, out);
        self.windows.push_front(Vec::new());
        while self.windows.len() > HISTORY {
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
        if self.windows.iter().take(HISTORY_TOLD).all(Vec::is_empty) {
            return;
        }
        for (topic, mesh) in &self.topics {
            let windows = self.windows.iter().take(HISTORY_TOLD).flatten();
            let of_topic = windows.filter(|message| message.topic == *topic);
            let ids: Arc<[MessageId]> = of_topic.map(|message| message.id).collect();
            if ids.is_empty() {
                continue;
            }
            let outside = |peer: &Peer| !mesh.peers.contains(peer);
            let others: Vec<Peer> = listeners(&self.peers, *topic, Standing::Wary, standing)
                .filter(outside)
                .collect();
            let count = LAZY.max(others.len() / 4);
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
        if self.peers.len() > MESH_HIGH {
            let all: Vec<Peer> = self.peers.iter().copied().collect();
            let mut kept: BTreeSet<Peer> = dice.some(&all, MESH).into_iter().collect();
            let ours = all.iter().copied().filter(outbound).take(MESH_OUTBOUND);
            kept.extend(ours);
            for peer in all.into_iter().filter(|peer| !kept.contains(peer)) {
                self.prune(peer, topic, now, out);
            }
        }
        let ours = self.peers.iter().filter(|peer| outbound(peer)).count();
        if self.peers.len() >= MESH_LOW && ours >= MESH_OUTBOUND {
            return;
        }
        let free = |peer: &Peer| !self.peers.contains(peer) && !self.backoff.contains_key(peer);
        let free: Vec<Peer> = listeners(peers, topic, Standing::Fair, standing)
            .filter(free)
            .collect();
        let mut wanted = MESH.saturating_sub(self.peers.len());
        let mut new = Vec::new();
        if self.peers.len() < MESH_LOW {
            new = dice.some(&free, wanted);
        }
        wanted = MESH_OUTBOUND.saturating_sub(ours);
        let ours: Vec<Peer> = free.into_iter().filter(outbound).collect();
        new.extend(dice.some(&ours, wanted));
        for peer in new {
            if self.peers.insert(peer) {
                out.push((peer, Frame::Graft(topic)));
            }
        }
    }

    fn prune(&mut self, peer: Peer, topic: Topic, now: At, out: &mut Outbox) {
        self.peers.remove(&peer);
        self.backoff.insert(peer, now.after_secs(BACKOFF_SECS));
        out.push((peer, Frame::Prune(topic)));
    }
}
