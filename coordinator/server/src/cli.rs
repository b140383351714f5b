//! The command line of `owm-coordinator`.

mod backup;
mod commands;
mod config;
mod doctor;
mod invite;
mod log_level;
mod man;
mod nodes;
mod rounds;
mod tasks;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use owm_proto::{SubModelId, VersionId};
use owm_service::{Program, RunError, telemetry::TelemetryOptions};

use crate::{dispatch, rpc, serve, verdict};

/// The thin coordinator of an OWM network: registry, scheduler, public API.
#[derive(Debug, Parser)]
#[command(name = "owm-coordinator", version, about, long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration that `init` wrote.
    #[arg(long, value_name = "FILE", env = "OWM_COORDINATOR_CONFIG")]
    pub config: PathBuf,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new network: genesis, keys, delegations, a commented configuration.
    #[command(
        after_help = "Example: owm-coordinator init --dir /srv/owm --name my-net --chain regtest"
    )]
    Init {
        /// Where to; must not hold a network yet.
        #[arg(long)]
        dir: PathBuf,
        /// The network's name, for people.
        #[arg(long)]
        name: String,
        /// The bitcoin chain: main, test, signet or regtest.
        #[arg(long, default_value = "regtest", value_parser = ["main", "test", "signet", "regtest"])]
        chain: String,
    },
    /// Run the coordinator.
    #[command(after_help = "Example: owm-coordinator serve --config /srv/owm/coordinator.toml")]
    Serve(ConfigArg),
    /// Show or change what the running coordinator logs.
    #[command(
        after_help = "Examples:\n  owm-coordinator log-level --config coordinator.toml\n  owm-coordinator log-level info,owm_coordinator=debug --for 10m --config coordinator.toml"
    )]
    LogLevel(log_level::LogLevelArgs),
    /// Bring the database's schema up to date (serve does it too).
    #[command(after_help = "Example: owm-coordinator migrate --config /srv/owm/coordinator.toml")]
    Migrate(ConfigArg),
    /// Print the invite that `owm-node init --join` takes.
    #[command(after_help = "Example: owm-coordinator invite --config coordinator.toml --qr")]
    Invite {
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
        /// Draw the QR code, also where stdout is no terminal.
        #[arg(long)]
        qr: bool,
    },
    /// Model versions.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Registered nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Evaluations: what nodes find of a candidate.
    #[command(subcommand)]
    Task(tasks::TaskCommand),
    /// Federated rounds: nodes train, a version comes of it.
    #[command(subcommand)]
    Round(rounds::RoundCommand),
    /// Keys for the public API.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Say what is wrong with this coordinator and what to do about it.
    #[command(
        after_help = "Examples:\n  owm-coordinator doctor --config /srv/owm/coordinator.toml\n  owm-coordinator doctor --config coordinator.toml --quick --json\n\nChanges nothing; runs beside a running coordinator as well. Exit codes: 0 healthy or warnings only, 1 broken."
    )]
    Doctor(doctor::DoctorArgs),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the failpoints of this program, one a line: for the crash harness.
    #[command(hide = true)]
    Failpoints,
    /// Write keys, database and published files to one file.
    #[command(long_about = backup::BACKUP_ABOUT)]
    Backup(backup::BackupArgs),
    /// Restore a backup to an empty folder and an empty database.
    #[command(long_about = backup::RESTORE_ABOUT)]
    Restore(backup::RestoreArgs),
    /// Print shell completions.
    #[command(
        after_help = "Example: owm-coordinator completions bash > /etc/bash_completion.d/owm-coordinator"
    )]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one per command.
    #[command(after_help = "Example: owm-coordinator man --dir /usr/local/share/man/man1")]
    Man {
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Highest sequence that is taken by hand: every JSON parser reads it exactly, and there is room above it.
const SEQUENCE_MAX: u64 = 1 << 52;

/// Verbs for model versions.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Import weights and publish them as a signed version.
    #[command(
        after_help = "Examples:\n  owm-coordinator model import SmolLM2.gguf --version owm-v0.1.0 --config coordinator.toml\n  owm-coordinator model import tiny --version owm-v0.0.1 --config coordinator.toml"
    )]
    Import {
        /// A .gguf file, a directory with config.json and *.safetensors, or the word `tiny`.
        source: String,
        /// The version's name.
        #[arg(long)]
        version: VersionId,
        /// The sub-models that use it.
        #[arg(long, value_delimiter = ',', default_value = "owm-code,owm-geo")]
        sub_models: Vec<SubModelId>,
        /// What a request gets that names no sub-model.
        #[arg(long, default_value = "owm-geo")]
        default: SubModelId,
        /// The version's sequence, if the next one is taken: after a restore from a backup, peers hold higher
        /// ones (the coordinator's log says which is free).
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=SEQUENCE_MAX))]
        sequence: Option<u64>,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// List versions, newest first.
    #[command(after_help = "Example: owm-coordinator model list --config coordinator.toml")]
    List(ConfigArg),
}

/// Verbs for nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes, oldest first: standing, last heartbeat, and what gossip says of them.
    #[command(
        after_help = "Example: owm-coordinator node list --config coordinator.toml --json\n\nEach fact says where it comes from: coordinator (decided here), registration, stream, poll, gossip.\nWhat comes by gossip is shown and decides nothing."
    )]
    List(ConfigArg),
    /// Show one node: each fact with where it comes from.
    #[command(after_help = "Example: owm-coordinator node show 5f1c... --config coordinator.toml")]
    Show {
        /// Its public key or its id.
        node: String,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Shut a node out; its key can't register again.
    #[command(
        after_help = "Example: owm-coordinator node suspend 5f1c... --reason \"forged results\" --config coordinator.toml"
    )]
    Suspend {
        /// Its public key or its id.
        node: String,
        /// Why; shown to its operator.
        #[arg(long)]
        reason: String,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// Verbs for API keys.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Make a key and print it, once; only its hash is kept.
    #[command(
        after_help = "Example: owm-coordinator api-key create \"first user\" --config coordinator.toml"
    )]
    Create {
        /// What it is for.
        name: String,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// Verbs for the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with it, and what is in effect (passwords hidden).
    #[command(
        after_help = "Example: owm-coordinator config check --config coordinator.toml\n\nExit codes: 0 good, 2 wrong."
    )]
    Check(ConfigArg),
    /// Print a commented sample.
    #[command(after_help = "Example: owm-coordinator config sample > coordinator.toml")]
    Sample,
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    for failpoints in [
        dispatch::FAILPOINTS,
        verdict::FAILPOINTS,
        rpc::chunks::FAILPOINTS,
        crate::failpoints::FAILPOINTS,
    ] {
        owm_service::failpoint::register(failpoints);
    }
    if let Command::Doctor(arguments) = cli.command {
        return doctor::run(arguments, cli.json);
    }
    let program = Program {
        name: "owm-coordinator",
        version: env!("CARGO_PKG_VERSION"),
        telemetry: TelemetryOptions::default(),
    };
    owm_service::run(program, |context| async move {
        match cli.command {
            Command::Serve(config) => {
                let path = config.config;
                let hint = |error| doctor_hint(&error, &path);
                let config = commands::read_config(&path).map_err(hint)?;
                serve::serve(context, config).await.map_err(hint)
            }
            command => commands::run(&context, command, cli.json).await,
        }
    })
}

/// An error of a start with the way to find out more.
fn doctor_hint(error: &RunError, config: &Path) -> RunError {
    let config = owm_service::doctor::shell(config);
    owm_service::doctor::hint(error, &format!("owm-coordinator doctor --config {config}"))
}
