//! `owm-node earnings`: what the task log adds up to. Owed is what the coordinator has booked; nothing is
//! called paid before it is.

use clap::Args;
use owm_service::RunError;
use serde_json::json;

use super::{ConfigArg, Output};
use crate::{home::Home, tasklog::TaskLog};

/// Attempts listed.
const ENTRIES: u32 = 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node earnings\n  owm-node earnings --json | jq .owed_msat"
)]
pub(super) struct EarningsArgs {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &EarningsArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let log = TaskLog::open(&home.tasks())?;
    let (sums, entries) = (log.earnings()?, log.latest(ENTRIES)?);
    let mut lines = vec![
        format!(
            "owed: {} for {} tasks ({} tokens)",
            sums.owed_msat, sums.tasks_booked, sums.output_tokens
        ),
        format!("paid: {}", sums.paid_msat),
        format!(
            "not booked yet: {}, came to nothing: {}",
            sums.tasks_open, sums.tasks_lost
        ),
    ];
    lines.extend(entries.iter().map(|entry| {
        let state = entry.state.as_deref().unwrap_or("open");
        let verdict = entry.verdict.as_deref().unwrap_or("-");
        let reward = owm_proto::Msat(entry.reward_msat);
        format!(
            "  {} {} {verdict}: {reward} {state}",
            entry.task_id, entry.task_type
        )
    }));
    let mut value = json!(sums);
    value["latest"] = json!(entries);
    output.answer(&value, &lines);
    Ok(())
}
