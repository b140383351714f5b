//! What the rules answer: a verdict, what is new, what a person or the ledger of faults must know.

use std::fmt;

use owm_proto::{
    Envelope, PublicKey, Purpose, Sha256,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use crate::{
    gossip::{KnownCheckpoint, Verdict},
    peer::Action,
};

/// What became of a message.
#[derive(Debug)]
#[must_use]
pub struct Judged {
    /// Believed or not.
    pub verdict: Verdict,
    /// What is new, if it was believed.
    pub news: Option<Heard>,
    /// Something to look at.
    pub notice: Option<Notice>,
    /// What is booked to the peer that forwarded it.
    pub action: Option<Action>,
    /// Who says that it lives, unproven, and had no room among the strangers: a member perhaps, if it were known.
    pub turned_away: Option<PublicKey>,
}

/// Something verified and new.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A node lives.
    Heartbeat {
        /// Which.
        node: PublicKey,
        /// What it says.
        body: HeartbeatBody,
    },
    /// A node says what it has, does and holds.
    Capability {
        /// Which.
        node: PublicKey,
        /// What it says.
        body: Box<CapabilityBody>,
    },
    /// A newer checkpoint was announced; its manifest has yet to be fetched (from the forwarder first).
    Checkpoint(Box<KnownCheckpoint>),
}

/// Something that a person, or who keeps account of faults, should know.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A key has signed two things under one sequence: a fault that proves itself (spec §10.9).
    Contradiction(Box<Contradiction>),
    /// Another process signs with our key.
    OwnKeyElsewhere {
        /// The sequence it used.
        sequence: u64,
    },
    /// Our wall clock jumped, by so many milliseconds.
    ClockJumped {
        /// Forward if positive.
        by_ms: i64,
    },
    /// Many messages in a row were too early or too late for our clock, and none was in time.
    NothingInTime,
}

/// Two signed messages under one sequence.
#[derive(Clone, Debug)]
pub struct Contradiction {
    /// Who signed both.
    pub key: PublicKey,
    /// For what.
    pub purpose: Purpose,
    /// Under which sequence.
    pub sequence: u64,
    /// SHA-256 of the payload that came first and is kept.
    pub first_sha256: Sha256,
    /// It, unless it was too large to be kept.
    pub first: Option<Envelope>,
    /// What came second.
    pub second: Envelope,
}

impl Judged {
    /// A verdict and nothing else.
    pub fn only(verdict: Verdict) -> Self {
        Self {
            verdict,
            news: None,
            notice: None,
            action: Action::of(verdict),
            turned_away: None,
        }
    }

    pub(crate) fn accepted(news: Heard) -> Self {
        Self {
            news: Some(news),
            ..Self::only(Verdict::Accept)
        }
    }

    pub(crate) fn turned_away(self, node: PublicKey) -> Self {
        Self {
            turned_away: Some(node),
            ..self
        }
    }

    pub(crate) fn noticed(self, notice: Notice) -> Self {
        Self {
            notice: Some(notice),
            ..self
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction(two) if two.purpose == Purpose::Checkpoint => write!(
                f,
                "release key {} has announced two different checkpoints under sequence {}; the first is kept. Its key may be stolen: ask the network's operator whether to revoke it",
                two.key.short(),
                two.sequence
            ),
            Self::Contradiction(two) => write!(
                f,
                "{} has signed two different {} messages under sequence {}; the first is kept. Does its key run twice?",
                two.key.short(),
                two.purpose,
                two.sequence
            ),
            Self::OwnKeyElsewhere { sequence } => write!(
                f,
                "another process signs with this node's key (it is at sequence {sequence}); stop one of them, or give it a key of its own"
            ),
            Self::ClockJumped { by_ms } => write!(
                f,
                "this machine's clock jumped by {} s; if it was not asleep, check its time service",
                by_ms / 1_000
            ),
            Self::NothingInTime => f.write_str(
                "nothing that peers say is in time for this machine's clock; check the clock and its time service",
            ),
        }
    }
}
