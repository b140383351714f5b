//! The one loop: something comes in (`inputs`), the session says what to do, it is done (`effects`).
//! Must stay true: events are handled in the order they came, effects in the order they were said.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use owm_proto::{
    Envelope, NodeKey, Role, SessionId, UnixMillis,
    invite::Invite,
    statement::Membership,
    wire::coordinator::{Chunk, Lease, SignedEnvelope, TaskResult},
};
use owm_service::{CancellationToken, RunError, clock::SharedClock};
use rand_chacha::ChaCha20Rng;
use tokio::sync::{mpsc, watch};

use super::{
    Checks, Frame, Parts, calls::CallDone, inputs::Input, knowing::show_network, meeting::Meeting,
};
use crate::{
    activity::Activity,
    caps::Caps,
    config::{NodeConfig, Transport},
    link::{Coordinator, WorkLink},
    metrics::Metrics,
    models::{LoadedModel, ModelEvent},
    network::{Network, Networks},
    orders::{OrderBook, Orders},
    register::Application,
    renewal::Renewal,
    roles::{
        evaluate::Means,
        infer::{JobContext, JobEvent},
    },
    session::{Event, Over, Session, Settings},
    status::Status,
    tasklog::{LeaseKey, TaskLog},
    text::Texts,
};

/// How often the session looks at the time.
const TICK: Duration = Duration::from_millis(200);
/// Job events that wait: a chunk every 50 ms per slot; full means the engine waits.
const JOB_QUEUE: usize = 256;
/// Time to say goodbye.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// What has been made before the loop starts.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) caps: Caps,
    pub(super) log: TaskLog,
    pub(super) unacked: Vec<LeaseKey>,
    pub(super) coordinator: Coordinator,
    pub(super) networks: Networks,
    pub(super) owner_binding: Vec<SignedEnvelope>,
    pub(super) checks: Checks,
    pub(super) hints: watch::Sender<Option<String>>,
    pub(super) models: mpsc::Receiver<ModelEvent>,
    pub(super) status: watch::Sender<Status>,
    pub(super) orders: OrderBook,
    pub(super) metrics: Metrics,
    pub(super) activity: Activity,
    pub(super) meeting: Meeting,
    pub(super) means: Means,
}

/// A task under way here.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) stop: CancellationToken,
    /// Chunks so far, to be sent again with the same boundaries after a reconnect.
    pub(super) chunks: Vec<Chunk>,
}

/// The loop's state.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) key: Arc<NodeKey>,
    pub(super) network: Network,
    pub(super) networks: Networks,
    pub(super) invite: Invite,
    pub(super) meeting: Meeting,
    /// Whether the coordinator is being asked for the network's documents.
    pub(super) refreshing: bool,
    pub(super) coordinator: Coordinator,
    pub(super) clock: SharedClock,
    pub(super) log: TaskLog,
    pub(super) caps: Caps,
    pub(super) application: Application,
    pub(super) transport: Transport,
    pub(super) session_id: SessionId,
    pub(super) started_at: UnixMillis,
    pub(super) rng: ChaCha20Rng,
    pub(super) session: Session,
    pub(super) link: Option<WorkLink>,
    /// The lease that has just come, sealed, until the session has said what becomes of it.
    pub(super) arrived: Option<(LeaseKey, Lease)>,
    pub(super) jobs: BTreeMap<LeaseKey, Job>,
    /// Fresh results, until they are sent; the log has them too.
    pub(super) results: BTreeMap<LeaseKey, TaskResult>,
    pub(super) job_context: JobContext,
    /// What evaluations are done with.
    pub(super) means: Means,
    pub(super) job_events: mpsc::Receiver<JobEvent>,
    pub(super) calls: tokio::task::JoinSet<CallDone>,
    pub(super) models: mpsc::Receiver<ModelEvent>,
    pub(super) hints: watch::Sender<Option<String>>,
    pub(super) loaded: Option<Arc<LoadedModel>>,
    pub(super) membership: Option<(Membership, Envelope)>,
    pub(super) membership_file: PathBuf,
    pub(super) renewal: Renewal,
    pub(super) events: VecDeque<Event>,
    pub(super) over: Option<Over>,
    pub(super) metrics: Metrics,
    /// The sign of life sent last, and when (monotonic).
    pub(super) pinged: Option<(u64, Duration)>,
    pub(super) checks: Checks,
    pub(super) status: watch::Sender<Status>,
    pub(super) picture: Status,
    pub(super) orders: OrderBook,
    pub(super) ordered: watch::Receiver<Orders>,
    pub(super) drains_within: Option<Duration>,
}

