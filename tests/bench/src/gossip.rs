//! What gossip costs: networks of real peers on loopback, ours beside vanilla gossipsub with the same
//! bodies at the same rate over the same graph. Each measurement runs in a process of its own; the two
//! variants take turns, and who goes first alternates.

mod graph;
mod ours;
pub(crate) mod peer;
mod run;
mod vanilla;
mod wire;
pub(crate) mod world;

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use owm_proto::UnixMillis;
use owm_service::clock::{Clock as _, SystemClock};
use serde_json::json;
use tokio::process::Command;

use crate::{
    gossip::run::{Outcome, Setup, Variant},
    process,
    report::{self, Spread},
};

/// How much gossip.
#[expect(
    clippy::struct_field_names,
    reason = "they are the options of one command line with the others'"
)]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GossipArgs {
    /// Sizes of the gossiping networks.
    #[arg(long, value_delimiter = ',', default_value = "8,25,50,100")]
    gossip_peers: Vec<usize>,
    /// Rounds; each measures both variants at every size.
    #[arg(long, default_value_t = 5)]
    gossip_rounds: u64,
    /// Seconds of load in each measurement.
    #[arg(long, default_value_t = 10)]
    gossip_seconds: u32,
    /// One measurement in this process (what the rounds start); a setup as JSON.
    #[arg(long, hide = true)]
    pub(crate) gossip_one: Option<String>,
}

/// A measurement in this process; its outcome is printed as JSON.
pub(crate) async fn one(setup: &str) -> Result<()> {
    let outcome = run::measure(serde_json::from_str(setup)?).await?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// All rounds.
pub(crate) async fn run(args: &GossipArgs) -> Result<()> {
    let bytes = peer::body_bytes(UnixMillis(SystemClock::new().now_ms()));
    println!(
        "## Gossip: ours beside vanilla gossipsub, heartbeats of {bytes} bytes, 10 messages/s, {} s each, \
         medians [least-most] of {} rounds\n",
        args.gossip_seconds, args.gossip_rounds
    );
    let mut outcomes = Vec::new();
    for round in 1..=args.gossip_rounds {
        for &peers in &args.gossip_peers {
            let mut order = [Variant::Vanilla, Variant::Ours];
            order.rotate_left(round as usize % 2);
            for variant in order {
                let setup = Setup::new(variant, peers, round, args.gossip_seconds);
                let outcome = in_own_process(&setup).await?;
                report::line(
                    &json!({"scenario": "gossip", "load": process::load(), "is": outcome}),
                );
                outcomes.push(outcome);
            }
        }
    }
    table(&args.gossip_peers, &outcomes);
    Ok(())
}

async fn in_own_process(setup: &Setup) -> Result<Outcome> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--gossip-one", &serde_json::to_string(setup)?])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(
        child.status.success(),
        "the measurement of {setup:?} failed"
    );
    serde_json::from_slice(&child.stdout).context("the measurement's answer")
}

/// A column: its name, how it is shown, where its value is.
type Column = (&'static str, usize, fn(&Outcome) -> f64);

/// What is compared.
const COLUMNS: [Column; 7] = [
    ("latency p50 ms", 1, |o| o.p50_ms),
    ("p99 ms", 1, |o| o.p99_ms),
    ("bytes per message and node", 0, |o| {
        o.bytes_per_message_and_peer
    }),
    ("CPU ms per message and node", 3, |o| {
        o.cpu_ms_per_message_and_peer
    }),
    ("idle: B/s per node", 0, |o| {
        o.idle_bytes_per_second_and_peer
    }),
    ("idle: CPU ms/s per node", 2, |o| {
        o.idle_cpu_ms_per_second_and_peer
    }),
    ("idle: MB per node", 2, |o| o.memory_mb_per_peer),
];

fn table(sizes: &[usize], outcomes: &[Outcome]) {
    let heads: Vec<&str> = COLUMNS.iter().map(|(head, ..)| *head).collect();
    println!(
        "\n| peers | which | delivered | connections | {} |",
        heads.join(" | ")
    );
    println!("|---|---|---|---|{}", "---|".repeat(COLUMNS.len()));
    for &peers in sizes {
        let of = |variant| -> Vec<&Outcome> {
            let wanted = |o: &&Outcome| o.setup.peers == peers && o.setup.variant == variant;
            outcomes.iter().filter(wanted).collect()
        };
        let (vanilla, ours) = (of(Variant::Vanilla), of(Variant::Ours));
        for (name, runs) in [("vanilla", &vanilla), ("ours", &ours)] {
            let sum = |field: fn(&Outcome) -> u64| runs.iter().map(|o| field(o)).sum::<u64>();
            let delivered = 100.0 * sum(|o| o.delivered) as f64 / sum(|o| o.due) as f64;
            let connections = Spread::of(runs.iter().map(|o| o.connections_per_peer)).median;
            let cells = COLUMNS
                .map(|(_, digits, value)| Spread::of(runs.iter().map(|o| value(o))).cell(digits));
            let cells = cells.join(" | ");
            println!("| {peers} | {name} | {delivered:.2} % | {connections:.1} | {cells} |");
        }
        let cells = COLUMNS.map(|(_, _, value)| {
            let pairs = vanilla.iter().zip(&ours);
            Spread::of(pairs.map(|(vanilla, ours)| value(ours) / value(vanilla))).cell(2)
        });
        println!(
            "| {peers} | **ours / vanilla** | | | {} |",
            cells.join(" | ")
        );
    }
    println!();
}

#[cfg(test)]
mod tests;
