//! Questions through the whole path: HTTP → task row → lease → node → result → verdict → ledger → HTTP.
//! Open loop at fixed rates (latencies from the moment a question was due, so that a stall is not hidden
//! by askers who wait), then closed loop as fast as it goes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use sqlx::PgPool;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::Instant,
};

use crate::{
    http::Client,
    network::{Network, World},
    node::{Plan, Sim, Tally},
    process::{self, Cpu},
    report::{self, Latencies},
    verify,
};

/// Questions under way at once in an open loop; more wait, which their latency shows.
const UNDER_WAY_MAX: usize = 2_000;

/// Nodes that connect at the same time while a scenario is set up.
const JOINING_MAX: usize = 32;

/// How long everybody may take to be connected.
const JOINED_WITHIN: Duration = Duration::from_mins(2);

/// How soon a node whose stream has ended comes back.
const RETRY: Duration = Duration::from_millis(500);

/// How hard.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Simulated nodes.
    #[arg(long, default_value_t = 200)]
    pub(crate) nodes: usize,
    /// Slots each of them offers.
    #[arg(long, default_value_t = 4)]
    pub(crate) slots: u32,
    /// Questions per second of the open loops.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 500, 1_000, 2_000])]
    pub(crate) rates: Vec<u32>,
    /// Askers of the closed loops.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256])]
    pub(crate) askers: Vec<usize>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Answers as streams of chunks, four each.
    #[arg(long)]
    pub(crate) stream: bool,
}

/// Nodes that work in the background until dropped.
pub(crate) struct Fleet {
    pub(crate) tally: Arc<Tally>,
    _nodes: JoinSet<()>,
}

