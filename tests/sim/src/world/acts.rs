//! What peers do, and what befalls them.

use std::{collections::BTreeMap, time::Duration};

use owm_p2p::gossip::Topic;
use owm_proto::{PublicKey, Purpose};

use super::{Event, Kind, State, TICK_MS, World};
use crate::{
    dice::Dice,
    frame::Peer,
    identity::Identity,
    liar::{LiarState, Stage},
    lore::{capability, heartbeat},
    mesh::{Outbox, Router},
    node::{Node, Setup, Store},
    scenario::{Deed, Turn},
};

impl World {
    pub(super) fn honest_kind(&self, member: Option<PublicKey>) -> Kind {
        Kind::Honest {
            node: None,
            store: Box::default(),
            membership: member.map(|key| self.lore.membership(&key)),
        }
    }

    pub(super) fn liar_kind(&self, me: std::sync::Arc<Identity>, deed: Deed) -> Kind {
        let topics = self.lore.topics.of_node(&me.public);
        let router = Router::new(topics, self.scenario.seen_secs);
        Kind::Liar(Box::new(LiarState::new(deed, me, router)))
    }

    /// A peer starts: for the first time or anew.
    pub(super) fn join(&mut self, peer: Peer, out: &mut Outbox) {
        let now = self.now();
        let topics = self.subscriptions(peer);
        let setup = Setup {
            documents: self.lore.documents.clone(),
            key: self.actor(peer).identity.public,
            limits: self.scenario.limits(if peer == Peer(0) {
                self.lore.topics.shards
            } else {
                1
            }),
            topics,
            meet_nodes: self.scenario.meet_nodes,
            seen_secs: self.scenario.seen_secs,
            has_rules: self.scenario.has_rules(peer),
            at: self.actor(peer).clock.moment(now),
        };
        let session = self.dice.bytes();
        let actor = self.actor_mut(peer);
        actor.life += 1;
        actor.state = State::Awake;
        actor.since = now;
        let life = actor.life;
        if let Kind::Honest { node, store, .. } = &mut actor.kind {
            *node = Some(Box::new(Node::new(setup, store, session)));
        }
        self.trace.note(now, format_args!("{} starts", peer.0));
        let jitter = self.dice.within(0, TICK_MS);
        self.queue
            .push(now.after_ms(jitter), Event::Tick(peer, life));
        self.queue
            .push(now.after_ms(jitter / 4), Event::Dial(peer, life));
        if self.is_honest(peer) {
            let soon = self.dice.within(200, 2_000);
            self.queue
                .push(now.after_ms(soon), Event::Capability(peer, life));
            self.queue
                .push(now.after_ms(soon + 100), Event::Beat(peer, life));
        } else {
            self.queue.push(now.after_secs(2), Event::Deed(peer));
        }
        self.send(peer, out);
    }

    pub(super) fn back(&mut self, peer: Peer, keeps_store: bool, out: &mut Outbox) {
        if let Kind::Honest { store, .. } = &mut self.actor_mut(peer).kind
            && !keeps_store
        {
            **store = Store::default();
        }
        self.join(peer, out);
    }

    pub(super) fn turn(&mut self, number: usize) {
        let (_, peer, turn) = self.scenario.turns[number];
        let now = self.now();
        self.trace.note(now, format_args!("{}: {turn:?}", peer.0));
        if !self.is_awake(peer) {
            return;
        }
        match turn {
            Turn::Leave => self.stop(peer),
            Turn::Crash {
                away_secs,
                keeps_store,
            } => {
                self.stop(peer);
                let back = Event::Back(peer, keeps_store);
                self.queue.push(now.after_secs(away_secs), back);
            }
            Turn::Sleep { secs } => {
                let life = self.actor(peer).life;
                self.actor_mut(peer).state = State::Asleep;
                self.fall_silent(peer);
                self.queue
                    .push(now.after_secs(secs), Event::Wake(peer, life));
                self.actor_mut(peer).since = now;
            }
            Turn::ClockJump { ms } => self.actor_mut(peer).clock.jump(ms),
        }
    }

