//! Logs: to standard error, for people at a terminal, as JSON for a journal.
//!
//! `run` calls [`init`] first; the handle changes the filter at run time. Must stay true: standard
//! output stays free for a command's own output; nothing is buffered, so nothing is lost at the end.
//!
//! `OWM_LOG` holds the filter (`info,owm_coordinator=debug`), `OWM_LOG_FORMAT` forces `json` or `human`.
//! docs/logging.md tells operators all of it.

mod level;
mod warnings;

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use level::{Current, parse_filter};
pub use level::{FILTER_BYTES_MAX, FOR_MAX, FilterState, LevelAnswer, LevelAsk};
pub use warnings::{WARNINGS_MAX, Warning};
use warnings::{Warnings, WarningsLayer};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{self, format::FmtSpan},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::clock::SystemClock;

/// The variable with the filter.
pub const FILTER_ENV: &str = "OWM_LOG";
/// The variable that forces a format.
pub const FORMAT_ENV: &str = "OWM_LOG_FORMAT";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured at a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

/// What a program wants of its logs.
#[derive(Debug, Clone)]
pub struct TelemetryOptions {
    /// The filter when `OWM_LOG` is not set.
    pub default_filter: String,
    /// The format; `None` decides by the surroundings.
    pub format: Option<LogFormat>,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self {
            default_filter: "info,sqlx::postgres::notice=warn".to_owned(),
            format: None,
        }
    }
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error(
        "the log filter `{filter}` is malformed at `{directive}`: {reason}; levels are off, error, warn, \
         info, debug, trace; write for example `debug` or `info,owm_node=debug`"
    )]
    Filter {
        /// As given.
        filter: String,
        /// The part that is wrong.
        directive: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A filter for no time, or for too long.
    #[error(
        "a log filter cannot be set for {} s: it must be 1 s to {} s; leave the time out for good, or set \
         it in the configuration", time.as_secs(), FOR_MAX.as_secs()
    )]
    Time {
        /// As given.
        time: Duration,
    },
    /// `OWM_LOG_FORMAT` is neither `json` nor `human`.
    #[error("{FORMAT_ENV}=`{value}` is no log format; use `json` or `human`")]
    Format {
        /// As given.
        value: String,
    },
    /// Another subscriber is in place (in tests).
    #[error("logging is set up already")]
    AlreadySet,
    /// The filter cannot be changed: the subscriber is gone.
    #[error("the log filter cannot be changed any more")]
    Gone,
}

/// Changes the filter while the process runs, and shows the last warnings. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    reload: Arc<dyn Fn(EnvFilter) -> Result<(), TelemetryError> + Send + Sync>,
    current: Arc<Mutex<Current>>,
    warnings: Warnings,
}

impl Handle {
    /// The last warnings and errors, newest first, at most [`WARNINGS_MAX`].
    pub fn warnings(&self) -> Vec<Warning> {
        self.warnings.latest()
    }

    /// A handle of no logs: for tests, and for a second `run` in one process.
    pub fn detached() -> Self {
        Self {
            reload: Arc::new(|_| Err(TelemetryError::Gone)),
            current: Current::started_with(""),
            warnings: Warnings::default(),
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("telemetry::Handle")
    }
}

/// Sets up logging for the process.
pub fn init(options: &TelemetryOptions) -> Result<Handle, TelemetryError> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let text = var(FILTER_ENV).unwrap_or_else(|| options.default_filter.clone());
    let filter = parse_filter(&text)?;
    let tty = std::io::stderr().is_terminal();
    let format = choose_format(options.format, tty, var)?;
    let (filter, reload) = reload::Layer::new(filter);
    let lines = lines_layer(format, tty);
    let warnings = Warnings::default();
    let kept = WarningsLayer {
        warnings: warnings.clone(),
        clock: SystemClock::shared(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(kept.with_filter(LevelFilter::WARN))
        .try_init()
        .map_err(|_| TelemetryError::AlreadySet)?;
    Ok(Handle {
        reload: Arc::new(move |filter| reload.reload(filter).map_err(|_| TelemetryError::Gone)),
        current: Current::started_with(&text),
        warnings,
    })
}

/// Brings out what was written; standard error is not buffered, so this only reaches the system.
pub fn flush() {
    drop(std::io::stderr().flush());
}

fn lines_layer(format: LogFormat, tty: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    match format {
        LogFormat::Human => layer.with_ansi(tty).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .boxed(),
    }
}

fn choose_format(
    wanted: Option<LogFormat>,
    tty: bool,
    var: impl Fn(&str) -> Option<String>,
) -> Result<LogFormat, TelemetryError> {
    match var(FORMAT_ENV).as_deref() {
        Some("json") => return Ok(LogFormat::Json),
        Some("human") => return Ok(LogFormat::Human),
        Some(other) => {
            return Err(TelemetryError::Format {
                value: other.to_owned(),
            });
        }
        None => {}
    }
    let journal = var("INVOCATION_ID").is_some() || var("JOURNAL_STREAM").is_some();
    let surroundings = if !tty && journal {
        LogFormat::Json
    } else {
        LogFormat::Human
    };
    Ok(wanted.unwrap_or(surroundings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(tty: bool, vars: &[(&str, &str)]) -> Result<LogFormat, TelemetryError> {
        choose_format(None, tty, |name| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn people_get_lines_and_journals_get_json() {
        assert_eq!(format(true, &[]).unwrap(), LogFormat::Human);
        assert_eq!(format(false, &[]).unwrap(), LogFormat::Human);
        assert_eq!(
            format(false, &[("INVOCATION_ID", "1")]).unwrap(),
            LogFormat::Json
        );
        assert_eq!(
            format(false, &[("JOURNAL_STREAM", "8:1")]).unwrap(),
            LogFormat::Json
        );
        assert_eq!(
            format(true, &[("JOURNAL_STREAM", "8:1")]).unwrap(),
            LogFormat::Human
        );
        assert_eq!(
            format(true, &[("OWM_LOG_FORMAT", "json")]).unwrap(),
            LogFormat::Json
        );
        let vars = [("OWM_LOG_FORMAT", "human"), ("INVOCATION_ID", "1")];
        assert_eq!(format(false, &vars).unwrap(), LogFormat::Human);
        assert!(format(false, &[("OWM_LOG_FORMAT", "xml")]).is_err());
    }
}
