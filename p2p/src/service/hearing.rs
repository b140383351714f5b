//! Gossip that comes in: judged before it is forwarded, told to the daemon if it is new.

use std::collections::BTreeMap;

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, MessageId},
};
use owm_proto::{
    Envelope, PublicKey, SignerRule, UnixMillis,
    envelope::{EnvelopeError, Purpose, check_time},
    gossip::shard_of,
    limits::GOSSIP_MESSAGE_BYTES_MAX,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use super::{Service, known::Offered};
use crate::{
    News,
    gossip::{IgnoreReason, RejectReason, Topic, Verdict},
    news::NewestCheckpoint,
    peer,
};

/// Nodes that are remembered.
const NODES_MAX: usize = 4_096;

/// Who told us something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Own,
    Gossip(PeerId),
    Meet(PeerId),
    Dht,
}

/// A node that was heard of.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) heartbeat: u64,
    pub(super) capability: u64,
    pub(super) heard_at: UnixMillis,
    pub(super) running_tasks: u32,
    pub(super) envelope: Option<Envelope>,
    pub(super) body: CapabilityBody,
}

/// All nodes that were heard of.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) nodes: BTreeMap<PublicKey, Node>,
    pub(super) checkpoint_from: String,
    pub(super) checkpoint_at: UnixMillis,
}

