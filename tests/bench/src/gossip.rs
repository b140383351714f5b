//! What gossip costs: networks of real peers on loopback, ours beside vanilla gossipsub with the same
//! bodies at the same rate over the same graph. Each measurement runs in a process of its own; those of a round
//! warm up side by side, then the two variants take turns, and who goes first alternates.

mod graph;
mod ours;
pub(crate) mod peer;
mod run;
mod vanilla;
mod wire;
pub(crate) mod world;

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use owm_proto::UnixMillis;
use owm_service::clock::{Clock as _, SystemClock};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    gossip::run::{Outcome, Setup, Turn, Variant},
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
    /// Number of the first round, so that rounds can be run apart: each has a graph of its own.
    #[arg(long, default_value_t = 1)]
    gossip_first_round: u64,
    /// Adds its measurements to this file, and prints the medians of all that are in it: for rounds run apart.
    /// With `--gossip-rounds 0` it only prints them.
    #[arg(long)]
    gossip_saved: Option<PathBuf>,
    /// Everybody is connected with everybody from the start, vanilla too: our peers get to know each other and end
    /// up so in a small network, and who has more connections tells more peers at once.
    #[arg(long)]
    gossip_all_connected: bool,
    /// Seconds of load in each measurement.
    #[arg(long, default_value_t = 5)]
    gossip_seconds: u32,
    /// One measurement in this process (what the rounds start); a setup as JSON.
    #[arg(long, hide = true)]
    pub(crate) gossip_one: Option<String>,
}

/// What a measurement says when its network is ready.
const READY: &str = "ready";

/// A measurement in this process; its outcome is printed as JSON.
pub(crate) async fn one(setup: &str) -> Result<()> {
    let outcome = run::measure(serde_json::from_str(setup)?, LineOfInput).await?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// It is this process's turn once a line has come in, or the input has ended.
struct LineOfInput;

impl Turn for LineOfInput {
    async fn come(self) -> Result<()> {
        println!("{READY}");
        std::io::stdout().flush()?;
        let line = || std::io::stdin().read_line(&mut String::new());
        tokio::task::spawn_blocking(line).await??;
        Ok(())
    }
}

/// All rounds.
pub(crate) async fn run(args: &GossipArgs) -> Result<()> {
    let mut outcomes = Vec::new();
    for round in args.gossip_first_round..args.gossip_first_round + args.gossip_rounds {
        let mut order = [Variant::Vanilla, Variant::Ours];
        order.rotate_left(round as usize % 2);
        let mut apart = Vec::new();
        for &peers in &args.gossip_peers {
            for variant in order {
                let setup = Setup {
                    all_connected: args.gossip_all_connected,
                    ..Setup::new(variant, peers, round, args.gossip_seconds)
                };
                apart.push(Apart::start(&setup)?);
            }
        }
        for one in &mut apart {
            one.is_ready().await?;
        }
        for one in apart {
            let outcome = one.outcome().await?;
            report::line(&json!({"scenario": "gossip", "load": process::load(), "is": outcome}));
            outcomes.push(outcome);
        }
    }
    let outcomes = match &args.gossip_saved {
        Some(file) => saved(file, &outcomes)?,
        None => outcomes,
    };
    table(&args.gossip_peers, &outcomes);
    Ok(())
}

/// Adds outcomes to a file, one a line; all that are in it then.
fn saved(file: &Path, outcomes: &[Outcome]) -> Result<Vec<Outcome>> {
    let mut options = OpenOptions::new();
    let mut kept = options.create(true).append(true).open(file)?;
    for outcome in outcomes {
        writeln!(kept, "{}", serde_json::to_string(outcome)?)?;
    }
    let all = std::fs::read_to_string(file)?;
    let outcome = |line: &str| serde_json::from_str(line).context("a line of the saved rounds");
    all.lines().map(outcome).collect()
}

/// A measurement in a process of its own.
struct Apart {
    _child: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Apart {
    fn start(setup: &Setup) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--gossip-one", &serde_json::to_string(setup)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = child.stdout.take().context("its output is piped")?;
        Ok(Self {
            orders: child.stdin.take().context("its input is piped")?,
            said: BufReader::new(said).lines(),
            _child: child,
        })
    }

    async fn is_ready(&mut self) -> Result<()> {
        let line = self.said.next_line().await?;
        line.filter(|line| line == READY)
            .context("a measurement failed before it was ready; its error stands above")?;
        Ok(())
    }

    async fn outcome(mut self) -> Result<Outcome> {
        self.orders.write_all(b"go\n").await?;
        let line = self.said.next_line().await?;
        let line = line.context("a measurement failed; its error stands above")?;
        serde_json::from_str(&line).context("the measurement's answer")
    }
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
    let bytes = peer::body_bytes(UnixMillis(SystemClock::new().now_ms()));
    println!(
        "\n## Gossip: ours beside vanilla gossipsub, heartbeats of {bytes} bytes, 10 messages/s, medians [least-most]"
    );
    let heads: Vec<&str> = COLUMNS.iter().map(|(head, ..)| *head).collect();
    println!(
        "\n| peers | which | rounds | delivered | connections | {} |",
        heads.join(" | ")
    );
    println!("|---|---|---|---|---|{}", "---|".repeat(COLUMNS.len()));
    for &peers in sizes {
        let of = |variant| -> Vec<&Outcome> {
            let wanted = |o: &&Outcome| o.setup.peers == peers && o.setup.variant == variant;
            outcomes.iter().filter(wanted).collect()
        };
        // Pairs of one round: they ran beside each other.
        let pairs = of(Variant::Vanilla).into_iter().filter_map(|vanilla| {
            let mut ours = of(Variant::Ours).into_iter();
            Some((vanilla, ours.find(|o| o.setup.seed == vanilla.setup.seed)?))
        });
        let (vanilla, ours): (Vec<_>, Vec<_>) = pairs.unzip();
        if vanilla.is_empty() {
            continue;
        }
        for (name, runs) in [("vanilla", &vanilla), ("ours", &ours)] {
            let sum = |field: fn(&Outcome) -> u64| runs.iter().map(|o| field(o)).sum::<u64>();
            let delivered = 100.0 * sum(|o| o.delivered) as f64 / sum(|o| o.due) as f64;
            let connections = Spread::of(runs.iter().map(|o| o.connections_per_peer)).median;
            let cells = COLUMNS
                .map(|(_, digits, value)| Spread::of(runs.iter().map(|o| value(o))).cell(digits));
            let cells = cells.join(" | ");
            let rounds = runs.len();
            println!(
                "| {peers} | {name} | {rounds} | {delivered:.2} % | {connections:.1} | {cells} |"
            );
        }
        let cells = COLUMNS.map(|(_, _, value)| {
            let pairs = vanilla.iter().zip(&ours);
            Spread::of(pairs.map(|(vanilla, ours)| value(ours) / value(vanilla))).cell(2)
        });
        println!(
            "| {peers} | **ours / vanilla** | | | | {} |",
            cells.join(" | ")
        );
    }
    println!();
}

#[cfg(test)]
mod tests;
