//! Peers that don't follow the rules. They hold their own keys (and one a stolen release key), hear what
//! everybody hears, and say what they like to whom they like, on gossip and in answers to newcomers.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use owm_p2p::{gossip::Topic, news::NewestCheckpoint};
use owm_proto::{
    Envelope, PublicKey, Purpose, UnixMillis,
    gossip::shard_of,
    limits::GOSSIP_MESSAGE_BYTES_MAX,
    wire::gossip::{MeetRequest, MeetResponse},
};

use crate::{
    dice::Dice,
    frame::{Frame, Message, Peer},
    identity::{Identity, identity},
    lore::{Lore, SYBILS, capability, heartbeat},
    mesh::{Outbox, Router},
    scenario::Deed,
    time::At,
    truth::{Split, Truth},
};

/// Messages that a liar keeps to say them again.
const HEARD_MAX: usize = 256;

/// A liar's state.
#[derive(Debug)]
pub struct LiarState {
    /// What it does.
    pub deed: Deed,
    /// Its place in the swarm.
    pub router: Router,
    me: Arc<Identity>,
    heard: Vec<Arc<Message>>,
    count: u64,
}

/// What a liar works with.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The network.
    pub lore: &'a Lore,
    /// What is really said is noted here.
    pub truth: &'a mut Truth,
    /// Chance.
    pub dice: &'a mut Dice,
    /// When.
    pub at: At,
    /// Keys of honest peers.
    pub honest: &'a [PublicKey],
    /// Checkpoints published so far.
    pub published: &'a [NewestCheckpoint],
    /// Whom it is connected with.
    pub neighbours: &'a BTreeSet<Peer>,
}

impl LiarState {
    /// A liar with this key.
    pub fn new(deed: Deed, me: Arc<Identity>, router: Router) -> Self {
        Self {
            deed,
            router,
            me,
            heard: Vec::new(),
            count: 0,
        }
    }

    /// Somebody's message: kept, and forwarded unjudged unless this liar forwards nothing.
    pub fn hears(&mut self, from: Peer, message: &Arc<Message>, at: At, out: &mut Outbox) {
        if !self.router.is_new(message, at) {
            return;
        }
        if self.heard.len() < HEARD_MAX {
            self.heard.push(message.clone());
        } else {
            let at = message.id.0 as usize % HEARD_MAX;
            self.heard[at] = message.clone();
        }
        if self.deed != Deed::Eclipse {
            self.router.accepted(message, Some(from), out);
        }
    }

    /// Does its deed once.
    pub fn act(&mut self, stage: &mut Stage<'_>, out: &mut Outbox) {
        self.count += 1;
        let everybody: Vec<Peer> = stage.neighbours.iter().copied().collect();
        let Some(target) = stage.dice.pick(&everybody).copied() else {
            return;
        };
        let mut one = |message: Option<Arc<Message>>| {
            out.extend(message.map(|message| (target, Frame::Publish(message))));
        };
        match self.deed {
            Deed::Forge => one(Some(self.forged(stage))),
            Deed::Replay => one(stage.dice.pick(&self.heard).cloned()),
            Deed::Times => one(Some(self.untimely(stage))),
            Deed::Oversize => {
                let bytes = vec![self.count as u8; GOSSIP_MESSAGE_BYTES_MAX + 1];
                one(Some(Message::new(self.own_topic(stage), bytes)));
            }
            Deed::WrongShard => one(self.misplaced(stage)),
            Deed::Garbage => one(Some(self.garbage(stage))),
            Deed::Equivocate => self.equivocates(stage, &everybody, out),
            Deed::SplitRelease => one(self.split_release(stage)),
            Deed::Downgrade => one(self.downgrade(stage)),
            Deed::Spam => {
                let burst = (0..20).map(|_| self.spam(stage)).collect::<Vec<_>>();
                out.extend(burst.into_iter().map(|m| (target, Frame::Publish(m))));
            }
            Deed::Sybil => self.sybil(stage, &everybody, out),
            Deed::Eclipse => {}
        }
    }

    fn own_topic(&self, stage: &Stage<'_>) -> Topic {
        Topic::Heartbeat(shard_of(&self.me.public, stage.lore.topics.shards))
    }

    fn said(
        stage: &mut Stage<'_>,
        topic: Topic,
        purpose: Purpose,
        envelope: &Envelope,
    ) -> Arc<Message> {
        stage.truth.said(envelope, purpose);
        Message::new(topic, envelope.to_stored())
    }

