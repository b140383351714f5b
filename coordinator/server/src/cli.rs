//! The command line of `owm-coordinator`.

mod commands;
mod log_level;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use owm_proto::{SubModelId, VersionId};
use owm_service::{Program, telemetry::TelemetryOptions};

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
    /// Keys for the public API.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// The configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

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
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// List versions, newest first.
    List(ConfigArg),
}

/// Verbs for nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes, oldest first.
    List(ConfigArg),
    /// Show one node.
    Show {
        /// Its public key or its id.
        node: String,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Shut a node out; its key can't register again.
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
    /// Read it and say what is wrong.
    Check(ConfigArg),
    /// Print a commented sample.
    Sample,
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    for failpoints in [
        dispatch::FAILPOINTS,
        verdict::FAILPOINTS,
        rpc::chunks::FAILPOINTS,
    ] {
        owm_service::failpoint::register(failpoints);
    }
    let program = Program {
        name: "owm-coordinator",
        version: env!("CARGO_PKG_VERSION"),
        telemetry: TelemetryOptions::default(),
    };
    owm_service::run(program, |context| async move {
        match cli.command {
            Command::Serve(config) => {
                let config = commands::read_config(&config.config)?;
                serve::serve(context, config).await
            }
            command => commands::run(&context, command, cli.json).await,
        }
    })
}