    fn stop(&mut self, peer: Peer) {
        self.unlink_all(peer);
        let actor = self.actor_mut(peer);
        actor.state = State::Away;
        if let Kind::Honest { node, .. } = &mut actor.kind {
            *node = None;
        }
    }

    pub(super) fn wake(&mut self, peer: Peer, life: u64) {
        if self.actor(peer).life != life || self.is_away(peer) {
            return;
        }
        let now = self.now();
        let actor = self.actor_mut(peer);
        let slept = Duration::from_micros(now.0 - actor.since.0);
        actor.clock.slept(slept);
        actor.state = State::Awake;
        actor.since = now;
        let held = std::mem::take(&mut actor.held);
        // Its timers stood still: a new life's, with the same memory.
        actor.life += 1;
        let life = actor.life;
        self.trace
            .note(now, format_args!("{} wakes after {slept:?}", peer.0));
        for (from, link, frame) in held {
            let soon = now.after_ms(self.dice.within(1, 500));
            let to = peer;
            self.queue.push(
                soon,
                Event::Arrive {
                    to,
                    from,
                    link,
                    frame,
                },
            );
        }
        for event in [
            Event::Tick(peer, life),
            Event::Dial(peer, life),
            Event::Beat(peer, life),
            Event::Capability(peer, life),
        ] {
            let soon = self.dice.within(10, 1_000);
            self.queue.push(now.after_ms(soon), event);
        }
    }

    /// A router's second.
    pub(super) fn tick(&mut self, peer: Peer, out: &mut Outbox) {
        let (now, life) = (self.now(), self.actor(peer).life);
        self.queue
            .push(now.after_ms(TICK_MS), Event::Tick(peer, life));
        let actor = &mut self.actors[peer.0 as usize];
        let at = actor.clock.moment(now);
        match &mut actor.kind {
            Kind::Honest {
                node: Some(node), ..
            } => {
                node.tick(at, now, &mut self.dice, out);
                self.watch.sizes(peer, node);
            }
            Kind::Liar(liar) => {
                let fair = |_| Self::LIARS_AMONG_THEMSELVES;
                liar.router.tick(now, &fair, &mut self.dice, out);
            }
            Kind::Honest { node: None, .. } => {}
        }
        self.send(peer, out);
    }

    /// A heartbeat of its own.
    pub(super) fn beat(&mut self, peer: Peer, out: &mut Outbox) {
        let secs = self.scenario.heartbeat_secs;
        self.state_message(peer, Purpose::Heartbeat, secs, out);
    }

    /// A capability of its own.
    pub(super) fn capability(&mut self, peer: Peer, out: &mut Outbox) {
        let secs = self.scenario.capability_secs;
        self.state_message(peer, Purpose::Capability, secs, out);
    }

    fn state_message(&mut self, peer: Peer, purpose: Purpose, every_secs: u32, out: &mut Outbox) {
        let (now, life) = (self.now(), self.actor(peer).life);
        let shard = self.shard(peer);
        let lasts = self.capability_time();
        let every_ms = u64::from(every_secs) * 1_000;
        // The first repetition comes at any time of its period, so that those who started together do not
        // stay together.
        let first = self.actor(peer).since.after_secs(3) > now;
        let wait_ms = if first {
            self.dice.within(every_ms / 10, every_ms)
        } else {
            every_ms - every_ms / 20 + self.dice.within(0, every_ms / 10)
        };
        let next = now.after_ms(wait_ms);
        let identity = self.actor(peer).identity.clone();
        let actor = &mut self.actors[peer.0 as usize];
        let at = actor.clock.moment(now);
        let Kind::Honest {
            node: Some(node),
            store,
            membership,
        } = &mut actor.kind
        else {
            return;
        };
        let last = store.sequences.get(purpose.as_str()).copied();
        let (topic, sequence, envelope, event) = if purpose == Purpose::Heartbeat {
            let body = heartbeat(at.wall, last, node.session);
            let envelope = self.lore.sign(&identity, purpose, &body);
            (
                Topic::Heartbeat(shard),
                body.sequence,
                envelope,
                Event::Beat(peer, life),
            )
        } else {
            let membership = membership.as_ref();
            let newest = node.newest_sequence();
            let body = capability(at.wall, last, node.session, lasts, membership, newest);
            let envelope = self.lore.sign(&identity, purpose, &body);
            (
                Topic::Capability(shard),
                body.sequence,
                envelope,
                Event::Capability(peer, life),
            )
        };
        store.sequences.insert(purpose.as_str(), sequence);
        self.truth.said(&envelope, purpose);
        let verdict = node.says(at, &envelope, &self.lore.memo);
        actor.sent.flooded += actor.linked.len() as u64;
        let message = Self::message(topic, &envelope);
        node.tells((at, now), &message, out);
        self.queue.push(next, event);
        let what = format_args!("{} says {purpose} {sequence}: {verdict:?}", peer.0);
        self.trace.note(now, what);
        self.send(peer, out);
    }