    fn forged(&self, stage: &mut Stage<'_>) -> Arc<Message> {
        let victim = *stage.dice.pick(stage.honest).expect("somebody is honest");
        let body = heartbeat(
            stage.at.wall(),
            Some(stage.at.wall().0 + self.count),
            [7; 16],
        );
        let payload = prost::Message::encode_to_vec(&body);
        let signature = stage.dice.bytes::<64>();
        let envelope = Envelope::from_parts(Purpose::Heartbeat, victim, signature, payload);
        let shard = shard_of(&victim, stage.lore.topics.shards);
        Message::new(Topic::Heartbeat(shard), envelope.to_stored())
    }

    fn untimely(&self, stage: &mut Stage<'_>) -> Arc<Message> {
        let now = stage.at.wall();
        let mut body = heartbeat(now, Some(now.0 + self.count), [8; 16]);
        match stage.dice.within(0, 3) {
            0 => {
                let later = now.after(Duration::from_mins(10));
                body.issued_at_ms = later.0;
                body.expires_at_ms = later.after(Duration::from_mins(5)).0;
            }
            1 => {
                body.issued_at_ms = now.before(Duration::from_hours(1)).0;
                body.expires_at_ms = now.before(Duration::from_mins(50)).0;
            }
            2 => body.expires_at_ms = u64::MAX,
            _ => body.expires_at_ms = body.issued_at_ms - 1,
        }
        let envelope = stage.lore.sign(&self.me, Purpose::Heartbeat, &body);
        let topic = self.own_topic(stage);
        Self::said(stage, topic, Purpose::Heartbeat, &envelope)
    }

    fn misplaced(&self, stage: &mut Stage<'_>) -> Option<Arc<Message>> {
        let shards = stage.lore.topics.shards;
        if shards == 1 {
            return Some(self.garbage(stage));
        }
        let message = stage.dice.pick(&self.heard)?;
        let topic = match message.topic {
            // Not the other half of it: after a doubling that is where a slow peer would put it.
            Topic::Heartbeat(shard) => Topic::Heartbeat((shard + 1) % shards),
            Topic::Capability(shard) => Topic::Capability((shard + 1) % shards),
            Topic::Checkpoint => return None,
        };
        Some(Message::new(topic, message.bytes.clone()))
    }

    fn garbage(&self, stage: &mut Stage<'_>) -> Arc<Message> {
        let topic = self.own_topic(stage);
        let now = stage.at.wall();
        let body = heartbeat(now, Some(now.0 + self.count), [9; 16]);
        let payload = prost::Message::encode_to_vec(&body);
        let bytes = match stage.dice.within(0, 2) {
            0 => stage.dice.bytes::<100>().to_vec(),
            1 => stage
                .lore
                .sign(&self.me, Purpose::Capability, &body)
                .to_stored(),
            _ => {
                let other = owm_proto::genesis::NetworkId(owm_proto::Sha256::of(b"another"));
                Envelope::sign(&self.me.key, Purpose::Heartbeat, &other, payload).to_stored()
            }
        };
        Message::new(topic, bytes)
    }

    fn equivocates(&self, stage: &mut Stage<'_>, everybody: &[Peer], out: &mut Outbox) {
        let now = stage.at.wall();
        let mut body = heartbeat(now, Some(now.0 + self.count), [10; 16]);
        let topic = self.own_topic(stage);
        let (key, purpose, sequence) = (self.me.public, Purpose::Heartbeat, body.sequence);
        for (half, running_tasks) in [(0, 1), (1, 2)] {
            body.running_tasks = running_tasks;
            let envelope = stage.lore.sign(&self.me, purpose, &body);
            let message = Self::said(stage, topic, purpose, &envelope);
            let split = Split {
                key,
                purpose,
                sequence,
            };
            stage.truth.split_by(message.id, split);
            let of_half = everybody.iter().filter(|peer| peer.0 % 2 == half);
            out.extend(of_half.map(|peer| (*peer, Frame::Publish(message.clone()))));
        }
    }

    fn split_release(&self, stage: &mut Stage<'_>) -> Option<Arc<Message>> {
        let newest = stage.published.last()?;
        let (sequence, key) = (newest.checkpoint.sequence, newest.envelope.claimed_signer());
        let first = Message::new(Topic::Checkpoint, newest.envelope.to_stored());
        let other = stage
            .lore
            .checkpoint(sequence, "stolen", &stage.lore.release);
        let (topic, purpose) = (Topic::Checkpoint, Purpose::Checkpoint);
        let message = Self::said(stage, topic, purpose, &other.envelope);
        stage.truth.split(sequence);
        for message in [&first, &message] {
            let split = Split {
                key,
                purpose,
                sequence,
            };
            stage.truth.split_by(message.id, split);
        }
        Some(message)
    }