impl Fleet {
    /// Registers and connects `nodes`; returns when all have been welcomed.
    pub(crate) async fn start(world: &World, nodes: usize, plan: Plan) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        let mut first = Sim::new(world, usize::MAX, &tally)?;
        first.register().await.context("the first node")?;
        let weights: Arc<[String]> = first.weights().await?.into();
        let door = Arc::new(Semaphore::new(JOINING_MAX));
        let mut all = JoinSet::new();
        for number in 0..nodes {
            let mut sim = Sim::new(world, number, &tally)?;
            let (door, weights, tally) = (door.clone(), weights.clone(), tally.clone());
            all.spawn(async move {
                let mut registered = false;
                // It comes back when its stream ends, as a node does.
                loop {
                    let lived = async {
                        let permit = door.clone().acquire_owned().await?;
                        if !registered {
                            sim.register().await?;
                            registered = true;
                        }
                        sim.work(&weights, plan, || drop(permit)).await
                    };
                    let Err(error) = lived.await;
                    tally.failed(&error);
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
        let begun = Instant::now();
        while tally.connected.load(std::sync::atomic::Ordering::Relaxed) < nodes {
            ensure!(
                begun.elapsed() < JOINED_WITHIN,
                "not all joined: {}",
                tally.last_error()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { tally, _nodes: all })
    }
}

/// The question that everybody asks.
pub(crate) fn question(stream: bool) -> Bytes {
    let body = json!({"query": "What is the capital of France?", "max_tokens": 16, "temperature": 0, "stream": stream});
    Bytes::from(body.to_string())
}

/// What came of a run.
#[derive(Default)]
struct Outcome {
    answers: Latencies,
    refused: u64,
    failed: u64,
    wall: f64,
}

/// Both loops; prints.
pub(crate) async fn run(network: &mut Network, args: &LoadArgs) -> Result<()> {
    let plan = Plan {
        slots: args.slots,
        again: true,
    };
    let fleet = Fleet::start(&network.world, args.nodes, plan).await?;
    let pool = verify::pool(network).await?;
    let pids = network.pids()?;
    let world = network.world.clone();
    let client = Arc::new(Client::new(
        world.dialer.clone(),
        &world.api,
        Some(&world.api_key),
    ));
    println!(
        "## Tasks through the coordinator: {} nodes, {} slots each{}\n",
        args.nodes,
        args.slots,
        if args.stream { ", streaming" } else { "" }
    );
    println!(
        "| load | answered/s | dispatch p50 / p99 ms | answer p50 / p99 ms | refused, failed | CPU ms per task: coordinator | Postgres | load generator |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    // Caches, prepared statements, connections.
    closed(&client, 16, Duration::from_secs(2), args.stream).await;
    fleet.tally.leases_take();
    let seconds = Duration::from_secs(args.seconds);
    for rate in &args.rates {
        let before = Cpu::now(pids);
        let outcome = open(&client, *rate, seconds, args.stream).await;
        let cpu = Cpu::now(pids).since(before);
        show(
            &format!("open loop, {rate}/s"),
            &outcome,
            cpu,
            &fleet,
            &pool,
        )
        .await?;
    }
    for askers in &args.askers {
        let before = Cpu::now(pids);
        let outcome = closed(&client, *askers, seconds, args.stream).await;
        let cpu = Cpu::now(pids).since(before);
        show(
            &format!("closed loop, {askers} askers"),
            &outcome,
            cpu,
            &fleet,
            &pool,
        )
        .await?;
    }
    finish(&fleet, &pool, pids).await
}

async fn finish(fleet: &Fleet, pool: &PgPool, pids: (i32, i32)) -> Result<()> {
    let counts = verify::check(pool).await?;
    let nodes_failed = fleet
        .tally
        .errors
        .load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "\ncounted in Postgres: {} tasks, {} answered once, {} booked once, ledger sums to zero; {} second attempts; node streams that broke: {nodes_failed} {}; coordinator RSS {} MiB",
        counts.tasks,
        counts.answered,
        counts.booked,
        counts.second_attempts,
        fleet.tally.last_error(),
        process::rss_bytes(pids.0) >> 20
    );
    println!();
    Ok(())
}

async fn show(what: &str, outcome: &Outcome, cpu: Cpu, fleet: &Fleet, pool: &PgPool) -> Result<()> {
    let dispatch = verify::dispatch(pool, &fleet.tally.leases_take()).await?;
    let n = outcome.answers.len().max(1) as f64;
    let per_second = outcome.answers.len() as f64 / outcome.wall;
    let ms = |seconds: f64| seconds * 1_000.0 / n;
    println!(
        "| {what} | {per_second:.0} | {} | {} | {}, {} | {:.2} | {:.2} | {:.2} |",
        dispatch.cell(),
        outcome.answers.cell(),
        outcome.refused,
        outcome.failed,
        ms(cpu.coordinator),
        ms(cpu.postgres),
        ms(cpu.bench)
    );
    report::line(&json!({
        "scenario": what, "answered_per_second": per_second, "dispatch": dispatch.json(),
        "answer": outcome.answers.json(), "refused": outcome.refused, "failed": outcome.failed,
        "cpu_ms_per_task": {"coordinator": ms(cpu.coordinator), "postgres": ms(cpu.postgres), "bench": ms(cpu.bench)},
    }));
    Ok(())
}

/// Asks once; `None`: it was turned away (429, 503).
async fn ask(client: &Client, body: Bytes) -> Result<Option<()>> {
    let (status, body) = client.send(Method::POST, "/v1/query", body).await?;
    if matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return Ok(None);
    }
    let text = std::str::from_utf8(&body).unwrap_or_default();
    ensure!(
        status == StatusCode::OK && text.contains("one"),
        "{status}: {text}"
    );
    Ok(Some(()))
}

/// Questions at fixed moments, whatever becomes of those before.
async fn open(client: &Arc<Client>, rate: u32, during: Duration, stream: bool) -> Outcome {
    let all = Arc::new(Mutex::new(Outcome::default()));
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let begun = Instant::now();
    let questions = (during.as_secs_f64() * f64::from(rate)) as u32;
    let mut asked = JoinSet::new();
    for number in 0..questions {
        let due = begun + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        tokio::time::sleep_until(due).await;
        let (client, all, room) = (client.clone(), all.clone(), room.clone());
        asked.spawn(async move {
            let _permit = room.acquire_owned().await;
            let came = ask(&client, question(stream)).await;
            note(&mut *all.lock().await, came, due);
        });
    }
    while asked.join_next().await.is_some() {}
    take(&all, begun).await
}

/// Askers who ask again as soon as they have their answer.
async fn closed(client: &Arc<Client>, askers: usize, during: Duration, stream: bool) -> Outcome {
    let all = Arc::new(Mutex::new(Outcome::default()));
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..askers {
        let (client, all) = (client.clone(), all.clone());
        asking.spawn(async move {
            while begun.elapsed() < during {
                let due = Instant::now();
                let came = ask(&client, question(stream)).await;
                note(&mut *all.lock().await, came, due);
            }
        });
    }
    while asking.join_next().await.is_some() {}
    take(&all, begun).await
}

fn note(all: &mut Outcome, came: Result<Option<()>>, due: Instant) {
    match came {
        Ok(Some(())) => all.answers.push(due.elapsed().as_micros() as u64),
        Ok(None) => all.refused += 1,
        Err(error) => {
            if all.failed == 0 {
                println!("first failure: {error:#}");
            }
            all.failed += 1;
        }
    }
}

async fn take(all: &Mutex<Outcome>, begun: Instant) -> Outcome {
    let mut outcome = std::mem::take(&mut *all.lock().await);
    outcome.wall = begun.elapsed().as_secs_f64();
    outcome
}
