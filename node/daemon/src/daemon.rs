//! The daemon: everything that lives while `owm-node start` runs, in its start order. `cli` calls
//! [`run`]; tests do with parts of their own.
//! Must stay true: all state of the conversation is in `session`; nothing under here decides when.

mod booking;
mod calls;
mod effects;
mod gauges;
mod inputs;
mod join;
mod keeping;
mod knowing;
mod meeting;
mod serve;

use std::{sync::Arc, time::Duration};

pub(crate) use calls::{JoinError, fetch_network};
pub(crate) use join::{from_disk, has_peers};
use keeping::Kept;
pub(crate) use keeping::{fetcher, wanted};
use meeting::Meeting;
use owm_proto::{NodeKey, UnixMillis, invite::Invite, wire::coordinator::Capabilities};
use owm_service::{
    Context, RunError,
    clock::SharedClock,
    dialer::Dialer,
    health::{Check, Readiness},
    lifecycle::Lifecycle,
    metrics::Registry,
    report::Chain,
    rng::Seed,
    telemetry,
    tls::Identity,
};
use serve::{Daemon, Setup};
use tokio::sync::watch;

use crate::{
    activity::Activity,
    asking::Asking,
    caps::Caps,
    config::NodeConfig,
    control,
    engine::EngineLoader,
    facts::Sources,
    home::Home,
    link::Coordinator,
    machine::{self, Machine},
    metrics::Metrics,
    models::{self, Shelf},
    network::Networks,
    orders::OrderBook,
    residue::ResidueStore,
    session::Phase,
    status::{Origins, Status},
    tasklog::{LeaseKey, TaskLog, TaskLogError},
    text::Texts,
    updates::Updates,
};

/// Above the drain time, before tasks are dropped: results are flushed, the link says goodbye.
const GRACE_EXTRA: Duration = Duration::from_secs(12);

/// What every daemon gets from `owm_service::run`, as far as this one needs it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The time.
    pub clock: SharedClock,
    /// The root of this process's randomness.
    pub seed: Seed,
    /// Shutdown.
    pub lifecycle: Lifecycle,
    /// Where metrics go.
    pub metrics: Registry,
    /// The logs.
    pub telemetry: telemetry::Handle,
}

impl From<Context> for Frame {
    fn from(context: Context) -> Self {
        let Context {
            clock,
            seed,
            lifecycle,
            metrics,
            telemetry,
        } = context;
        Self {
            clock,
            seed,
            lifecycle,
            metrics,
            telemetry,
        }
    }
}

/// What a daemon is made of.
#[derive(Debug)]
pub struct Parts {
    /// The configuration.
    pub config: NodeConfig,
    /// The data folder; the caller holds its lock.
    pub home: Home,
    /// The identity.
    pub key: Arc<NodeKey>,
    /// The network.
    pub invite: Invite,
    /// Makes all connections.
    pub dialer: Dialer,
    /// Loads models.
    pub loader: Arc<dyn EngineLoader>,
    /// Text that models are measured with.
    pub texts: Arc<dyn Texts>,
    /// What this machine has.
    pub capabilities: Capabilities,
    /// The same for people, one line each.
    pub hardware: Vec<String>,
    /// Conditions of being ready.
    pub readiness: Readiness,
}

/// Runs until stopped, fenced or refused.
pub async fn run(frame: Frame, parts: Parts) -> Result<(), RunError> {
    let grace = parts.config.node.drain.get() + GRACE_EXTRA;
    frame.lifecycle.set_grace(grace);
    let caps = Caps::parse(&parts.config.caps).map_err(RunError::usage)?;
    let now = UnixMillis(frame.clock.now_ms());
    let (log, unacked) = open_log(&parts.home, now).await?;
    let coordinator = coordinator(&parts)?;
    let checks = Checks::new(&parts.readiness);
    let (status, shown) = watch::channel(first_picture(&parts, coordinator.target(), now));
    let orders = OrderBook::open(&parts.home, Arc::clone(&frame.clock));
    let metrics = Metrics::new(&frame.metrics);
    let activity = Activity::new(metrics.clone());
    // One for all: what lies in the folder is known in one place.
    let shelf = Shelf::new(parts.home.models(), caps.disk);
    models::sweep(&shelf);
    let (_sampling, machine) = sample(&parts, &shelf, &metrics);
    let meeting = Meeting::prepare(&frame, &parts, &status).await?;
    let swarm = meeting.start(&frame, &parts, &caps, &shelf, &log, &metrics)?;
    let kept = Kept {
        caps: &caps,
        shelf: &shelf,
        log: &log,
        coordinator: &coordinator,
        swarm: &swarm,
        metrics: &metrics,
    };
    let loaded = watch::Sender::new(None);
    let sources = Sources {
        fetching: kept.fetching(&frame, &parts, &meeting.book, shown.clone())?,
        status: shown,
        swarm: swarm.picture(),
        log: log.clone(),
        activity: activity.clone(),
        machine,
        telemetry: frame.telemetry.clone(),
        clock: Arc::clone(&frame.clock),
        asking: Asking::new(loaded.subscribe(), Arc::clone(&frame.clock)),
    };
    let control = control::serve(&parts.home.control(), sources, orders.clone())?;
    let _control = AbortOnDrop(tokio::spawn(control));
    let book = &meeting.book;
    let joining = join::join(&frame, &parts, &coordinator, book, &status, &orders);
    let Some(known) = joining.await? else {
        swarm.stop().await;
        return Ok(());
    };
    let networks = Networks::new(meeting.book.follow(), known);
    let means = kept.means(&parts, &networks);
    let (_keeper, hints, models) = kept.start_keeper(&frame, &parts, &networks, loaded)?;
    let setup = Setup {
        caps,
        log,
        unacked,
        coordinator,
        networks,
        owner_binding: join::owner_binding(&parts.home)?,
        checks,
        hints,
        models,
        status,
        orders,
        metrics,
        activity,
        meeting,
        means,
    };
    let outcome = Daemon::new(&frame, &parts, setup).serve(&frame).await;
    swarm.stop().await;
    outcome
}

