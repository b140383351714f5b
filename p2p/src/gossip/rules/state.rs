//! State messages: heartbeats and capabilities, from the cheap checks to the directory.

use owm_proto::{
    Envelope, EnvelopeError, PublicKey, Purpose, Sha256, SignatureCheck, SignerRule,
    wire::{
        coordinator::{HeartbeatBody, SignedEnvelope},
        gossip::CapabilityBody,
    },
};
use prost::Message as _;

use super::{Door, Rules};
use crate::{
    Moment,
    directory::Announced,
    gossip::{
        Contradiction, Heard, IgnoreReason, Judged, Notice, RejectReason, Topic, Verdict,
        capability::{check_capability, check_heartbeat},
        limits::{STRANGER_CAPABILITY_BYTES_MAX, StateKind},
        order::{Head, Order, Said},
        verdict::reject_reason,
    },
    membership::{Admission, Reading, Standing},
};

impl StateKind {
    /// What it is signed for.
    pub const fn purpose(self) -> Purpose {
        match self {
            Self::Heartbeat => Purpose::Heartbeat,
            Self::Capability => Purpose::Capability,
        }
    }

    fn topic(self, shard: u32) -> Topic {
        match self {
            Self::Heartbeat => Topic::Heartbeat(shard),
            Self::Capability => Topic::Capability(shard),
        }
    }
}

/// The strangers' places are taken.
const NO_ROOM: Verdict = Verdict::Ignore(IgnoreReason::Full);

/// Strangers have said too much lately.
const NO_ROOM_NOW: Verdict = Verdict::Ignore(IgnoreReason::TooManyOfTopic);

/// A message whose cheap checks are done.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    at: Moment,
    door: Door<'a>,
    kind: StateKind,
    head: Head,
    key: PublicKey,
}

impl Rules {
    pub(super) fn state(
        &mut self,
        at: Moment,
        door: Door<'_>,
        kind: StateKind,
        envelope: Envelope,
        check: &dyn SignatureCheck,
    ) -> Judged {
        let Ok(head) = Head::decode(envelope.unverified_payload()) else {
            return Judged::only(Verdict::Reject(RejectReason::Malformed));
        };
        let message = Candidate {
            at,
            door,
            kind,
            head,
            key: envelope.claimed_signer(),
        };
        let order = match self.worth_checking(&message, &envelope) {
            Ok(order) => order,
            Err(verdict) => {
                let judged = Judged::only(verdict);
                return match (kind, verdict) {
                    (StateKind::Heartbeat, NO_ROOM | NO_ROOM_NOW) => {
                        judged.turned_away(message.key)
                    }
                    _ => judged,
                };
            }
        };
        let network = self.network;
        let verified = envelope.verify_by(kind.purpose(), &network, SignerRule::Anyone, check);
        let payload = match verified {
            Ok(verified) => verified.payload,
            Err(error) => return Judged::only(Verdict::Reject(reject_reason(&error))),
        };
        if order == Order::Contradicts {
            return self.contradiction(&message, envelope);
        }
        if message.key == self.me && !door.is_own() {
            let sequence = head.sequence;
            let notice = Notice::OwnKeyElsewhere { sequence };
            self.warn(&notice);
            return Judged::only(Verdict::Accept).noticed(notice);
        }
        let said = Said::new(head, self.life(kind), at, payload);
        let judged = match kind {
            StateKind::Heartbeat => match decoded::<HeartbeatBody>(payload) {
                Ok(body) => self.heartbeat(&message, said, envelope, body),
                Err(verdict) => Err(verdict),
            },
            StateKind::Capability => match decoded::<CapabilityBody>(payload) {
                Ok(body) => self.capability(&message, said, envelope, body, check),
                Err(verdict) => Err(verdict),
            },
        };
        judged.map_or_else(Judged::only, Judged::accepted)
    }

