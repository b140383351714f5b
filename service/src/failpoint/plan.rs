//! The parsed failpoint configuration: which name does what on which hit.
//!
//! Pure but for its hit counters; `failpoint` holds the process's one plan. Must stay true: a plan
//! that does not parse is refused whole.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Longest delay a failpoint may ask for: more is a hang, not a delay.
const DELAY_MAX: Duration = Duration::from_mins(10);

/// What a failpoint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL to the own process.
    Kill9,
    /// A panic.
    Panic,
    /// An injected error.
    Err,
    /// A wait.
    Delay(Duration),
    /// Nothing; the hit is still logged.
    Off,
}

/// Why a plan was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An entry without `=`.
    #[error("failpoint entry `{entry}` is not `name=action`")]
    NoAction {
        /// The entry as given.
        entry: String,
    },
    /// An action nobody knows.
    #[error(
        "failpoint `{name}`: `{action}` is no action; use kill9, panic, err, off or delay:<n>ms, \
         each with an optional @<hit>"
    )]
    Action {
        /// The failpoint.
        name: String,
        /// What stood after `=`.
        action: String,
    },
    /// `@n` where n is no positive number.
    #[error("failpoint `{name}`: `@{hit}` is no hit number; the first hit is @1")]
    Hit {
        /// The failpoint.
        name: String,
        /// What stood after `@`.
        hit: String,
    },
    /// The same name twice.
    #[error("failpoint `{name}` is configured twice; keep one entry")]
    Twice {
        /// The failpoint.
        name: String,
    },
}

#[derive(Debug)]
struct Entry {
    action: Action,
    /// Act on this hit only, counted from 1.
    only: Option<u64>,
    hits: AtomicU64,
}

/// One hit of a configured failpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Which hit of this name it is, from 1.
    pub count: u64,
    /// What to do; `None` when the plan waits for another hit.
    pub action: Option<Action>,
}

/// A whole configuration.
#[derive(Debug, Default)]
pub struct Plan {
    entries: BTreeMap<String, Entry>,
}

impl Plan {
    /// Parses `name=action[@n];name=action…`. Empty entries and blanks around parts are allowed.
    pub fn parse(spec: &str) -> Result<Self, PlanError> {
        let mut entries = BTreeMap::new();
        for entry in spec
            .split(';')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            let (name, rest) = entry
                .split_once('=')
                .map(|(name, rest)| (name.trim(), rest.trim()))
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| PlanError::NoAction {
                    entry: entry.to_owned(),
                })?;
            let parsed = parse_entry(name, rest)?;
            if entries.insert(name.to_owned(), parsed).is_some() {
                return Err(PlanError::Twice {
                    name: name.to_owned(),
                });
            }
        }
        Ok(Self { entries })
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The configured names.
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Counts a hit of `name`; `None` when it is not configured.
    pub fn decide(&self, name: &str) -> Option<Hit> {
        let entry = self.entries.get(name)?;
        let count = entry.hits.fetch_add(1, Ordering::Relaxed) + 1;
        let acts = entry.only.is_none_or(|only| only == count);
        Some(Hit {
            count,
            action: acts.then_some(entry.action),
        })
    }
}

fn parse_entry(name: &str, text: &str) -> Result<Entry, PlanError> {
    let (action_text, only) = match text.split_once('@') {
        None => (text, None),
        Some((action, hit)) => match hit.trim().parse::<u64>() {
            Ok(number) if number > 0 => (action.trim(), Some(number)),
            _ => {
                return Err(PlanError::Hit {
                    name: name.to_owned(),
                    hit: hit.to_owned(),
                });
            }
        },
    };
    let action = match action_text {
        "kill9" => Some(Action::Kill9),
        "panic" => Some(Action::Panic),
        "err" => Some(Action::Err),
        "off" => Some(Action::Off),
        other => other
            .strip_prefix("delay:")
            .and_then(parse_delay)
            .map(Action::Delay),
    };
    let action = action.ok_or_else(|| PlanError::Action {
        name: name.to_owned(),
        action: text.to_owned(),
    })?;
    Ok(Entry {
        action,
        only,
        hits: AtomicU64::new(0),
    })
}

fn parse_delay(text: &str) -> Option<Duration> {
    let wait = text
        .trim()
        .parse::<crate::config::HumanDuration>()
        .ok()?
        .get();
    (wait <= DELAY_MAX).then_some(wait)
}