impl Service {
    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            } => self.on_message(propagation_source, &message_id, &message),
            gossipsub::Event::Subscribed { .. } => self.retry_announcements(),
            _ => {}
        }
        self.dirty = true;
    }

    fn on_message(&mut self, from: PeerId, id: &MessageId, message: &gossipsub::Message) {
        self.counts.gossip_bytes += message.data.len() as u64;
        let topic = self.topics.and_then(|t| t.parse(message.topic.as_str()));
        let (verdict, news) = match topic {
            Some(topic) => self.judge(topic, from, &message.data),
            // Of shards that we have left or don't know of yet.
            None => (Verdict::Ignore(IgnoreReason::UnknownSigner), None),
        };
        let acceptance = match verdict {
            Verdict::Accept => {
                self.counts.accepted += 1;
                MessageAcceptance::Accept
            }
            Verdict::Ignore(reason) => {
                *self.counts.ignored.entry(reason.as_str()).or_default() += 1;
                MessageAcceptance::Ignore
            }
            Verdict::Reject(reason) => {
                *self.counts.rejected.entry(reason.as_str()).or_default() += 1;
                MessageAcceptance::Reject
            }
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(id, &from, acceptance);
        if let Some(news) = news {
            self.tell(news);
        }
    }

    fn judge(&mut self, topic: Topic, from: PeerId, bytes: &[u8]) -> (Verdict, Option<News>) {
        let reject = |reason| (Verdict::Reject(reason), None);
        if bytes.len() > GOSSIP_MESSAGE_BYTES_MAX {
            return reject(RejectReason::Oversize);
        }
        let Ok(envelope) = Envelope::from_stored(bytes) else {
            return reject(RejectReason::Malformed);
        };
        match topic {
            Topic::Checkpoint => (self.judge_checkpoint(envelope, from), None),
            Topic::Capability(shard) | Topic::Heartbeat(shard) => {
                let heartbeat = matches!(topic, Topic::Heartbeat(_));
                let shards = self.topics.map_or(1, |topics| topics.shards);
                if shard_of(&envelope.claimed_signer(), shards) != shard {
                    return reject(RejectReason::WrongShard);
                }
                match self.hear(heartbeat, &envelope) {
                    Ok(news) => (Verdict::Accept, Some(news)),
                    Err(verdict) => (verdict, None),
                }
            }
        }
    }

    /// Verifies and keeps a state message, whichever way it came.
    pub(super) fn hear(&mut self, heartbeat: bool, envelope: &Envelope) -> Result<News, Verdict> {
        let purpose = if heartbeat {
            Purpose::Heartbeat
        } else {
            Purpose::Capability
        };
        if !is_for(envelope, purpose) {
            return Err(Verdict::Reject(RejectReason::WrongPurpose));
        }
        let bad = |_| Verdict::Reject(RejectReason::BadSignature);
        let malformed = |_| Verdict::Reject(RejectReason::Malformed);
        let signed = envelope
            .verify(purpose, &self.network, SignerRule::Anyone)
            .map_err(bad)?;
        let node = signed.signer;
        let now = self.clock.wall();
        let mut beat = None;
        let mut capability = None;
        let (issued, expires, sequence) = if heartbeat {
            let body: HeartbeatBody = signed.protobuf().map_err(malformed)?;
            let times = (body.issued_at_ms, body.expires_at_ms, body.sequence);
            beat = Some(body);
            times
        } else {
            let body: CapabilityBody = signed.protobuf().map_err(malformed)?;
            let times = (body.issued_at_ms, body.expires_at_ms, body.sequence);
            capability = Some(body);
            times
        };
        check_time(UnixMillis(issued), UnixMillis(expires), now)
            .map_err(|_| Verdict::Ignore(IgnoreReason::Expired))?;
        let known = self.heard.nodes.contains_key(&node);
        if !known && self.heard.nodes.len() >= NODES_MAX {
            return Err(Verdict::Ignore(IgnoreReason::Full));
        }
        let entry = self.heard.nodes.entry(node).or_default();
        let last = if heartbeat {
            &mut entry.heartbeat
        } else {
            &mut entry.capability
        };
        if sequence <= *last {
            return Err(Verdict::Ignore(IgnoreReason::Stale));
        }
        *last = sequence;
        entry.heard_at = now;
        if let Some(body) = beat {
            entry.running_tasks = body.running_tasks;
            return Ok(News::Heartbeat { node, body });
        }
        let body = capability.unwrap_or_default();
        entry.envelope = Some(envelope.clone());
        entry.body = body.clone();
        let body = Box::new(body);
        Ok(News::Capability { node, body })
    }

    /// Keeps our own word, as others hear it.
    pub(super) fn hear_own(
        &mut self,
        heartbeat: bool,
        envelope: &Envelope,
        _bytes: &[u8],
    ) -> Result<(), String> {
        match self.hear(heartbeat, envelope) {
            Ok(_) => Ok(()),
            Err(verdict) => Err(format!("peers would not take it: {verdict:?}")),
        }
    }

    fn judge_checkpoint(&mut self, envelope: Envelope, from: PeerId) -> Verdict {
        if !is_for(&envelope, Purpose::Checkpoint) {
            return Verdict::Reject(RejectReason::WrongPurpose);
        }
        let Some(checkpoint) = self.known.checkpoint(&envelope) else {
            let any = envelope.verify(Purpose::Checkpoint, &self.network, SignerRule::Anyone);
            return match any {
                Ok(_) => Verdict::Ignore(IgnoreReason::UnknownSigner),
                Err(_) => Verdict::Reject(RejectReason::BadSignature),
            };
        };
        match checkpoint.sequence.cmp(&self.known.sequence()) {
            std::cmp::Ordering::Less => Verdict::Ignore(IgnoreReason::Stale),
            std::cmp::Ordering::Equal => Verdict::Ignore(IgnoreReason::Duplicate),
            std::cmp::Ordering::Greater => {
                // Its manifest is with who forwarded it.
                self.ask(from);
                Verdict::Accept
            }
        }
    }

    /// Keeps, tells and announces a verified checkpoint if it is newer.
    pub(super) fn keep_checkpoint(&mut self, newest: NewestCheckpoint, source: Source) {
        if !self.known.learn(newest.clone()) {
            return;
        }
        self.heard.checkpoint_at = self.clock.wall();
        self.heard.checkpoint_from = match source {
            Source::Own => "ourselves".to_owned(),
            Source::Dht => "dht".to_owned(),
            Source::Gossip(peer) | Source::Meet(peer) => {
                peer::public_key(&peer).map_or_else(|| peer.to_string(), |key| key.to_string())
            }
        };
        self.spread_checkpoint(&newest.envelope);
        if source != Source::Own {
            self.tell(News::Checkpoint(Box::new(newest)));
        }
    }

    /// Adds documents of whoever; tells the daemon and subscribes anew if they are newer.
    pub(super) fn merge_documents(
        &mut self,
        offered: Offered,
    ) -> Result<(), owm_proto::genesis::GenesisError> {
        if !self.known.merge(offered, self.clock.wall())? {
            return Ok(());
        }
        self.subscribe();
        if let Some(documents) = self.known.documents().cloned() {
            self.tell(News::Documents(Box::new(documents)));
        }
        Ok(())
    }
}

/// Whether it says that it was signed for `purpose`. Nothing is verified.
pub(super) fn is_for(envelope: &Envelope, purpose: Purpose) -> bool {
    // The purpose is looked at before the signer, and no signer is admitted.
    let network = owm_proto::genesis::NetworkId(owm_proto::Sha256([0; 32]));
    let said = envelope.verify(purpose, &network, SignerRule::OneOf(&[]));
    matches!(said, Err(EnvelopeError::WrongSigner { .. }))
}