    /// Everything that can be told without the signature. Nothing is taken from an allowance here.
    fn worth_checking(&self, m: &Candidate<'_>, envelope: &Envelope) -> Result<Order, Verdict> {
        let ignore = |reason| Err(Verdict::Ignore(reason));
        m.head.judge(m.at.wall, self.life(m.kind))?;
        let known = self.directory.known(&m.key);
        let said = known.and_then(|known| known.said(m.kind));
        let payload = envelope.unverified_payload();
        let order = said.map_or(Order::Newer, |s| s.order(m.head.sequence, payload));
        match order {
            Order::Same => return ignore(IgnoreReason::Duplicate),
            Order::Older => return ignore(IgnoreReason::Stale),
            Order::Contradicts if said.is_some_and(|s| s.contradicted) => {
                return ignore(IgnoreReason::Equivocation);
            }
            Order::Contradicts | Order::Newer => {}
        }
        if m.door.is_own() {
            return Ok(order);
        }
        if m.key == self.me && said.is_none() {
            // From a former life of ours.
            return ignore(IgnoreReason::Stale);
        }
        let standing = self.directory.standing(&m.key, m.at.wall);
        let member = matches!(standing, Standing::Member(_));
        let rate = self.allowances.of_key(m.kind, member);
        if known.is_some_and(|k| !k.meters[m.kind as usize].has(rate, m.at.monotonic)) {
            return ignore(IgnoreReason::TooManyOfKey);
        }
        // A capability may bring the membership that makes a member of a stranger: judged after that.
        match m.kind {
            StateKind::Heartbeat => self.may_enter(m, standing, 0)?,
            // It would make a stranger of whoever says it.
            StateKind::Capability if !shows_membership(payload) => {
                self.may_enter(m, Standing::Stranger, 0)?;
            }
            StateKind::Capability => {}
        }
        Ok(order)
    }

    /// Whether the tables and the strangers' common allowance have room for a message.
    fn may_enter(
        &self,
        m: &Candidate<'_>,
        standing: Standing,
        bytes: usize,
    ) -> Result<(), Verdict> {
        let seated = standing.has_seat();
        if !seated {
            let rate = self.allowances.strangers_of_topic[m.kind as usize];
            let meter = self.strangers.get(&self.topic_of(m));
            if meter.is_some_and(|meter| !meter.has(rate, m.at.monotonic)) {
                return Err(NO_ROOM_NOW);
            }
        }
        if bytes > STRANGER_CAPABILITY_BYTES_MAX && !seated {
            return Err(NO_ROOM);
        }
        let room = self
            .directory
            .has_room(m.at, (&m.key, m.door.peer()), seated, bytes);
        room.then_some(()).ok_or(NO_ROOM)
    }

    fn heartbeat(
        &mut self,
        m: &Candidate<'_>,
        said: Said,
        envelope: Envelope,
        body: HeartbeatBody,
    ) -> Result<Heard, Verdict> {
        check_heartbeat(&body).map_err(Verdict::Reject)?;
        let seated = self.seated(m);
        let said = said.with_proof(envelope);
        self.directory
            .beat(m.at, (&m.key, m.door.peer()), seated, said, &body);
        self.pay(m, seated);
        Ok(Heard::Heartbeat { node: m.key, body })
    }

    fn capability(
        &mut self,
        m: &Candidate<'_>,
        said: Said,
        envelope: Envelope,
        body: CapabilityBody,
        check: &dyn SignatureCheck,
    ) -> Result<Heard, Verdict> {
        check_capability(&body).map_err(Verdict::Reject)?;
        let shown = body.membership.as_ref();
        let admission = self.admission(&m.key, shown, check)?;
        let standing = self.directory.worth(admission.as_deref(), m.at.wall);
        let seated = standing.has_seat() || m.door.is_own();
        if !m.door.is_own() {
            self.may_enter(m, standing, envelope.unverified_payload().len())?;
        }
        let announced = Announced {
            said,
            // The admission is kept apart, the signed form has it too.
            body: CapabilityBody {
                membership: None,
                ..body.clone()
            },
            envelope,
        };
        self.directory
            .announce(m.at, (&m.key, m.door.peer()), seated, announced, admission);
        self.pay(m, seated);
        Ok(Heard::Capability {
            node: m.key,
            body: Box::new(body),
        })
    }

