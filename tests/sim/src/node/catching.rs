//! Catching up, as `service::catching` and `service::meeting` of `owm-p2p` do it: who seems to hold a newer
//! checkpoint is asked, and somebody is asked once a minute, whatever gossip has lost.

use std::collections::BTreeMap;

use owm_p2p::{Moment, lacking::questions};
use owm_proto::{PublicKey, wire::gossip::CapabilityBody, wire::gossip::MeetRequest};

use super::Node;
use crate::{
    dice::Dice,
    frame::{Frame, Peer},
    mesh::Outbox,
    time::At,
};

/// Somebody is asked this often (`meeting::AGAIN_EVERY`, once the first minute is over).
const ROUND_SECS: u64 = 60;
/// Between two questions to one peer for what it seems to hold (`catching::ASKED_EVERY`).
const ASKED_EVERY_SECS: u64 = 10;
/// Peers asked at once (`catching::ASKED_PER_ROUND`).
const ASKED_PER_ROUND: usize = 8;

/// Who is to be asked.
#[derive(Debug, Default)]
pub(super) struct Catching {
    /// With the checkpoint that it seems to hold.
    wanted: BTreeMap<Peer, u64>,
    asked: BTreeMap<Peer, At>,
    round: Option<At>,
}

impl Catching {
    pub(super) fn gone(&mut self, peer: Peer) {
        self.wanted.remove(&peer);
        self.asked.remove(&peer);
    }

    fn want(&mut self, peer: Peer, sequence: u64) {
        let wanted = self.wanted.entry(peer).or_default();
        *wanted = sequence.max(*wanted);
    }
}

impl Node {
    /// A capability names a checkpoint: if we don't hold it, its node is asked, or who passed it on.
    pub(super) fn compare(&mut self, from: Peer, node: &PublicKey, body: &CapabilityBody) {
        if body.checkpoint_sequence > self.newest_sequence() {
            let itself = self.keys.iter().find(|(_, key)| *key == node);
            let peer = itself.map_or(from, |(peer, _)| *peer);
            self.catching.want(peer, body.checkpoint_sequence);
        }
    }

    /// Once a second.
    pub(super) fn catch_up(&mut self, at: Moment, now: At, dice: &mut Dice, out: &mut Outbox) {
        let (newest, announced) = (self.newest_sequence(), self.announced_sequence());
        let neighbours: Vec<Peer> = self.keys.keys().copied().collect();
        if announced > newest
            && let Some(peer) = dice.pick(&neighbours)
        {
            self.catching.want(*peer, announced);
        }
        let next_round = *self
            .catching
            .round
            .get_or_insert_with(|| At(now.0 + dice.within(0, At::secs(ROUND_SECS).0)));
        if now >= next_round {
            self.catching.round = Some(now.after_secs(ROUND_SECS));
            let peer = dice.pick(&neighbours).copied();
            out.extend(peer.map(|peer| (peer, Frame::Ask(self.ask_briefly(at).into()))));
        }
        self.ask_for_lacking(at, dice, out);
        self.catching
            .wanted
            .retain(|_, sequence| *sequence > newest);
        let asked = &self.catching.asked;
        let may = |peer: &Peer| {
            let last = asked.get(peer);
            last.is_none_or(|last| last.after_secs(ASKED_EVERY_SECS) <= now)
        };
        let due: Vec<Peer> = self.catching.wanted.keys().copied().filter(may).collect();
        for peer in dice.some(&due, ASKED_PER_ROUND) {
            self.catching.wanted.remove(&peer);
            self.catching.asked.insert(peer, now);
            out.push((peer, Frame::Ask(self.ask_briefly(at).into())));
        }
    }

    /// For nodes that are known by their heartbeats only: themselves, or somebody about them.
    fn ask_for_lacking(&mut self, at: Moment, dice: &mut Dice, out: &mut Outbox) {
        let nodes = self.lacking.due(at, self.rules.directory());
        if nodes.is_empty() {
            return;
        }
        let shards = self.rules.topics().shards;
        let peers: Vec<(Peer, PublicKey)> = self.keys.iter().map(|(p, key)| (*p, *key)).collect();
        let questions = questions(nodes, shards, &peers, |n| dice.index(n));
        for (peer, nodes) in questions {
            let ask = MeetRequest {
                wanted: nodes.iter().map(|node| node.0.to_vec()).collect(),
                ..self.ask_briefly(at)
            };
            out.push((peer, Frame::Ask(ask.into())));
        }
    }

    /// For the checkpoint only.
    fn ask_briefly(&self, at: Moment) -> MeetRequest {
        MeetRequest {
            nodes_max: 0,
            capability: None,
            ..self.ask(at)
        }
    }
}
