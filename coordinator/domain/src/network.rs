//! What can be said of the whole network in one word, and why: the rule behind the public page. The
//! server fills in a [`NetworkView`] once a second and puts the reasons into words. Pure: the view
//! holds spans and counts, never a clock.

use std::time::Duration;

use owm_proto::{SubModelId, UnixMillis};

/// A node not heard of for longer has left: it is neither expected nor missed.
pub const EXPECTED_WITHIN: Duration = Duration::from_hours(24);

/// Of so many expected nodes one may be silent before the network counts as degraded: people turn
/// their machines off, and a large network must not look ill for that.
pub const SILENT_ONE_IN: u64 = 10;

/// A question that waits longer is felt: an idle network hands it out within a second.
pub const WAIT_FELT: Duration = Duration::from_secs(30);

/// Failed questions that may be bad luck.
pub const FAILURES_MIN: u64 = 3;

/// Of so many recent questions one has to fail before the network counts as degraded.
pub const FAILED_ONE_IN: u64 = 5;

/// How well the network works; the worst reason decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Questions are answered.
    Good,
    /// They are, but not as they should be.
    Degraded,
    /// They are not.
    Down,
}

/// One sub-model and who could answer with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which.
    pub sub_model: SubModelId,
    /// Whether it is what a question gets that names none.
    pub is_default: bool,
    /// Connected active nodes that have all its weights loaded.
    pub holders: u64,
}

/// What the rule looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// The sub-models of the current version; empty: no model is published.
    pub models: Vec<Served>,
    /// Active nodes heard of within [`EXPECTED_WITHIN`].
    pub nodes_expected: u64,
    /// Those of them with a session right now.
    pub nodes_connected: u64,
    /// Since when the longest-silent of the others is silent, if it is known.
    pub silent_since: Option<UnixMillis>,
    /// Questions that wait for a node.
    pub queued: u64,
    /// How long the oldest of them has waited.
    pub longest_wait: Duration,
    /// Questions of the last hour that were answered, as far as they were looked at.
    pub recent_answered: u64,
    /// The same that failed without the asker's fault.
    pub recent_failed: u64,
}

/// Why the verdict is what it is; the first one matters most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The database does not answer.
    DatabaseAway {
        /// Since when that is known.
        since: UnixMillis,
    },
    /// No model is published.
    NoModel,
    /// No active node was heard of for a day.
    NoNodes,
    /// Nodes are expected and none is connected.
    NoneConnected {
        /// So many.
        expected: u64,
        /// Since when the longest-silent one is.
        since: Option<UnixMillis>,
    },
    /// Nobody has these loaded.
    Unheld {
        /// Which.
        sub_models: Vec<SubModelId>,
        /// Whether the default one is among them.
        default: bool,
    },
    /// Some nodes are missing.
    Silent {
        /// So many.
        silent: u64,
        /// Of so many expected.
        expected: u64,
        /// Since when the longest-silent one is.
        since: Option<UnixMillis>,
    },
    /// Questions wait for long.
    Waiting {
        /// So many wait.
        queued: u64,
        /// The longest for this long.
        longest: Duration,
    },
    /// Many questions fail.
    Failing {
        /// So many.
        failed: u64,
        /// Of so many looked at.
        of: u64,
    },
    /// Nothing is wrong.
    Answering {
        /// Connected active nodes.
        connected: u64,
    },
}

impl Reason {
    /// How bad this is.
    pub const fn level(&self) -> Level {
        match self {
            Self::DatabaseAway { .. }
            | Self::NoModel
            | Self::NoNodes
            | Self::NoneConnected { .. }
            | Self::Unheld { default: true, .. } => Level::Down,
            Self::Silent {
                silent, expected, ..
            } if silent.saturating_mul(SILENT_ONE_IN) < *expected => Level::Good,
            Self::Unheld { .. }
            | Self::Silent { .. }
            | Self::Waiting { .. }
            | Self::Failing { .. } => Level::Degraded,
            Self::Answering { .. } => Level::Good,
        }
    }
}

/// A level with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The worst reason's.
    pub level: Level,
    /// At least one, the worst first.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// The verdict while the database is away, when nothing else is known.
    pub fn database_away(since: UnixMillis) -> Self {
        Self::of(vec![Reason::DatabaseAway { since }])
    }

    fn of(mut reasons: Vec<Reason>) -> Self {
        // Stable: among equals the order of asking stays.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.level()));
        Self {
            level: reasons.first().map_or(Level::Good, Reason::level),
            reasons,
        }
    }
}

/// What is to be said of `view`.
pub fn verdict(view: &NetworkView) -> Verdict {
    let (expected, connected) = (view.nodes_expected, view.nodes_connected);
    let mut reasons = vec![];
    if view.models.is_empty() {
        reasons.push(Reason::NoModel);
    }
    if expected == 0 {
        reasons.push(Reason::NoNodes);
    } else if connected == 0 {
        let since = view.silent_since;
        reasons.push(Reason::NoneConnected { expected, since });
    } else {
        let unheld: Vec<&Served> = view.models.iter().filter(|m| m.holders == 0).collect();
        if !unheld.is_empty() {
            reasons.push(Reason::Unheld {
                default: unheld.iter().any(|m| m.is_default),
                sub_models: unheld.iter().map(|m| m.sub_model.clone()).collect(),
            });
        }
        let silent = expected.saturating_sub(connected);
        if silent > 0 {
            let since = view.silent_since;
            reasons.push(Reason::Silent {
                silent,
                expected,
                since,
            });
        }
    }
    if view.queued > 0 && view.longest_wait >= WAIT_FELT {
        reasons.push(Reason::Waiting {
            queued: view.queued,
            longest: view.longest_wait,
        });
    }
    let (failed, of) = (
        view.recent_failed,
        view.recent_failed.saturating_add(view.recent_answered),
    );
    if failed >= FAILURES_MIN && failed.saturating_mul(FAILED_ONE_IN) >= of {
        reasons.push(Reason::Failing { failed, of });
    }
    if reasons.iter().all(|reason| reason.level() == Level::Good) {
        reasons.insert(0, Reason::Answering { connected });
    }
    Verdict::of(reasons)
}

#[cfg(test)]
mod tests;
