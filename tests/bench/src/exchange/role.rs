//! One process of a measurement: a source or the one that fetches. It says one line (its address, or how long
//! it took), waits for the end of its input, and says what it has used.

use std::{fs, io::Read as _, path::PathBuf};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::exchange::{
    ours::{self, Named},
    raw,
};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// A raw libp2p stream over TCP, Noise and Yamux as rust-libp2p ships them, and SHA-256.
    Raw,
    /// Our exchange over TCP, Noise and Yamux, from store to store.
    Tcp,
    /// Our exchange over QUIC.
    Quic,
}

/// A process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) variant: Variant,
    pub(crate) task: Task,
    /// The core it is pinned to.
    pub(crate) core: Option<usize>,
    /// What is fetched, from all sources together.
    pub(crate) bytes: u64,
    /// The file, and where it lies; the anchor has none.
    pub(crate) file: Option<(Named, PathBuf)>,
}

/// What it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// The source with this number.
    Serve { n: u8 },
    /// Fetches from all of them.
    Fetch { addresses: Vec<String> },
}

/// How long it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Pace {
    pub(crate) seconds: f64,
}

/// What a process has used, from its start to its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Used {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_peak_mb: f64,
}

/// Plays it.
pub(crate) async fn play(role: Role) -> Result<()> {
    if let Some(core) = role.core {
        let mut cores = CpuSet::new();
        cores.set(core)?;
        // All threads of the runtime, which have been started by now.
        for thread in fs::read_dir("/proc/self/task")? {
            let thread = thread?.file_name().to_string_lossy().parse()?;
            sched_setaffinity(Pid::from_raw(thread), &cores)?;
        }
    }
    match (role.variant, role.task) {
        (Variant::Raw, Task::Serve { n }) => println!("{}", raw::serve(n).await?),
        (Variant::Raw, Task::Fetch { addresses }) => {
            let seconds = raw::fetch(&addresses, role.bytes).await?;
            println!("{}", serde_json::to_string(&Pace { seconds })?);
        }
        (variant, task) => {
            let (file, dir) = role.file.context("a file")?;
            let quic = variant == Variant::Quic;
            match task {
                Task::Serve { n } => println!("{}", ours::serve(n, quic, &dir, &file).await?),
                Task::Fetch { addresses } => {
                    let into = tempfile::tempdir_in(dir.parent().context("a parent")?)?;
                    let seconds = ours::fetch(&addresses, quic, into.path(), &file).await?;
                    println!("{}", serde_json::to_string(&Pace { seconds })?);
                }
            }
        }
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu = usage.user_time() + usage.system_time();
    let used = Used {
        cpu_seconds: cpu.num_microseconds() as f64 / 1e6,
        // Kibibytes on Linux.
        rss_peak_mb: usage.max_rss() as f64 * 1_024.0 / 1e6,
    };
    println!("{}", serde_json::to_string(&used)?);
    Ok(())
}