    /// Who vouches for `key`: by the statement that its capability shows, which is not checked again if it is
    /// the one that is known.
    fn admission(
        &self,
        key: &PublicKey,
        shown: Option<&SignedEnvelope>,
        check: &dyn SignatureCheck,
    ) -> Result<Option<Box<Admission>>, Verdict> {
        let Some(shown) = shown else {
            return Ok(None);
        };
        let malformed = |_: EnvelopeError| Verdict::Reject(RejectReason::Malformed);
        let envelope = Envelope::try_from(shown.clone()).map_err(malformed)?;
        let known = self.directory.known(key).and_then(|k| k.admission.as_ref());
        if let Some(known) = known.filter(|known| known.is_of(&envelope)) {
            return Ok(Some(known.clone()));
        }
        let read = Admission::read(&envelope, key, &self.network, self.trust.as_ref(), check);
        match read.map_err(Verdict::Reject)? {
            Reading::Known(admission) => Ok(Some(admission)),
            Reading::UnknownSigner => Ok(None),
        }
    }

    fn contradiction(&mut self, m: &Candidate<'_>, second: Envelope) -> Judged {
        let (kind, me) = (m.kind, self.me);
        let known = self.directory.known_mut(&m.key);
        let (first, first_sha256) = match known {
            Some(known) => known.contradicted(kind),
            None => (None, Sha256([0; 32])),
        };
        let notice = Notice::Contradiction(Box::new(Contradiction {
            key: m.key,
            purpose: kind.purpose(),
            sequence: m.head.sequence,
            first_sha256,
            first,
            second,
        }));
        if m.key == me {
            self.warn(&notice);
        }
        Judged::only(Verdict::Ignore(IgnoreReason::Equivocation)).noticed(notice)
    }

    fn seated(&self, m: &Candidate<'_>) -> bool {
        m.door.is_own() || self.directory.standing(&m.key, m.at.wall).has_seat()
    }

    /// Takes what an accepted message costs.
    fn pay(&mut self, m: &Candidate<'_>, seated: bool) {
        if m.door.is_own() {
            return;
        }
        let (now, slot) = (m.at.monotonic, m.kind as usize);
        let standing = self.directory.standing(&m.key, m.at.wall);
        let member = matches!(standing, Standing::Member(_));
        let rate = self.allowances.of_key(m.kind, member);
        if let Some(known) = self.directory.known_mut(&m.key) {
            known.meters[slot].take(rate, now);
        }
        if !seated {
            let topic = self.topic_of(m);
            let meter = self.strangers.entry(topic).or_default();
            meter.take(self.allowances.strangers_of_topic[slot], now);
        }
    }

    fn topic_of(&self, m: &Candidate<'_>) -> Topic {
        let shards = self.parameters.shards;
        m.kind.topic(owm_proto::gossip::shard_of(&m.key, shards))
    }
}

/// Whether a capability brings a membership, read without the rest. What is malformed is refused later.
fn shows_membership(payload: &[u8]) -> bool {
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    struct Shown {
        /// Of `CapabilityBody`, not looked into.
        #[prost(bytes = "vec", optional, tag = "11")]
        membership: Option<Vec<u8>>,
    }
    Shown::decode(payload).map_or(true, |shown| shown.membership.is_some())
}

fn decoded<T: prost::Message + Default>(payload: &[u8]) -> Result<T, Verdict> {
    T::decode(payload).map_err(|_| Verdict::Reject(RejectReason::Malformed))
}
