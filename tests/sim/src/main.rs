//! `owm-sim seed N` runs one scenario and shows it; `owm-sim scale` measures what a node costs.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};

use clap::{Parser, Subcommand};
use owm_sim::{
    run::run_seed,
    scale::{Plan, judgement, measure},
    scenario::{LARGE, SMALL},
};

/// Many peers with the real gossip rules on a seeded network in virtual time.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the scenario of one seed.
    Seed {
        /// Which.
        seed: u64,
        /// A thousand peers instead of at most 32.
        #[arg(long)]
        large: bool,
    },
    /// Measures what the nodes of a network cost each other.
    Scale {
        /// Nodes.
        #[arg(long, default_value_t = 100)]
        nodes: u32,
        /// In so many shards, a power of two.
        #[arg(long, default_value_t = 1)]
        shards: u32,
        /// One of so many nodes runs the rules and is looked at; the others forward only.
        #[arg(long, default_value_t = 1)]
        rules_one_of: u32,
        /// Seconds of virtual time in which connections and meshes are made before.
        #[arg(long, default_value_t = 660)]
        warm: u64,
        /// Seconds of virtual time to measure.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
}

/// Judgements that are timed.
const JUDGED: u32 = 1_000;

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match Cli::parse().command {
        Command::Seed { seed, large } => {
            let report = run_seed(seed, if large { &LARGE } else { &SMALL });
            writeln!(
                out,
                "{}\n{} lines, trace {}",
                report.scenario, report.lines, report.trace
            )?;
            for violation in &report.violations {
                writeln!(out, "{violation:?}")?;
            }
            if !report.violations.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Scale {
            nodes,
            shards,
            rules_one_of,
            warm,
            seconds,
        } => {
            let plan = Plan {
                nodes,
                shards,
                rules_one_of,
                warm,
                seconds,
            };
            let begin = Instant::now();
            writeln!(out, "{}", measure(1, plan))?;
            if let Some(bytes) = resident_bytes() {
                let each = bytes / u64::from(nodes);
                writeln!(
                    out,
                    "memory: {bytes} bytes in all, {each} for each node, routers and messages under way included"
                )?;
            }
            let took = begin.elapsed().as_secs();
            let cost = judgement(JUDGED, || begin.elapsed());
            writeln!(
                out,
                "one judgement: {:.1} us with its signature, {:.1} us without; the run took {took} s",
                cost.checked_us, cost.rest_us
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What this process holds in memory, as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}
