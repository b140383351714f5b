//! The words of a round: its phases, what happens to it, what has to be done. [`super::Round`] puts them together.

use owm_proto::{PublicKey, Sha256, UnixMillis};
use serde::{Deserialize, Serialize};

use super::{acceptance::Loss, deadline::Deadline};
use crate::stored::stored_enum;

stored_enum! {
    /// Where a round is.
    Phase, "phase of a round" {
        /// Announced; participants are being drawn.
        Open = "open",
        /// They train.
        Collecting = "collecting",
        /// No more updates are taken; they are being aggregated.
        Sealed = "sealed",
        /// There is a candidate; it is being evaluated.
        Aggregated = "aggregated",
        /// It is accepted; it is being published.
        Evaluated = "evaluated",
        /// It is the current version.
        Published = "published",
        /// Its hash is in a block.
        Anchored = "anchored",
        /// Nothing came of it.
        Abandoned = "abandoned",
    }
}

stored_enum! {
    /// Which rule makes the candidate.
    Attempt, "attempt at a candidate" {
        /// The round's own strategy.
        First = "first",
        /// Multi-Krum (spec §10.8).
        Fallback = "fallback",
    }
}

stored_enum! {
    /// Why nothing came of a round.
    AbandonReason, "reason to abandon a round" {
        /// Fewer could be asked than updates are needed.
        NoParticipants = "no_participants",
        /// Fewer whole updates than the round needs.
        TooFewUpdates = "too_few_updates",
        /// No strategy came to a candidate.
        NoCandidate = "no_candidate",
        /// Every candidate was worse than what there is.
        NotAccepted = "not_accepted",
        /// Nobody has measured the candidate.
        NotMeasured = "not_measured",
        /// An operator has stopped it.
        ByOperator = "by_operator",
    }
}

/// What a round is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its number.
    pub round: u64,
    /// Until when it collects.
    pub deadline: Deadline,
    /// Whole updates that are needed: 3, in the devnet 1 (`allow_tiny`).
    pub updates_min: u32,
}

/// What is known of one participant's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "part")]
pub enum Part {
    /// It was asked.
    Asked,
    /// It has signed a hash.
    Committed {
        /// Of its bytes.
        sha256: Sha256,
        /// When.
        at: UnixMillis,
    },
    /// Its bytes are here and are an update of the round.
    Whole {
        /// Of its bytes.
        sha256: Sha256,
        /// When it committed.
        at: UnixMillis,
    },
    /// It does not count. It has arrived all the same: nobody is waited for longer because of it.
    Void {
        /// When it committed.
        at: UnixMillis,
    },
}

/// A fault that signed bytes alone prove (spec §10.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum Fault {
    /// Two hashes signed for one round.
    Equivocation {
        /// The first.
        first: Sha256,
        /// Another one.
        second: Sha256,
    },
    /// The bytes that were committed to are no update of the round.
    Structure {
        /// Of the bytes.
        sha256: Sha256,
    },
}

/// What aggregation has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// By which rule.
    pub attempt: Attempt,
    /// Of the whole file.
    pub checkpoint: Sha256,
    /// Of the delta.
    pub delta: Sha256,
    /// Of the server's residue as it will be.
    pub residue_after: Sha256,
}

/// One evaluator's figures, signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who measured.
    pub node: PublicKey,
    /// Whose node that is: one owner, one report.
    pub owner: Sha256,
    /// Which bytes.
    pub checkpoint: Sha256,
    /// Of the candidate.
    pub candidate: Loss,
    /// Of its parent, on the same data.
    pub parent: Loss,
}

/// What happens to a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Participants have been drawn.
    Drawn {
        /// Who is asked.
        participants: Vec<PublicKey>,
    },
    /// A signed hash came in.
    Committed {
        /// Whose.
        node: PublicKey,
        /// Of the bytes to come.
        sha256: Sha256,
        /// By the coordinator's clock.
        at: UnixMillis,
    },
    /// The bytes of a commit came in and were checked.
    Bytes {
        /// Whose.
        node: PublicKey,
        /// What they hash to.
        sha256: Sha256,
        /// Whether they are an update of this round.
        good: bool,
        /// By the coordinator's clock.
        at: UnixMillis,
    },
    /// Time has passed.
    Tick {
        /// The coordinator's clock.
        now: UnixMillis,
    },
    /// Time that counts for no deadline: no coordinator was alive to take anything, or there were too few nodes to begin.
    Held {
        /// Its beginning.
        from: UnixMillis,
        /// Its end.
        to: UnixMillis,
    },
    /// There is a candidate.
    Aggregated(Candidate),
    /// The strategy came to none. (A reference that turns out to be missing, because copies fell away, is no such end:
    /// one is leased, and the same updates are aggregated again. Multi-Krum has no gate against copies.)
    NotAggregated {
        /// Which.
        attempt: Attempt,
    },
    /// An evaluator has measured it.
    Reported(Report),
    /// No more reports will come.
    EvaluationOver {
        /// Of which attempt's candidate.
        attempt: Attempt,
        /// Held-out losses of the last versions, newest first.
        recent: Vec<Loss>,
    },
    /// The version is out.
    Published,
    /// A block holds its hash.
    Anchored,
    /// An operator stops it.
    Stopped,
}

/// What has to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "effect")]
pub enum Effect {
    /// Lease training to them.
    Lease {
        /// Whom.
        participants: Vec<PublicKey>,
    },
    /// Aggregate these, which are in key order.
    Aggregate {
        /// By which rule.
        attempt: Attempt,
        /// Whose updates, and of which bytes.
        updates: Vec<(PublicKey, Sha256)>,
        /// Below six updates a reference update on a public shard is leased first: it tells the direction.
        reference: bool,
    },
    /// Lease evaluations of exactly these bytes, to nodes of different owners.
    Evaluate {
        /// Served by hash, announced nowhere.
        checkpoint: Sha256,
        /// How many.
        evaluators: usize,
    },
    /// Publish it, and make its residue the server's.
    Publish(Candidate),
    /// A fault with its evidence goes to the signals.
    Signal {
        /// Whose.
        node: PublicKey,
        /// What.
        fault: Fault,
    },
    /// Nothing comes of the round: the server's residue stays as it is, every node takes its step back.
    Abandon {
        /// Why.
        reason: AbandonReason,
    },
}

/// Why an event is refused; the round is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not in this phase.
    #[error("the round is {0}; that is not possible any more, or not yet")]
    Phase(Phase),
    /// By somebody else.
    #[error("this node was not asked to train in the round; wait for a lease")]
    NotAsked,
    /// After the end.
    #[error(
        "the round closed at {closed:?}, the commit came at {at:?}; keep the step for the next round"
    )]
    Late {
        /// When it closed.
        closed: UnixMillis,
        /// When it came.
        at: UnixMillis,
    },
    /// Bytes that nobody has committed to.
    #[error("these bytes are not those that the node has committed to; send those")]
    Uncommitted,
    /// Of other bytes than the candidate's.
    #[error(
        "the report is of other bytes than the round's candidate; measure those that were leased"
    )]
    OtherCandidate,
    /// A second one.
    #[error("this owner has already reported on the candidate; one owner has one vote")]
    SecondReport,
}
