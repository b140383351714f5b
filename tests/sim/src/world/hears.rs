//! What peers hear, and what is looked at when they do.

use owm_p2p::gossip::{IgnoreReason, Verdict};
use owm_proto::{Envelope, Purpose, wire::gossip::MeetRequest};

use super::{Kind, State, World};
use crate::{
    frame::{Frame, Message, Peer},
    mesh::Outbox,
    node::{Learnt, Node, Outcome},
    truth::Split,
    watch::Invariant,
};

impl World {
    /// A frame has come.
    pub(super) fn arrived(
        &mut self,
        to: Peer,
        from: Peer,
        link: u64,
        frame: Frame,
        out: &mut Outbox,
    ) {
        /// Frames that wait for a sleeper: what a connection's windows hold.
        const HELD_MAX: usize = 256;
        let actor = &mut self.actors[to.0 as usize];
        if actor.state != State::Awake {
            if actor.state == State::Asleep && actor.held.len() < HELD_MAX {
                actor.held.push((from, link, frame));
            }
            return;
        }
        actor.cost.bytes_in += frame.wire_bytes() as u64;
        actor.cost.frames_in += 1;
        actor.cost.messages_in += u64::from(matches!(frame, Frame::Publish(_)));
        if self.is_honest(to) {
            self.node_hears(to, from, &frame, out);
        } else {
            self.liar_hears(to, from, &frame, out);
        }
        self.send(to, out);
    }

    fn liar_hears(&mut self, to: Peer, from: Peer, frame: &Frame, out: &mut Outbox) {
        let now = self.now();
        if let Frame::Ask(_) = frame {
            let answer = self.on_stage(to, |liar, stage| liar.answer(stage));
            out.extend(answer.map(|answer| (from, Frame::Answer(answer.into()))));
            return;
        }
        let Kind::Liar(liar) = &mut self.actors[to.0 as usize].kind else {
            return;
        };
        match frame {
            Frame::Publish(message) => liar.hears(from, message, now, out),
            frame => {
                let standing = Self::LIARS_AMONG_THEMSELVES;
                liar.router.control(from, frame, standing, now, out);
            }
        }
    }

    fn node_hears(&mut self, to: Peer, from: Peer, frame: &Frame, out: &mut Outbox) {
        let now = self.now();
        let from_key = self.actor(from).identity.public;
        let asked = self.lore.memo.asked();
        let lent = match frame {
            Frame::Ask(ask) => self.lent(to, ask),
            _ => None,
        };
        let actor = &mut self.actors[to.0 as usize];
        let at = actor.clock.moment(now);
        let Kind::Honest {
            node: Some(node),
            store,
            ..
        } = &mut actor.kind
        else {
            return;
        };
        let sender = (from, &from_key);
        let outcome = match frame {
            Frame::Publish(message) => node.hears((at, now), sender, message, &self.lore.memo, out),
            Frame::Ask(ask) => node.asked((at, now), sender, (ask, lent), &self.lore.memo, out),
            Frame::Answer(answer) => node.answered(at, &from_key, answer, store, &self.lore.memo),
            frame => {
                if let Frame::Want(ids) = frame {
                    actor.sent.wanted += ids.len() as u64;
                }
                let standing = node.standing(at, &from_key);
                node.router.control(from, frame, standing, now, out);
                return;
            }
        };
        actor.sent.flooded += u64::from(outcome.introduces) * actor.linked.len() as u64;
        actor.cost.judged += u64::from(outcome.verdict.is_some());
        actor.sent.accepted += u64::from(outcome.verdict == Some(Verdict::Accept));
        actor.cost.signatures += self.lore.memo.asked() - asked;
        if let (Some(verdict), Frame::Publish(message)) = (outcome.verdict, frame)
            && verdict != Verdict::Accept
        {
            let id = message.id.0;
            let what = format_args!("{} drops {id:016x} of {}: {verdict:?}", to.0, from.0);
            self.trace.note(now, what);
        }
        if let Frame::Publish(message) = frame {
            self.heard_split(to, message, &outcome);
        }
        self.learnt(to, from, &outcome);
    }

    /// What a peer without rules answers: what one of its shard knows who has them.
    fn lent(&self, to: Peer, ask: &MeetRequest) -> Option<Vec<Envelope>> {
        if self.scenario.has_rules(to) || !self.is_honest(to) {
            return None;
        }
        let near = &self.shards[self.shard(to) as usize];
        let mut lenders = near.iter().filter(|peer| self.scenario.has_rules(**peer));
        let lender = self.actor(*lenders.next()?);
        let at = lender.clock.moment(self.now());
        Some(lender.node()?.introductions(at, ask))
    }

    /// One of two things said under one sequence has been judged: whoever holds the other must see it.
    fn heard_split(&mut self, peer: Peer, message: &Message, outcome: &Outcome) {
        let Some(split) = self.truth.split_of(message.id) else {
            return;
        };
        let (now, actor) = (self.now(), self.actor(peer));
        let Split {
            key,
            purpose,
            sequence,
        } = split;
        let (held, warned) = if purpose == Purpose::Checkpoint {
            let node = actor.node();
            let newest = node.map_or(0, Node::announced_sequence);
            let warned = node.is_some_and(|node| !node.warnings().is_empty());
            (newest == sequence, warned)
        } else {
            let last = self.watch.last(peer, actor.life, &key, purpose);
            (last == Some(sequence), true)
        };
        // Other rules may come first: its time is over, its topic is wrong, its sender says too much.
        let missed = matches!(outcome.verdict, Some(Verdict::Ignore(IgnoreReason::Stale)));
        let seen = matches!(
            outcome.verdict,
            Some(Verdict::Ignore(IgnoreReason::Equivocation))
        );
        if held && (missed || (seen && !warned)) {
            let (verdict, key) = (outcome.verdict, key.short());
            let what = format_args!("{} on {purpose} {sequence} of {key}: {verdict:?}", peer.0);
            self.watch
                .violated(Invariant::EquivocationIsSeen, now, what);
        }
    }

    /// What a judgement led to: news are held against the truth, a cut connection is cut.
    fn learnt(&mut self, peer: Peer, from: Peer, outcome: &Outcome) {
        let now = self.now();
        for learnt in &outcome.learnt {
            if self.scenario.is_watched {
                let line = format_args!("{} learns {learnt:?}", peer.0);
                self.trace.note(now, line);
                let at = self.actor(peer).clock.moment(now);
                let life = self.actor(peer).life;
                self.watch
                    .believed((peer, life), at, now, learnt, &self.truth);
            }
            if let Learnt::Capability { node, .. } = learnt
                && let Some(other) = self.peer_of(node)
            {
                self.actor_mut(peer).book.insert(other);
            }
        }
        if let Some(verdict) = outcome.verdict {
            let deed = self.deed_of(from);
            self.watch.judged(peer, (from, deed), verdict);
        }
        if let Some(span) = outcome.cut_off {
            let line = format_args!("{} cuts {} off for {span:?}", peer.0, from.0);
            self.trace.note(now, line);
            let deed = self.deed_of(from);
            self.watch.cut_off(peer, (from, deed), now);
            self.unlink(peer, from);
        }
    }
}
