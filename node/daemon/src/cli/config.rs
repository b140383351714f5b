//! `owm-node config`: everything that is wrong with the configuration at once, what is in effect, and the
//! commented sample.

use std::{net::SocketAddr, path::Path};

use clap::{Args, Subcommand};
use owm_proto::{NodeKey, SubModelId, invite::Invite};
use owm_service::{
    RunError,
    config::{Effective, check, sample},
    report::Chain,
};
use serde_json::json;

use super::{ConfigArg, Output, Told};
use crate::{caps::Caps, config::NodeConfig, swarm::Settings};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says everything that is wrong with it, and what is in effect.
    #[command(
        after_help = "Examples:\n  owm-node config check\n  OWM_CAPS__RAM=4GiB owm-node config check --config \
        ./node-a/owm.toml --json\n\nExit codes: 0 good, 2 wrong."
    )]
    Check {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Prints a commented sample.
    #[command(after_help = "Example:\n  owm-node config sample > owm.toml")]
    Sample,
}

pub(super) fn run(arguments: &ConfigArgs, output: Output) -> Result<(), RunError> {
    match &arguments.command {
        ConfigCommand::Check { config } => look(&config.path()?, output),
        ConfigCommand::Sample => {
            let text = sample::<NodeConfig>();
            output.answer(&json!({ "sample": text }), &[text.trim_end().to_owned()]);
            Ok(())
        }
    }
}

fn look(path: &Path, output: Output) -> Result<(), RunError> {
    let checked = check::<NodeConfig>(path, "OWM");
    let mut problems: Vec<String> = checked
        .problems
        .iter()
        .map(|problem| Chain(problem).to_string())
        .collect();
    if problems.is_empty() {
        problems.extend(beyond(&checked.config, path));
    }
    let ok = problems.is_empty();
    let mut lines: Vec<String> = checked.values.iter().map(Effective::line).collect();
    if ok {
        lines.push("the configuration is good".to_owned());
    } else {
        lines.extend(problems.iter().map(|problem| format!("problem: {problem}")));
    }
    let value = json!({ "ok": ok, "problems": problems, "values": checked.values });
    output.answer(&value, &lines);
    if ok {
        return Ok(());
    }
    output.complain(&format!(
        "{} has {} problem(s), all listed above: change the file and check again",
        path.display(),
        problems.len()
    ));
    Err(RunError::usage(Told))
}

/// What can be checked beyond the file, without starting anything.
fn beyond(config: &NodeConfig, path: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    match config.coordinator.invite.parse::<Invite>() {
        _ if config.coordinator.invite.is_empty() => problems
            .push("coordinator.invite is empty; run owm-node init --join <invite>".to_owned()),
        Err(error) => problems.push(format!("coordinator.invite: {error}")),
        Ok(_) => {}
    }
    if let Err(error) = Caps::parse(&config.caps) {
        problems.push(format!("caps: {}", Chain(&error)));
    }
    for id in &config.model.sub_models {
        if let Err(error) = id.parse::<SubModelId>() {
            problems.push(format!("model.sub_models: `{id}`: {error}"));
        }
    }
    let listen = &config.health.listen;
    let loopback = |addr: SocketAddr| addr.ip().is_loopback();
    if listen != "off" && !listen.parse().is_ok_and(loopback) {
        problems.push(format!(
            "health.listen = `{listen}` is no loopback address; write 127.0.0.1:9091 or off"
        ));
    }
    if let Err(wrong) = Settings::parse(&config.p2p) {
        problems.extend(wrong.iter().map(ToString::to_string));
    }
    let key = config.data_folder(path).join("node.pem");
    if let Err(error) = NodeKey::load(&key) {
        problems.push(Chain(&error).to_string());
    }
    problems
}
