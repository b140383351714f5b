//! The last warnings and errors of this process, for dashboards: a layer that keeps what it sees, whatever
//! the log filter says.
//!
//! Must stay true: bounded; only what would be in the log at level `warn`, so no user's text.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{Layer, layer};

use crate::clock::SharedClock;

/// Warnings kept: a screenful.
pub const WARNINGS_MAX: usize = 20;
/// Longest text of one, in characters: two lines of a terminal.
const TEXT_CHARS_MAX: usize = 240;

/// A line of the log, `WARN` or `ERROR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// `warn` or `error`.
    pub level: String,
    /// The module it comes from.
    pub target: String,
    /// The message and its fields, shortened.
    pub text: String,
}

/// The last of them. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<VecDeque<Warning>>>);

impl Warnings {
    /// Newest first.
    pub(super) fn latest(&self) -> Vec<Warning> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().cloned().collect()
    }

    fn keep(&self, warning: Warning) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == WARNINGS_MAX {
            kept.pop_front();
        }
        kept.push_back(warning);
    }
}

/// Hands warnings to a [`Warnings`].
#[derive(Debug)]
pub(super) struct WarningsLayer {
    pub(super) warnings: Warnings,
    pub(super) clock: SharedClock,
}

impl<S: Subscriber> Layer<S> for WarningsLayer {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        if level > Level::WARN {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields);
        self.warnings.keep(Warning {
            at_ms: self.clock.now_ms(),
            level: level.as_str().to_ascii_lowercase(),
            target: target.to_owned(),
            text: text
                .chars()
                .filter(|c| !c.is_control())
                .take(TEXT_CHARS_MAX)
                .collect(),
        });
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn warnings_are_kept_newest_first_and_bounded() {
        let warnings = Warnings::default();
        let layer = WarningsLayer {
            warnings: warnings.clone(),
            clock: ManualClock::shared(7),
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..WARNINGS_MAX + 5 {
                tracing::warn!(n, "line");
            }
            tracing::info!("not a warning");
            tracing::error!(disk.free = 3, "no\nroom");
        });
        let kept = warnings.latest();
        assert_eq!(kept.len(), WARNINGS_MAX);
        assert_eq!(kept[0].text, "noroom disk.free=3");
        assert_eq!((kept[0].level.as_str(), kept[0].at_ms), ("error", 7));
        assert_eq!(kept[1].text, format!("line n={}", WARNINGS_MAX + 4));
        assert!(kept[1].target.ends_with("warnings::tests"));
    }
}
