//! Gossip that comes in: judged by the rules before it is forwarded, told to the daemon if it is new, held
//! against its forwarder if that one could have known better.

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, MessageId},
};
use owm_proto::{
    Envelope, PublicKey, StrictEd25519, UnixMillis, genesis::GenesisError, gossip::shard_of,
};

use super::{Service, known::Offered};
use crate::{
    Limits, News, Rules,
    gossip::{Heard, IgnoreReason, Judged, Topic, Verdict, limits::StateKind},
    news::NewestCheckpoint,
    peer::{self, Action, Consequence, score::GRAYLIST_BELOW},
};

/// Above this an application score is not told to gossipsub, which has no peer below zero in its mesh: a Meet
/// that a busy machine did not answer in time (−1) must not cost it its gossip for hours.
const SCORE_NOTICED: f64 = -5.0;

/// Who told us of the newest checkpoint, and when.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) from: String,
    pub(super) at: UnixMillis,
}

/// Where a checkpoint came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Own,
    Peer(PeerId),
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
            gossipsub::Event::GossipsubNotSupported { .. }
            | gossipsub::Event::Unsubscribed { .. }
            | gossipsub::Event::SlowPeer { .. } => {}
        }
        self.dirty = true;
    }

    fn on_message(&mut self, from: PeerId, id: &MessageId, message: &gossipsub::Message) {
        self.counts.gossip_bytes += message.data.len() as u64;
        let judged = self.judge(from, message);
        let acceptance = match judged.verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore(_) => MessageAcceptance::Ignore,
            Verdict::Reject(_) => MessageAcceptance::Reject,
        };
        self.count(judged.verdict);
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(id, &from, acceptance);
        self.take(from, judged, true);
    }

    fn judge(&mut self, from: PeerId, message: &gossipsub::Message) -> Judged {
        let (at, forwarder) = (self.clock.moment(), peer::public_key(&from));
        // Subscribed to shards that we have left, or unsubscribed from since.
        let not_ours = Judged::only(Verdict::Ignore(IgnoreReason::OtherShards));
        let (Some(rules), Some(forwarder)) = (&mut self.rules, forwarder) else {
            return not_ours;
        };
        match rules.topics().parse(message.topic.as_str()) {
            Some(topic) => rules.judge(at, &forwarder, topic, &message.data, &StrictEd25519),
            None => not_ours,
        }
    }

    fn count(&mut self, verdict: Verdict) {
        let counts = &mut self.counts;
        match verdict {
            Verdict::Accept => counts.accepted += 1,
            Verdict::Ignore(why) => *counts.ignored.entry(why.as_str()).or_default() += 1,
            Verdict::Reject(why) => *counts.rejected.entry(why.as_str()).or_default() += 1,
        }
    }

    /// What follows from a judgement, besides forwarding; `fetch`: a checkpoint came without its manifest.
    fn take(&mut self, from: PeerId, judged: Judged, fetch: bool) {
        if let Some(notice) = judged.notice {
            tracing::warn!(peer = %from, "{notice}");
        }
        if let Some(action) = judged.action {
            self.blame(from, action);
        }
        match judged.news {
            Some(Heard::Heartbeat { node, body }) => self.tell(News::Heartbeat { node, body }),
            Some(Heard::Capability { node, body }) => {
                self.remember(from, &node, &body);
                self.tell(News::Capability { node, body });
            }
            // Its manifest is with who told us; it is news once it is here.
            Some(Heard::Checkpoint(_)) if fetch => self.ask(from),
            Some(Heard::Checkpoint(_)) | None => {}
        }
    }

    /// A capability or checkpoint that was told in a Meet; `false`: read no further.
    pub(super) fn hear_told(&mut self, from: PeerId, envelope: Envelope) -> bool {
        self.hear_from(from, envelope, true)
    }

    fn hear_from(&mut self, from: PeerId, envelope: Envelope, fetch: bool) -> bool {
        let (at, teller) = (self.clock.moment(), peer::public_key(&from));
        let (Some(rules), Some(teller)) = (&mut self.rules, teller) else {
            return false;
        };
        let judged = rules.judge_told(at, &teller, envelope, &StrictEd25519);
        let goes_on = !matches!(judged.verdict, Verdict::Reject(_));
        self.take(from, judged, fetch);
        goes_on
    }

    /// A newcomer's own capability: the others of our shard hear of it through us, for it may not be in
    /// gossip's mesh yet.
    pub(super) fn introduce(&mut self, from: PeerId, envelope: &Envelope) {
        let own = peer::public_key(&from) == Some(envelope.claimed_signer());
        let bytes = envelope.to_stored();
        let before = self.heard_of(envelope);
        if !own || !self.hear_told(from, envelope.clone()) || before == self.heard_of(envelope) {
            return;
        }
        let Some(topics) = self.topics else { return };
        let shard = shard_of(&envelope.claimed_signer(), topics.shards);
        let topic = Topic::Capability(shard);
        if self.subscribed.contains(&topic) {
            let topic = gossipsub::IdentTopic::new(topics.name(topic).to_string());
            // Known already, or nobody to tell.
            let _ = self.swarm.behaviour_mut().gossip.publish(topic, bytes);
        }
    }

    /// The sequence of the last capability of an envelope's signer.
    fn heard_of(&self, envelope: &Envelope) -> Option<u64> {
        let known = self
            .rules
            .as_ref()?
            .directory()
            .known(&envelope.claimed_signer())?;
        Some(known.said(StateKind::Capability)?.sequence)
    }

    /// A checkpoint with its manifest that was told in a Meet.
    pub(super) fn hear_checkpoint(
        &mut self,
        from: PeerId,
        envelope: Envelope,
        manifest: Option<Envelope>,
    ) {
        if !self.hear_from(from, envelope.clone(), manifest.is_none()) {
            return;
        }
        // Only what the rules hold for the newest: a second one under the same sequence is not.
        let newest = self.rules.as_ref().and_then(Rules::checkpoint);
        if newest.is_none_or(|newest| newest.envelope != envelope) {
            return;
        }
        let Some(manifest) = manifest else { return };
        match self.known.verified(envelope, manifest) {
            Some(newest) => self.keep_checkpoint(newest, Source::Peer(from)),
            None => self.blame(from, Action::BadMeet),
        }
    }

    /// Keeps, tells and announces a verified checkpoint if it is newer.
    pub(super) fn keep_checkpoint(&mut self, newest: NewestCheckpoint, source: Source) {
        if !self.known.learn(newest.clone()) {
            return;
        }
        self.learnt.at = self.clock.wall();
        self.learnt.from = match source {
            Source::Own => "ourselves".to_owned(),
            Source::Peer(peer) => {
                peer::public_key(&peer).map_or_else(|| peer.to_string(), |key| key.to_string())
            }
        };
        self.spread_checkpoint(newest.envelope.clone());
        self.dht.changed();
        if source != Source::Own {
            self.tell(News::Checkpoint(Box::new(newest)));
        }
    }

    /// Looks for the manifest of a checkpoint that has been announced, with one more peer each time.
    pub(super) fn fetch_manifest(&mut self) {
        let announced = self.rules.as_ref().and_then(Rules::checkpoint);
        let wanted = announced.is_some_and(|a| a.checkpoint.sequence > self.known.sequence());
        if wanted && !self.peers.is_empty() {
            let at = self.choose(self.peers.len());
            if let Some(peer) = self.peers.keys().nth(at).copied() {
                self.ask(peer);
            }
        }
    }

    /// Adds documents of whoever; tells the daemon and subscribes anew if they are newer.
    pub(super) fn merge_documents(&mut self, offered: Offered) -> Result<(), GenesisError> {
        if !self.known.merge(offered, self.clock.wall())? {
            return Ok(());
        }
        self.apply_documents();
        if let Some(documents) = self.known.documents().cloned() {
            self.tell(News::Documents(Box::new(documents)));
        }
        Ok(())
    }

    /// Lets the rules and the subscriptions follow the documents.
    pub(super) fn apply_documents(&mut self) {
        let at = self.clock.moment();
        let Some(documents) = self.known.documents() else {
            return;
        };
        let shards = documents.parameters(at.wall).shards;
        let limits = Limits::for_shards(if self.config.all_shards { shards } else { 1 });
        match &mut self.rules {
            Some(rules) => {
                rules.set_documents(documents, at);
                rules.set_limits(limits);
            }
            None => self.rules = Some(Rules::new(documents, self.me, limits, at)),
        }
        self.known.recheck();
        if let (Some(rules), Some(newest)) = (&mut self.rules, self.known.newest()) {
            // What came from disk or before the documents: from now on the rules compare with it.
            let _ = rules.accept_own(at, newest.envelope.clone(), &StrictEd25519);
        }
        self.subscribe();
    }

    /// Books something that `peer` should not have done.
    pub(super) fn blame(&mut self, peer: PeerId, action: Action) {
        let Some(key) = peer::public_key(&peer) else {
            return;
        };
        let consequence = self.scores.note(self.clock.moment(), &key, action);
        let behaviour = self.swarm.behaviour_mut();
        match consequence {
            Consequence::Score(score) => {
                behaviour
                    .gossip
                    .set_application_score(&peer, noticed(score));
            }
            Consequence::CutOff(span) => {
                tracing::info!(peer = %peer, action = action.as_str(), "cut off for {} s", span.as_secs());
                self.cut_off(peer, key);
            }
        }
    }

    fn cut_off(&mut self, peer: PeerId, key: PublicKey) {
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.banned.insert(peer, key);
        self.counts.cut_off += 1;
        self.dirty = true;
    }

    /// Cuts off whom gossip does not listen to any more: it would only hold a place.
    fn cut_off_graylisted(&mut self) {
        let at = self.clock.moment();
        let gossip = &self.swarm.behaviour().gossip;
        let score = |peer: &PeerId| gossip.peer_score(peer).unwrap_or_default();
        let all = self.peers.keys();
        let gray: Vec<PeerId> = all.filter(|p| score(p) < GRAYLIST_BELOW).copied().collect();
        for peer in gray {
            if let Some(key) = peer::public_key(&peer) {
                let span = self.scores.bans.ban(at, &key);
                tracing::info!(peer = %peer, "cut off for its gossip score, {} s", span.as_secs());
                self.cut_off(peer, key);
            }
        }
    }

    /// Lets scores fade and bans end.
    pub(super) fn forgive(&mut self) {
        self.cut_off_graylisted();
        let at = self.clock.moment();
        self.scores.tick(at);
        let behaviour = self.swarm.behaviour_mut();
        for (key, score) in self.scores.all(at) {
            if let Some(peer) = peer::peer_id(&key) {
                behaviour
                    .gossip
                    .set_application_score(&peer, noticed(score));
            }
        }
        let (bans, blocked) = (&self.scores.bans, &self.config.blocked);
        self.banned.retain(|peer, key| {
            let stays = bans.is_banned(at, key);
            if !stays && !blocked.contains(peer) {
                behaviour.blocked.unblock_peer(*peer);
            }
            stays
        });
    }

    pub(super) fn tick_rules(&mut self) {
        let at = self.clock.moment();
        let notice = self.rules.as_mut().and_then(|rules| rules.tick(at));
        if let Some(notice) = notice {
            tracing::warn!("{notice}");
            self.dirty = true;
        }
    }
}

/// What gossipsub is told of a score.
fn noticed(score: f64) -> f64 {
    if score > SCORE_NOTICED { 0.0 } else { score }
}
