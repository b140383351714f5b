//! Log levels while a process runs: parses filters strictly, replaces the one in use, and takes it back
//! by itself after a time. `telemetry::init` makes the state; control sockets change it.
//!
//! Must stay true: a filter that does not hold changes nothing; a newer change is never undone by an
//! older one's timer; the filter that the process started with can always be had again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing_subscriber::{EnvFilter, filter::Directive};

use super::{Handle, TelemetryError};

/// Longest filter, in bytes: a few dozen directives.
pub const FILTER_BYTES_MAX: usize = 1_024;
/// Longest time a filter is set for: what is needed longer belongs into the configuration.
pub const FOR_MAX: Duration = Duration::from_hours(24);
/// What a level may be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The filter in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterState {
    /// What is logged now.
    pub filter: String,
    /// What the process was started with.
    pub default: String,
    /// In so many seconds the default comes back; absent: it does not.
    pub reverts_in_secs: Option<u64>,
}

impl std::fmt::Display for FilterState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "log filter: {}", self.filter)?;
        match self.reverts_in_secs {
            Some(secs) => write!(f, " (for {secs} s more, then {})", self.default),
            None if self.filter == self.default => Ok(()),
            None => write!(f, " (until the restart; started with {})", self.default),
        }
    }
}

/// What is asked of a running process's logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum LevelAsk {
    /// The filter in use.
    Show,
    /// Another filter, for good or for a time.
    Set {
        /// `info,owm_node=debug`.
        filter: String,
        /// Seconds until the default comes back.
        for_secs: Option<u64>,
    },
    /// The default, now.
    Reset,
}

/// The answer to a [`LevelAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelAnswer {
    /// The filter in use, whatever was asked.
    pub state: FilterState,
    /// Why what was asked was not done.
    pub error: Option<String>,
}

/// What is in use since when; the handle shares it with its timers.
#[derive(Debug)]
pub(super) struct Current {
    default: String,
    filter: String,
    until: Option<Instant>,
    /// Counts changes, so that an old timer knows that it is old.
    change: u64,
}

impl Current {
    pub(super) fn started_with(filter: &str) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            default: filter.to_owned(),
            filter: filter.to_owned(),
            until: None,
            change: 0,
        }))
    }
}

impl Handle {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filter in use.
    pub fn filter(&self) -> FilterState {
        let current = self.current();
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        FilterState {
            filter: current.filter.clone(),
            default: current.default.clone(),
            // Rounded up: 0 would read as over.
            reverts_in_secs: current.until.map(|until| left(until).as_secs() + 1),
        }
    }

    /// Replaces the filter; with a time, the default comes back after it (needs a tokio runtime).
    pub fn set_filter(&self, filter: &str, time: Option<Duration>) -> Result<(), TelemetryError> {
        if let Some(time) = time.filter(|time| time.is_zero() || *time > FOR_MAX) {
            return Err(TelemetryError::Time { time });
        }
        let parsed = parse_filter(filter)?;
        let change = {
            let mut current = self.current();
            (self.reload)(parsed)?;
            filter.clone_into(&mut current.filter);
            current.until = time.map(|time| Instant::now() + time);
            current.change += 1;
            current.change
        };
        tracing::info!(
            log.filter = filter,
            for_secs = time.map(|time| time.as_secs()),
            "log filter changed"
        );
        if let Some(time) = time {
            let handle = self.clone();
            // Detached: it ends by itself, and at the latest with the runtime.
            drop(tokio::spawn(async move {
                tokio::time::sleep(time).await;
                handle.revert(change);
            }));
        }
        Ok(())
    }

    /// Back to the default, now.
    pub fn reset_filter(&self) -> Result<(), TelemetryError> {
        let default = self.current().default.clone();
        self.set_filter(&default, None)
    }

    /// Does what is asked and says what is in use then.
    pub fn take(&self, ask: &LevelAsk) -> LevelAnswer {
        let done = match ask {
            LevelAsk::Show => Ok(()),
            LevelAsk::Set { filter, for_secs } => {
                self.set_filter(filter, for_secs.map(Duration::from_secs))
            }
            LevelAsk::Reset => self.reset_filter(),
        };
        LevelAnswer {
            state: self.filter(),
            error: done.err().map(|error| error.to_string()),
        }
    }

    fn revert(&self, change: u64) {
        let default = {
            let current = self.current();
            if current.change != change {
                return;
            }
            current.default.clone()
        };
        // It parsed when the process started; a subscriber that is gone has nothing to revert.
        drop(self.set_filter(&default, None));
    }
}

