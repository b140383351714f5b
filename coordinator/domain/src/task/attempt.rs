//! One lease of one task: when it was live, and what was committed under it.

use owm_proto::{NodeId, Sha256, UnixMillis};

use super::{Outage, Outcome};

/// A signed hash of a result, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// When, by the coordinator's clock.
    pub at: UnixMillis,
    /// SHA-256 of the result's exact payload bytes.
    pub result: Sha256,
    /// The lease was live at `at`.
    pub on_time: bool,
}

/// How and when a lease stopped being live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: UnixMillis,
    /// How.
    pub outcome: Outcome,
}

/// A row of `task_attempts` as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Fences every write of the node.
    pub epoch: u64,
    /// Who holds or held it.
    pub node: NodeId,
    /// From when.
    pub leased_at: UnixMillis,
    /// Until when, outages added.
    pub expires_at: UnixMillis,
    /// The first commit.
    pub commit: Option<Commit>,
    /// `None` while it is live.
    pub ended: Option<Ended>,
    /// SHA-256 of the result that was decided on, if one was.
    pub result: Option<Sha256>,
}

/// What a commit means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitDecision {
    /// The first one: store it (whether on time or not).
    Recorded(Commit),
    /// The very same again: nothing to do.
    Repeated(Commit),
    /// Another hash under the same lease: the first one stands, this one is evidence.
    Contradicts(Commit),
}

impl CommitDecision {
    /// The commit that stands.
    pub const fn standing(&self) -> &Commit {
        match self {
            Self::Recorded(commit) | Self::Repeated(commit) | Self::Contradicts(commit) => commit,
        }
    }
}

impl Attempt {
    /// Whether the lease is live at `now`.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        self.ended.is_none() && now <= self.expires_at
    }

    /// A commit arrives. A result that arrives with its commit is a commit first.
    pub fn commit(&self, result: Sha256, now: UnixMillis) -> CommitDecision {
        match self.commit {
            Some(first) if first.result == result => CommitDecision::Repeated(first),
            Some(first) => CommitDecision::Contradicts(first),
            None => CommitDecision::Recorded(Commit {
                at: now,
                result,
                on_time: self.is_live(now),
            }),
        }
    }

    /// This attempt, ended.
    #[must_use]
    pub fn ended(&self, outcome: Outcome, at: UnixMillis) -> Self {
        Self {
            ended: Some(Ended { at, outcome }),
            ..self.clone()
        }
    }

    /// This attempt after an outage: a live lease moves, an ended one stays.
    #[must_use]
    pub fn extended(&self, outage: &Outage) -> Self {
        if self.ended.is_some() {
            return self.clone();
        }
        Self {
            expires_at: outage.moved(self.expires_at),
            ..self.clone()
        }
    }
}
