//! What we say ourselves: heartbeat, capability, checkpoint. The last of each is kept until somebody listens.

use libp2p::gossipsub::{IdentTopic, PublishError};
use owm_proto::{Envelope, Purpose, SignatureCheck, StrictEd25519};

use super::{Service, hearing::Source, known::Unverified};
use crate::{
    Documents, OwnMessage, P2pError, Rules,
    gossip::{IgnoreReason, Judged, Topic, Verdict, scoring},
    news::NewestCheckpoint,
    own::SignedHere,
};

/// Something of ours that is to be published.
#[derive(Clone, Debug)]
struct Kept {
    envelope: Envelope,
    /// Our own table knows of it already: not so if it was said before the documents came.
    judged: bool,
    sent: bool,
}

/// The last of each kind.
#[derive(Debug, Default)]
pub(super) struct Own {
    heartbeat: Option<Kept>,
    capability: Option<Kept>,
    checkpoint: Option<Kept>,
}

impl Own {
    /// What a Meet says about us.
    pub(super) fn capability(&self) -> Option<&Envelope> {
        self.capability.as_ref().map(|kept| &kept.envelope)
    }
}

impl Service {
    /// Subscribes to what the documents say; nothing before there are any.
    pub(super) fn subscribe(&mut self) {
        let Some(topics) = self.rules.as_ref().map(Rules::topics) else {
            return;
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
            let _ = gossip.set_topic_params(topic.clone(), scoring::topic_score_params());
            let _ = gossip.subscribe(&topic);
        }
        self.subscribed = wanted;
        self.topics = Some(topics);
        self.dht.changed();
        // What has been said in the old shard is said in the new one, and what waited for the documents now.
        let own = &mut self.own;
        for kept in [&mut own.heartbeat, &mut own.capability]
            .into_iter()
            .flatten()
        {
            kept.sent = false;
        }
        self.retry_announcements();
        self.dirty = true;
    }

    /// Publishes what our own daemon has just signed.
    pub(super) fn announce_own(&mut self, message: OwnMessage) -> Result<(), P2pError> {
        if message.network() != self.network {
            return refused("it is signed for another network");
        }
        self.announce(message.into_envelope(), &SignedHere)
    }

    /// Publishes a heartbeat or capability of our own.
    pub(super) fn announce(
        &mut self,
        envelope: Envelope,
        check: &dyn SignatureCheck,
    ) -> Result<(), P2pError> {
        let heartbeat = envelope.claims(Purpose::Heartbeat);
        if !heartbeat && !envelope.claims(Purpose::Capability) {
            return refused("it is neither a heartbeat nor a capability");
        }
        if envelope.claimed_signer() != self.me {
            return refused("it is not signed by this peer's own key");
        }
        let at = self.clock.moment();
        let judged = self.rules.is_some();
        if let Some(rules) = &mut self.rules {
            let (_, judged) = rules.accept_own(at, envelope.clone(), check);
            accepted(&judged)?;
        }
        let kept = Some(Kept {
            envelope,
            judged,
            sent: false,
        });
        if heartbeat {
            self.own.heartbeat = kept;
        } else {
            self.own.capability = kept;
        }
        self.retry_announcements();
        Ok(())
    }

    /// Publishes a checkpoint of our daemon's, and serves it.
    pub(super) fn announce_checkpoint(&mut self, newest: NewestCheckpoint) -> Result<(), P2pError> {
        let at = self.clock.moment();
        let Some(rules) = &mut self.rules else {
            return not_yet("the network's documents are not known yet");
        };
        let NewestCheckpoint {
            envelope,
            manifest_envelope,
            ..
        } = newest;
        let newest = match self.known.verified(envelope, manifest_envelope) {
            Ok(newest) => newest,
            Err(Unverified::Fault) => {
                return refused("a signature or hash of the checkpoint or its manifest is wrong");
            }
            Err(Unverified::Unreadable) => {
                return not_yet(
                    "the checkpoint or its manifest is not signed by a release key that this network's documents name, as far as they are known here",
                );
            }
        };
        let (_, judged) = rules.accept_own(at, newest.envelope.clone(), &StrictEd25519);
        accepted(&judged)?;
        self.keep_checkpoint(newest, Source::Own);
        Ok(())
    }

    /// Publishes the newest checkpoint.
    pub(super) fn spread_checkpoint(&mut self, envelope: Envelope) {
        self.own.checkpoint = Some(Kept {
            envelope,
            judged: false,
            sent: false,
        });
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
        let at = self.clock.moment();
        let Some(rules) = &mut self.rules else { return };
        let topics = rules.topics();
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        let own = &mut self.own;
        for kept in [&mut own.checkpoint, &mut own.capability, &mut own.heartbeat] {
            let Some(kept) = kept.as_mut().filter(|kept| !kept.sent) else {
                continue;
            };
            if !kept.judged {
                let _ = rules.accept_own(at, kept.envelope.clone(), &StrictEd25519);
                kept.judged = true;
            }
            let topic = rules.topic_of_own(&kept.envelope);
            let topic = IdentTopic::new(topics.name(topic).to_string());
            match gossip.publish(topic, kept.envelope.to_stored()) {
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

    pub(super) fn tell(&mut self, news: crate::News) {
        self.dirty = true;
        if !self.news.tell(news) {
            self.counts.news_dropped += 1;
        }
    }
}

fn refused(why: &str) -> Result<(), P2pError> {
    Err(P2pError::Refused(why.to_owned()))
}

fn not_yet(why: &str) -> Result<(), P2pError> {
    Err(P2pError::NotYet(why.to_owned()))
}

fn accepted(judged: &Judged) -> Result<(), P2pError> {
    match judged.verdict {
        Verdict::Accept | Verdict::Ignore(IgnoreReason::Duplicate) => Ok(()),
        Verdict::Ignore(why @ IgnoreReason::UnknownSigner) => {
            not_yet(&format!("peers would drop it as {}", why.as_str()))
        }
        Verdict::Ignore(why) => refused(&format!("peers would drop it as {}", why.as_str())),
        Verdict::Reject(why) => refused(&format!("peers would reject it as {}", why.as_str())),
    }
}
