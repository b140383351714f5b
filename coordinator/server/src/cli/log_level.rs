//! `owm-coordinator log-level`: shows and changes what the running coordinator logs, without a restart.

use clap::Args;
use owm_service::{
    RunError,
    config::HumanDuration,
    telemetry::{LevelAnswer, LevelAsk},
};
use serde_json::json;

use super::{
    ConfigArg,
    commands::{print, read_config},
};
use crate::control;

/// What is asked.
#[derive(Debug, Args)]
pub struct LogLevelArgs {
    /// The new filter; without it the one in use is shown.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Go back by itself after this time: 30s, 10m, 2h; at most 24h.
    #[arg(long = "for", value_name = "TIME", requires = "filter")]
    time: Option<HumanDuration>,
    /// Go back now to the filter it was started with.
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) async fn run(arguments: LogLevelArgs, json: bool) -> Result<(), RunError> {
    let config = read_config(&arguments.config.config)?;
    let ask = match (arguments.filter, arguments.reset) {
        (Some(filter), _) => LevelAsk::Set {
            filter,
            for_secs: arguments.time.map(|time| time.get().as_secs()),
        },
        (None, true) => LevelAsk::Reset,
        (None, false) => LevelAsk::Show,
    };
    let LevelAnswer { state, error } = control::log_level(&config.control.socket, ask).await?;
    if let Some(error) = error {
        return Err(RunError::usage(error));
    }
    print(json, &json!(state), &state.to_string())
}
