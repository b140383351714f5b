//! The crash harness: a devnet under load whose processes are killed with SIGKILL, at every named
//! failpoint or at seeded random moments, and a reckoning afterwards. `tests/crash.rs` runs it; later
//! crashes (payments) bring their own failpoints and are tried by themselves.
//!
//! What must hold, and is counted: every request whose id was sent to its asker has exactly one answer
//! at `GET /v1/requests/{id}`, the same for every reading and the same that the asker saw; its task is
//! booked once; the ledger sums to zero; what the nodes believe they earned is what the ledger says.
//!
//! What is no failure: a request whose connection broke before its id was sent (the asker knows nothing
//! of it, and asks again), one that was turned away, a stream that broke off (its id was sent).

mod load;
mod reckoning;
mod steps;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use owm_devnet::{Devnet, Model, process::POLL};
use rand::Rng as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

pub use self::{
    load::Load,
    reckoning::{Counts, reckon},
    steps::{Program, Step, steps},
};

/// Nodes of the network: a task has three attempts, each on another one.
const NODES: u16 = 3;
/// A process that is to die at a failpoint, or a network that is to be whole again.
const PATIENCE: Duration = Duration::from_mins(3);
/// Longer than the silence that a coordinator takes for an outage (5 s).
const OUTAGE: Duration = Duration::from_secs(6);
/// An armed process that has not died by itself for this long is given another occasion; each time it
/// gets as much longer, so that a slow machine has the node back before the next one.
const NUDGE_EVERY: Duration = Duration::from_millis(1500);
/// A node stands still for this long before it dies, so that it surely dies with a task in hand: answers
/// of the stand-in take 15 ms, and a node killed out of the blue has nothing to do nine times of ten.
const STANDSTILL: Duration = Duration::from_millis(750);
/// Longest pause between a recovery and the next random kill, beyond the questions waited for.
const MOMENT_MS_MAX: u64 = 250;
/// Questions asked between two random kills, at most.
const QUESTIONS_BETWEEN_MAX: u64 = 12;

/// A process to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The coordinator.
    Coordinator,
    /// A node, from 0.
    Node(usize),
    /// The database.
    Database,
}

/// How many kinds there are.
const VICTIMS: usize = 3;

impl Victim {
    fn kind(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Node(_) => "node",
            Self::Database => "database",
        }
    }
}

/// A network under load.
#[derive(Debug)]
pub struct Harness {
    net: Devnet,
    load: Load,
    kills: u64,
    victims: BTreeSet<&'static str>,
    hit: Vec<Step>,
}

impl Harness {
    /// A network of three nodes with askers at work.
    pub async fn start() -> Result<Self> {
        let mut net = Devnet::builder()
            .nodes(NODES)
            .model(Model::Tiny)
            .durable(true)
            .coordinator_setting("scheduler", "stream_lost", "2s")
            // Nobody is to be turned away for asking too much.
            .coordinator_setting("api", "questions_burst", 1_000)
            .coordinator_setting("api", "questions_per_second", 1_000)
            .start()
            .await?;
        let load = Load::start(&mut net).await?;
        Ok(Self {
            net,
            load,
            kills: 0,
            victims: BTreeSet::new(),
            hit: Vec::new(),
        })
    }

    /// Kills `victim` now and starts it again; with `rest`, waits until the network is whole.
    pub async fn kill(&mut self, victim: Victim, rest: bool) -> Result<()> {
        self.kills += 1;
        match victim {
            Victim::Coordinator => {
                self.net.coordinator().kill().await?;
                self.net.coordinator().start().await?;
            }
            Victim::Node(number) => {
                let node = &mut self.net.nodes()[number];
                node.kill().await?;
                node.start().await?;
            }
            Victim::Database => {
                self.net.postgres().kill().await?;
                self.net.postgres().start_again().await?;
            }
        }
        if rest {
            self.recovered().await?;
        }
        Ok(())
    }

