//! What we say ourselves: heartbeat, capability, checkpoint. The last of each is kept until somebody listens.

use libp2p::gossipsub::{IdentTopic, PublishError};
use owm_proto::{Envelope, envelope::Purpose, gossip::shard_of, limits::GOSSIP_MESSAGE_BYTES_MAX};

use super::{
    Service,
    hearing::{Source, is_for},
};
use crate::{
    Documents, News, P2pError, assemble,
    gossip::{Topic, Topics},
    news::NewestCheckpoint,
};

/// Something of ours that is to be published.
#[derive(Clone, Debug)]
struct Kept {
    bytes: Vec<u8>,
    sent: bool,
}

/// The last of each kind.
#[derive(Debug, Default)]
pub(super) struct Own {
    heartbeat: Option<Kept>,
    capability: Option<Kept>,
    checkpoint: Option<Kept>,
    capability_envelope: Option<Envelope>,
}

impl Own {
    /// What a Meet says about us.
    pub(super) fn capability(&self) -> Option<&Envelope> {
        self.capability_envelope.as_ref()
    }
}

impl Service {
    /// Subscribes to what the documents say; nothing before there are any.
    pub(super) fn subscribe(&mut self) {
        if self.known.documents().is_none() {
            return;
        }
        let topics = Topics {
            network: self.network,
            shards: self.known.parameters(self.clock.wall()).shards,
        };
        if self.topics == Some(topics) {
            return;
        }
        let wanted: Vec<Topic> = if self.config.all_shards {
            topics.all().collect()
        } else {
            topics.of_node(&self.me).to_vec()
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for topic in self.subscribed.drain(..).filter(|t| !wanted.contains(t)) {
            gossip.unsubscribe(&IdentTopic::new(topics.name(topic).to_string()));
        }
        for topic in &wanted {
            let topic = IdentTopic::new(topics.name(*topic).to_string());
            // Both fail only for what the filter refuses, and it takes ours.
            let _ = gossip.set_topic_params(topic.clone(), assemble::topic_scores());
            let _ = gossip.subscribe(&topic);
        }
        self.subscribed = wanted;
        self.topics = Some(topics);
        self.dirty = true;
    }

    /// Publishes a heartbeat or capability of our own.
    pub(super) fn announce(&mut self, envelope: Envelope) -> Result<(), P2pError> {
        let refused = |why: &str| Err(P2pError::Refused(why.to_owned()));
        if envelope.claimed_signer() != self.me {
            return refused("it is not signed by this peer's own key");
        }
        let bytes = envelope.to_stored();
        if bytes.len() > GOSSIP_MESSAGE_BYTES_MAX {
            return refused("it is over 64 KiB");
        }
        let heartbeat = is_for(&envelope, Purpose::Heartbeat);
        if !heartbeat && !is_for(&envelope, Purpose::Capability) {
            return refused("it is neither a heartbeat nor a capability");
        }
        if let Err(error) = self.hear_own(heartbeat, &envelope, &bytes) {
            return Err(P2pError::Refused(error));
        }
        let kept = Some(Kept { bytes, sent: false });
        if heartbeat {
            self.own.heartbeat = kept;
        } else {
            self.own.capability = kept;
            self.own.capability_envelope = Some(envelope);
        }
        self.retry_announcements();
        Ok(())
    }

    /// Serves a checkpoint of our daemon's, and announces it if it is newer.
    pub(super) fn announce_checkpoint(&mut self, newest: NewestCheckpoint) -> Result<(), P2pError> {
        let verified = self
            .known
            .verified(newest.envelope, newest.manifest_envelope);
        let Some(newest) = verified else {
            let why =
                "the checkpoint or its manifest is not signed by a release key of this network";
            return Err(P2pError::Refused(why.to_owned()));
        };
        self.keep_checkpoint(newest, Source::Own);
        Ok(())
    }

    /// Publishes the newest checkpoint.
    pub(super) fn spread_checkpoint(&mut self, envelope: &Envelope) {
        let bytes = envelope.to_stored();
        self.own.checkpoint = Some(Kept { bytes, sent: false });
        self.retry_announcements();
    }

    /// Takes documents of our daemon's.
    pub(super) fn take_documents(&mut self, documents: Documents) {
        let offered = super::known::Offered {
            genesis: documents.genesis,
            delegations: documents.delegations,
            revocations: documents.revocations,
            bootstrap: documents.bootstrap,
            web_seed: documents.web_seed,
        };
        if self.merge_documents(offered).is_err() {
            self.warn("the daemon's documents belong to another network".to_owned());
        }
    }

    /// Publishes what nobody has heard yet.
    pub(super) fn retry_announcements(&mut self) {
        let Some(topics) = self.topics else { return };
        let shard = shard_of(&self.me, topics.shards);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for (topic, kept) in [
            (Topic::Checkpoint, &mut self.own.checkpoint),
            (Topic::Capability(shard), &mut self.own.capability),
            (Topic::Heartbeat(shard), &mut self.own.heartbeat),
        ] {
            let Some(kept) = kept.as_mut().filter(|kept| !kept.sent) else {
                continue;
            };
            let topic = IdentTopic::new(topics.name(topic).to_string());
            match gossip.publish(topic, kept.bytes.clone()) {
                Ok(_) => {
                    kept.sent = true;
                    self.counts.published += 1;
                }
                Err(PublishError::Duplicate) => kept.sent = true,
                // Nobody listens yet, or all are busy: later.
                Err(_) => {}
            }
        }
    }

    pub(super) fn tell(&mut self, news: News) {
        self.dirty = true;
        if !self.news.tell(news) {
            self.counts.news_dropped += 1;
        }
    }
}
