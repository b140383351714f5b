//! `owm-node status`: asks the running node; if none runs, says so and shows the log's last facts.

mod swarm;

use clap::Args;
use owm_proto::UnixMillis;
use owm_service::{
    RunError,
    clock::{Clock as _, SystemClock},
};
use serde_json::json;

use super::{ConfigArg, Output, block_on, pause::pause_line};
use crate::{
    activity::RunningTask,
    control::{self, ControlError, StatusAnswer},
    home::Home,
    status::{ModelStatus, Origin, Status},
    tasklog::{Earnings, TaskLog},
};

/// Attempts shown when no node runs.
const ENTRIES: u32 = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node status\n  owm-node status --config ./node-a/owm.toml --json\n\nExit code 1: no node runs here."
)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &StatusArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    match block_on(control::ask(&home.control()))? {
        Ok(answer) => {
            output.answer(&json!(answer), &lines(&answer));
            Ok(())
        }
        Err(error @ ControlError::NotRunning { .. }) => {
            show_log(&home, output)?;
            Err(RunError::failed(error))
        }
        Err(error) => Err(RunError::failed(error)),
    }
}

fn show_log(home: &Home, output: Output) -> Result<(), RunError> {
    if output.json || !home.tasks().exists() {
        return Ok(());
    }
    let log = TaskLog::open(&home.tasks())?;
    output.say(&format!(
        "not running; from the task log: {}",
        sums(&log.earnings()?)
    ));
    for entry in log.latest(ENTRIES)? {
        let verdict = entry.verdict.as_deref().unwrap_or("not acknowledged");
        output.say(&format!(
            "  task {} {}: {verdict}",
            entry.task_id, entry.task_type
        ));
    }
    Ok(())
}

fn sums(earnings: &Earnings) -> String {
    format!(
        "{} tasks booked, {} lost, {} open; {} owed, {} paid",
        earnings.tasks_booked,
        earnings.tasks_lost,
        earnings.tasks_open,
        earnings.owed_msat,
        earnings.paid_msat
    )
}

fn lines(answer: &StatusAnswer) -> Vec<String> {
    let Status {
        phase,
        node_key,
        network,
        coordinator,
        ..
    } = &answer.status;
    let status = &answer.status;
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let phase = format!("{phase:?}").to_lowercase();
    let link = match (&status.link_error, status.linked) {
        (_, true) => "work link stands".to_owned(),
        (Some(error), false) => format!("no work link: {error}"),
        (None, false) => "no work link yet".to_owned(),
    };
    let from = |origin: Option<Origin>| match origin {
        Some(origin) => format!(" (from {})", origin.as_str()),
        None => String::new(),
    };
    let origins = &status.origins;
    let mut lines = vec![
        format!(
            "node {} is {phase} (pid {}), status {}{}",
            &node_key[..8],
            status.pid,
            text(&status.node_status),
            from(origins.node_status)
        ),
        format!(
            "network {network}{}, coordinator {coordinator}: {link}",
            from(origins.network)
        ),
        format!(
            "tier {}{}, stake: {}",
            text(&status.tier),
            from(origins.tier),
            text(&status.stake_policy)
        ),
    ];
    lines.extend(answer.swarm.iter().flat_map(swarm::lines));
    lines.extend(
        status
            .reasons
            .iter()
            .map(|reason| format!("pending: {reason}")),
    );
    lines.extend(status.model.iter().flat_map(model_lines));
    lines.extend(
        status
            .model_state
            .iter()
            .map(|state| format!("model: {state}")),
    );
    lines.extend(
        status
            .model_damage
            .iter()
            .map(|what| format!("model files: {what}")),
    );
    let hours = if status.open {
        ""
    } else {
        ", outside its hours"
    };
    lines.push(format!(
        "tasks: {} of {} slots running, {} results unacknowledged{hours}",
        status.running, status.slots, status.unacknowledged
    ));
    lines.extend(answer.running.iter().map(running_line));
    let now = UnixMillis(SystemClock::new().now_ms());
    lines.extend(status.pause.iter().map(|pause| pause_line(pause, now)));
    lines.extend(answer.earnings.iter().map(sums));
    lines.extend(status.hardware.iter().cloned());
    lines
}

fn running_line(task: &RunningTask) -> String {
    format!(
        "  task {}: {}, {:.1} tokens/s, for {} s",
        task.task_id,
        task.about(),
        task.tokens_per_s,
        task.elapsed_ms / 1_000
    )
}

fn model_lines(model: &ModelStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "model {} ({})",
        model.version,
        model.sub_models.join(", ")
    )];
    lines.extend(
        model
            .sha256
            .iter()
            .map(|sha256| format!("  sha256 {sha256}")),
    );
    if !model.note.is_empty() {
        lines.push(format!("  {}", model.note));
    }
    lines.push(format!("  {}", model.timestamps));
    if let Some(engine) = &model.engine {
        lines.push(format!(
            "  {} on {}: {}",
            engine.backend, engine.device, engine.device_reason
        ));
    }
    lines
}
