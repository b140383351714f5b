//! `pg-run`: a command with a throw-away database.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use owm_service::lifecycle::Lifecycle;
use tokio::process::Command;

use crate::postgres::Postgres;

/// Runs `command`; fails if it does.
pub(super) async fn run(command: &[OsString], lifecycle: &Lifecycle) -> Result<()> {
    let [program, args @ ..] = command else {
        bail!("no command given")
    };
    let mut postgres = Postgres::throwaway()
        .await
        .context("cannot start a private Postgres")?;
    // The terminal stays the command's; its group is ours, so Ctrl-C reaches it by itself, and a
    // TERM that we get is handed on.
    let mut child = Command::new(program)
        .args(args)
        .env("DATABASE_URL", postgres.url())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let pid = child.id();
    let status = tokio::select! {
        status = child.wait() => status.context("cannot wait for the command")?,
        died = postgres.process().died() => {
            drop(child.start_kill());
            return Err(died.context("Postgres ended while the command ran"));
        }
        () = lifecycle.shutdown_requested() => {
            if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            child.wait().await.context("cannot wait for the command")?
        }
    };
    postgres.stop().await?;
    if !status.success() {
        bail!("{} failed: {status}", program.display());
    }
    Ok(())
}