    /// `count` kills at moments and of processes drawn from `seed`.
    pub async fn kill_at_random(&mut self, seed: u64, count: u64) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for number in 1..=count {
            let victim = match rng.random_range(0..10) {
                0..4 => Victim::Coordinator,
                4..8 => Victim::Node(rng.random_range(0..usize::from(NODES))),
                _ => Victim::Database,
            };
            let questions = rng.random_range(1..=QUESTIONS_BETWEEN_MAX);
            self.load.until_asked(questions, PATIENCE).await?;
            // The moment itself, not a wait for something.
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..MOMENT_MS_MAX))).await;
            // Now and then the next kill comes while the last one is still being got over.
            let rest = number == count || rng.random_range(0..4) > 0;
            let killed = self.kill(victim, rest).await;
            killed.with_context(|| format!("seed {seed}, kill {number}: {victim:?}"))?;
            self.victims.insert(victim.kind());
        }
        let all = self.victims.len() == VICTIMS;
        ensure!(
            all,
            "seed {seed} never drew one kind of process: {:?}",
            self.victims
        );
        Ok(())
    }

    /// Kills the process that `step` is in when it gets there, and starts it again. Fails if it never
    /// gets there.
    pub async fn kill_at(&mut self, step: &Step) -> Result<()> {
        let died = match step.occasion() {
            steps::Occasion::Command => steps::kill_command(&mut self.net, step).await,
            steps::Occasion::NewNode => steps::kill_new_node(&mut self.net, step).await,
            steps::Occasion::Load => self.kill_under_load(step).await,
        };
        died.with_context(|| format!("failpoint {step}"))?;
        self.kills += 1;
        self.hit.push(step.clone());
        self.recovered()
            .await
            .with_context(|| format!("after failpoint {step}"))
    }

    async fn kill_under_load(&mut self, step: &Step) -> Result<()> {
        match step.program() {
            Program::Coordinator => {
                let coordinator = self.net.coordinator();
                coordinator.kill().await?;
                coordinator.set_environment(&[step.armed()]);
                if step.wants_an_outage() {
                    tokio::time::sleep(OUTAGE).await;
                }
                coordinator.spawn()?;
            }
            Program::Node => {
                let node = &mut self.net.nodes()[0];
                node.kill().await?;
                node.set_environment(&[step.armed()]);
                node.spawn()?;
            }
        }
        self.until_dead(step).await?;
        match step.program() {
            Program::Coordinator => {
                let coordinator = self.net.coordinator();
                coordinator.set_environment(&[]);
                coordinator.start().await
            }
            Program::Node => {
                let node = &mut self.net.nodes()[0];
                node.set_environment(&[]);
                node.start().await
            }
        }
    }

    /// Waits for the armed process's death by its own hand; a node that stands still and dies in between
    /// gives a coordinator occasions: lost leases, a registration, a session.
    async fn until_dead(&mut self, step: &Step) -> Result<()> {
        let start = Instant::now();
        let (mut nudged, mut pause) = (Instant::now(), NUDGE_EVERY);
        loop {
            let process = match step.program() {
                Program::Coordinator => self.net.coordinator().process(),
                Program::Node => self.net.nodes()[0].process(),
            };
            let process = process.context("the armed process is not there")?;
            if let Some(status) = process.exit_status()? {
                steps::ensure_killed(step, status, &process.log_tail())?;
                // What is gone can be started again.
                return match step.program() {
                    Program::Coordinator => self.net.coordinator().kill().await,
                    Program::Node => self.net.nodes()[0].kill().await,
                };
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "never hit: {} asked since it was armed; give it an occasion in crash/steps.rs",
                self.load.asked()
            );
            if nudged.elapsed() > pause {
                self.nudge().await?;
                (nudged, pause) = (Instant::now(), pause + NUDGE_EVERY);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A node stands still until it holds a task, dies and comes back.
    async fn nudge(&mut self) -> Result<()> {
        let node = &mut self.net.nodes()[1];
        let process = node.process().context("the node does not run")?;
        process.signal(Signal::SIGSTOP);
        // Tasks come meanwhile; nothing outside tells that they are there.
        tokio::time::sleep(STANDSTILL).await;
        node.kill().await?;
        node.spawn()
    }

    /// Waits until coordinator and database work and all nodes are connected.
    async fn recovered(&mut self) -> Result<()> {
        let start = Instant::now();
        self.net.coordinator().ready().await?;
        loop {
            let stats = self.net.api().get("/v1/network/stats").await;
            let stats = stats.and_then(|answer| answer.ok()).unwrap_or_default();
            if stats["nodes"]["connected"].as_u64() >= Some(u64::from(NODES)) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("not whole again after {} s: {stats:#}", PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every failpoint that was hit so far.
    pub fn hit(&self) -> &[Step] {
        &self.hit
    }

    /// Ends the load and counts.
    pub async fn end(mut self) -> Result<Counts> {
        let asked = self.load.stop().await?;
        let mut counts = reckon(&mut self.net, &asked).await?;
        counts.kills = self.kills;
        self.net.stop().await?;
        Ok(counts)
    }
}
