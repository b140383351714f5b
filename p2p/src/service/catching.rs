//! Catching up: who seems to hold something newer than we do (a checkpoint, statements) is asked within a second
//! or so, and some for the nodes that are known by their heartbeats only, beside the rounds of `meeting`. Must stay
//! true: a peer is not asked oftener than every [`ASKED_EVERY`] for all reasons here together, whatever it or
//! others claim, so that with the rounds it stays within what it answers; and nobody waits who is not connected.

use std::{collections::BTreeMap, time::Duration};

use libp2p::PeerId;
use owm_proto::{PublicKey, wire::gossip::CapabilityBody};

use super::Service;
use crate::{Rules, lacking, peer};

/// Between two such questions to one peer: six a minute, of the twelve that are answered.
pub(super) const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Peers asked in one round of the upkeep. News of new statements reach a full house (512 peers) in a minute.
const ASKED_PER_ROUND: usize = 8;

/// Between two peers that are asked for a manifest, at first and at last.
const SEARCHED_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// Who is to be asked, and what for.
#[derive(Debug, Default)]
pub(super) struct Catching {
    wanted: BTreeMap<PeerId, Wanted>,
    search: Search,
}

/// Looking for the manifest of one announced checkpoint.
#[derive(Debug, Default)]
struct Search {
    sequence: u64,
    wait: Duration,
    next: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// It holds other statements, or has to learn of ours.
    statements: bool,
    /// It holds this checkpoint; 0: none.
    sequence: u64,
}

impl Search {
    /// Whether one more peer is asked now; less and less often, for it may be that nobody has it.
    fn is_due(&mut self, sequence: u64, now: Duration) -> bool {
        if self.sequence != sequence {
            *self = Self {
                sequence,
                wait: SEARCHED_EVERY.0,
                next: now,
            };
        }
        let due = now >= self.next;
        if due {
            self.next = now + self.wait;
            self.wait = (self.wait * 2).min(SEARCHED_EVERY.1);
        }
        due
    }
}

impl Catching {
    fn statements(&mut self, peer: PeerId) {
        self.wanted.entry(peer).or_default().statements = true;
    }

    fn checkpoint(&mut self, peer: PeerId, sequence: u64) {
        let wanted = self.wanted.entry(peer).or_default();
        wanted.sequence = wanted.sequence.max(sequence);
    }

    /// Forgets who has gone, and checkpoints that have come another way.
    fn prune(&mut self, known: u64, is_there: impl Fn(&PeerId) -> bool) {
        self.wanted.retain(|peer, wanted| {
            is_there(peer) && (wanted.statements || wanted.sequence > known)
        });
    }

    /// Some of those who may be asked, from a place in the row on that `choose` picks.
    fn take(
        &mut self,
        may: impl Fn(&PeerId) -> bool,
        choose: impl FnOnce(usize) -> usize,
    ) -> Vec<PeerId> {
        let mut due: Vec<PeerId> = self
            .wanted
            .keys()
            .filter(|peer| may(peer))
            .copied()
            .collect();
        if !due.is_empty() {
            let first = choose(due.len());
            due.rotate_left(first);
        }
        due.truncate(ASKED_PER_ROUND);
        for peer in &due {
            self.wanted.remove(peer);
        }
        due
    }
}

impl Service {
    /// A capability names a checkpoint that we don't hold: its announcement was lost on the way to us. Its
    /// node is asked, or who passed it on.
    pub(super) fn compare_checkpoints(
        &mut self,
        from: PeerId,
        node: &PublicKey,
        body: &CapabilityBody,
    ) {
        let sequence = body.checkpoint_sequence;
        if sequence <= self.known.sequence() {
            return;
        }
        let itself = peer::peer_id(node).filter(|peer| self.peers.contains_key(peer));
        self.catching.checkpoint(itself.unwrap_or(from), sequence);
    }

    /// A question came with other statements than ours.
    pub(super) fn compare_statements(&mut self, peer: PeerId, theirs: &[u8]) {
        if !theirs.is_empty() && theirs != self.known.statements_sha256() {
            self.catching.statements(peer);
        }
    }

    /// We have newer statements: all who are connected hear of it, and ask back.
    pub(super) fn spread_statements(&mut self) {
        for peer in self.peers.keys() {
            self.catching.statements(*peer);
        }
    }

