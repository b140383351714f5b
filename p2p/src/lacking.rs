//! Which nodes to ask about: those whose heartbeats are heard and whose capability is not known, because its
//! announcement was lost (to a mesh that did not stand yet, to a clock that was wrong). The next one may be ten
//! minutes away, and until then nobody could introduce the node to newcomers. Worse for a member: without the
//! membership that its capability shows it passes for a stranger, and where Sybils fill the strangers' places its
//! heartbeats are turned away. So who was turned away is asked about too, after the others. Pure; `service::catching`
//! and `tests/sim` ask. Must stay true: bounded in nodes, in questions and in nodes of a question, whatever is heard;
//! who is asked for in vain is asked for less and less often, so that silent Sybils cost little.

use std::{collections::BTreeMap, time::Duration};

use owm_proto::{PublicKey, gossip::shard_of, limits::MEET_WANTED_MAX};

use crate::{Directory, Moment};

/// Nodes that are asked about: those of a full shard.
const NODES_MAX: usize = 1_024;

/// After its first heartbeat a node's capability has so long to come by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who was turned away is asked about for so long after its last heartbeat.
const TURNED_AWAY_KEPT: Duration = Duration::from_mins(5);

/// Peers that are asked in one round, themselves or about others.
pub const QUESTIONS_MAX: usize = 8;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_secs(10);

/// Between two questions about one node at last.
const EVERY_MAX: Duration = Duration::from_mins(5);

/// The nodes that are asked about.
#[derive(Debug, Default)]
pub struct Lacking {
    nodes: BTreeMap<PublicKey, Asked>,
    next: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// There was no room for its heartbeat, whose signature nobody looked at; forgotten then. `None`: it was believed.
    turned_away: Option<Duration>,
    times: u32,
    next: Duration,
}

impl Asked {
    /// Who is asked about first, and forgotten last.
    fn rank(&self) -> (bool, u32, Duration) {
        (self.turned_away.is_some(), self.times, self.next)
    }
}

impl Lacking {
    /// A heartbeat of `node` was believed.
    pub fn heard(&mut self, at: Moment, node: &PublicKey, directory: &Directory) {
        if !directory.lacks_capability(at, node) {
            return;
        }
        match self.nodes.get_mut(node) {
            Some(asked) => asked.turned_away = None,
            None => self.insert(at, node, None),
        }
    }

    /// A heartbeat that names `node` was turned away, because strangers have no more room.
    pub fn turned_away(&mut self, at: Moment, node: &PublicKey, directory: &Directory) {
        if directory.is_announced(at, node) {
            return;
        }
        let until = at.monotonic + TURNED_AWAY_KEPT;
        match self.nodes.get_mut(node) {
            Some(asked) => asked.turned_away = asked.turned_away.map(|_| until),
            None => self.insert(at, node, Some(until)),
        }
    }

    fn insert(&mut self, at: Moment, node: &PublicKey, turned_away: Option<Duration>) {
        let asked = Asked {
            turned_away,
            times: 0,
            next: at.monotonic + PATIENCE,
        };
        if self.nodes.len() >= NODES_MAX {
            let last = self.nodes.iter().max_by_key(|(_, asked)| asked.rank());
            match last.map(|(key, last)| (*key, last.rank())) {
                Some((key, rank)) if rank > asked.rank() => self.nodes.remove(&key),
                _ => return,
            };
        }
        self.nodes.insert(*node, asked);
    }

    /// The nodes to ask about now: the least asked for first. For one round of questions.
    pub fn due(&mut self, at: Moment, directory: &Directory) -> Vec<PublicKey> {
        let now = at.monotonic;
        if self.nodes.is_empty() || now < self.next {
            return Vec::new();
        }
        self.nodes.retain(|node, asked| match asked.turned_away {
            None => directory.lacks_capability(at, node),
            Some(until) => now < until && !directory.is_announced(at, node),
        });
        let due = self.nodes.iter_mut().filter(|(_, a)| a.next <= now);
        let mut due: Vec<(&PublicKey, &mut Asked)> = due.collect();
        due.sort_unstable_by_key(|(node, asked)| (asked.rank(), **node));
        due.truncate(MEET_WANTED_MAX);
        if !due.is_empty() {
            self.next = now + ROUND;
        }
        let asked = due.into_iter().map(|(node, asked)| {
            let wait = 1_u32.checked_shl(asked.times).unwrap_or(u32::MAX);
            asked.times = asked.times.saturating_add(1);
            asked.next = now + ROUND.saturating_mul(wait).min(EVERY_MAX);
            *node
        });
        asked.collect()
    }

    /// How many are asked about.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// Whom to ask about which nodes: the nodes themselves where they are among `peers` (whoever may be asked now,
/// with its key), and about the others one of their own shard, for who listens to other shards has never heard of
/// them; anybody if there is none. So a coordinator, which hears all shards, asks in several of them in one round.
pub fn questions<P: Copy + Eq>(
    nodes: Vec<PublicKey>,
    shards: u32,
    peers: &[(P, PublicKey)],
    mut choose: impl FnMut(usize) -> usize,
) -> Vec<(P, Vec<PublicKey>)> {
    let mut questions: Vec<(P, Vec<PublicKey>)> = Vec::new();
    let mut others: BTreeMap<u32, Vec<PublicKey>> = BTreeMap::new();
    for node in nodes {
        let itself = peers.iter().find(|(_, key)| *key == node);
        match itself.filter(|_| questions.len() < QUESTIONS_MAX) {
            Some((peer, _)) => questions.push((*peer, vec![node])),
            None => others
                .entry(shard_of(&node, shards))
                .or_default()
                .push(node),
        }
    }
    let mut others: Vec<(u32, Vec<PublicKey>)> = others.into_iter().collect();
    others.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    // One at least: whoever is connected and silent must not keep us from asking about the others.
    let left = (QUESTIONS_MAX - questions.len()).max(1);
    for (shard, nodes) in others.into_iter().take(left) {
        let free = |peer: &P| questions.iter().all(|(asked, _)| asked != peer);
        let free = peers.iter().filter(|(peer, _)| free(peer));
        let all: Vec<(P, u32)> = free.map(|(p, key)| (*p, shard_of(key, shards))).collect();
        let near = all.iter().filter(|(_, of)| *of == shard);
        let near: Vec<(P, u32)> = near.copied().collect();
        let asked = if near.is_empty() { all } else { near };
        if !asked.is_empty() {
            questions.push((asked[choose(asked.len())].0, nodes));
        }
    }
    questions
}

#[cfg(test)]
mod tests;
