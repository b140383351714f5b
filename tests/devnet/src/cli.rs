//! The commands of `owm-devnet`.
//!
//! `main` parses and calls [`run`]; everything else is in the library's other files. Must stay true:
//! Ctrl-C ends every command in order, children included.

mod pg_run;
mod up;

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};
use owm_service::{lifecycle::Lifecycle, run::RunError};

use crate::{paths, state};

/// A whole OWM network on one machine.
#[derive(Debug, Parser)]
#[command(name = "owm-devnet", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start Postgres, coordinator and nodes; stop them with Ctrl-C. State is kept.
    #[command(after_help = "Examples:\n  owm-devnet up\n  owm-devnet up --nodes 5 --dir /srv/owm")]
    Up(UpArgs),
    /// Stop the network that runs in another terminal.
    Down(DirArgs),
    /// Tell what runs, and where.
    Status(StatusArgs),
    /// Delete the network's keys, database, models and logs.
    Reset(DirArgs),
    /// Run a command with `DATABASE_URL` naming a fresh Postgres that vanishes afterwards.
    #[command(after_help = "Example:\n  owm-devnet pg-run -- cargo test -p owm-migrations")]
    PgRun(PgRunArgs),
}

#[derive(Debug, clap::Args)]
struct DirArgs {
    /// The network's folder [default: $OWM_HOME, else owm/devnet in the user's data folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl DirArgs {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.dir {
            Some(dir) => Ok(std::path::absolute(dir)?),
            None => paths::data_dir(),
        }
    }
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// The model: a GGUF file, a Hugging Face directory, or `tiny`
    #[arg(long, env = "OWM_SMOLLM2_GGUF")]
    model: Option<String>,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct PgRunArgs {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Runs the command.
pub async fn run(cli: Cli, lifecycle: Lifecycle) -> Result<(), RunError> {
    let outcome = match cli.command {
        Command::Up(args) => up::run(&args, &lifecycle).await,
        Command::Down(args) => down(&args).await,
        Command::Status(args) => status(&args),
        Command::Reset(args) => reset(&args),
        Command::PgRun(args) => pg_run::run(&args.command, &lifecycle).await,
    };
    outcome.map_err(RunError::failed)
}

#[expect(clippy::print_stdout, reason = "a command's output")]
async fn down(args: &DirArgs) -> anyhow::Result<()> {
    let dir = args.dir()?;
    if state::stop_holder(&dir).await? {
        println!(
            "the network in {} is stopped; its state is kept",
            dir.display()
        );
    } else {
        println!("no network runs in {}", dir.display());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let dir = args.dir.dir()?;
    let status = state::Status::read(&dir)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        println!("{status}");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command's output")]
fn reset(args: &DirArgs) -> anyhow::Result<()> {
    let dir = args.dir()?;
    if state::delete(&dir)? {
        println!(
            "the network's state in {} is deleted; cached weights stay",
            dir.display()
        );
    } else {
        println!("there is no state in {}", dir.display());
    }
    Ok(())
}
