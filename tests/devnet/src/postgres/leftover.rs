//! What a predecessor that was killed left of a cluster: a pid file, maybe a running server, maybe only
//! its children, which hold the shared memory until they notice (a new server refuses to start beside it).
//!
//! Called before each start, under the devnet's lock, so a server found here belongs to nobody.

use std::{
    fs,
    path::{Path, PathBuf},
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

/// Ends a left-over server of `data` with its children, and deletes its pid file.
pub(super) async fn clear(data: &Path) -> Result<()> {
    end_server(data).await?;
    end_orphans(data).await
}

/// Kills the children of a server that is gone. Returns when none is left.
pub(super) async fn end_orphans(data: &Path) -> Result<()> {
    let start = Instant::now();
    loop {
        let orphans = processes_in(data);
        if orphans.is_empty() {
            return Ok(());
        }
        if start.elapsed() > END_LIMIT {
            bail!(
                "processes {orphans:?} of a Postgres that was killed in {} do not end",
                data.display()
            );
        }
        for pid in orphans {
            // One that has ended meanwhile needs no signal.
            let _ = kill(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The processes whose working folder is `data`: a server and its children change to it.
fn processes_in(data: &Path) -> Vec<Pid> {
    let Ok(data) = data.canonicalize() else {
        return Vec::new();
    };
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let inside = |pid: &i32| {
        let folder: Option<PathBuf> = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        folder.is_some_and(|folder| folder == data)
    };
    pids.filter(inside).map(Pid::from_raw).collect()
}

async fn end_server(data: &Path) -> Result<()> {
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
