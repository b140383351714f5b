//! `owm-node drain`: the running node takes no new work, finishes and hands in what it has, and ends; this
//! command waits for it and shows how far it is.

use std::time::Duration;

use clap::Args;
use owm_service::{RunError, config::HumanDuration, progress::Progress};
use serde_json::json;

use super::{ConfigArg, Output, Told, block_on};
use crate::{
    control::{self, Ask, ControlError},
    home::{Home, HomeError},
    last_exit::LastExit,
    orders::DRAIN_MS_MAX,
    status::Status,
    tasklog::TaskLog,
};

/// Between two looks at the node.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the process may live on after it has stopped answering.
const END_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node drain\n  owm-node drain --within 10m\n\n\
    The node ends with exit code 0; a service manager that restarts on failure leaves it ended. Ctrl-C \
    ends the waiting, not the draining; `kill -TERM` on the node ends it sooner.\n\
    Exit codes: 0 drained, 1 something was left (it is kept and handed in by the next start)."
)]
pub(super) struct DrainArgs {
    /// What is not done within this time is handed back to the network.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    within: HumanDuration,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(arguments: &DrainArgs, output: Output) -> Result<(), RunError> {
    let within_ms = arguments.within.get().as_millis() as u64;
    if within_ms > DRAIN_MS_MAX {
        return Err(RunError::usage("--within: at most 168h (a week)"));
    }
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    block_on(drain(&home, within_ms, output))??;
    if let Some(why) = not_well(LastExit::load(&home).as_ref()) {
        return Err(RunError::failed(why));
    }
    let left = TaskLog::open(&home.tasks())?.unacked()?.len();
    let value = json!({ "drained": left == 0, "results_left": left });
    if left > 0 {
        if output.json {
            output.answer(&value, &[]);
        }
        output.complain(&format!(
            "the node has ended with {left} results that the coordinator has not taken; they are kept \
             and handed in by the next owm-node start"
        ));
        return Err(RunError::failed(Told));
    }
    let line = "drained: all work is handed in, the node has ended";
    output.answer(&value, &[line.to_owned()]);
    Ok(())
}

async fn drain(home: &Home, within_ms: u64, output: Output) -> Result<(), RunError> {
    control::order(&home.control(), Ask::Drain { within_ms }).await?;
    let mut process = None;
    let mut shown = String::new();
    let mut bar: Option<Progress> = None;
    loop {
        match control::ask(&home.control()).await {
            Ok(answer) => {
                let status = answer.status;
                let found = (status.pid, status.started_at_ms);
                if *process.get_or_insert(found) != found {
                    return Err(RunError::failed(RESTARTED));
                }
                let left = u64::from(status.running) + u64::from(status.unacknowledged);
                let bar = bar.get_or_insert_with(|| Progress::items(left, "draining"));
                bar.set(bar.total().saturating_sub(left));
                let line = line(&status);
                if line != shown {
                    output.say(&line);
                    shown = line;
                }
            }
            // Busy with its end, or gone already.
            Err(ControlError::NotRunning { .. } | ControlError::Broken { .. }) => {
                if has_ended(home).await? {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.iter().for_each(Progress::clear);
    Ok(())
}

/// Said of a process that nobody told to drain.
const RESTARTED: &str = "the node that drained has ended, and another one was started in its place, which takes work: stop what \
     starts it (the service manager), then: owm-node drain";

/// Why what ended was no drain; `None`: it was one, or nothing says otherwise.
fn not_well(last: Option<&LastExit>) -> Option<String> {
    let last = last?;
    let again =
        "what was left is kept and handed in by the next owm-node start; see owm-node doctor";
    if last.running {
        return Some(format!(
            "the node ended without a word while it drained (killed?); {again}"
        ));
    }
    let LastExit { code, reason, .. } = last;
    (*code != 0)
        .then(|| format!("the node ended with code {code} while it drained: {reason}; {again}"))
}

fn line(status: &Status) -> String {
    let link = match (&status.link_error, status.linked) {
        (Some(error), false) => format!("; no work link: {error}"),
        (None, false) => "; no work link yet".to_owned(),
        (_, true) => String::new(),
    };
    format!(
        "draining: {} tasks running, {} results to be taken{link}",
        status.running, status.unacknowledged
    )
}

/// The lock of the data folder falls with the process.
async fn has_ended(home: &Home) -> Result<bool, RunError> {
    let waiting = async {
        loop {
            match home.lock() {
                Ok(_lock) => return Ok(true),
                Err(HomeError::Locked(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if control::ask(&home.control()).await.is_ok() {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let waited = tokio::time::timeout(END_TIME, waiting).await;
    waited.unwrap_or_else(|_| {
        Err(RunError::failed(
            "the node no longer answers and does not end; look at its log, then kill it",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_end_is_a_drain() {
        let ended = |outcome| not_well(Some(&LastExit::of(&outcome, 1)));
        assert_eq!(not_well(None), None);
        assert_eq!(ended(Ok(())), None);
        assert!(
            ended(Err(RunError::do_not_restart("fenced")))
                .unwrap()
                .contains("fenced")
        );
        let killed = LastExit {
            running: true,
            ..LastExit::of(&Ok(()), 1)
        };
        assert!(not_well(Some(&killed)).unwrap().contains("without a word"));
    }
}
