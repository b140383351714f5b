//! What a predecessor that was killed left in a cluster's folder: a pid file, maybe a running server.
//!
//! Called before each start, under the devnet's lock, so a server found here belongs to nobody.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::POLL;

/// Time for a left-over server to end by itself, then again after being told at once.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Ends a left-over server of `data` and deletes its pid file.
pub(super) async fn clear(data: &Path) -> Result<()> {
    let file = data.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(());
    };
    let pid = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 1);
    if let Some(pid) = pid {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            if !is_server_of(pid, data) {
                break;
            }
            let _ = kill(Pid::from_raw(pid), signal);
            let start = Instant::now();
            while is_server_of(pid, data) && start.elapsed() < END_LIMIT {
                tokio::time::sleep(POLL).await;
            }
        }
        if is_server_of(pid, data) {
            bail!(
                "an old Postgres (process {pid}) of {} does not end",
                data.display()
            );
        }
    }
    match fs::remove_file(&file) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot delete {}", file.display())),
    }
}

/// Whether process `pid` is a Postgres with `-D data`: process ids are used again.
fn is_server_of(pid: i32, data: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    line.split(|byte| *byte == 0)
        .any(|arg| arg == data.as_os_str().as_encoded_bytes())
}
