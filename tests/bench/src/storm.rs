//! Everybody at once: nodes register, connect and get their first task in the same moment; then the
//! coordinator is killed and started again, and all of them come back.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use rand::Rng as _;
use serde_json::json;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::Instant,
};

use crate::{
    http::Client,
    load::question,
    network::{Network, World},
    node::{Plan, Sim, Tally},
    process::{self, Cpu},
    report::{self, Latencies},
    verify,
};

/// How long all may take.
const ALL_IN_WITHIN: Duration = Duration::from_mins(3);

/// A node tries again after this, and as much again by chance.
const RETRY: Duration = Duration::from_millis(250);

/// Questions under way while every node gets its first.
const ASKERS: usize = 256;

struct Joined {
    begun: Instant,
    latencies: Latencies,
}

/// The storm; prints.
pub(crate) async fn run(network: &mut Network, nodes: usize) -> Result<()> {
    let world = network.world.clone();
    let tally = Arc::new(Tally::default());
    let joined = Arc::new(Mutex::new(Joined {
        begun: Instant::now(),
        latencies: Latencies::default(),
    }));
    let pids = network.pids()?;
    let rss_before = process::rss_bytes(pids.0);
    let (_, descriptors_max) = process::descriptors(pids.0);
    println!("## Reconnect storm: {nodes} nodes at once\n");
    println!(
        "open files: the coordinator may have {descriptors_max}, needs about {}",
        nodes + 64
    );
    ensure!(descriptors_max > nodes as u64 + 64, "raise it: ulimit -n");
    println!(
        "\n| storm | all in after s | per node p50 / p99 ms | tries that failed | coordinator CPU ms per node | Postgres |"
    );
    println!("|---|---|---|---|---|---|");
    let weights = weights(&world, &tally).await?;
    let before = Cpu::now(pids);
    joined.lock().await.begun = Instant::now();
    let _fleet = connect(&world, nodes, &weights, &tally, &joined)?;
    all_in(&joined, nodes, &tally).await?;
    let cpu = Cpu::now(pids).since(before);
    show("register and connect", &joined, nodes, &tally, cpu).await;
    let rss = process::rss_bytes(pids.0);
    let per_node = rss.saturating_sub(rss_before) / nodes.max(1) as u64;
    let (open, _) = process::descriptors(pids.0);
    first_leases(network, &world, nodes, &tally).await?;

    let killed = Instant::now();
    network.coordinator.kill().await?;
    *joined.lock().await = Joined {
        begun: Instant::now(),
        latencies: Latencies::default(),
    };
    network.coordinator.start().await?;
    let ready = killed.elapsed().as_secs_f64();
    let pids = network.pids()?;
    all_in(&joined, nodes, &tally).await?;
    let cpu = Cpu::now(pids);
    show(
        "after kill -9 and restart",
        &joined,
        nodes,
        &tally,
        Cpu {
            bench: 0.0,
            postgres: 0.0,
            ..cpu
        },
    )
    .await;
    first_leases(network, &world, nodes, &tally).await?;
    println!(
        "\nresident memory per connected node: {:.1} KiB ({} MiB with {open} open files); ready again {ready:.1} s after the kill; last error seen: {}\n",
        per_node as f64 / 1_024.0,
        rss >> 20,
        tally.last_error()
    );
    let counts = verify::check(&verify::pool(network).await?).await?;
    println!(
        "counted in Postgres: {} tasks, {} answered once, {} booked once, ledger sums to zero\n",
        counts.tasks, counts.answered, counts.booked
    );
    report::line(
        &json!({"scenario": "storm memory", "rss_bytes_per_node": per_node, "open_files": open,
        "open_files_max": descriptors_max, "ready_after_kill_s": ready}),
    );
    Ok(())
}

async fn weights(world: &World, tally: &Arc<Tally>) -> Result<Arc<[String]>> {
    let mut one = Sim::new(world, usize::MAX, tally)?;
    one.register().await?;
    Ok(one.weights().await?.into())
}

