//! Meet, asked and answered. The side that dialled asks; who was dialled asks back if it learns that the other
//! has something newer. Must stay true: everything in an answer verifies by itself, whoever says it.

use std::time::Duration;

use libp2p::{
    PeerId,
    request_response::{Event, Message, OutboundFailure},
};
use owm_proto::{
    Envelope, UnixMillis,
    envelope::CLOCK_SKEW_MAX,
    limits::{MEET_MESSAGE_BYTES_MAX, MEET_NODES_MAX},
    wire::{
        coordinator::SignedEnvelope,
        gossip::{MeetRequest, MeetResponse},
    },
};

use super::{Service, hearing::Source, known::Offered};
use crate::error::FailedLayer;

/// Asks one connected peer again so often: what gossip missed (a revocation, a checkpoint) comes this way.
const AGAIN_EVERY: Duration = Duration::from_mins(1);

/// Questions of one peer that are answered in a minute.
const ANSWERS_PER_MINUTE: u32 = 12;

/// Of an answer, what is left for frames and small fields.
const ANSWER_MARGIN: usize = 64 << 10;

impl Service {
    /// Asks a connected peer, unless it is being asked.
    pub(super) fn ask(&mut self, peer: PeerId) {
        if self.asked.values().any(|asked| *asked == peer) {
            return;
        }
        let request = MeetRequest {
            checkpoint_sequence: self.known.sequence(),
            documents: true,
            nodes_max: MEET_NODES_MAX as u32,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: rounded(self.clock.wall()),
            capability: self.own.capability().map(SignedEnvelope::from),
            checkpoint: self.known.newest().map(|newest| (&newest.envelope).into()),
        };
        let id = self.swarm.behaviour_mut().meet.send_request(&peer, request);
        self.asked.insert(id, peer);
    }

    /// Asks somebody from time to time.
    pub(super) fn meet_again(&mut self) {
        let now = self.clock.monotonic();
        if now < self.met_again + AGAIN_EVERY || self.peers.is_empty() {
            return;
        }
        self.met_again = now;
        let at = self.choose(self.peers.len());
        let peer = self.peers.keys().nth(at).copied();
        if let Some(peer) = peer {
            self.ask(peer);
        }
    }

    pub(super) fn on_meet(&mut self, event: Event<MeetRequest, MeetResponse>) {
        self.dirty = true;
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    if !self.may_ask(peer) {
                        self.counts.meets_failed += 1;
                        return;
                    }
                    let response = self.answer(&request);
                    let meet = &mut self.swarm.behaviour_mut().meet;
                    // It has gone again.
                    let _ = meet.send_response(channel, response);
                    self.counts.meets_answered += 1;
                    self.learn_from_request(peer, request);
                }
                Message::Response {
                    request_id,
                    response,
                } => {
                    self.asked.remove(&request_id);
                    self.counts.meets_asked += 1;
                    self.learn_from_response(peer, response);
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
            Event::InboundFailure { .. } => self.counts.meets_failed += 1,
            Event::ResponseSent { .. } => {}
        }
    }

    fn may_ask(&mut self, peer: PeerId) -> bool {
        let now = self.clock.monotonic();
        let Some(peer) = self.peers.get_mut(&peer) else {
            return false;
        };
        if now >= peer.answers_since + Duration::from_mins(1) {
            peer.answers_since = now;
            peer.answers = 0;
        }
        peer.answers += 1;
        peer.answers <= ANSWERS_PER_MINUTE
    }

    fn answer(&self, request: &MeetRequest) -> MeetResponse {
        let mut response = MeetResponse {
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: rounded(self.clock.wall()),
            ..MeetResponse::default()
        };
        let wire = |envelopes: &[Envelope]| envelopes.iter().map(SignedEnvelope::from).collect();
        if let Some(documents) = self.known.documents().filter(|_| request.documents) {
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
        let nodes_max = (request.nodes_max as usize).min(MEET_NODES_MAX);
        let mut room = (MEET_MESSAGE_BYTES_MAX - ANSWER_MARGIN)
            .saturating_sub(prost::Message::encoded_len(&response));
        let own = self.own.capability();
        let others = self.heard.nodes.iter().filter(|(key, _)| **key != self.me);
        let others = others.filter_map(|(_, node)| node.envelope.as_ref());
        for envelope in own.into_iter().chain(others).take(nodes_max) {
            let envelope = SignedEnvelope::from(envelope);
            // Tag and length of a field: eight bytes at most.
            let bytes = prost::Message::encoded_len(&envelope) + 8;
            let Some(left) = room.checked_sub(bytes) else {
                break;
            };
            room = left;
            response.capabilities.push(envelope);
        }
        response
    }

    fn learn_from_request(&mut self, peer: PeerId, request: MeetRequest) {
        self.compare_clocks(peer, UnixMillis(request.now_ms));
        if let Ok(capability) = Envelope::from_wire(request.capability) {
            self.hear_told(&capability);
        }
        let theirs = Envelope::from_wire(request.checkpoint).ok();
        let newer = theirs
            .and_then(|envelope| self.known.checkpoint(&envelope))
            .is_some_and(|checkpoint| checkpoint.sequence > self.known.sequence());
        if newer || self.known.documents().is_none() {
            self.ask(peer);
        }
    }

    fn learn_from_response(&mut self, peer: PeerId, response: MeetResponse) {
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
            }
        }
        let checkpoint = Envelope::from_wire(response.checkpoint);
        let manifest = Envelope::from_wire(response.manifest);
        if let (Ok(checkpoint), Ok(manifest)) = (checkpoint, manifest)
            && let Some(newest) = self.known.verified(checkpoint, manifest)
        {
            self.keep_checkpoint(newest, Source::Meet(peer));
        }
        if self.known.documents().is_some() {
            for capability in envelopes(response.capabilities).iter().take(MEET_NODES_MAX) {
                self.hear_told(capability);
            }
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.met = true;
        }
    }

    /// A capability that was told, not gossiped.
    fn hear_told(&mut self, envelope: &Envelope) {
        if let Ok(news) = self.hear(false, envelope) {
            self.tell(news);
        }
    }

    fn compare_clocks(&mut self, peer: PeerId, theirs: UnixMillis) {
        let ours = self.clock.wall();
        let apart = ours.since(theirs).max(theirs.since(ours));
        if apart > CLOCK_SKEW_MAX {
            let minutes = apart.as_secs() / 60;
            let reason = format!("its clock and ours are {minutes} min apart; check both");
            self.note_failure(peer, FailedLayer::Clock, reason);
        }
    }

    fn on_meet_failed(&mut self, peer: PeerId, error: &OutboundFailure) {
        if matches!(error, OutboundFailure::UnsupportedProtocols) {
            self.refuse_version(peer, "it does not speak this network's protocol".to_owned());
        }
    }
}

/// Down to a second: enough to tell a wrong clock, too little for a fingerprint.
fn rounded(now: UnixMillis) -> u64 {
    now.0 - now.0 % 1_000
}
