//! The rules: every message from the swarm, and every one of our own, goes through [`Rules::judge`] and its
//! kin. `service` feeds them, `tests/sim` runs them by the thousand. Must stay true: no I/O, no clock, no
//! randomness; every table is bounded; a signature is checked once, and only for a message that would be
//! accepted if it held (or would prove a fault); what is taken from an allowance is what was verified, so
//! nobody uses up another's by forging.

mod state;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use lru::LruCache;
use owm_proto::{
    Envelope, PublicKey, Purpose, SignatureCheck,
    genesis::{NetworkId, TrustRoot},
    gossip::{Bootstrap, shard_of},
    limits::{GOSSIP_MESSAGE_BYTES_MAX, SHARDS_MAX},
};

use crate::{
    Directory, Documents, Moment,
    gossip::{
        Contradiction, Heard, IgnoreReason, Judged, KnownCheckpoint, Limits, Notice, RejectReason,
        Topic, Topics, Verdict,
        checkpoint::{self, Checkpoints},
        jump::JumpWatch,
        limits::{Allowances, StateKind},
    },
    peer::rate::{Meter, Rate},
};

/// Warnings that are kept for people; the same one is kept once.
const WARNINGS_MAX: usize = 16;

/// So many messages out of time, and none in time between them, are more likely our clock's fault.
const OUT_OF_TIME_MAX: u32 = 64;

