//! `config check`: everything that is wrong with the configuration at once, and what is in effect.

use std::path::Path;

use owm_proto::UnixMillis;
use owm_service::{
    RunError,
    config::{Effective, check},
    report::Chain,
};
use serde_json::json;

use super::commands::{beside, print};
use crate::{backup::database_url, config::Config, identity::Authority, serve};

/// Prints findings and values; a usage error if anything is wrong.
pub(super) fn run(path: &Path, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let checked = check::<Config>(path, "OWM");
    let mut problems: Vec<String> = checked
        .problems
        .iter()
        .map(|p| Chain(p).to_string())
        .collect();
    if problems.is_empty() {
        problems.extend(beyond(&beside(path, checked.config), now));
    }
    let ok = problems.is_empty();
    let value = json!({"ok": ok, "problems": problems, "values": checked.values});
    let mut lines: Vec<String> = checked.values.iter().map(Effective::line).collect();
    if ok {
        lines.push("the configuration is good".to_owned());
    } else {
        lines.extend(problems.iter().map(|problem| format!("problem: {problem}")));
    }
    print(json, &value, &lines.join("\n"))?;
    if ok {
        return Ok(());
    }
    Err(RunError::usage(format!(
        "{} has {} problem(s), all listed above: change the file and check again",
        path.display(),
        problems.len()
    )))
}

/// What can be checked beyond the file, without starting anything.
fn beyond(config: &Config, now: UnixMillis) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = serve::check(config) {
        problems.push(error.to_string());
    }
    match Authority::load(&config.identity.dir, now) {
        Ok(authority) => problems.extend(authority.vault().err().map(|e| Chain(&e).to_string())),
        Err(error) => problems.push(Chain(&error).to_string()),
    }
    if let Err(error) = database_url(config) {
        problems.push(Chain(&error).to_string());
    }
    if !config.health.listen.ip().is_loopback() {
        problems.push(format!(
            "health.listen = {} is not loopback: health and metrics are for this machine only; use 127.0.0.1",
            config.health.listen
        ));
    }
    problems
}