    /// Asks some of those who are due; once a second.
    pub(super) fn catch_up(&mut self) {
        self.ask_for_lacking();
        let now = self.clock.monotonic();
        self.want_manifest();
        let (known, peers) = (self.known.sequence(), &self.peers);
        self.catching.prune(known, |peer| peers.contains_key(peer));
        let may = |peer: &PeerId| {
            peers
                .get(peer)
                .is_some_and(|entry| may_be_asked(entry.caught_up, now))
        };
        let rng = &mut self.rng;
        let due = self
            .catching
            .take(may, |n| rand::Rng::random_range(rng, 0..n));
        for peer in due {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.caught_up = Some(now);
            }
            self.ask_briefly(peer);
        }
    }

    /// A heartbeat was believed: its node may be known by nothing else.
    pub(super) fn note_lacking(&mut self, node: &PublicKey) {
        if let Some(rules) = &self.rules {
            let at = self.clock.moment();
            self.lacking.heard(at, node, rules.directory());
        }
    }

    /// A heartbeat found no room among the strangers: its node may be a member that is not known.
    pub(super) fn note_turned_away(&mut self, node: &PublicKey) {
        if let Some(rules) = &self.rules {
            let at = self.clock.moment();
            self.lacking.turned_away(at, node, rules.directory());
        }
    }

    /// Asks for the capabilities of nodes that are known by their heartbeats only.
    fn ask_for_lacking(&mut self) {
        let at = self.clock.moment();
        let Some(rules) = &self.rules else { return };
        let nodes = self.lacking.due(at, rules.directory());
        if nodes.is_empty() {
            return;
        }
        let shards = rules.topics().shards;
        let may = |last| may_be_asked(last, at.monotonic);
        let peers = self.peers.iter().filter(|(_, entry)| may(entry.caught_up));
        let peers = peers.filter_map(|(peer, _)| Some((*peer, peer::public_key(peer)?)));
        let peers: Vec<(PeerId, PublicKey)> = peers.collect();
        let rng = &mut self.rng;
        let choose = |n| rand::Rng::random_range(rng, 0..n);
        let questions = lacking::questions(nodes, shards, &peers, choose);
        for (peer, nodes) in questions {
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.caught_up = Some(at.monotonic);
            }
            self.ask_about(peer, &nodes);
        }
    }

    /// The manifest of a checkpoint that was announced has not come: one more peer is asked.
    fn want_manifest(&mut self) {
        let announced = self.rules.as_ref().and_then(Rules::checkpoint);
        let announced = announced.map_or(0, |known| known.checkpoint.sequence);
        let now = self.clock.monotonic();
        let wanted = announced > self.known.sequence() && !self.peers.is_empty();
        if wanted && self.catching.search.is_due(announced, now) {
            let at = self.choose(self.peers.len());
            if let Some(peer) = self.peers.keys().nth(at) {
                self.catching.checkpoint(*peer, announced);
            }
        }
    }
}

fn may_be_asked(last: Option<Duration>, now: Duration) -> bool {
    last.is_none_or(|last| now >= last + ASKED_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_asked_each_round_and_nobody_is_left_out() {
        let mut catching = Catching::default();
        let peers: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
        for peer in &peers {
            catching.statements(*peer);
        }
        let mut asked = Vec::new();
        for round in 0..3 {
            let due = catching.take(|_| true, |n| round % n);
            assert!(due.len() <= ASKED_PER_ROUND);
            asked.extend(due);
        }
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), peers.len());
        assert!(catching.take(|_| true, |_| 0).is_empty());
    }

    #[test]
    fn a_manifest_that_nobody_has_is_looked_for_less_and_less_often() {
        let mut search = Search::default();
        let asked = |search: &mut Search, sequence, secs: std::ops::Range<u64>| {
            let at = |secs| search.is_due(sequence, Duration::from_secs(secs));
            secs.map(at).filter(|due| *due).count()
        };
        assert_eq!(asked(&mut search, 7, 0..3_600), 20);
        assert_eq!(asked(&mut search, 8, 3_600..3_604), 3, "another checkpoint");
    }

    #[test]
    fn who_was_asked_just_now_waits_and_is_asked_later() {
        let mut catching = Catching::default();
        let peer = PeerId::random();
        catching.checkpoint(peer, 7);
        let secs = Duration::from_secs;
        let at = |now| move |_: &PeerId| may_be_asked(Some(secs(100)), secs(now));
        assert!(catching.take(at(109), |_| 0).is_empty());
        assert_eq!(catching.take(at(110), |_| 0), [peer]);
    }

    #[test]
    fn a_checkpoint_that_came_another_way_is_not_asked_for() {
        let mut catching = Catching::default();
        let [one, two, gone] = [(); 3].map(|()| PeerId::random());
        catching.checkpoint(one, 7);
        catching.checkpoint(two, 7);
        catching.statements(two);
        catching.checkpoint(gone, 9);
        catching.prune(7, |peer| *peer != gone);
        assert_eq!(catching.take(|_| true, |_| 0), [two]);
    }
}
