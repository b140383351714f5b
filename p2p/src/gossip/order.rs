//! Times and sequences of state messages (spec §5): what can be told from a message's first fields before its
//! signature is looked at, and what was said last. Must stay true: a verdict made here is either an ignore
//! (whoever made the message up gains nothing) or a reject that any honest forwarder would have made too.

use std::time::Duration;

use owm_proto::{Envelope, Sha256, UnixMillis, envelope::CLOCK_SKEW_MAX};

use crate::{
    Moment,
    gossip::{IgnoreReason, RejectReason, Verdict, limits::STATE_LIFE_MAX},
};

/// Envelopes up to this are kept whole as proof, should their issuer say something else under the same
/// sequence; of larger ones only the hash. Honest heartbeats have about 200 bytes.
const PROOF_BYTES_MAX: usize = 1 << 10;

/// The first fields of a heartbeat and of a capability; the rest is skipped unread.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Head {
    /// When it was issued.
    #[prost(uint64, tag = "1")]
    pub issued_at_ms: u64,
    /// Until when it holds, by its own word.
    #[prost(uint64, tag = "2")]
    pub expires_at_ms: u64,
    /// Rises with each message of the key.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

impl Head {
    /// Until when it is believed: never longer than `life` after its issue.
    pub fn ends(&self, life: Duration) -> UnixMillis {
        UnixMillis(self.expires_at_ms).min(UnixMillis(self.issued_at_ms).after(life))
    }

    /// Judges its times. Nobody is blamed for clocks: what is early or late is ignored.
    pub fn judge(&self, now: UnixMillis, life: Duration) -> Result<(), Verdict> {
        let [issued, expires] = [self.issued_at_ms, self.expires_at_ms].map(UnixMillis);
        if expires < issued || expires.since(issued) > STATE_LIFE_MAX {
            return Err(Verdict::Reject(RejectReason::BadTimes));
        }
        if issued > now.after(CLOCK_SKEW_MAX) {
            return Err(Verdict::Ignore(IgnoreReason::Future));
        }
        if self.ends(life) <= now {
            return Err(Verdict::Ignore(IgnoreReason::Expired));
        }
        Ok(())
    }
}

/// What a key said last under one purpose.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its sequence.
    pub sequence: u64,
    /// SHA-256 of its payload.
    pub sha256: Sha256,
    /// Until when it is believed, by the wall clock.
    pub ends: UnixMillis,
    /// When it was heard here.
    pub heard: Moment,
    /// Itself, if it is small.
    pub proof: Option<Box<Envelope>>,
    /// It has been seen that the key said something else under this sequence.
    pub contradicted: bool,
}

/// How a message stands to what was said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is later.
    Newer,
    /// It is what was said last.
    Same,
    /// It is earlier.
    Older,
    /// It has the same sequence and other bytes.
    Contradicts,
}

impl Said {
    /// Takes note of a verified message.
    pub fn new(head: Head, life: Duration, at: Moment, payload: &[u8]) -> Self {
        Self {
            sequence: head.sequence,
            sha256: Sha256::of(payload),
            ends: head.ends(life),
            heard: at,
            proof: None,
            contradicted: false,
        }
    }

    /// Keeps the message itself, if it is small.
    #[must_use]
    pub fn with_proof(self, envelope: Envelope) -> Self {
        let small = envelope.unverified_payload().len() <= PROOF_BYTES_MAX;
        Self {
            proof: small.then(|| Box::new(envelope)),
            ..self
        }
    }

    /// How a message of this `sequence` and these bytes stands to it.
    pub fn order(&self, sequence: u64, payload: &[u8]) -> Order {
        match sequence.cmp(&self.sequence) {
            std::cmp::Ordering::Greater => Order::Newer,
            std::cmp::Ordering::Less => Order::Older,
            std::cmp::Ordering::Equal if Sha256::of(payload) == self.sha256 => Order::Same,
            std::cmp::Ordering::Equal => Order::Contradicts,
        }
    }

    /// Whether it is still believed: not past its end by the wall clock, and not heard longer than `life`
    /// ago by the monotonic one (a wall clock set back does not make it young again).
    pub fn holds(&self, at: Moment, life: Duration) -> bool {
        let since = at.monotonic.saturating_sub(self.heard.monotonic);
        at.wall < self.ends && since < life
    }
}
