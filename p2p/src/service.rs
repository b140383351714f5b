//! The one task that owns the swarm: commands in, events of the network in, news and views out. Handlers are in
//! `service/*`, one file per subject. Called by the daemons through [`start`]; spoken to through [`Handle`].
//!
//! Order of attention: stop, commands of our own daemon, timers, the network. So nothing that comes from outside
//! can keep the daemon waiting, and each of the first three is bounded, so the network can't starve either.
//! Must stay true: every queue here is bounded; nothing unverified becomes news or is served on.

mod announcing;
mod answering;
mod catching;
mod connecting;
mod dht;
mod hearing;
mod known;
mod meeting;
mod reaching;
mod showing;
mod telling;
mod tending;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    PeerId,
    core::transport::ListenerId,
    request_response::OutboundRequestId,
    swarm::{self, Swarm, SwarmEvent},
};
use owm_proto::{NodeKey, PublicKey, StrictEd25519, genesis::NetworkId};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Clock, Documents, Handle, Lacking, News, P2pError, Rules, SwarmConfig, SwarmView, assemble,
    behaviour::{Behaviour, BehaviourEvent, OpenEvent, OthersEvent},
    bootstrap::{Driver, driver::DriverConfig},
    counts::Counts,
    gossip::Topics,
    handle::{COMMAND_QUEUE, Command},
    news::NewestCheckpoint,
    peer::{self, Scores},
    rest::{Gate, Rests},
    transport::{Transport, Vouched},
};
use {connecting::Peer, known::Known, telling::Teller};

/// News that wait for the daemon: a minute's heartbeats of a full shard, twice.
pub const NEWS_QUEUE: usize = 4_096;

/// Views at most so often while little changes...
const VIEW_EVERY: Duration = Duration::from_millis(250);

/// ... and so often while something changes all the time, as heartbeats do: a view costs a copy of all nodes.
const VIEW_EVERY_BUSY: Duration = Duration::from_secs(1);

/// Looks after connections, sources and the DHT so often.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// Time for closing connections and ending their tasks.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a swarm starts with.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its settings.
    pub config: SwarmConfig,
    /// Its identity.
    pub key: &'a NodeKey,
    /// The network, if only its id is known: the documents then come from the first peer that has them.
    pub network: NetworkId,
    /// The network's documents, if they are known.
    pub documents: Option<Documents>,
    /// The newest checkpoint that is known.
    pub newest: Option<NewestCheckpoint>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// For choices among peers.
    pub seed: [u8; 32],
}

/// The swarm's state.
pub(crate) struct Service {
    config: SwarmConfig,
    me: PublicKey,
    network: NetworkId,
    clock: Arc<dyn Clock>,
    rng: ChaCha20Rng,
    swarm: Swarm<Behaviour>,
    tasks: TaskTracker,
    stop: CancellationToken,
    commands: mpsc::Receiver<Command>,
    news: Teller,
    view: watch::Sender<Arc<SwarmView>>,
    counts: Counts,
    counted: watch::Sender<Counts>,
    known: Known,
    rules: Option<Rules>,
    scores: Scores,
    /// Cut off for a time.
    banned: BTreeMap<PeerId, PublicKey>,
    learnt: hearing::Learnt,
    verdicts: hearing::Verdicts,
    own: announcing::Own,
    subscribed: Vec<crate::gossip::Topic>,
    topics: Option<Topics>,
    peers: BTreeMap<PeerId, Peer>,
    asked: HashMap<OutboundRequestId, meeting::Asked>,
    answers: answering::Answers,
    /// When one peer was asked again last, on the clock's monotonic side.
    met_again: Duration,
    meet_wait: Duration,
    catching: catching::Catching,
    lacking: Lacking,
    ways: Driver,
    listeners: HashSet<ListenerId>,
    dht: dht::Dht,
    reach: reaching::Reach,
    warnings: Vec<String>,
    dirty: bool,
    /// Not before, on the clock's monotonic side.
    show_at: Duration,
}

/// Starts a swarm on the clear net (or loopback). Must be called inside a tokio runtime; nothing happens until
/// the future is polled, which ends after [`Handle::stop`] or once all handles are dropped.
///
/// # Errors
/// When an address of `config.listen` can't be listened on, or a part can't be made.
pub fn start(
    start: Start<'_>,
) -> Result<
    (
        Handle,
        mpsc::Receiver<News>,
        impl Future<Output = ()> + Send + use<>,
    ),
    P2pError,
