//! `owm-node log-level`: shows and changes what the running node logs, without a restart.

use clap::Args;
use owm_service::{
    RunError,
    config::HumanDuration,
    telemetry::{LevelAnswer, LevelAsk},
};
use serde_json::json;

use super::{ConfigArg, Output, block_on};
use crate::{control, home::Home};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node log-level\n  owm-node log-level info,owm_node=debug --for 10m\n  owm-node log-level --reset\n\n\
    A filter is a level (off, error, warn, info, debug, trace) or a list like warn,owm_node::session=trace.\n\
    It holds until the node restarts; what holds longer is [log] filter in the configuration."
)]
pub(super) struct LogLevelArgs {
    /// The new filter; without it the one in use is shown.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// Go back by itself after this time: 30s, 10m, 2h; at most 24h.
    #[arg(long = "for", value_name = "TIME", requires = "filter")]
    time: Option<HumanDuration>,
    /// Go back now to the filter the node was started with.
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &LogLevelArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let socket = Home::open(&config.data_folder(&path))?.control();
    let ask = match (&arguments.filter, arguments.reset) {
        (Some(filter), _) => LevelAsk::Set {
            filter: filter.clone(),
            for_secs: arguments.time.map(|time| time.get().as_secs()),
        },
        (None, true) => LevelAsk::Reset,
        (None, false) => LevelAsk::Show,
    };
    let answer = block_on(control::log_level(&socket, ask))?.map_err(RunError::failed)?;
    let LevelAnswer { state, error } = answer;
    if let Some(error) = error {
        return Err(RunError::usage(error));
    }
    output.answer(&json!(state), &[state.to_string()]);
    Ok(())
}
