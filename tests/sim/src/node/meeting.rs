//! Meet, as `service::meeting` of `owm-p2p` does it: what is asked on a new connection, what is answered, and what
//! is believed of an answer.

use owm_p2p::{
    Moment,
    gossip::{Topic, Verdict},
    meet,
    news::NewestCheckpoint,
    peer::Action,
};
use owm_proto::{
    Envelope, PublicKey, Purpose, Sha256, SignerRule, UnixMillis,
    genesis::DelegatedRole,
    gossip::{Checkpoint, shard_of},
    manifest::Manifest,
    statement::Statement as _,
    wire::{
        coordinator::SignedEnvelope,
        gossip::{MeetRequest, MeetResponse},
    },
};

use super::{Node, Outcome, Store};
use crate::{
    frame::{Frame, Message, Peer},
    identity::Memo,
    mesh::Outbox,
    time::At,
};

/// Bytes of the capabilities in an answer.
const MEET_BYTES: usize = 1 << 20;

impl Node {
    /// What it asks on a new connection.
    pub fn ask(&self, at: Moment) -> MeetRequest {
        MeetRequest {
            checkpoint_sequence: self.newest_sequence(),
            documents: false,
            nodes_max: self.meet_nodes,
            software_version: "0.1.0".into(),
            now_ms: at.wall.0 / 1_000 * 1_000,
            capability: self.own_capability.as_ref().map(Into::into),
            checkpoint: self.newest.as_ref().map(|newest| (&newest.envelope).into()),
            statements_sha256: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// Capabilities for who asks.
    pub fn introductions(&self, at: Moment, ask: &MeetRequest) -> Vec<Envelope> {
        let count = ask.nodes_max.min(self.meet_nodes) as usize;
        self.rules
            .introductions(at, &meet::wanted(ask), count, MEET_BYTES)
    }

    /// Somebody asks: what it says of itself is judged, then it is answered. `lent`: what another knows, if it
    /// runs no rules itself.
    pub fn asked(
        &mut self,
        (at, now): (Moment, At),
        (peer, key): (Peer, &PublicKey),
        (ask, lent): (&MeetRequest, Option<Vec<Envelope>>),
        memo: &Memo,
        out: &mut Outbox,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let before = self.announced_by(key);
        let has_rules = self.has_rules;
        let said = [&ask.capability, &ask.checkpoint].into_iter().flatten();
        for envelope in said.filter(|_| has_rules) {
            self.told(at, key, envelope, memo, &mut outcome);
        }
        if let Some(capability) = &ask.capability
            && (!has_rules || self.announced_by(key) != before)
        {
            outcome.introduces = self.introduce((at, now), key, capability, out);
        }
        if self.announced_sequence() > self.newest_sequence() {
            out.push((peer, Frame::Ask(self.ask(at).into())));
        }
        let newer = self.newest.as_ref();
        let newer = newer.filter(|n| n.checkpoint.sequence > ask.checkpoint_sequence);
        let known = lent.unwrap_or_else(|| self.introductions(at, ask));
        let answer = MeetResponse {
            checkpoint: newer.map(|newest| (&newest.envelope).into()),
            manifest: newer.map(|newest| (&newest.manifest_envelope).into()),
            capabilities: known.iter().map(Into::into).collect(),
            software_version: "0.1.0".into(),
            now_ms: at.wall.0 / 1_000 * 1_000,
            ..MeetResponse::default()
        };
        out.push((peer, Frame::Answer(answer.into())));
        outcome
    }

    /// The sequence of a node's last announcement.
    fn announced_by(&self, node: &PublicKey) -> Option<u64> {
        let known = self.rules.directory().known(node)?;
        Some(known.capability.as_ref()?.said.sequence)
    }

    /// The others of the shard hear of a newcomer through us (`service::hearing`).
    fn introduce(
        &mut self,
        (at, now): (Moment, At),
        key: &PublicKey,
        capability: &SignedEnvelope,
        out: &mut Outbox,
    ) -> bool {
        let own = Envelope::try_from(capability.clone()).ok();
        let Some(own) = own.filter(|own| own.claimed_signer() == *key) else {
            return false;
        };
        let shard = shard_of(key, self.rules.topics().shards);
        let message = Message::new(Topic::Capability(shard), own.to_stored());
        let listens = self.router.topics().contains(&message.topic);
        // Gossipsub publishes nothing that it has seen.
        let new = listens && self.router.is_new(&message, now);
        if new {
            self.tells((at, now), &message, out);
        }
        new
    }

    /// An answer: each part is judged by itself, up to the first that is a lie.
    pub fn answered(
        &mut self,
        at: Moment,
        from: &PublicKey,
        answer: &MeetResponse,
        store: &mut Store,
        memo: &Memo,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.has_rules {
            return outcome;
        }
        let checkpoint = answer.checkpoint.iter();
        for envelope in checkpoint.chain(&answer.capabilities) {
            if !self.told(at, from, envelope, memo, &mut outcome) {
                return outcome;
            }
        }
        if let (Some(checkpoint), Some(manifest)) = (&answer.checkpoint, &answer.manifest)
            && let Some(newest) = self.verified(checkpoint, manifest, at.wall, memo)
            && newest.checkpoint.sequence > self.newest_sequence()
            && self.rules.judge_whole(at, from, &newest.envelope, memo)
        {
            store.newest = Some(newest.clone());
            self.newest = Some(newest);
        }
        outcome
    }

    /// Whether something told was no lie.
    fn told(
        &mut self,
        at: Moment,
        from: &PublicKey,
        envelope: &SignedEnvelope,
        memo: &Memo,
        outcome: &mut Outcome,
    ) -> bool {
        let Ok(envelope) = Envelope::try_from(envelope.clone()) else {
            self.book(at, from, Action::BadMeet, outcome);
            return false;
        };
        let mut judged = self.rules.judge_told(at, from, envelope, memo);
        let lie = matches!(judged.verdict, Verdict::Reject(_));
        if lie {
            judged.action = Some(Action::BadMeet);
        }
        self.settle(at, from, judged, outcome);
        !lie
    }

    /// A checkpoint and the manifest that it names, both by a release key.
    fn verified(
        &self,
        checkpoint: &SignedEnvelope,
        manifest: &SignedEnvelope,
        now: UnixMillis,
        memo: &Memo,
    ) -> Option<NewestCheckpoint> {
        let [envelope, manifest_envelope] =
            [checkpoint, manifest].map(|envelope| Envelope::try_from(envelope.clone()).ok());
        let (envelope, manifest_envelope) = (envelope?, manifest_envelope?);
        let keys = self.documents.trust().keys(DelegatedRole::Release, now);
        let network = self.documents.trust().id();
        let rule = SignerRule::OneOf(&keys);
        let checkpoint = Checkpoint::open_by(&envelope, &network, rule, memo).ok()?;
        let manifest = manifest_envelope.verify_by(Purpose::Manifest, &network, rule, memo);
        let manifest = manifest.ok()?.payload;
        if Sha256::of(manifest) != checkpoint.manifest_sha256 {
            return None;
        }
        let manifest = Manifest::from_bytes(manifest).ok()?;
        Some(NewestCheckpoint {
            checkpoint,
            envelope,
            manifest,
            manifest_envelope,
        })
    }
}