/// The task log, and the results in it that are not acknowledged.
async fn open_log(home: &Home, now: UnixMillis) -> Result<(TaskLog, Vec<LeaseKey>), RunError> {
    let log = TaskLog::open(&home.tasks())?;
    let updates = Updates::new(home.updates());
    let residues = ResidueStore::new(home.residues());
    let close = move |log: &TaskLog| {
        log.close_interrupted(now)?;
        let unacked = log.unacked()?;
        updates.sweep(&unacked);
        settle(&residues, log)?;
        Ok(unacked)
    };
    let unacked = log.run(close).await?;
    Ok((log, unacked))
}

fn coordinator(parts: &Parts) -> Result<Coordinator, RunError> {
    let identity = Identity::from_pkcs8_der(&parts.key.to_pkcs8_der())?;
    let timeout = parts.config.coordinator.call_timeout.get();
    Coordinator::new(&parts.dialer, &identity, &parts.invite, timeout).map_err(RunError::usage)
}

/// Looks at what the process takes of the machine, until the first value is dropped.
fn sample(
    parts: &Parts,
    shelf: &Shelf,
    metrics: &Metrics,
) -> (AbortOnDrop, watch::Receiver<Machine>) {
    let (sampled, machine) = watch::channel(Machine::default());
    let folder = parts.home.path().to_owned();
    let sampling = machine::watch(shelf.clone(), folder, metrics.machine.clone(), sampled);
    (AbortOnDrop(tokio::spawn(sampling)), machine)
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The conditions shown at `/readyz`.
#[derive(Debug)]
struct Checks {
    registered: Check,
    linked: Check,
    model: Check,
}

impl Checks {
    fn new(readiness: &Readiness) -> Self {
        let check = |name| readiness.check(name);
        Self {
            registered: check("registered"),
            linked: check("work_link"),
            model: check("model"),
        }
    }
}

/// What is known before anything has happened.
fn first_picture(parts: &Parts, coordinator: &str, started_at: UnixMillis) -> Status {
    Status {
        phase: Phase::Unregistered,
        software_version: crate::VERSION.to_owned(),
        pid: std::process::id(),
        started_at_ms: started_at.0,
        node_key: parts.key.public().to_string(),
        network: String::new(),
        network_id: parts.invite.genesis.to_string(),
        coordinator: coordinator.to_owned(),
        linked: false,
        linked_since_ms: None,
        pong_at_ms: None,
        ping_ms: None,
        clock_offset_ms: None,
        link_error: None,
        node_id: None,
        tier: None,
        stake_policy: None,
        node_status: None,
        standing: None,
        reasons: Vec::new(),
        model: None,
        model_state: None,
        model_failed: false,
        slots: parts.config.roles.infer,
        running: 0,
        unacknowledged: 0,
        open: true,
        pause: None,
        model_damage: None,
        member_until_ms: None,
        origins: Origins::default(),
        hardware: parts.hardware.clone(),
    }
}

/// Before any result is handed in: an update that a killed process has logged has taken its residue's place, one that it
/// has not is forgotten. A residue that can't be settled is told; the next round's lease tells it again.
fn settle(residues: &ResidueStore, log: &TaskLog) -> Result<(), TaskLogError> {
    let logged = log.updates()?;
    if let Err(error) = residues.settle(&|update| logged.contains(&update)) {
        tracing::warn!(error = %Chain(&error), "what a killed process has left of residues stays as it is");
    }
    Ok(())
}