impl Daemon {
    pub(super) fn new(frame: &Frame, parts: &Parts, setup: Setup) -> Self {
        let rng = frame.seed.rng("daemon");
        let known = setup.networks.now();
        let (job_tx, job_events) = mpsc::channel(JOB_QUEUE);
        let settings = settings(&parts.config, parts.texts.as_ref());
        let mut picture = setup.status.borrow().clone();
        show_network(&mut picture, &known);
        picture.link_error = None;
        picture.slots = settings.slots.values().sum();
        let mut ordered = setup.orders.follow();
        // What was ordered while the network was asked for is news to the loop.
        ordered.mark_changed();
        picture.pause = ordered.borrow().pause;
        // Before anything can be offered.
        let events = VecDeque::from([Event::Pause(picture.pause.is_some())]);
        Self {
            ordered,
            orders: setup.orders,
            drains_within: None,
            application: Application {
                capabilities: setup.caps.limit(parts.capabilities.clone()),
                ln_node_uri: parts.config.node.ln_node_uri.clone(),
                owner_binding: setup.owner_binding,
            },
            job_context: JobContext {
                node: Arc::clone(&parts.key),
                network: known.network.trust.id(),
                clock: Arc::clone(&frame.clock),
                log: setup.log.clone(),
                activity: setup.activity,
                events: job_tx,
            },
            means: setup.means,
            key: Arc::clone(&parts.key),
            clock: Arc::clone(&frame.clock),
            transport: parts.config.coordinator.transport,
            session_id: setup.meeting.session,
            started_at: UnixMillis(picture.started_at_ms),
            session: Session::new(settings, frame.seed.rng("session"), setup.unacked),
            link: None,
            arrived: None,
            jobs: BTreeMap::new(),
            results: BTreeMap::new(),
            job_events,
            calls: tokio::task::JoinSet::new(),
            models: setup.models,
            hints: setup.hints,
            loaded: None,
            membership: None,
            membership_file: parts.home.membership(),
            renewal: Renewal::default(),
            events,
            over: None,
            metrics: setup.metrics,
            pinged: None,
            status: setup.status,
            picture,
            checks: setup.checks,
            rng,
            caps: setup.caps,
            log: setup.log,
            coordinator: setup.coordinator,
            network: known.network.clone(),
            networks: setup.networks,
            invite: parts.invite.clone(),
            meeting: setup.meeting,
            refreshing: false,
        }
    }

    pub(super) async fn serve(mut self, frame: &Frame) -> Result<(), RunError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let soft = frame.lifecycle.soft();
        let mut stopping = false;
        self.begin();
        while self.over.is_none() {
            let input = tokio::select! {
                () = soft.cancelled(), if !stopping => {
                    stopping = true;
                    tracing::info!("stopping: no new tasks, finishing what runs");
                    Input::Stop
                }
                input = self.next() => input,
                _ = tick.tick() => Input::Tick,
            };
            self.take(input).await?;
            while let Some(event) = self.events.pop_front() {
                let now = self.clock.monotonic();
                for effect in self.session.on(now, event) {
                    self.perform(effect).await?;
                }
            }
            // Not run: refused, or known already.
            self.arrived = None;
            self.show();
        }
        self.break_all_off();
        if let Some(link) = self.link.take() {
            link.close(CLOSE_TIME).await;
        }
        match self.over.take() {
            None | Some(Over::Stopped) => Ok(()),
            Some(Over::Refused(reason)) => Err(RunError::failed(format!(
                "the coordinator refused this node: {reason}"
            ))),
            Some(Over::Fenced(reason)) => {
                tracing::error!(%reason, "fenced");
                let text = "another process runs with this node's key; only one may: stop the other, or \
                            give this one a key of its own (owm-node init --dir)";
                Err(RunError::do_not_restart(text))
            }
        }
    }

    fn break_all_off(&self) {
        for job in self.jobs.values() {
            job.stop.cancel();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The hard shutdown drops it too: blocking threads must hear of it.
        self.break_all_off();
    }
}

/// How many evaluations are taken: none without text.
fn evaluations(config: &NodeConfig, texts: &dyn Texts) -> u32 {
    let wanted = config.roles.evaluate;
    match texts.why_none().filter(|_| wanted > 0) {
        Some(why) => {
            tracing::warn!("no evaluations are taken: {why}");
            0
        }
        None => wanted,
    }
}

/// How many rounds are trained in at once: one training has one update in the making, and none without text.
fn rounds(config: &NodeConfig, texts: &dyn Texts) -> u32 {
    let wanted = config.roles.train.min(1);
    match texts.why_none().filter(|_| wanted > 0) {
        Some(why) => {
            tracing::warn!("no part is taken in rounds: {why}");
            0
        }
        None => wanted,
    }
}

fn settings(config: &NodeConfig, texts: &dyn Texts) -> Settings {
    let section = &config.coordinator;
    let evaluations = evaluations(config, texts);
    let slots = [
        (Role::Infer, config.roles.infer),
        (Role::Evaluate, evaluations),
        (Role::Train, rounds(config, texts)),
    ];
    Settings {
        slots: slots.into(),
        ping: (section.transport == Transport::Stream).then(|| section.ping.get()),
        drain: config.node.drain.get(),
        reconnect: (section.reconnect_min.get(), section.reconnect_max.get()),
        register: (section.register_min.get(), section.register_max.get()),
    }
}
