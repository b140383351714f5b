//! What fetching from peers costs, each process apart, over loopback: `raw` is the anchor (a libp2p stream as
//! rust-libp2p ships it, bytes from memory, SHA-256 of what arrives, no file). CPU seconds count both sides.

mod ours;
mod raw;
mod role;

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::{
    exchange::{
        ours::Named,
        role::{Pace, Role, Task, Used, Variant},
    },
    process,
    report::{self, Spread},
};

/// How much is fetched, from how many.
#[expect(
    clippy::struct_field_names,
    reason = "they are the options of one command line with the others'"
)]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExchangeArgs {
    /// MiB that are fetched.
    #[arg(long, default_value_t = 2_048)]
    exchange_mib: u64,
    /// Rounds; each measures every variant.
    #[arg(long, default_value_t = 3)]
    exchange_rounds: u64,
    /// Numbers of sources.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    exchange_sources: Vec<usize>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_value = "raw,tcp,quic")]
    exchange_variants: Vec<Variant>,
    /// Sources on one core and the fetching process on another, or wherever the kernel puts them.
    #[arg(long, value_delimiter = ',', default_value = "false,true", action = clap::ArgAction::Set)]
    exchange_pinned: Vec<bool>,
    /// One process of a measurement (what the rounds start); its role as JSON.
    #[arg(long, hide = true)]
    pub(crate) exchange_one: Option<String>,
}

/// This process is one of a measurement.
pub(crate) async fn one(role: &str) -> Result<()> {
    role::play(serde_json::from_str(role)?).await
}

/// One measurement.
#[derive(Clone, Debug, serde::Serialize)]
struct Outcome {
    variant: Variant,
    sources: usize,
    pinned: bool,
    mb_per_second: f64,
    cpu_seconds_per_gib: f64,
    fetcher_cpu_seconds_per_gib: f64,
    fetcher_rss_mb: f64,
    source_rss_mb: f64,
}

/// All rounds.
pub(crate) async fn run(args: &ExchangeArgs) -> Result<()> {
    println!(
        "## Exchange: {} MiB over loopback, medians [least-most] of {} rounds\n",
        args.exchange_mib, args.exchange_rounds
    );
    let dir = tempfile::tempdir_in("/dev/shm").context("a folder in memory")?;
    let from = dir.path().join("source");
    let file = (ours::prepare(&from, args.exchange_mib << 20)?, from);
    let mut outcomes = Vec::new();
    for round in 0..args.exchange_rounds {
        for &sources in &args.exchange_sources {
            for &pinned in &args.exchange_pinned {
                let mut order = args.exchange_variants.clone();
                let first = round as usize % order.len().max(1);
                order.rotate_left(first);
                for variant in order {
                    let outcome =
                        measure(variant, sources, pinned, &file, args.exchange_mib).await?;
                    report::line(
                        &json!({"scenario": "exchange", "load": process::load(), "is": outcome}),
                    );
                    outcomes.push(outcome);
                }
            }
        }
    }
    table(args, &outcomes);
    Ok(())
}

async fn measure(
    variant: Variant,
    sources: usize,
    pinned: bool,
    file: &(Named, PathBuf),
    mib: u64,
) -> Result<Outcome> {
    let bytes = mib << 20;
    let mut serving = Vec::new();
    for n in 0..sources {
        let task = Task::Serve { n: n as u8 };
        serving.push(Running::start(variant, task, pinned.then_some(0), file, bytes).await?);
    }
    let addresses = serving.iter().map(|s| s.said.clone()).collect();
    let task = Task::Fetch { addresses };
    let fetching = Running::start(variant, task, pinned.then_some(1), file, bytes).await?;
    let pace: Pace = serde_json::from_str(&fetching.said)?;
    let fetcher = fetching.end().await?;
    let (mut cpu, mut rss) = (fetcher.cpu_seconds, 0.0_f64);
    for source in serving {
        let used = source.end().await?;
        cpu += used.cpu_seconds;
        rss = rss.max(used.rss_peak_mb);
    }
    let gib = mib as f64 / 1_024.0;
    Ok(Outcome {
        variant,
        sources,
        pinned,
        mb_per_second: bytes as f64 / 1e6 / pace.seconds,
        cpu_seconds_per_gib: cpu / gib,
        fetcher_cpu_seconds_per_gib: fetcher.cpu_seconds / gib,
        fetcher_rss_mb: fetcher.rss_peak_mb,
        source_rss_mb: rss,
    })
}

/// A process that has said its line, and says what it has used when its input ends.
struct Running {
    child: Child,
    said: String,
    more: BufReader<ChildStdout>,
}

impl Running {
    async fn start(
        variant: Variant,
        task: Task,
        core: Option<usize>,
        file: &(Named, PathBuf),
        bytes: u64,
    ) -> Result<Self> {
        let role = Role {
            variant,
            task,
            core,
            bytes,
            file: (variant != Variant::Raw).then(|| file.clone()),
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exchange-one", &serde_json::to_string(&role)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut more = BufReader::new(child.stdout.take().context("its output")?);
        let mut said = String::new();
        more.read_line(&mut said).await?;
        ensure!(!said.is_empty(), "the process of {role:?} failed");
        let said = said.trim().to_owned();
        Ok(Self { child, said, more })
    }

    async fn end(mut self) -> Result<Used> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.more.read_to_string(&mut said).await?;
        ensure!(self.child.wait().await?.success(), "a process failed");
        serde_json::from_str(&said).context("what a process has used")
    }
}

fn table(args: &ExchangeArgs, outcomes: &[Outcome]) {
    println!(
        "\n| variant | sources | pinned | MB/s | CPU s per GiB | of it the fetcher's | fetcher RSS MB | source RSS MB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for &sources in &args.exchange_sources {
        for &pinned in &args.exchange_pinned {
            for &variant in &args.exchange_variants {
                let runs = outcomes
                    .iter()
                    .filter(|o| (o.sources, o.pinned, o.variant) == (sources, pinned, variant));
                let cell = |value: fn(&Outcome) -> f64, digits| {
                    Spread::of(runs.clone().map(value)).cell(digits)
                };
                println!(
                    "| {variant:?} | {sources} | {pinned} | {} | {} | {} | {} | {} |",
                    cell(|o| o.mb_per_second, 0),
                    cell(|o| o.cpu_seconds_per_gib, 2),
                    cell(|o| o.fetcher_cpu_seconds_per_gib, 2),
                    cell(|o| o.fetcher_rss_mb, 0),
                    cell(|o| o.source_rss_mb, 0),
                );
            }
        }
    }
    println!();
}