/// How a message came.
#[derive(Clone, Copy, Debug)]
enum Door<'a> {
    /// By gossip on a topic, from this peer.
    Gossip(&'a PublicKey),
    /// In this peer's answer or question.
    Told(&'a PublicKey),
    /// From our own daemon.
    Own(&'a PublicKey),
}

impl Door<'_> {
    fn peer(&self) -> &PublicKey {
        match self {
            Self::Gossip(peer) | Self::Told(peer) | Self::Own(peer) => peer,
        }
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }
}

/// The rules of one peer in one network, with all they remember.
#[derive(Debug)]
pub struct Rules {
    me: PublicKey,
    network: NetworkId,
    trust: Option<TrustRoot>,
    parameters: Bootstrap,
    limits: Limits,
    allowances: Allowances,
    directory: Directory,
    checkpoints: Checkpoints,
    peers: LruCache<PublicKey, Meter>,
    strangers: HashMap<Topic, Meter>,
    clock: JumpWatch,
    out_of_time: u32,
    warnings: VecDeque<String>,
}

impl Rules {
    /// With nothing heard yet.
    pub fn new(documents: &Documents, me: PublicKey, limits: Limits, at: Moment) -> Self {
        let mut rules = Self::without_documents(documents.trust().id(), me, limits, at);
        rules.set_documents(documents, at);
        rules
    }

    /// For who has joined by the network's id alone and has yet to be given its documents: heartbeats and
    /// capabilities are judged (everybody is a stranger), checkpoints are ignored.
    pub fn without_documents(
        network: NetworkId,
        me: PublicKey,
        limits: Limits,
        at: Moment,
    ) -> Self {
        let parameters = Bootstrap::before_any();
        let allowances = Allowances::new(&parameters, limits.shards);
        Self {
            me,
            network,
            trust: None,
            directory: Directory::new(limits, &allowances),
            parameters,
            limits,
            allowances,
            checkpoints: Checkpoints::default(),
            peers: LruCache::unbounded(),
            strangers: HashMap::new(),
            clock: JumpWatch::new(at),
            out_of_time: 0,
            warnings: VecDeque::new(),
        }
    }

    /// Newer documents of the same network: other shards and periods, new delegations and revocations. What
    /// a revoked key has said is forgotten.
    pub fn set_documents(&mut self, documents: &Documents, at: Moment) {
        let trust = documents.trust();
        self.directory.recheck(trust);
        self.checkpoints.recheck(trust);
        self.network = trust.id();
        self.trust = Some(trust.clone());
        self.parameters = documents.parameters(at.wall);
        self.allowances = Allowances::new(&self.parameters, self.limits.shards);
        self.directory.set_allowances(&self.allowances);
        // Meters of other rates mean nothing.
        self.peers.clear();
        self.strangers.clear();
    }

    /// Other sizes: the number of shards that are listened to has changed.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.allowances = Allowances::new(&self.parameters, limits.shards);
        self.directory.set_limits(limits);
        self.peers.clear();
    }

    /// Judges a gossip message that `from` has sent or forwarded on `topic`.
    pub fn judge(
        &mut self,
        at: Moment,
        from: &PublicKey,
        topic: Topic,
        message: &[u8],
        check: &dyn SignatureCheck,
    ) -> Judged {
        let jump = self.note(at);
        if !self.peer_may(at, from) {
            return self.settle(at, jump, Judged::only(TOO_MANY_OF_PEER));
        }
        let judged = self.read(at, from, topic, message, check);
        if judged.verdict == Verdict::Accept {
            let rate = self.rate_of_peer(at, from);
            if let Some(meter) = self.peers.peek_mut(from) {
                meter.give_back(rate);
            }
        }
        self.settle(at, jump, judged)
    }

    /// Judges a capability or checkpoint that `from` has sent outside gossip (the first exchange between
    /// peers). The peer's allowance is not touched: such messages come in numbers, and the exchange has its
    /// own limits. Stop reading the answer at the first reject.
    pub fn judge_told(
        &mut self,
        at: Moment,
        from: &PublicKey,
        envelope: Envelope,
        check: &dyn SignatureCheck,
    ) -> Judged {
        let jump = self.note(at);
        let judged = if envelope.unverified_payload().len() > GOSSIP_MESSAGE_BYTES_MAX {
            Judged::only(Verdict::Reject(RejectReason::Oversize))
        } else if envelope.claims(Purpose::Capability) {
            self.state(at, Door::Told(from), StateKind::Capability, envelope, check)
        } else if envelope.claims(Purpose::Checkpoint) {
            self.announced(at, Door::Told(from), &envelope, check)
        } else {
            Judged::only(Verdict::Reject(RejectReason::WrongPurpose))
        };
        self.settle(at, jump, judged)
    }

    /// Takes in what our own daemon has signed (heartbeat, capability) or published (checkpoint); says on
    /// which topic it goes out if it is accepted.
    pub fn accept_own(
        &mut self,
        at: Moment,
        envelope: Envelope,
        check: &dyn SignatureCheck,
    ) -> (Topic, Judged) {
        let jump = self.note(at);
        let (me, topic) = (self.me, self.topic_of_own(&envelope));
        let too_big = envelope.to_stored().len() > GOSSIP_MESSAGE_BYTES_MAX;
        let kind = match topic {
            Topic::Heartbeat(_) => Some(StateKind::Heartbeat),
            Topic::Capability(_) => Some(StateKind::Capability),
            Topic::Checkpoint => None,
        };
        let judged = match kind {
            _ if too_big => Judged::only(Verdict::Reject(RejectReason::Oversize)),
            Some(_) if envelope.claimed_signer() != me => {
                Judged::only(Verdict::Reject(RejectReason::BadSignature))
            }
            Some(kind) => self.state(at, Door::Own(&me), kind, envelope, check),
            None => self.announced(at, Door::Own(&me), &envelope, check),
        };
        (topic, self.settle(at, jump, judged))
    }

    /// On which topic a message of our own goes out.
    pub(crate) fn topic_of_own(&self, envelope: &Envelope) -> Topic {
        let shard = shard_of(&self.me, self.parameters.shards);
        if envelope.claims(Purpose::Heartbeat) {
            Topic::Heartbeat(shard)
        } else if envelope.claims(Purpose::Capability) {
            Topic::Capability(shard)
        } else {
            Topic::Checkpoint
        }
    }

    /// Whether a checkpoint that is newer than the one we hold may be kept, its manifest being at hand and
    /// verified: from then on it counts instead of another one of its sequence that was announced first and
    /// that nobody could show.
    pub fn judge_whole(
        &mut self,
        at: Moment,
        from: &PublicKey,
        envelope: &Envelope,
        check: &dyn SignatureCheck,
    ) -> bool {
        let claims = envelope.claims(Purpose::Checkpoint);
        let Some(trust) = self.trust.as_ref().filter(|_| claims) else {
            return false;
        };
        self.checkpoints
            .hear_whole(at, from, envelope, trust, check)
    }

    /// Once a second or so: forgets what is over, sees clock jumps.
    pub fn tick(&mut self, at: Moment) -> Option<Notice> {
        let jump = self.note(at);
        self.directory.tick(at);
        jump
    }

    /// The network's topics at its present number of shards.
    pub fn topics(&self) -> Topics {
        Topics {
            network: self.network,
            shards: self.parameters.shards,
        }
    }

    /// The agreed numbers.
    pub fn parameters(&self) -> &Bootstrap {
        &self.parameters
    }

    /// The newest announced checkpoint.
    pub fn checkpoint(&self) -> Option<&KnownCheckpoint> {
        self.checkpoints.newest()
    }

    /// The nodes heard of lately.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Capability envelopes for who asks: of the nodes that it names, then up to `count_max` for who has just
    /// come: our own first, then of others that hold, members first. So many bytes at most.
    pub fn introductions(
        &self,
        at: Moment,
        named: &[PublicKey],
        count_max: usize,
        bytes_max: usize,
    ) -> Vec<Envelope> {
        self.directory
            .capabilities(at, named, &self.me, count_max, bytes_max)
    }

    /// What a person should look at.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.warnings.iter().map(String::as_str)
    }

    fn read(
        &mut self,
        at: Moment,
        from: &PublicKey,
        topic: Topic,
        message: &[u8],
        check: &dyn SignatureCheck,
    ) -> Judged {
        let reject = |reason| Judged::only(Verdict::Reject(reason));
        if message.len() > GOSSIP_MESSAGE_BYTES_MAX {
            return reject(RejectReason::Oversize);
        }
        let Ok(envelope) = Envelope::from_stored(message) else {
            return reject(RejectReason::Malformed);
        };
        let (purpose, kind, shard) = match topic {
            Topic::Checkpoint => (Purpose::Checkpoint, None, 0),
            Topic::Heartbeat(shard) => (Purpose::Heartbeat, Some(StateKind::Heartbeat), shard),
            Topic::Capability(shard) => (Purpose::Capability, Some(StateKind::Capability), shard),
        };
        if !envelope.claims(purpose) {
            return reject(RejectReason::WrongPurpose);
        }
        let Some(kind) = kind else {
            return self.announced(at, Door::Gossip(from), &envelope, check);
        };
        if let Some(verdict) = self.misplaced(&envelope.claimed_signer(), shard) {
            return Judged::only(verdict);
        }
        self.state(at, Door::Gossip(from), kind, envelope, check)
    }

    /// Whether a key's message has no business on a shard's topic. While the number of shards changes, peers
    /// that have not heard of it yet, or have before us, are honest.
    fn misplaced(&self, key: &PublicKey, shard: u32) -> Option<Verdict> {
        let shards = self.parameters.shards;
        if shard_of(key, shards) == shard {
            return None;
        }
        let numbers = std::iter::successors(Some(1_u32), |n| n.checked_mul(2));
        let mut numbers = numbers.take_while(|n| *n <= SHARDS_MAX);
        Some(if numbers.any(|n| shard_of(key, n) == shard) {
            Verdict::Ignore(IgnoreReason::OtherShards)
        } else {
            Verdict::Reject(RejectReason::WrongShard)
        })
    }

    fn announced(
        &mut self,
        at: Moment,
        door: Door<'_>,
        envelope: &Envelope,
        check: &dyn SignatureCheck,
    ) -> Judged {
        if !envelope.claims(Purpose::Checkpoint) {
            return Judged::only(Verdict::Reject(RejectReason::WrongPurpose));
        }
        let Some(trust) = &self.trust else {
            return Judged::only(Verdict::Ignore(IgnoreReason::UnknownSigner));
        };
        let heard = self
            .checkpoints
            .hear(at, door.peer(), envelope, trust, check);
        match heard {
            checkpoint::Heard::Dropped(verdict) => Judged::only(verdict),
            checkpoint::Heard::Newest => {
                let newest = self.checkpoints.newest().expect("it has just been kept");
                Judged::accepted(Heard::Checkpoint(Box::new(newest.clone())))
            }
            checkpoint::Heard::Contradicts(first) => {
                let notice = Notice::Contradiction(Box::new(Contradiction {
                    key: envelope.claimed_signer(),
                    purpose: Purpose::Checkpoint,
                    sequence: first.checkpoint.sequence,
                    first_sha256: owm_proto::Sha256::of(first.envelope.unverified_payload()),
                    first: Some(first.envelope),
                    second: envelope.clone(),
                }));
                self.warn(&notice);
                Judged::only(Verdict::Ignore(IgnoreReason::Equivocation)).noticed(notice)
            }
        }
    }

    fn peer_may(&mut self, at: Moment, from: &PublicKey) -> bool {
        if !self.peers.contains(from) {
            if self.peers.len() >= self.limits.peers_max {
                self.peers.pop_lru();
            }
            self.peers.put(*from, Meter::default());
        }
        let rate = self.rate_of_peer(at, from);
        let meter = self.peers.get_mut(from);
        meter.is_some_and(|meter| meter.take(rate, at.monotonic))
    }

    fn rate_of_peer(&self, at: Moment, peer: &PublicKey) -> Rate {
        let standing = self.directory.standing(peer, at.wall);
        self.allowances.of_peer(standing.has_seat())
    }

    fn note(&mut self, at: Moment) -> Option<Notice> {
        let by_ms = self.clock.note(at)?;
        // What piled up while we slept is nobody's flood.
        self.peers.clear();
        self.strangers.clear();
        let notice = Notice::ClockJumped { by_ms };
        self.warn(&notice);
        Some(notice)
    }

    fn settle(&mut self, at: Moment, jump: Option<Notice>, mut judged: Judged) -> Judged {
        if judged.verdict == TOO_MANY_OF_PEER && self.clock.is_settling(at) {
            judged.action = None;
        }
        let doubt = self.doubt(judged.verdict);
        if judged.notice.is_none() {
            judged.notice = jump.or(doubt);
        }
        judged
    }

    /// Counts what is out of time, in a row.
    fn doubt(&mut self, verdict: Verdict) -> Option<Notice> {
        match verdict {
            Verdict::Accept => self.out_of_time = 0,
            Verdict::Ignore(IgnoreReason::Future | IgnoreReason::Expired) => {
                self.out_of_time = self.out_of_time.saturating_add(1);
            }
            _ => {}
        }
        let doubtful = self.out_of_time == OUT_OF_TIME_MAX && verdict != Verdict::Accept;
        doubtful.then(|| {
            self.out_of_time += 1;
            self.warn(&Notice::NothingInTime);
            Notice::NothingInTime
        })
    }

    fn warn(&mut self, notice: &Notice) {
        let text = notice.to_string();
        self.warnings.retain(|known| *known != text);
        if self.warnings.len() >= WARNINGS_MAX {
            self.warnings.pop_front();
        }
        self.warnings.push_back(text);
    }

    fn life(&self, kind: StateKind) -> Duration {
        self.allowances.life(kind)
    }
}

/// The verdict that blames for a flood.
const TOO_MANY_OF_PEER: Verdict = Verdict::Ignore(IgnoreReason::TooManyOfPeer);

#[cfg(test)]
mod tests;
