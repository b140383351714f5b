//! Which nodes to ask about: those whose heartbeats are heard and whose capability is not known, because its
//! announcement was lost (to a mesh that did not stand yet, to a clock that was wrong). The next one may be ten
//! minutes away, and until then nobody could introduce the node to newcomers. Pure; `service::catching` and
//! `tests/sim` ask. Must stay true: bounded in nodes, in questions and in nodes of a question, whatever is heard;
//! who is asked for in vain is asked for less and less often, so that silent Sybils cost little.

use std::{collections::BTreeMap, time::Duration};

use owm_proto::{PublicKey, gossip::shard_of, limits::MEET_WANTED_MAX};

use crate::{Directory, Moment};

/// Nodes that are asked about: those of a full shard.
const NODES_MAX: usize = 1_024;

/// After its first heartbeat a node's capability has so long to come by itself.
const PATIENCE: Duration = Duration::from_secs(5);

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
    times: u32,
    next: Duration,
}

impl Lacking {
    /// A heartbeat of `node` was believed.
    pub fn heard(&mut self, at: Moment, node: &PublicKey, directory: &Directory) {
        if self.nodes.contains_key(node) || !directory.lacks_capability(at, node) {
            return;
        }
        if self.nodes.len() >= NODES_MAX {
            let vainest = self.nodes.iter().max_by_key(|(_, asked)| asked.times);
            if let Some(key) = vainest.map(|(key, _)| *key) {
                self.nodes.remove(&key);
            }
        }
        let next = at.monotonic + PATIENCE;
        self.nodes.insert(*node, Asked { times: 0, next });
    }

    /// The nodes to ask about now: the least asked for first. For one round of questions.
    pub fn due(&mut self, at: Moment, directory: &Directory) -> Vec<PublicKey> {
        let now = at.monotonic;
        if self.nodes.is_empty() || now < self.next {
            return Vec::new();
        }
        self.nodes
            .retain(|node, _| directory.lacks_capability(at, node));
        let due = self.nodes.iter().filter(|(_, asked)| asked.next <= now);
        let mut due: Vec<(u32, Duration, PublicKey)> = due
            .map(|(node, asked)| (asked.times, asked.next, *node))
            .collect();
        due.sort_unstable();
        due.truncate(MEET_WANTED_MAX);
        if !due.is_empty() {
            self.next = now + ROUND;
        }
        for (times, _, node) in &due {
            let wait = ROUND.saturating_mul(1_u32.checked_shl(*times).unwrap_or(u32::MAX));
            let asked = Asked {
                times: times.saturating_add(1),
                next: now + wait.min(EVERY_MAX),
            };
            self.nodes.insert(*node, asked);
        }
        due.into_iter().map(|(.., node)| node).collect()
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
