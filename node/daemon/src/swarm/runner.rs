//! The one task that stands between the swarm and this node: says what the node is, brings home what peers
//! say, and shows it all. `daemon` starts it with [`Swarm::start`] and reads what it publishes.
//! Must stay true: it never waits for the network to be known, and no failure in here ends the process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use owm_p2p::{Moment, NewestCheckpoint};
use owm_proto::{
    Envelope, NodeKey, SessionId, UnixMillis, genesis::NetworkId, wire::coordinator::Capabilities,
};
use owm_service::{CancellationToken, clock::SharedClock, report::Chain, rng::Seed};
use tokio::sync::watch;

use super::{
    PeerFiles, Settings, SwarmPicture, checkpoint, exchange, listen, looking::Looking,
    schedule::Schedule, serving::Runner, ways::ways,
};
use crate::{
    config::ExchangeSection, metrics::SwarmMetrics, models::Shelf, network::NetworkBook,
    status::Status, tasklog::TaskLog,
};

/// Time for the swarm to close its connections.
const STOP_TIME: Duration = Duration::from_secs(3);

/// What the node is, as far as it does not change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its key.
    pub key: Arc<NodeKey>,
    /// The network's id.
    pub network: NetworkId,
    /// This process.
    pub session: SessionId,
    /// Within the operator's caps.
    pub capabilities: Capabilities,
    /// `infer`, if it takes questions.
    pub roles: Vec<String>,
}

/// What the swarm's task works with.
#[derive(Debug)]
pub struct Setup {
    /// `[p2p]`.
    pub settings: Settings,
    /// `[exchange]`.
    pub exchange: ExchangeSection,
    /// Who we are.
    pub identity: Identity,
    /// Peers that the invite names.
    pub invited: Vec<String>,
    /// What is known of the network.
    pub book: NetworkBook,
    /// Tasks under way and weights loaded.
    pub status: watch::Receiver<Status>,
    /// The membership statement.
    pub membership: watch::Receiver<Option<Envelope>>,
    /// Files.
    pub shelf: Shelf,
    /// Sequences.
    pub log: TaskLog,
    /// Where the newest checkpoint is kept.
    pub checkpoint_file: PathBuf,
    /// Where peers are remembered.
    pub peers_file: PathBuf,
    /// The time.
    pub clock: SharedClock,
    /// Chance.
    pub seed: Seed,
    /// What is counted.
    pub metrics: SwarmMetrics,
}

/// The running swarm; dropping it ends it at once, [`Swarm::stop`] in good order.
#[derive(Debug)]
pub struct Swarm {
    picture: watch::Receiver<Arc<SwarmPicture>>,
    newest: watch::Receiver<Option<Arc<NewestCheckpoint>>>,
    files: watch::Receiver<Option<PeerFiles>>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Swarm {
    /// Starts it. Nothing that goes wrong is an error: it is in the picture.
    pub fn start(setup: Setup) -> Self {
        let (shown, picture) = watch::channel(Arc::new(SwarmPicture::off("starting")));
        let (heard, newest) = watch::channel(None);
        let (opened, files) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(setup, shown, heard, opened, stop.clone()));
        Self {
            picture,
            newest,
            files,
            stop,
            task: Some(task),
        }
    }

    /// One that is switched off.
    pub fn off(why: &str) -> Self {
        let (_, picture) = watch::channel(Arc::new(SwarmPicture::off(why)));
        let (_, newest) = watch::channel(None);
        Self {
            picture,
            newest,
            files: watch::channel(None).1,
            stop: CancellationToken::new(),
            task: None,
        }
    }

    /// What it looks like.
    pub fn picture(&self) -> watch::Receiver<Arc<SwarmPicture>> {
        self.picture.clone()
    }

    /// The newest checkpoint that is known.
    pub fn newest(&self) -> watch::Receiver<Option<Arc<NewestCheckpoint>>> {
        self.newest.clone()
    }

    /// Files of other nodes, once the swarm runs.
    pub fn files(&self) -> watch::Receiver<Option<PeerFiles>> {
        self.files.clone()
    }

    /// Says goodbye to peers and writes down who they were.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = &mut self.task {
            // In time or not: it is over.
            drop(tokio::time::timeout(STOP_TIME * 2, task).await);
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Our clock as the swarm asks it.
#[derive(Debug)]
pub(crate) struct SwarmClock(pub(crate) SharedClock);

impl owm_p2p::Clock for SwarmClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.wall(),
            monotonic: self.monotonic(),
        }
    }
}

async fn run(
    setup: Setup,
    shown: watch::Sender<Arc<SwarmPicture>>,
    heard: watch::Sender<Option<Arc<NewestCheckpoint>>>,
    opened: watch::Sender<Option<PeerFiles>>,
    stop: CancellationToken,
) {
    let now = UnixMillis(setup.clock.now_ms());
    let newest = kept_checkpoint(&setup.book, &setup.checkpoint_file).await;
    let mut config = setup.settings.swarm.clone();
    config.ways = ways(&setup.settings, &setup.invited, &setup.peers_file, now);
    let start = listen::Start {
        config,
        key: &setup.identity.key,
        network: setup.identity.network,
        documents: documents(&setup.book, now),
        newest: newest.clone(),
        clock: Arc::new(SwarmClock(Arc::clone(&setup.clock))),
        seed: setup.seed.child("swarm"),
    };
    let running = match listen::start(start) {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the swarm does not run");
            shown.send_replace(Arc::new(SwarmPicture::off(error.to_string())));
            return;
        }
    };
    for problem in &running.problems {
        tracing::warn!("{problem}");
    }
    tracing::info!(peer.id = %running.handle.peer(), "the swarm runs");
    heard.send_replace(newest.map(Arc::new));
    let service = tokio::spawn(running.service);
    let with = exchange::With {
        shelf: &setup.shelf,
        section: &setup.exchange,
        clock: &setup.clock,
        seed: &setup.seed,
    };
    let exchange = exchange::start(with, &running.handle, stop.child_token()).await;
    if let Some(exchange) = exchange.as_ref().filter(|_| setup.exchange.fetch) {
        opened.send_replace(Some(exchange::peer_files(
            exchange,
            &running.handle,
            setup.exchange.serve,
        )));
    }
    let mut runner = Runner {
        view: running.handle.view(),
        handle: running.handle,
        problems: running.problems,
        schedule: Schedule::default(),
        exchange,
        looked: exchange::Looked::new(),
        holds: exchange::Shared::new(),
        looking: Looking::new(),
        known: setup.book.follow(),
        peers_at: setup.clock.monotonic(),
        shown,
        heard,
        setup,
    };
    runner.known.mark_changed();
    runner.serve(running.news, stop).await;
    runner.handle.stop();
    let handle = runner.handle.clone();
    drop(runner);
    drop(handle);
    if tokio::time::timeout(STOP_TIME, service).await.is_err() {
        tracing::warn!("the swarm's connections did not close in time");
    }
}

pub(super) fn documents(book: &NetworkBook, now: UnixMillis) -> Option<owm_p2p::Documents> {
    let known = book.known()?;
    match known.network.to_documents(now) {
        Ok(documents) => Some(documents),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "the network's documents cannot be served to peers");
            None
        }
    }
}

pub(super) async fn kept_checkpoint(book: &NetworkBook, path: &Path) -> Option<NewestCheckpoint> {
    let known = book.known()?;
    let path = path.to_owned();
    let load = move || checkpoint::load(&path, &known.network.trust);
    match tokio::task::spawn_blocking(load).await.ok()? {
        Ok(newest) => newest,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "the kept checkpoint is not used");
            None
        }
    }
}
