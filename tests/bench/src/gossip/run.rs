//! One measurement: a network of one variant in this process, idle for a while, then under load. It runs
//! in a process of its own, so that memory and CPU are this network's and nobody else's. The networks of a round
//! warm up side by side and are measured one after the other: [`Turn`] says when.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use owm_proto::{NodeKey, UnixMillis};
use owm_service::clock::{SharedClock, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    gossip::{
        graph, ours,
        peer::{self, Heard, Links, Order, Peer},
        vanilla,
        wire::Meter,
        world::World,
    },
    process,
    report::Latencies,
};

/// Gossipsub grafts its mesh from the fifth second on, once a second; ours then still looks around, and lets go
/// of whom it met in passing after 15 to 30 s (`p2p/src/service/tending.rs`).
const WARM_UP: Duration = Duration::from_secs(40);

/// A network is settled when its peers have sent less than so many bytes each...
const CALM_BYTES: u64 = 500;

/// ... in each of so many seconds,
const CALM_SECONDS: u32 = 3;

/// or after so long at the latest.
const SETTLE_MAX: Duration = Duration::from_mins(2);

/// Idle spells, until one is calm: a tenth of the bytes above.
const SPELLS_MAX: u32 = 6;

/// Time to tell of the last message by gossip, three rounds of it, and one more.
const DRAIN: Duration = Duration::from_secs(4);

/// For all connections to stand.
const CONNECT_MAX: Duration = Duration::from_mins(1);

/// Reports that may wait to be read: more than one measurement has.
const HEARD: usize = 1 << 18;

/// Who gossips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    Vanilla,
    Ours,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) variant: Variant,
    pub(crate) peers: usize,
    /// Of the graph and the keys.
    pub(crate) seed: u64,
    /// Everybody dials everybody, as our peers end up in a network this small whatever the graph.
    #[serde(default)]
    pub(crate) all_connected: bool,
    /// Over the whole network.
    pub(crate) messages_per_second: u32,
    pub(crate) messages: u64,
    pub(crate) warm_up: Duration,
    pub(crate) idle: Duration,
}

impl Setup {
    pub(crate) fn new(variant: Variant, peers: usize, seed: u64, seconds: u32) -> Self {
        /// Over the whole network.
        const RATE: u32 = 10;
        Self {
            variant,
            peers,
            seed,
            all_connected: false,
            messages_per_second: RATE,
            messages: u64::from(RATE * seconds),
            warm_up: WARM_UP,
            idle: Duration::from_secs(3),
        }
    }
}

/// What came out. "Per message" is over the messages of the load, idle costs subtracted; bytes are those
/// sent (as many are received).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) setup: Setup,
    pub(crate) delivered: u64,
    pub(crate) due: u64,
    pub(crate) connections_per_peer: f64,
    pub(crate) shunned_per_peer: f64,
    /// From the first peer's start until the network said next to nothing any more.
    pub(crate) settled_after_seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) bytes_per_message_and_peer: f64,
    pub(crate) cpu_ms_per_message_and_peer: f64,
    pub(crate) idle_bytes_per_second_and_peer: f64,
    pub(crate) idle_cpu_ms_per_second_and_peer: f64,
    pub(crate) memory_mb_per_peer: f64,
}

/// What is waited for between the warm-up and the measurement.
pub(crate) trait Turn {
    /// Says that the network is ready; returns when it is this one's turn.
    async fn come(self) -> Result<()>;
}

/// Runs it.
pub(crate) async fn measure(setup: Setup, turn: impl Turn) -> Result<Outcome> {
    let started = Instant::now();
    let resident = || process::rss_bytes(std::process::id().cast_signed());
    let before = resident();
    let meter = Arc::new(Meter::default());
    let (heard, mut hearing) = mpsc::channel(HEARD);
    let network = Network::start(&setup, &meter, &heard).await?;
    sleep(setup.warm_up).await;
    settle(&setup, &meter).await;
    let settled_after_seconds = started.elapsed().as_secs_f64();
    turn.come().await?;
    let (idle, idle_seconds) = idle(&setup, &meter).await?;
    let memory = resident().saturating_sub(before);
    let links = network.links().await?;
    let (begun, start) = (Instant::now(), Costs::now(&meter)?);
    let sent = network.publish(&setup).await?;
    sleep(DRAIN).await;
    let load = Costs::now(&meter)?.since(start);
    let load_seconds = begun.elapsed().as_secs_f64();
    let mut latencies = Latencies::default();
    while let Ok(Heard { message, at }) = hearing.try_recv() {
        let sent = sent.get(message as usize);
        let sent = sent.context("a message that was not sent")?;
        latencies.push(at.duration_since(*sent).as_micros() as u64);
    }
    let peers = setup.peers as f64;
    let per_message = |total: f64, idle_total: f64| {
        let more = total - idle_total / idle_seconds * load_seconds;
        more / setup.messages as f64 / peers
    };
    let per_second = |total: f64| total / idle_seconds / peers;
    Ok(Outcome {
        delivered: latencies.len() as u64,
        due: setup.messages * (setup.peers as u64 - 1),
        connections_per_peer: links.connections as f64 / peers,
        shunned_per_peer: links.shunned as f64 / peers,
        settled_after_seconds,
        p50_ms: latencies.quantile_ms(0.5),
        p99_ms: latencies.quantile_ms(0.99),
        bytes_per_message_and_peer: per_message(load.bytes, idle.bytes),
        cpu_ms_per_message_and_peer: per_message(load.cpu_ms, idle.cpu_ms),
        idle_bytes_per_second_and_peer: per_second(idle.bytes),
        idle_cpu_ms_per_second_and_peer: per_second(idle.cpu_ms),
        memory_mb_per_peer: memory as f64 / 1e6 / peers,
        setup,
    })
}

