//! The command line: what can be asked, and exit codes (0 ok, 1 failed, 2 usage, 78 fenced). One file per
//! command below. Must stay true: no key is ever an argument; `--json` prints one JSON value on stdout,
//! except where people wait for long: `models fetch` and `train` print a value a line, the result last.

mod ask;
mod backup;
mod config;
mod config_error;
mod doctor;
mod drain;
mod earnings;
mod init;
mod log_level;
mod man;
mod models;
mod output;
mod pause;
mod start;
mod status;
mod top;
#[cfg(feature = "burn")]
mod train;
mod verify_receipt;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use output::Output;
use owm_service::{Exit, RunError, report::Chain};

#[derive(Debug, Parser)]
#[command(
    name = "owm-node",
    version,
    about = "Contributes a machine to an OWM network",
    after_help = "Examples:\n  owm-node init --join owm1…\n  owm-node start --config ~/.owm/node/owm.toml\n  owm-node status\n  owm-node pause --for 2h\n  owm-node drain\n  owm-node models verify\n  owm-node ask \"What is a coastline?\""
)]
struct Cli {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a node's folder: key, configuration.
    Init(init::InitArgs),
    /// Runs the node until it is told to stop.
    Start(start::StartArgs),
    /// Says what is wrong with this node and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// How the running node is.
    Status(status::StatusArgs),
    /// Takes no new work for a while, or until `resume`.
    Pause(pause::PauseArgs),
    /// Ends a pause.
    Resume(pause::ResumeArgs),
    /// Finishes what runs, hands it in, and ends the running node.
    Drain(drain::DrainArgs),
    /// A dashboard of the running node.
    Top(top::TopArgs),
    /// Shows or changes what the running node logs.
    LogLevel(log_level::LogLevelArgs),
    /// Checks a receipt, offline.
    VerifyReceipt(verify_receipt::VerifyArgs),
    /// What this node has earned, from its own log.
    Earnings(earnings::EarningsArgs),
    /// Asks the model on this node, here and now.
    Ask(ask::AskArgs),
    /// Trains a model on a folder or a public corpus, here and now.
    #[cfg(feature = "burn")]
    Train(train::TrainArgs),
    /// Models on this node.
    Models(models::ModelsArgs),
    /// Prints the failpoints of this program, one a line: for the crash harness.
    #[command(hide = true)]
    Failpoints,
    /// The configuration.
    Config(config::ConfigArgs),
    /// Writes key, documents and task log to one file.
    #[command(long_about = backup::BACKUP_ABOUT)]
    Backup(backup::BackupArgs),
    /// Restores a backup to an empty folder.
    #[command(long_about = backup::RESTORE_ABOUT)]
    Restore(backup::RestoreArgs),
    /// Prints a shell completion script.
    #[command(
        after_help = "Example:\n  owm-node completions bash > /etc/bash_completion.d/owm-node"
    )]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Writes manual pages, one per command.
    Man(man::ManArgs),
}

/// An error that its command has told of already.
#[derive(Debug, thiserror::Error)]
#[error("told already")]
struct Told;

/// Where the node's configuration is.
#[derive(Clone, Debug, Args)]
struct ConfigArg {
    /// The configuration [default: ~/.owm/node/owm.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    fn path(&self) -> Result<PathBuf, RunError> {
        match &self.config {
            Some(path) => Ok(path.clone()),
            None => Ok(default_folder()?.join("owm.toml")),
        }
    }

    fn load(&self) -> Result<(PathBuf, crate::config::NodeConfig), RunError> {
        let path = self.path()?;
        let config = owm_service::config::load(Some(&path), "OWM");
        let config = config.map_err(|error| config_error::with_file(&path, error))?;
        Ok((path, config))
    }
}

fn default_folder() -> Result<PathBuf, RunError> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.ok_or_else(|| RunError::usage("HOME is not set; give --dir or --config"))?;
    Ok(PathBuf::from(home).join(".owm/node"))
}

/// Parses and runs.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            return code.into();
        }
    };
    owm_service::failpoint::register(crate::FAILPOINTS);
    let output = Output { json: cli.json };
    let outcome = match cli.command {
        Command::Start(arguments) => return start::run(&arguments, output),
        Command::Doctor(arguments) => return doctor::run(&arguments, output),
        Command::Init(arguments) => init::run(&arguments, output),
        Command::Status(arguments) => status::run(&arguments, output),
        Command::Pause(arguments) => pause::run(&arguments, output),
        Command::Resume(arguments) => pause::resume(&arguments, output),
        Command::Drain(arguments) => drain::run(&arguments, output),
        Command::Top(arguments) => top::run(&arguments, output),
        Command::LogLevel(arguments) => log_level::run(&arguments, output),
        Command::VerifyReceipt(arguments) => verify_receipt::run(&arguments, output),
        Command::Earnings(arguments) => earnings::run(&arguments, output),
        Command::Ask(arguments) => ask::run(&arguments, output),
        #[cfg(feature = "burn")]
        Command::Train(arguments) => train::run(&arguments, output),
        Command::Models(arguments) => models::run(&arguments, output),
        Command::Failpoints => {
            let names = owm_service::failpoint::known();
            let lines: Vec<String> = names.iter().map(ToString::to_string).collect();
            output.answer(&serde_json::json!({ "failpoints": names }), &lines);
            Ok(())
        }
        Command::Config(arguments) => config::run(&arguments, output),
        Command::Backup(arguments) => backup::backup(&arguments, output),
        Command::Restore(arguments) => backup::restore(&arguments, output),
        Command::Man(arguments) => man::run(&arguments, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "owm-node", &mut script);
            output::raw(&script);
            Ok(())
        }
    };
    finish(outcome, output)
}

fn finish(outcome: Result<(), RunError>, output: Output) -> ExitCode {
    match outcome {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            if !error.source.is::<Told>() {
                output.error(&Chain(&*error.source).to_string());
            }
            error.code.into()
        }
    }
}

/// A small runtime for commands that ask something.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_help_and_the_arguments_are_sound() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn a_wrong_command_is_a_usage_error() {
        let arguments = ["owm-node", "fly"].map(OsString::from);
        assert_eq!(main_with(arguments), Exit::Usage.into());
    }
}