> {
    let transport = Transport::clearnet(start.key)?;
    start_over(start, transport)
}

/// Like [`start`], over a transport of the caller's.
///
/// # Errors
/// As [`start`].
pub fn start_over(
    start: Start<'_>,
    transport: Transport,
) -> Result<
    (
        Handle,
        mpsc::Receiver<News>,
        impl Future<Output = ()> + Send + use<>,
    ),
    P2pError,
> {
    let tasks = TaskTracker::new();
    let vouched = Vouched::default();
    let rests = Rests::default();
    let mut swarm = build(&start, transport, &tasks, vouched.clone())?;
    let gate = Gate::new(rests.clone(), Arc::clone(&start.clock));
    swarm.behaviour_mut().others.gate = Some(gate).into();
    let listeners = listen(&mut swarm, &start.config)?;
    let (commands_in, commands) = mpsc::channel(COMMAND_QUEUE);
    let (news, news_out) = mpsc::channel(NEWS_QUEUE);
    let me = *swarm.local_peer_id();
    let mut rng = ChaCha20Rng::from_seed(start.seed);
    let ways = Driver::new(DriverConfig {
        policy: start.config.policy,
        ourselves: me,
        peers_wanted: start.config.peers_wanted,
        ways: start.config.ways.clone(),
        vouched,
        rests,
        clock: Arc::clone(&start.clock),
        rng: ChaCha20Rng::from_rng(&mut rng),
    });
    let known = Known::new(start.network, start.documents, start.newest);
    let (view, view_out) = watch::channel(Arc::new(showing::empty(me)));
    let (counted, counts_out) = watch::channel(Counts::default());
    let stop = CancellationToken::new();
    let handle = Handle {
        peer: me,
        commands: commands_in,
        view: view_out,
        counts: counts_out,
        streams: swarm.behaviour().others.exchange.streams(),
        stop: stop.clone(),
    };
    let service = Service {
        me: start.key.public(),
        network: start.network,
        rng,
        config: start.config,
        swarm,
        tasks,
        stop,
        commands,
        news: Teller::new(news),
        view,
        counts: Counts::default(),
        counted,
        known,
        rules: None,
        scores: Scores::default(),
        banned: BTreeMap::new(),
        learnt: hearing::Learnt::default(),
        verdicts: hearing::Verdicts::default(),
        show_at: Duration::ZERO,
        own: announcing::Own::default(),
        subscribed: Vec::new(),
        topics: None,
        peers: BTreeMap::new(),
        asked: HashMap::new(),
        answers: answering::Answers::default(),
        meet_wait: Duration::ZERO,
        catching: catching::Catching::default(),
        lacking: Lacking::default(),
        met_again: start.clock.monotonic(),
        ways,
        listeners,
        dht: dht::Dht::default(),
        reach: reaching::Reach::default(),
        warnings: Vec::new(),
        clock: start.clock,
        dirty: true,
    };
    Ok((handle, news_out, service.run()))
}

fn build(
    start: &Start<'_>,
    transport: Transport,
    tasks: &TaskTracker,
    vouched: Vouched,
) -> Result<Swarm<Behaviour>, P2pError> {
    let config = &start.config;
    let key = peer::keypair(start.key);
    let transport = transport.under(config.policy, config.dial_timeout, vouched);
    let behaviour = assemble::behaviour(config, &key, &start.network, transport.relay)?;
    let tasks = tasks.clone();
    let settings = swarm::Config::with_executor(move |task| {
        tasks.spawn(task);
    })
    .with_idle_connection_timeout(connecting::IDLE_TIMEOUT);
    let me = key.public().to_peer_id();
    Ok(Swarm::new(transport.connections, behaviour, me, settings))
}

/// The last in the chain: libp2p's own errors say nothing around the system's.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn listen(
    swarm: &mut Swarm<Behaviour>,
    config: &SwarmConfig,
) -> Result<HashSet<ListenerId>, P2pError> {
    let mut listeners = HashSet::new();
    for address in &config.listen {
        let listener = swarm.listen_on(address.clone());
        listeners.insert(listener.map_err(|error| P2pError::Listen {
            address: address.clone(),
            reason: root_cause(&error),
        })?);
    }
    for address in &config.external {
        if config.policy.allows(address) {
            swarm.add_external_address(address.clone());
        }
    }
    Ok(listeners)
}

