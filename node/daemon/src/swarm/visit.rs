//! A visit to the swarm, for the time of one command: it dials, asks and fetches, and says nothing of itself; it
//! listens nowhere and serves nothing. `owm-node models fetch` makes one where no daemon runs.
//! Must stay true: what peers bring of the network is kept as the daemon would keep it.

use std::{path::Path, sync::Arc, time::Duration};

use owm_p2p::{Handle, NewestCheckpoint, News};
use owm_proto::{NodeKey, UnixMillis, genesis::NetworkId};
use owm_service::{CancellationToken, clock::SharedClock, report::Chain, rng::Seed};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    PeerFiles, Settings, checkpoint, exchange, listen,
    runner::{SwarmClock, documents, kept_checkpoint},
    ways::ways,
};
use crate::{
    config::ExchangeSection,
    models::Shelf,
    network::{Network, NetworkBook},
    status::Origin,
};

/// Time to close connections.
const LEAVE_TIME: Duration = Duration::from_secs(1);

/// Who visits.
pub(crate) struct Visitor<'a> {
    pub(crate) settings: Settings,
    pub(crate) exchange: ExchangeSection,
    pub(crate) key: &'a NodeKey,
    pub(crate) network: NetworkId,
    /// Peers that the invite names.
    pub(crate) invited: &'a [String],
    pub(crate) book: NetworkBook,
    pub(crate) shelf: Shelf,
    pub(crate) checkpoint_file: &'a Path,
    pub(crate) peers_file: &'a Path,
    pub(crate) clock: SharedClock,
    pub(crate) seed: Seed,
}

/// The visit; dropping it ends it at once, [`Visit::leave`] in good order.
pub(crate) struct Visit {
    handle: Handle,
    /// Other nodes' files.
    pub(crate) files: watch::Receiver<Option<PeerFiles>>,
    /// The newest checkpoint that is known.
    pub(crate) heard: watch::Receiver<Option<Arc<NewestCheckpoint>>>,
    stop: CancellationToken,
    service: AbortOnDropHandle<()>,
    _news: AbortOnDropHandle<()>,
}

impl Visit {
    /// Joins. `None`: it can't be (said in the log); the web seed is asked alone then.
    pub(crate) async fn start(visitor: Visitor<'_>) -> Option<Self> {
        let now = UnixMillis(visitor.clock.now_ms());
        let newest = kept_checkpoint(&visitor.book, visitor.checkpoint_file).await;
        let mut config = visitor.settings.swarm.clone();
        config.ways = ways(&visitor.settings, visitor.invited, visitor.peers_file, now);
        config.listen.clear();
        config.external.clear();
        config.relay_server = false;
        let start = listen::Start {
            config,
            key: visitor.key,
            network: visitor.network,
            documents: documents(&visitor.book, now),
            newest: newest.clone(),
            clock: Arc::new(SwarmClock(Arc::clone(&visitor.clock))),
            seed: visitor.seed.child("visit"),
        };
        let running = match listen::start(start) {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "no peers are asked");
                return None;
            }
        };
        let stop = CancellationToken::new();
        let service = AbortOnDropHandle::new(tokio::spawn(running.service));
        let with = exchange::With {
            shelf: &visitor.shelf,
            section: &visitor.exchange,
            clock: &visitor.clock,
            seed: &visitor.seed,
        };
        let exchange = exchange::start(with, &running.handle, stop.child_token()).await?;
        let files = exchange::peer_files(&exchange, &running.handle, false);
        let (heard, newest) = watch::channel(newest.map(Arc::new));
        let listening = Listening {
            book: visitor.book,
            clock: visitor.clock,
            checkpoint_file: visitor.checkpoint_file.to_owned(),
            heard,
            handle: running.handle.clone(),
        };
        Some(Self {
            handle: running.handle,
            files: watch::channel(Some(files)).1,
            heard: newest,
            stop,
            service,
            _news: AbortOnDropHandle::new(tokio::spawn(listening.run(running.news))),
        })
    }

    /// Says goodbye.
    pub(crate) async fn leave(self) {
        self.stop.cancel();
        self.handle.stop();
        // In time or not: it is over.
        drop(tokio::time::timeout(LEAVE_TIME, self.service).await);
    }
}

/// Keeps what peers tell.
struct Listening {
    book: NetworkBook,
    clock: SharedClock,
    checkpoint_file: std::path::PathBuf,
    heard: watch::Sender<Option<Arc<NewestCheckpoint>>>,
    handle: Handle,
}

impl Listening {
    async fn run(self, mut news: mpsc::Receiver<News>) {
        while let Some(item) = news.recv().await {
            match item {
                News::Checkpoint(newest) => self.take_checkpoint(*newest).await,
                News::Documents(said) => self.take_documents(said).await,
                News::Heartbeat { .. } | News::Capability { .. } => {}
            }
        }
    }

    async fn take_checkpoint(&self, newest: NewestCheckpoint) {
        let known = self.heard.borrow().as_ref().map(|n| n.checkpoint.sequence);
        if known >= Some(newest.checkpoint.sequence) {
            return;
        }
        let newest = Arc::new(newest);
        let (path, kept) = (self.checkpoint_file.clone(), Arc::clone(&newest));
        let stored = tokio::task::spawn_blocking(move || checkpoint::store(&path, &kept)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(error = %Chain(&error), "the newest checkpoint is not kept on the disk");
        }
        self.heard.send_replace(Some(newest));
    }

    async fn take_documents(&self, said: Box<owm_p2p::Documents>) {
        let (book, now) = (self.book.clone(), UnixMillis(self.clock.now_ms()));
        let learn = move || book.learn(Network::of_peer(&said)?, Origin::Peer, now);
        match tokio::task::spawn_blocking(learn).await {
            Ok(Ok(_)) => {
                let now = UnixMillis(self.clock.now_ms());
                if let Some(documents) = documents(&self.book, now) {
                    drop(self.handle.set_documents(documents).await);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "a peer's documents are not kept");
            }
            // The runtime ends.
            Err(_) => {}
        }
    }
}