/// Every node tries until it is in, and comes back when its stream breaks.
fn connect(
    world: &World,
    nodes: usize,
    weights: &Arc<[String]>,
    tally: &Arc<Tally>,
    joined: &Arc<Mutex<Joined>>,
) -> Result<JoinSet<()>> {
    let plan = Plan {
        slots: 1,
        again: false,
    };
    let mut all = JoinSet::new();
    for number in 0..nodes {
        let mut sim = Sim::new(world, number, tally)?;
        let mut rng = world.seed.rng(&format!("retry/{number}"));
        let (weights, tally, joined) = (weights.clone(), tally.clone(), joined.clone());
        all.spawn(async move {
            let mut registered = false;
            loop {
                let lived = async {
                    if !registered {
                        sim.register().await?;
                        registered = true;
                    }
                    let joined = joined.clone();
                    let note = move || {
                        drop(tokio::spawn(async move {
                            let mut joined = joined.lock().await;
                            let after = joined.begun.elapsed().as_micros() as u64;
                            joined.latencies.push(after);
                        }));
                    };
                    sim.work(&weights, plan, note).await
                };
                let Err(error) = lived.await;
                tally.failed(&error);
                let wait = RETRY + RETRY.mul_f64(rng.random());
                tokio::time::sleep(wait).await;
            }
        });
    }
    Ok(all)
}

async fn all_in(joined: &Mutex<Joined>, nodes: usize, tally: &Tally) -> Result<()> {
    let begun = Instant::now();
    while joined.lock().await.latencies.len() < nodes {
        ensure!(
            begun.elapsed() < ALL_IN_WITHIN,
            "{} of {nodes} are in; last error: {}",
            joined.lock().await.latencies.len(),
            tally.last_error()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn show(what: &str, joined: &Mutex<Joined>, nodes: usize, tally: &Tally, cpu: Cpu) {
    let joined = joined.lock().await;
    let errors = tally.errors.swap(0, Ordering::Relaxed);
    let ms = |seconds: f64| seconds * 1_000.0 / nodes.max(1) as f64;
    println!(
        "| {what} | {:.2} | {} | {errors} | {:.2} | {:.2} |",
        joined.latencies.quantile_ms(1.0) / 1_000.0,
        joined.latencies.cell(),
        ms(cpu.coordinator),
        ms(cpu.postgres)
    );
    report::line(
        &json!({"scenario": format!("storm: {what}"), "joined": joined.latencies.json(),
        "failed_tries": errors, "coordinator_cpu_ms_per_node": ms(cpu.coordinator)}),
    );
}

/// One question for every node: each has one slot and offers it once.
async fn first_leases(network: &Network, world: &World, nodes: usize, tally: &Tally) -> Result<()> {
    tally.leases_take();
    let client = Arc::new(Client::new(
        world.dialer.clone(),
        &world.api,
        Some(&world.api_key),
    ));
    let room = Arc::new(Semaphore::new(ASKERS));
    let begun = Instant::now();
    let mut asked = JoinSet::new();
    for _ in 0..nodes {
        let (client, room) = (client.clone(), room.clone());
        asked.spawn(async move {
            let _permit = room.acquire_owned().await;
            let body: Bytes = question(false);
            client
                .send(Method::POST, "/v1/query", body)
                .await
                .map(|(status, _)| status)
        });
    }
    let mut answered = 0;
    while let Some(came) = asked.join_next().await {
        answered += usize::from(came??.is_success());
    }
    let dispatch = verify::dispatch(&verify::pool(network).await?, &tally.leases_take()).await?;
    println!(
        "| one task for each node | {:.2} | dispatch {} | {} | | |",
        begun.elapsed().as_secs_f64(),
        dispatch.cell(),
        nodes - answered
    );
    report::line(
        &json!({"scenario": "storm: one task for each node", "answered": answered, "dispatch": dispatch.json()}),
    );
    Ok(())
}