/// What the network costs while nobody speaks, and over how many seconds: of the first spell in which nobody looked
/// around (a walk through the DHT, once in half an hour, is no part of what idling costs and would be taken off what
/// messages cost), or of the last.
async fn idle(setup: &Setup, meter: &Meter) -> Result<(Costs, f64)> {
    let mut spells = 1;
    loop {
        let (begun, start) = (Instant::now(), Costs::now(meter)?);
        sleep(setup.idle).await;
        let costs = Costs::now(meter)?.since(start);
        let seconds = begun.elapsed().as_secs_f64();
        let is_calm = costs.bytes / seconds < (CALM_BYTES * setup.peers as u64) as f64 / 10.0;
        if is_calm || spells == SPELLS_MAX {
            return Ok((costs, seconds));
        }
        spells += 1;
    }
}

/// Waits until peers that find each other have done so, which is no part of what a message costs.
async fn settle(setup: &Setup, meter: &Meter) {
    let (begun, mut calm) = (Instant::now(), 0);
    while calm < CALM_SECONDS && begun.elapsed() < SETTLE_MAX {
        let before = meter.written();
        sleep(Duration::from_secs(1)).await;
        let bytes = meter.written() - before;
        let is_calm = bytes < CALM_BYTES * setup.peers as u64;
        calm = if is_calm { calm + 1 } else { 0 };
    }
}

/// What has been used so far, or between two moments.
#[derive(Clone, Copy, Debug)]
struct Costs {
    bytes: f64,
    cpu_ms: f64,
}

impl Costs {
    fn now(meter: &Meter) -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = usage.user_time() + usage.system_time();
        Ok(Self {
            bytes: meter.written() as f64,
            cpu_ms: cpu.num_microseconds() as f64 / 1e3,
        })
    }

    fn since(self, start: Self) -> Self {
        Self {
            bytes: self.bytes - start.bytes,
            cpu_ms: self.cpu_ms - start.cpu_ms,
        }
    }
}

struct Network {
    peers: Vec<Peer>,
    clock: SharedClock,
}

impl Network {
    /// Starts all peers and waits until every connection of the graph stands.
    async fn start(setup: &Setup, meter: &Arc<Meter>, heard: &mpsc::Sender<Heard>) -> Result<Self> {
        let clock = SystemClock::shared();
        let keys = (0..setup.peers).map(|peer| graph::key_seed(setup.seed, peer));
        let keys: Vec<_> = keys.map(|seed| NodeKey::from_seed(&seed)).collect();
        let world = World::new(&clock)?;
        let mut peers = Vec::new();
        for key in keys {
            let (meter, heard) = (meter.clone(), heard.clone());
            peers.push(match setup.variant {
                Variant::Vanilla => vanilla::start(&key, &world, &meter, heard).await?,
                Variant::Ours => ours::start(&key, &world, &meter, heard).await?,
            });
        }
        let network = Self { peers, clock };
        let dials = if setup.all_connected {
            graph::all(setup.peers)
        } else {
            graph::dials(setup.peers, setup.seed)
        };
        for (peer, others) in network.peers.iter().zip(&dials) {
            let address = |&other: &usize| network.peers[other].address.clone();
            let addresses = others.iter().map(address).collect();
            peer.tell(Order::Dial(addresses)).await?;
        }
        let wanted = graph::connections(&dials);
        timeout(CONNECT_MAX, network.all_connected(&wanted))
            .await
            .context("the peers did not all connect within a minute")??;
        Ok(network)
    }

    async fn all_connected(&self, wanted: &[usize]) -> Result<()> {
        for (peer, &wanted) in self.peers.iter().zip(wanted) {
            while peer.links().await?.connections < wanted {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Of all peers together.
    async fn links(&self) -> Result<Links> {
        let mut all = Links::default();
        for peer in &self.peers {
            let its = peer.links().await?;
            all.connections += its.connections;
            all.shunned += its.shunned;
        }
        Ok(all)
    }

    /// Publishes at fixed moments, the peers in turn; when each was handed over.
    async fn publish(&self, setup: &Setup) -> Result<Vec<std::time::Instant>> {
        let begun = Instant::now();
        let mut sent = Vec::new();
        for number in 0..setup.messages {
            let due = Duration::from_secs(number) / setup.messages_per_second;
            sleep_until(begun + due).await;
            let from = number as usize % self.peers.len();
            let body = peer::body(from, number, UnixMillis(self.clock.now_ms()));
            sent.push(std::time::Instant::now());
            self.peers[from].tell(Order::Publish(body)).await?;
        }
        Ok(sent)
    }
}