    /// The publisher has a new version.
    pub(super) fn release(&mut self, out: &mut Outbox) {
        let now = self.now();
        let sequence = self.published.len() as u64 + 1;
        let newest = self.lore.checkpoint(sequence, "", &self.lore.release);
        self.truth.said(&newest.envelope, Purpose::Checkpoint);
        self.truth.published(sequence);
        self.published.push(newest.clone());
        self.trace.note(now, format_args!("release {sequence}"));
        let publisher = Peer(0);
        let at = self.actor(publisher).clock.moment(now);
        let message = Self::message(Topic::Checkpoint, &newest.envelope);
        let actor = &mut self.actors[0];
        actor.sent.flooded += actor.linked.len() as u64;
        if let Kind::Honest {
            node: Some(node),
            store,
            ..
        } = &mut actor.kind
        {
            node.publishes(at, newest, store, &self.lore.memo);
            node.tells((at, now), &message, out);
        }
        self.send(publisher, out);
    }

    /// A liar's next deed.
    pub(super) fn deed(&mut self, peer: Peer, out: &mut Outbox) {
        let number = peer.0 as usize - self.scenario.honest.len();
        let now = self.now();
        let liar = &mut self.scenario.liars[number];
        if liar.deeds == 0 {
            return;
        }
        liar.deeds -= 1;
        let next = now.after_ms(liar.every_ms);
        self.queue.push(next, Event::Deed(peer));
        self.on_stage(peer, |liar, stage| {
            liar.act(stage, out);
        });
        self.send(peer, out);
    }

    pub(super) fn on_stage<T>(
        &mut self,
        peer: Peer,
        act: impl FnOnce(&mut LiarState, &mut Stage<'_>) -> T,
    ) -> Option<T> {
        let at = self.now();
        let actor = &mut self.actors[peer.0 as usize];
        let Kind::Liar(liar) = &mut actor.kind else {
            return None;
        };
        let mut stage = Stage {
            lore: &self.lore,
            truth: &mut self.truth,
            dice: &mut self.dice,
            at,
            honest: &self.honest_keys,
            published: &self.published,
            neighbours: &actor.linked,
        };
        Some(act(liar, &mut stage))
    }

    /// What a liar does, `None` for the honest.
    pub(super) fn deed_of(&self, peer: Peer) -> Option<Deed> {
        match &self.actor(peer).kind {
            Kind::Liar(liar) => Some(liar.deed),
            Kind::Honest { .. } => None,
        }
    }

    /// The disturbances are over.
    pub(super) fn calm(&mut self) {
        let now = self.now();
        self.trace.note(now, format_args!("calm"));
    }

    /// Which peers know which, for people.
    pub fn knowledge(&self) -> BTreeMap<Peer, usize> {
        let now = self.now();
        let known = |peer| {
            let actor = self.actor(peer);
            let at = actor.clock.moment(now);
            Some((peer, actor.node()?.known(at).len()))
        };
        self.peers().filter_map(known).collect()
    }

    /// A throw that disturbs no other.
    pub fn aside(&self, stream: u64) -> Dice {
        Dice::new(self.scenario.seed, 1_000 + stream)
    }
}
