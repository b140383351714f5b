//! Gossip that comes in: judged by the rules before it is forwarded, told to the daemon if it is new, held
//! against its forwarder if that one could have known better.

use libp2p::{
    PeerId,
    gossipsub::{self, MessageAcceptance, MessageId},
};
use owm_proto::{
    Envelope, PublicKey, Purpose, StrictEd25519, UnixMillis,
    genesis::GenesisError,
    gossip::{Checkpoint, shard_of},
};

use super::{
    Service,
    known::{Offered, Unverified},
};
use crate::{
    Limits, Moment, News, Rules,
    gossip::{Heard, IgnoreReason, Judged, Notice, Topic, Verdict, limits::StateKind},
    news::NewestCheckpoint,
    peer::{self, Action, Consequence, Scores, score::GRAYLIST_BELOW},
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

/// Events of the network that may go before a verdict: a flood must not hold back what is to be forwarded.
const EVENTS_BEFORE_VERDICT: u32 = 16;

/// Verdicts that gossipsub has not been told yet. It forwards once it is told, and not to whom it has heard the
/// same from meanwhile: so whoever first delivers what has come already, then forwards, sends fewer copies.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    waiting: Vec<(PeerId, MessageId, MessageAcceptance)>,
    events: u32,
}

impl Verdicts {
    pub(super) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Counts one more event that went before them.
    pub(super) fn waited_long_enough(&mut self) -> bool {
        self.events = if self.wait() { self.events + 1 } else { 0 };
        self.events >= EVENTS_BEFORE_VERDICT
    }
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
        self.verdicts.waiting.push((from, id.clone(), acceptance));
        self.take(from, judged, true);
    }

    /// Tells gossipsub what has been judged: now it forwards.
    pub(super) fn report(&mut self) {
        self.verdicts.events = 0;
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        for (from, id, acceptance) in self.verdicts.waiting.drain(..) {
            // Whether it still remembers the message: it does for seconds.
            let _ = gossip.report_message_validation_result(&id, &from, acceptance);
        }
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
            note(from, &notice);
        }
        if let Some(action) = judged.action {
            self.blame(from, action);
        }
        if let Some(node) = &judged.turned_away {
            self.note_turned_away(node);
        }
        match judged.news {
            Some(Heard::Heartbeat { node, body }) => {
                self.note_lacking(&node);
                self.tell(News::Heartbeat { node, body });
            }
            Some(Heard::Capability { node, body }) => {
                self.compare_checkpoints(from, &node, &body);
                self.remember(from, &node, &body);
                self.tell(News::Capability { node, body });
            }
            // Its manifest is with who told us; it is news once it is here.
            Some(Heard::Checkpoint(_)) if fetch => self.ask_briefly(from),
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
        let Some(manifest) = manifest else { return };
        let said = serde_json::from_slice::<Checkpoint>(envelope.unverified_payload());
        if said.is_ok_and(|said| said.sequence <= self.known.sequence()) {
            return;
        }
        match self.known.verified(envelope, manifest) {
            Ok(newest) => {
                let (at, teller) = (self.clock.moment(), peer::public_key(&from));
                let (Some(rules), Some(teller)) = (&mut self.rules, teller) else {
                    return;
                };
                // Of two under one sequence the one that came whole first, whatever was announced.
                if rules.judge_whole(at, &teller, &newest.envelope, &StrictEd25519) {
                    self.keep_checkpoint(newest, Source::Peer(from));
                }
            }
            Err(Unverified::Fault) => self.blame(from, Action::BadMeet),
            Err(Unverified::Unreadable) => {
                tracing::debug!(peer = %from, "a checkpoint's manifest can't be read by this version");
            }
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

    /// Adds documents of whoever; tells the daemon and subscribes anew if they are newer.
    pub(super) fn merge_documents(&mut self, offered: Offered) -> Result<(), GenesisError> {
        if !self.known.merge(offered, self.clock.wall())? {
            return Ok(());
        }
        self.apply_documents();
        self.spread_statements();
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
        let behaviour = self.swarm.behaviour_mut();
        behaviour.others.blocked.block_peer(peer);
        // Or it would be cut off again as soon as it comes back.
        behaviour.gossip.set_application_score(&peer, 0.0);
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
                let span = self.scores.cut_off(at, &key);
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
        for (peer, score) in told(&self.scores, at, self.peers.keys()) {
            behaviour.gossip.set_application_score(&peer, score);
        }
        let (bans, blocked) = (&self.scores.bans, &self.config.blocked);
        self.banned.retain(|peer, key| {
            let stays = bans.is_banned(at, key);
            if !stays && !blocked.contains(peer) {
                behaviour.others.blocked.unblock_peer(*peer);
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

/// What gossipsub is told of all who are connected: also of who is at zero, for it may have been told worse
/// before its score faded away, or before it was cut off.
fn told<'a>(
    scores: &Scores,
    at: Moment,
    connected: impl Iterator<Item = &'a PeerId>,
) -> Vec<(PeerId, f64)> {
    let score = |peer| peer::public_key(peer).map(|key| noticed(scores.score(at, &key)));
    connected
        .filter_map(|peer| Some((*peer, score(peer)?)))
        .collect()
}

/// For people. Any key can contradict itself, once for each sequence: only what a release key does is worth a
/// warning, or whoever wants to could fill the logs.
fn note(from: PeerId, notice: &Notice) {
    match notice {
        Notice::Contradiction(two) if two.purpose != Purpose::Checkpoint => {
            tracing::debug!(peer = %from, "{notice}");
        }
        _ => tracing::warn!(peer = %from, "{notice}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use owm_proto::NodeKey;

    use super::*;

    fn at(secs: u64) -> Moment {
        Moment {
            monotonic: Duration::from_secs(secs),
            ..Moment::default()
        }
    }

    #[test]
    fn a_flood_does_not_hold_back_what_is_to_be_forwarded() {
        let mut verdicts = Verdicts::default();
        assert!((0..100).all(|_| !verdicts.waited_long_enough()), "nothing");
        let message = MessageId::new(&[1]);
        let verdict = (PeerId::random(), message, MessageAcceptance::Accept);
        verdicts.waiting.push(verdict);
        let before = (0..100).take_while(|_| !verdicts.waited_long_enough());
        assert!(before.count() < EVENTS_BEFORE_VERDICT as usize);
    }

    #[test]
    fn who_did_not_answer_once_or_twice_stays_in_the_mesh_and_who_lied_does_not() {
        let mut scores = Scores::default();
        let key = NodeKey::from_seed(&[7; 32]).public();
        let peer = peer::peer_id(&key).unwrap();
        for _ in 0..4 {
            let _ = scores.note(at(0), &key, Action::NoAnswer);
        }
        assert_eq!(told(&scores, at(0), [peer].iter()), [(peer, 0.0)]);
        let _ = scores.note(at(0), &key, Action::Protocol);
        assert_eq!(told(&scores, at(0), [peer].iter()), [(peer, -14.0)]);
    }

    #[test]
    fn whose_score_is_forgotten_and_whose_ban_is_over_is_told_to_be_at_zero() {
        let mut scores = Scores::default();
        let [liar, banned] = [7, 8].map(|n| NodeKey::from_seed(&[n; 32]).public());
        let peers = [liar, banned].map(|key| peer::peer_id(&key).unwrap());
        let _ = scores.note(at(0), &liar, Action::BadMeet);
        while !scores.bans.is_banned(at(0), &banned) {
            let _ = scores.note(at(0), &banned, Action::BadMeet);
        }
        assert!(told(&scores, at(1), peers.iter())[0].1 < -19.0);
        // Asleep for a day: all of it fades in one step.
        scores.tick(at(86_400));
        assert!(scores.is_empty());
        let zero = peers.map(|peer| (peer, 0.0));
        assert_eq!(told(&scores, at(86_400), peers.iter()), zero);
    }
}