impl Service {
    async fn run(mut self) {
        self.apply_documents();
        self.follow_reachability();
        let mut show = every(VIEW_EVERY);
        let mut upkeep = every(UPKEEP_EVERY);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                _ = show.tick(), if self.dirty => self.show(),
                _ = upkeep.tick() => self.upkeep(),
                () = self.news.deliver(), if self.news.waits() => {}
                dials = self.ways.next() => self.dial_planned(dials),
                event = self.swarm.select_next_some() => self.on_event(event),
                // Nothing else is ready in this whole process just now.
                () = tokio::task::yield_now(), if self.verdicts.wait() => self.report(),
            }
        }
        Box::pin(self.close()).await;
    }

    fn on_command(&mut self, command: Command) {
        self.dirty = true;
        match command {
            Command::Announce(envelope, answer) => {
                // Nobody waits any more: nothing to tell.
                let _ = answer.send(self.announce(envelope, &StrictEd25519));
            }
            Command::AnnounceOwn(message, answer) => {
                let _ = answer.send(self.announce_own(message));
            }
            Command::Checkpoint(newest, answer) => {
                let _ = answer.send(self.announce_checkpoint(*newest));
            }
            Command::Documents(documents) => self.take_documents(*documents),
            Command::Candidates(source, addresses) => self.ways.given(source, addresses),
            Command::Block(peer) => self.block(peer),
            Command::Remembered(answer) => {
                let _ = answer.send(self.ways.book().to_json());
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        if self.verdicts.waited_long_enough() {
            self.report();
        }
        self.ways.on_swarm_event(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_connected(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                num_established,
                ..
            } => self.on_disconnected(peer_id, connection_id, num_established),
            SwarmEvent::OutgoingConnectionError { error, .. } => self.on_dial_failed(&error),
            SwarmEvent::IncomingConnectionError { .. } => {
                self.counts.inbound_refused += 1;
                self.dirty = true;
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => self.on_listener_closed(listener_id, reason),
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.follow_reachability();
            }
            _ => self.dirty = true,
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Others(event) => self.on_others(event),
        }
    }

    fn on_others(&mut self, event: OthersEvent) {
        match event {
            OthersEvent::Meet(event) => self.on_meet(event),
            OthersEvent::Ping(event) => self.on_ping(&event),
            OthersEvent::Dht(event) => self.on_dht(event),
            OthersEvent::Open(OpenEvent::Identify(event)) => self.on_identify(event),
            OthersEvent::Open(OpenEvent::Mdns(event)) => self.on_mdns(event),
            OthersEvent::Open(OpenEvent::Reach(event)) => self.on_tested(&event),
            OthersEvent::Open(OpenEvent::Relay(event)) => self.on_relay(&event),
            OthersEvent::Open(_) | OthersEvent::Exchange(()) => self.dirty = true,
        }
    }

    fn upkeep(&mut self) {
        self.tick_rules();
        self.count_held();
        self.forgive();
        self.retry_announcements();
        self.catch_up();
        self.meet_again();
        self.dht_upkeep();
        self.reserve();
        self.trim();
        self.show_counts();
    }

    fn on_listener_closed(&mut self, listener: ListenerId, reason: std::io::Result<()>) {
        let own = self.listeners.remove(&listener);
        if !self.on_circuit_closed(listener)
            && own
            && let Err(error) = reason
        {
            self.warn(format!("a listening address was lost: {error}"));
        }
    }

    fn warn(&mut self, warning: String) {
        /// Warnings that are kept for people.
        const WARNINGS_MAX: usize = 16;
        if !self.warnings.contains(&warning) && self.warnings.len() < WARNINGS_MAX {
            tracing::warn!("{warning}");
            self.warnings.push(warning);
            self.dirty = true;
        }
    }

    /// A number below `n`, which is above 0.
    fn choose(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    /// Says goodbye: closes all connections and waits for their tasks, not longer than [`STOP_TIMEOUT`].
    async fn close(mut self) {
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            // It left by itself just now.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let ended = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
            drop(self.swarm);
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, ended).await.is_err() {
            tracing::debug!("connections were cut, not closed");
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
