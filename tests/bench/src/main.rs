//! `owm-bench`: a real coordinator on a durable Postgres, nodes whose engine is scripted and everything
//! else real, and load on it. `make bench` runs it; it prints tables for docs/benchmarks.md and one line
//! of JSON per measurement. Nothing here asserts a time.
#![expect(clippy::print_stdout, reason = "it prints a report")]

mod answer;
mod exchange;
mod fold;
mod gossip;
mod http;
mod load;
mod network;
mod node;
mod peers;
mod process;
mod report;
mod rest;
mod storm;
mod update;
mod verify;

use anyhow::{Result, bail};
use clap::Parser as _;

use crate::{
    exchange::ExchangeArgs, fold::FoldArgs, gossip::GossipArgs, load::LoadArgs, network::Network,
    update::UpdateArgs,
};

/// The daemon's; what is compared with in this program has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is measured, and how hard.
#[derive(Debug, clap::Parser)]
#[command(about = "Load on one coordinator; prints tables and JSON lines")]
struct Args {
    /// `load`, `storm`, `rest`, `peers`, `fold`, `gossip`, `exchange`, `update`; all of them if none is named.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    #[command(flatten)]
    load: LoadArgs,
    /// Nodes of the reconnect storm.
    #[arg(long, default_value_t = 2_000)]
    storm_nodes: usize,
    #[command(flatten)]
    fold: FoldArgs,
    #[command(flatten)]
    gossip: GossipArgs,
    #[command(flatten)]
    exchange: ExchangeArgs,
    #[command(flatten)]
    update: UpdateArgs,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let all = [
        "load", "rest", "storm", "peers", "fold", "gossip", "exchange", "update",
    ];
    if let Some(unknown) = args.scenarios.iter().find(|s| !all.contains(&s.as_str())) {
        bail!(
            "there is no scenario {unknown}; there are {}",
            all.join(", ")
        );
    }
    let wanted = |name: &str| args.scenarios.is_empty() || args.scenarios.iter().any(|s| s == name);
    if let Some(setup) = &args.gossip.gossip_one {
        return gossip::one(setup).await;
    }
    if let Some(role) = &args.exchange.exchange_one {
        return exchange::one(role).await;
    }
    println!("machine: {}\n", process::machine());
    if wanted("load") {
        let mut network = Network::start().await?;
        let mut done = load::run(&mut network, &args.load).await;
        if done.is_ok() && wanted("rest") {
            done = rest::run(&mut network, &args.load).await;
        }
        network.end(done).await?;
    } else if wanted("rest") {
        let mut network = Network::start().await?;
        let done = rest::run(&mut network, &args.load).await;
        network.end(done).await?;
    }
    if wanted("storm") {
        let mut network = Network::start().await?;
        let done = storm::run(&mut network, args.storm_nodes).await;
        network.end(done).await?;
    }
    if wanted("peers") {
        peers::run().await?;
    }
    if wanted("fold") {
        fold::run(args.fold)?;
    }
    if wanted("gossip") {
        gossip::run(&args.gossip).await?;
    }
    if wanted("exchange") {
        exchange::run(&args.exchange).await?;
    }
    if wanted("update") {
        update::run(&args.update)?;
    }
    Ok(())
}