/// Parses a filter, stricter than the library: a lone word that is no level is a slip (`debgu`), which
/// the library takes for the name of a target and then logs nothing else.
pub(super) fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let wrong = |directive: &str, reason: String| TelemetryError::Filter {
        filter: filter.chars().take(FILTER_BYTES_MAX).collect(),
        directive: directive.chars().take(FILTER_BYTES_MAX).collect(),
        reason,
    };
    if filter.len() > FILTER_BYTES_MAX {
        let reason = format!("a filter has at most {FILTER_BYTES_MAX} bytes");
        return Err(wrong("…", reason));
    }
    for directive in directives(filter) {
        if let Some((_, level)) = directive.rsplit_once('=')
            && !directive.ends_with(']')
            && !is_level(level)
        {
            return Err(wrong(directive, format!("`{level}` is no level")));
        }
        if !directive.contains(['=', '[']) && !is_level(directive) {
            let reason = "a word alone must be a level; write target=level".to_owned();
            return Err(wrong(directive, reason));
        }
        directive
            .parse::<Directive>()
            .map_err(|error| wrong(directive, error.to_string()))?;
    }
    EnvFilter::try_new(filter).map_err(|error| wrong(filter, error.to_string()))
}

fn is_level(word: &str) -> bool {
    LEVELS.contains(&word.to_ascii_lowercase().as_str())
}

/// The parts between commas, as the library takes them.
fn directives(filter: &str) -> impl Iterator<Item = &str> {
    let parts = filter.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::warnings::Warnings;

    /// A handle whose reloads are remembered instead of done.
    fn handle() -> (Handle, Arc<Mutex<Vec<String>>>) {
        let done = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&done);
        let handle = Handle {
            reload: Arc::new(move |filter| {
                kept.lock().unwrap().push(filter.to_string());
                Ok(())
            }),
            current: Current::started_with("info"),
            warnings: Warnings::default(),
        };
        (handle, done)
    }

    #[test]
    fn a_malformed_filter_is_refused_and_what_is_wrong_is_named() {
        let refused = [
            ("info,owm=loudest", "`owm=loudest`", "`loudest` is no level"),
            ("debgu", "`debgu`", "must be a level"),
            ("info,hyper", "`hyper`", "must be a level"),
            ("info,a=b=c", "`a=b=c`", "`c` is no level"),
        ];
        for (filter, directive, reason) in refused {
            let error = parse_filter(filter).unwrap_err().to_string();
            assert!(error.contains(directive), "{filter}: {error}");
            assert!(error.contains(reason), "{filter}: {error}");
            assert!(error.contains("owm_node=debug"), "what to write: {error}");
        }
        assert!(parse_filter(&"a".repeat(FILTER_BYTES_MAX + 1)).is_err());
        for good in [
            "info",
            "INFO",
            "",
            "info,owm_node=debug",
            "warn,owm_node::session=trace,sqlx::postgres::notice=off",
            "info,[task{name=a}]=debug",
        ] {
            parse_filter(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_filter_set_for_a_time_goes_back_by_itself() {
        let (handle, done) = handle();
        let time = Duration::from_mins(10);
        handle.set_filter("debug", Some(time)).unwrap();
        let state = handle.filter();
        assert_eq!(
            (state.filter.as_str(), state.default.as_str()),
            ("debug", "info")
        );
        assert_eq!(state.reverts_in_secs, Some(601));
        tokio::time::sleep(time + Duration::from_secs(1)).await;
        assert_eq!(handle.filter().filter, "info");
        assert_eq!(handle.filter().reverts_in_secs, None);
        assert_eq!(*done.lock().unwrap(), ["debug", "info"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_timer_does_not_undo_a_newer_change() {
        let (handle, _) = handle();
        handle
            .set_filter("debug", Some(Duration::from_mins(1)))
            .unwrap();
        handle.set_filter("trace", None).unwrap();
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(handle.filter().filter, "trace");
        handle.reset_filter().unwrap();
        assert_eq!(handle.filter().filter, "info");
    }

    #[tokio::test]
    async fn a_refused_change_changes_nothing_and_says_why() {
        let (handle, done) = handle();
        let ask = |filter: &str, for_secs| LevelAsk::Set {
            filter: filter.into(),
            for_secs,
        };
        for wrong in [
            ask("loud", None),
            ask("debug", Some(0)),
            ask("debug", Some(86_401)),
        ] {
            let answer = handle.take(&wrong);
            assert!(answer.error.is_some(), "{wrong:?}");
            assert_eq!(answer.state.filter, "info");
        }
        assert!(done.lock().unwrap().is_empty());
        let answer = handle.take(&ask("debug", Some(5)));
        assert_eq!(answer.error, None);
        assert_eq!(answer.state.filter, "debug");
        assert_eq!(handle.take(&LevelAsk::Show).state, answer.state);
    }
}
