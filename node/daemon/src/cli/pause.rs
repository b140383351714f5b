//! `owm-node pause` and `resume`: an order to the running node, or, where none runs, to the next one.

use std::time::Duration;

use clap::Args;
use owm_proto::UnixMillis;
use owm_service::{
    RunError,
    clock::{Clock as _, SystemClock},
    config::HumanDuration,
};
use serde_json::json;

use super::{ConfigArg, Output, block_on};
use crate::{
    control::{self, Ask, ControlError, OrderFailure},
    home::Home,
    orders::{OrderBook, OrderError, PAUSE_MS_MAX, Pause},
};

#[derive(Debug, Args)]
#[command(
    after_help = "A paused node takes no new questions, finishes those it works on, and stays connected. \
    The pause outlives a restart.\n\nExamples:\n  owm-node pause\n  owm-node pause --for 2h\n  owm-node status\n  owm-node resume"
)]
pub(super) struct PauseArgs {
    /// For how long (`90s`, `30m`, `2h`); without it until `owm-node resume`.
    #[arg(long = "for", value_name = "TIME")]
    time: Option<HumanDuration>,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  owm-node resume --config ./node-a/owm.toml")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &PauseArgs, output: Output) -> Result<(), RunError> {
    let time = arguments.time.map(HumanDuration::get);
    if time == Some(Duration::ZERO) {
        return Err(RunError::usage(
            "--for 0s pauses nothing; owm-node resume ends a pause",
        ));
    }
    if time.is_some_and(|time| time > Duration::from_millis(PAUSE_MS_MAX)) {
        return Err(RunError::usage(OrderError::TooLong));
    }
    let for_ms = time.map(|time| time.as_millis() as u64);
    let given = give(&arguments.config, Ask::Pause { for_ms }, |book| {
        book.pause(time).map(drop)
    })?;
    show(&given, output);
    Ok(())
}

pub(super) fn resume(arguments: &ResumeArgs, output: Output) -> Result<(), RunError> {
    let given = give(&arguments.config, Ask::Resume, OrderBook::resume)?;
    show(&given, output);
    Ok(())
}

struct Given {
    pause: Option<Pause>,
    runs: bool,
}

fn give(
    config: &ConfigArg,
    order: Ask,
    without_a_node: impl FnOnce(&OrderBook) -> Result<(), OrderError>,
) -> Result<Given, RunError> {
    let (path, config) = config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    match block_on(control::order(&home.control(), order))? {
        Ok(taken) => Ok(Given {
            pause: taken.pause,
            runs: true,
        }),
        Err(OrderFailure::Control(ControlError::NotRunning { .. })) => {
            // One that starts in this moment would not see what is written beside it.
            let _lock = home.lock()?;
            let book = OrderBook::open(&home, SystemClock::shared());
            without_a_node(&book)?;
            let pause = book.follow().borrow().pause;
            Ok(Given { pause, runs: false })
        }
        Err(error) => Err(error.into()),
    }
}

fn show(given: &Given, output: Output) {
    let now = UnixMillis(SystemClock::new().now_ms());
    let said = given.pause.map_or_else(
        || "not paused: takes work".to_owned(),
        |pause| pause_line(&pause, now),
    );
    let mut lines = vec![said];
    if !given.runs {
        lines.push("no node runs here; the next start goes by it".to_owned());
    }
    let value = json!({
        "paused": given.pause.is_some(),
        "pause": given.pause,
        "running": given.runs,
    });
    output.answer(&value, &lines);
}

/// The pause in a line; `status` shows it too.
pub(super) fn pause_line(pause: &Pause, now: UnixMillis) -> String {
    let end = match pause.until_ms {
        None => "until owm-node resume".to_owned(),
        Some(until) => {
            let minutes = until.since(now).as_secs().div_ceil(60).max(1);
            let left = HumanDuration::from_secs(minutes * 60);
            format!("for another {left}, or until owm-node resume")
        }
    };
    format!("paused {end}: takes no new work, finishes what runs, stays connected")
}
