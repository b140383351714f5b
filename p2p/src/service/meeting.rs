//! Meet, asked and answered. The side that dialled asks; who was dialled asks back if it learns that the other
//! has something newer. Must stay true: everything in an answer verifies by itself, whoever says it.

use std::time::Duration;

use libp2p::{
    PeerId,
    request_response::{Event, InboundRequestId, Message, OutboundFailure, ResponseChannel},
};
use owm_proto::{
    Envelope, PublicKey, UnixMillis,
    envelope::CLOCK_SKEW_MAX,
    limits::MEET_NODES_MAX,
    wire::{
        coordinator::SignedEnvelope,
        gossip::{MeetRequest, MeetResponse},
    },
};
use prost::Message as _;

use super::{
    Service,
    answering::{FAR_NODES_MAX, May, Share},
    known::Offered,
};
use crate::{error::FailedLayer, meet, peer::Action};

/// Asks one connected peer again so often: what gossip missed (a revocation, a checkpoint, who announced
/// itself before we were in the mesh) comes this way. Sooner at first, when most is missed.
const AGAIN_EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// A question that was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) peer: PeerId,
    /// Capabilities that its answer may have.
    nodes_max: usize,
}

impl Service {
    /// Asks a connected peer, unless it is being asked.
    pub(super) fn ask(&mut self, peer: PeerId) {
        self.ask_for(peer, MEET_NODES_MAX as u32, &[]);
    }

    /// Asks for checkpoint and documents only: some hundred bytes if there is nothing newer.
    pub(super) fn ask_briefly(&mut self, peer: PeerId) {
        self.ask_for(peer, 0, &[]);
    }

    /// Like [`Self::ask_briefly`], and for the capabilities of these nodes.
    pub(super) fn ask_about(&mut self, peer: PeerId, nodes: &[PublicKey]) {
        self.ask_for(peer, 0, nodes);
    }

    fn ask_for(&mut self, peer: PeerId, nodes_max: u32, wanted: &[PublicKey]) {
        if self.asked.values().any(|asked| asked.peer == peer) {
            return;
        }
        let nodes_max = if self.is_far(peer) {
            nodes_max.min(FAR_NODES_MAX as u32)
        } else {
            nodes_max
        };
        let introduced = self.own.capability().filter(|_| nodes_max > 0);
        let request = MeetRequest {
            checkpoint_sequence: self.known.sequence(),
            documents: true,
            nodes_max,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: rounded(self.clock.wall()),
            capability: introduced.map(SignedEnvelope::from),
            checkpoint: self.known.newest().map(|newest| (&newest.envelope).into()),
            statements_sha256: self.known.statements_sha256(),
            wanted: wanted.iter().map(|key| key.0.to_vec()).collect(),
        };
        let id = self
            .swarm
            .behaviour_mut()
            .others
            .meet
            .send_request(&peer, request);
        let nodes_max = nodes_max as usize + wanted.len();
        self.asked.insert(id, Asked { peer, nodes_max });
    }

    /// Asks somebody from time to time.
    pub(super) fn meet_again(&mut self) {
        let now = self.clock.monotonic();
        let wait = self.meet_wait.max(AGAIN_EVERY.0);
        if now < self.met_again + wait || self.peers.is_empty() {
            return;
        }
        self.met_again = now;
        self.meet_wait = (wait * 2).min(AGAIN_EVERY.1);
        let at = self.choose(self.peers.len());
        let Some(peer) = self.peers.keys().nth(at).copied() else {
            return;
        };
        // Later on gossip brings the nodes: up to a thousand of them every minute would cost more than it. Who
        // is missing is asked for by name (`catching`).
        if self.meet_wait < AGAIN_EVERY.1 {
            self.ask(peer);
        } else {
            self.ask_briefly(peer);
        }
    }