    fn downgrade(&self, stage: &mut Stage<'_>) -> Option<Arc<Message>> {
        let forged = stage.dice.chance(500);
        let envelope = if forged {
            stage
                .lore
                .checkpoint(1_000 + self.count, "", &self.me)
                .envelope
        } else {
            stage.published.first()?.envelope.clone()
        };
        Some(Message::new(Topic::Checkpoint, envelope.to_stored()))
    }

    fn spam(&mut self, stage: &mut Stage<'_>) -> Arc<Message> {
        self.count += 1;
        let now = stage.at.wall();
        let body = heartbeat(now, Some(now.0 + self.count), [11; 16]);
        let envelope = stage.lore.sign(&self.me, Purpose::Heartbeat, &body);
        let topic = self.own_topic(stage);
        Self::said(stage, topic, Purpose::Heartbeat, &envelope)
    }

    fn sybil(&self, stage: &mut Stage<'_>, everybody: &[Peer], out: &mut Outbox) {
        // At most 300 identities a liar: what a key costs is the simulation's time, not the liar's.
        let number = self.me.public.0[0];
        let mask = identity(SYBILS + u32::from(number) * 1_000 + self.count as u32 % 300);
        let now = stage.at.wall();
        let shard = shard_of(&mask.public, stage.lore.topics.shards);
        let last = Some(now.0 + self.count);
        let (topic, purpose, envelope) = if stage.dice.chance(500) {
            let body = heartbeat(now, last, [12; 16]);
            let purpose = Purpose::Heartbeat;
            (
                Topic::Heartbeat(shard),
                purpose,
                stage.lore.sign(&mask, purpose, &body),
            )
        } else {
            let body = capability(now, last, [12; 16], Duration::from_mins(5), None, 0);
            let purpose = Purpose::Capability;
            (
                Topic::Capability(shard),
                purpose,
                stage.lore.sign(&mask, purpose, &body),
            )
        };
        let message = Self::said(stage, topic, purpose, &envelope);
        for peer in stage.dice.some(everybody, 3) {
            out.push((peer, Frame::Publish(message.clone())));
        }
    }

    /// What it asks on a new connection.
    pub fn ask(&self, at: At) -> MeetRequest {
        MeetRequest {
            nodes_max: 64,
            now_ms: at.wall().0,
            software_version: "0.1.0".into(),
            ..MeetRequest::default()
        }
    }

    /// What it answers a newcomer: by its deed lies that do not verify, or the truth of an hour ago.
    pub fn answer(&self, stage: &mut Stage<'_>) -> MeetResponse {
        let mut answer = MeetResponse {
            now_ms: stage.at.wall().0,
            software_version: "0.1.0".into(),
            ..MeetResponse::default()
        };
        match self.deed {
            Deed::Forge => {
                let victim = *stage.dice.pick(stage.honest).expect("somebody is honest");
                let now = UnixMillis(stage.at.wall().0);
                let body = capability(now, None, [7; 16], Duration::from_mins(30), None, 9);
                let payload = prost::Message::encode_to_vec(&body);
                let signature = stage.dice.bytes::<64>();
                let forged = Envelope::from_parts(Purpose::Capability, victim, signature, payload);
                answer.capabilities.push((&forged).into());
            }
            Deed::Downgrade => {
                let own = stage.lore.checkpoint(5_000, "", &self.me);
                let told = match stage.published.first() {
                    Some(oldest) if stage.dice.chance(500) => oldest,
                    _ => &own,
                };
                answer.checkpoint = Some((&told.envelope).into());
                answer.manifest = Some((&told.manifest_envelope).into());
            }
            Deed::SplitRelease => {
                if let Some(newest) = stage.published.last().map(|n| n.checkpoint.sequence) {
                    let split = stage.lore.checkpoint(newest, "stolen", &stage.lore.release);
                    stage.truth.split(newest);
                    stage.truth.said(&split.envelope, Purpose::Checkpoint);
                    answer.checkpoint = Some((&split.envelope).into());
                    answer.manifest = Some((&split.manifest_envelope).into());
                }
            }
            _ => {}
        }
        answer
    }
}