    pub(super) fn on_meet(&mut self, event: Event<MeetRequest, MeetResponse>) {
        self.dirty = true;
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request_id,
                    request,
                    channel,
                } => self.on_question(peer, request_id, request, channel),
                Message::Response {
                    request_id,
                    response,
                } => {
                    let asked = self.asked.remove(&request_id);
                    self.counts.meets_asked += 1;
                    let nodes_max = asked.map_or(0, |asked| asked.nodes_max);
                    self.learn_from_response(peer, response, nodes_max);
                }
            },
            Event::OutboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                self.asked.remove(&request_id);
                self.counts.meets_failed += 1;
                self.on_meet_failed(peer, &error);
            }
            Event::InboundFailure { request_id, .. } => {
                self.answers.gone(request_id);
                self.counts.meets_failed += 1;
            }
            Event::ResponseSent { request_id, .. } => self.answers.gone(request_id),
        }
    }

    fn on_question(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        mut request: MeetRequest,
        channel: ResponseChannel<MeetResponse>,
    ) {
        // Where nothing is sent, the channel is dropped, and the other side sees an empty stream.
        match self.may_ask(peer) {
            May::Ask => {}
            May::NotNow => {
                self.counts.meets_failed += 1;
                return;
            }
            May::TooOften => {
                self.counts.meets_failed += 1;
                self.blame(peer, Action::MeetTooOften);
                return;
            }
        }
        // First: a member is told more.
        if let Ok(capability) = Envelope::from_wire(request.capability.take()) {
            self.introduce(peer, &capability);
        }
        let response = self.answer(&request, self.share_of(peer));
        if self.answers.reserve(id, response.encoded_len()) {
            let meet = &mut self.swarm.behaviour_mut().others.meet;
            if meet.send_response(channel, response).is_err() {
                // It has gone again.
                self.answers.gone(id);
            }
            self.counts.meets_answered += 1;
            self.ways.met(peer);
        } else {
            self.counts.meets_failed += 1;
        }
        self.learn_from_request(peer, request);
    }

    fn answer(&self, request: &MeetRequest, share: Share) -> MeetResponse {
        let mut response = MeetResponse {
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: rounded(self.clock.wall()),
            ..MeetResponse::default()
        };
        let wire = |envelopes: &[Envelope]| envelopes.iter().map(SignedEnvelope::from).collect();
        let wanted = request.documents
            && (request.statements_sha256.is_empty()
                || request.statements_sha256 != self.known.statements_sha256());
        if let Some(documents) = self.known.documents().filter(|_| wanted) {
            response.genesis.clone_from(&documents.genesis);
            response.delegations = wire(&documents.delegations);
            response.revocations = wire(&documents.revocations);
            response.bootstrap = documents.bootstrap.as_ref().map(SignedEnvelope::from);
            response.web_seed.clone_from(&documents.web_seed);
        }
        let newest = self.known.newest();
        let newer = |sequence| sequence > request.checkpoint_sequence;
        if let Some(newest) = newest.filter(|newest| newer(newest.checkpoint.sequence)) {
            response.checkpoint = Some((&newest.envelope).into());
            response.manifest = Some((&newest.manifest_envelope).into());
        }
        let nodes_max = (request.nodes_max as usize).min(share.nodes);
        let room = share.answer_bytes.saturating_sub(response.encoded_len());
        let room = room.min(share.node_bytes);
        if let Some(rules) = &self.rules {
            let at = self.clock.moment();
            let mut named = meet::wanted(request);
            named.truncate(share.nodes);
            response.capabilities = wire(&rules.introductions(at, &named, nodes_max, room));
        }
        response
    }

    fn learn_from_request(&mut self, peer: PeerId, request: MeetRequest) {
        self.compare_clocks(peer, UnixMillis(request.now_ms));
        if let Ok(checkpoint) = Envelope::from_wire(request.checkpoint) {
            // If it is newer, this asks back for its manifest.
            self.hear_checkpoint(peer, checkpoint, None);
        }
        if self.known.documents().is_none() {
            let entry = self.peers.get_mut(&peer);
            let first = entry.is_some_and(|entry| !std::mem::replace(&mut entry.asked_back, true));
            if first {
                self.ask(peer);
            }
        } else {
            self.compare_statements(peer, &request.statements_sha256);
        }
    }

    /// Of capabilities as many are looked at as were asked for: each may cost two signature checks, and whoever
    /// claims to hold a newer checkpoint is asked every ten seconds.
    fn learn_from_response(&mut self, peer: PeerId, response: MeetResponse, nodes_max: usize) {
        self.compare_clocks(peer, UnixMillis(response.now_ms));
        let envelopes = |wire: Vec<SignedEnvelope>| {
            let all = wire.into_iter().map(Envelope::try_from);
            all.filter_map(Result::ok).collect::<Vec<_>>()
        };
        if !response.genesis.is_empty() {
            let offered = Offered {
                genesis: response.genesis,
                delegations: envelopes(response.delegations),
                revocations: envelopes(response.revocations),
                bootstrap: Envelope::from_wire(response.bootstrap).ok(),
                web_seed: response.web_seed,
            };
            if let Err(error) = self.merge_documents(offered) {
                self.note_failure(peer, FailedLayer::Documents, error.to_string());
                self.blame(peer, Action::BadMeet);
                return;
            }
        }
        if let Ok(checkpoint) = Envelope::from_wire(response.checkpoint) {
            let manifest = Envelope::from_wire(response.manifest).ok();
            self.hear_checkpoint(peer, checkpoint, manifest);
        }
        let mut capabilities = response.capabilities;
        capabilities.truncate(nodes_max);
        for capability in envelopes(capabilities) {
            if !self.hear_told(peer, capability) {
                break;
            }
        }
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.met = true;
            self.ways.met(peer);
        }
    }

    fn compare_clocks(&mut self, peer: PeerId, theirs: UnixMillis) {
        // Not said.
        if theirs.0 == 0 {
            return;
        }
        let ours = self.clock.wall();
        let apart = ours.since(theirs).max(theirs.since(ours));
        let is_apart = apart > CLOCK_SKEW_MAX;
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.clock_apart = is_apart;
        }
        if is_apart {
            let minutes = apart.as_secs() / 60;
            let reason = format!("its clock and ours are {minutes} min apart; check both");
            self.note_failure(peer, FailedLayer::Clock, reason);
        }
    }

    fn on_meet_failed(&mut self, peer: PeerId, error: &OutboundFailure) {
        match error {
            OutboundFailure::UnsupportedProtocols => {
                self.refuse_version(peer, "it does not speak this network's Meet");
            }
            OutboundFailure::Timeout => {
                self.note_failure(
                    peer,
                    FailedLayer::Timeout,
                    "Meet was not answered".to_owned(),
                );
                self.blame(peer, Action::NoAnswer);
            }
            OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                self.note_failure(peer, FailedLayer::Documents, error.to_string());
                self.blame(peer, Action::Protocol);
            }
            OutboundFailure::Io(_)
            | OutboundFailure::DialFailure
            | OutboundFailure::ConnectionClosed => {}
        }
    }
}

/// Down to a second: enough to tell a wrong clock, too little for a fingerprint.
fn rounded(now: UnixMillis) -> u64 {
    now.0 - now.0 % 1_000
}
