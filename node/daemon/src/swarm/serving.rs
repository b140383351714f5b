//! The swarm's task at work: announcements out, news in, pictures shown. `runner` makes it.
//! Must stay true: what has been verified by the swarm is kept before it is told on; a slow disk delays
//! announcements and nothing else.

use std::{sync::Arc, time::Duration};

use owm_p2p::{
    Handle, Multiaddr, NewestCheckpoint, News, SwarmView, bootstrap::COORDINATOR,
    exchange::Exchange,
};
use owm_proto::UnixMillis;
use owm_service::{CancellationToken, report::Chain};
use tokio::sync::{mpsc, watch};

use super::{
    SwarmPicture,
    capability::{Portrait, told},
    checkpoint, exchange,
    looking::Looking,
    runner::{Identity, Setup, documents, kept_checkpoint},
    schedule::{Due, Schedule},
    ways::addresses,
};
use crate::{
    heartbeat::{self, Beat},
    network::{Known, Network},
    status::Origin,
    tasklog::{TaskLog, TaskLogError},
};

/// Between two looks at what there is to say.
const TICK: Duration = Duration::from_millis(500);
/// Between two writes of remembered peers: what a kill may cost.
const PEERS_EVERY: Duration = Duration::from_mins(1);

/// The task's state.
pub(super) struct Runner {
    pub(super) setup: Setup,
    pub(super) handle: Handle,
    pub(super) problems: Vec<String>,
    pub(super) view: watch::Receiver<Arc<SwarmView>>,
    pub(super) schedule: Schedule,
    /// Of files with other nodes; `None`: the folder cannot be used.
    pub(super) exchange: Option<Exchange>,
    /// What was hashed; away while a look is under way.
    pub(super) looked: exchange::Looked,
    pub(super) looking: Looking<(exchange::Shared, exchange::Looked)>,
    /// Files that others may have from here, as of the last look.
    pub(super) holds: exchange::Shared,
    pub(super) known: watch::Receiver<Option<Arc<Known>>>,
    /// When peers were written down last.
    pub(super) peers_at: Duration,
    pub(super) shown: watch::Sender<Arc<SwarmPicture>>,
    pub(super) heard: watch::Sender<Option<Arc<NewestCheckpoint>>>,
}

impl Runner {
    pub(super) async fn serve(&mut self, mut news: mpsc::Receiver<News>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => self.tick().await,
                Ok(()) = self.known.changed() => self.take_known().await,
                Ok(()) = self.view.changed() => self.show(),
                (holds, looked) = self.looking.seen(|| self.setup.clock.monotonic()) => {
                    self.take_shelf(holds, looked);
                }
                item = news.recv() => if let Some(item) = item {
                    self.take(item).await;
                } else {
                    let why = "the swarm's task has ended; restart the node";
                    tracing::error!("{why}");
                    self.shown.send_replace(Arc::new(SwarmPicture::off(why)));
                    stop.cancelled().await;
                    break;
                },
            }
        }
        self.save_peers().await;
    }

    async fn candidates(&self, source: &'static str, addresses: Vec<Multiaddr>) {
        // A swarm that has ended says so through its news.
        if !addresses.is_empty() {
            drop(self.handle.add_candidates(source, addresses).await);
        }
    }

    /// The network's documents have become known, or more.
    async fn take_known(&mut self) {
        let Some(known) = self.known.borrow_and_update().clone() else {
            return;
        };
        let now = UnixMillis(self.setup.clock.now_ms());
        if let Some(documents) = documents(&self.setup.book, now) {
            drop(self.handle.set_documents(documents).await);
        }
        let peers = addresses(known.network.peers());
        self.candidates(COORDINATOR, peers).await;
        if self.heard.borrow().is_none()
            && let Some(newest) =
                kept_checkpoint(&self.setup.book, &self.setup.checkpoint_file).await
        {
            drop(self.handle.announce_checkpoint(newest.clone()).await);
            self.heard.send_replace(Some(Arc::new(newest)));
        }
    }

    async fn take(&mut self, news: News) {
        match news {
            News::Heartbeat { .. } => {
                self.setup.metrics.news("heartbeat").inc();
            }
            News::Capability { .. } => {
                self.setup.metrics.news("capability").inc();
            }
            News::Checkpoint(newest) => {
                self.setup.metrics.news("checkpoint").inc();
                self.take_checkpoint(*newest).await;
            }
            News::Documents(documents) => {
                self.setup.metrics.news("documents").inc();
                self.take_documents(documents).await;
            }
        }
    }

    async fn take_documents(&mut self, documents: Box<owm_p2p::Documents>) {
        let book = self.setup.book.clone();
        let now = UnixMillis(self.setup.clock.now_ms());
        let learn = move || book.learn(Network::of_peer(&documents)?, Origin::Peer, now);
        let Ok(learnt) = tokio::task::spawn_blocking(learn).await else {
            return;
        };
        match learnt {
            Ok(known) => {
                let name = &known.network.trust.genesis().name;
                tracing::info!(network.name = %name, "a peer has brought documents of the network");
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "a peer's documents are not kept");
            }
        }
    }

    async fn take_checkpoint(&mut self, newest: NewestCheckpoint) {
        let sequence = newest.checkpoint.sequence;
        let known = self.heard.borrow().as_ref().map(|n| n.checkpoint.sequence);
        if known >= Some(sequence) {
            return;
        }
        tracing::info!(model.version = %newest.checkpoint.version, sequence, "a newer checkpoint, by gossip");
        let newest = Arc::new(newest);
        let (path, kept) = (self.setup.checkpoint_file.clone(), Arc::clone(&newest));
        let stored = tokio::task::spawn_blocking(move || checkpoint::store(&path, &kept)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(error = %Chain(&error), "the newest checkpoint is not kept on the disk");
        }
        self.heard.send_replace(Some(newest));
    }

    async fn tick(&mut self) {
        self.look_at_the_disk().await;
        let view = Arc::clone(&self.view.borrow());
        let portrait = self.portrait(&view);
        let now = self.setup.clock.monotonic();
        let due = self.schedule.step(now, &portrait, &view.parameters);
        if let Err(error) = self.say(due, portrait, &view).await {
            tracing::warn!(%error, "nothing was said to the swarm, trying again");
            self.schedule.failed(due);
        }
        self.setup.metrics.show(&view, &self.handle.counts());
    }

    async fn look_at_the_disk(&mut self) {
        let now = self.setup.clock.monotonic();
        let serves = self.exchange.is_some() && self.setup.exchange.serve;
        if serves && self.looking.is_due(now) {
            let mut looked = std::mem::take(&mut self.looked);
            let (shelf, book) = (self.setup.shelf.clone(), self.setup.book.clone());
            self.looking.begin(now, move || {
                let holds = exchange::to_share(&shelf, &book, &mut looked);
                (holds, looked)
            });
        }
        if now >= self.peers_at + PEERS_EVERY {
            self.peers_at = now;
            self.save_peers().await;
        }
    }

    fn take_shelf(&mut self, holds: exchange::Shared, looked: exchange::Looked) {
        if let Some(exchange) = &self.exchange {
            exchange::share(exchange, &self.holds, &holds);
        }
        (self.holds, self.looked) = (holds, looked);
    }

    async fn save_peers(&self) {
        let Ok(bytes) = self.handle.remembered().await else {
            return;
        };
        let path = self.setup.peers_file.clone();
        let write = move || crate::home::write_atomically(&path, &bytes);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(error = %Chain(&error), "peers are not remembered");
        }
    }

    fn portrait(&self, view: &SwarmView) -> Portrait {
        let Identity {
            session,
            capabilities,
            roles,
            ..
        } = &self.setup.identity;
        let is_loopback = self.setup.settings.swarm.policy == owm_p2p::NetworkPolicy::LoopbackOnly;
        Portrait {
            session: *session,
            capabilities: capabilities.clone(),
            roles: roles.clone(),
            addresses: told(&view.listening, &view.external, is_loopback),
            holds: self.holds.keys().copied().collect(),
            checkpoint_sequence: view.checkpoint.as_ref().map_or(0, |c| c.sequence),
            membership: self.setup.membership.borrow().clone(),
            relay: self.setup.settings.swarm.relay_server,
        }
    }

    async fn say(&self, due: Due, portrait: Portrait, view: &SwarmView) -> Result<(), SayError> {
        let Identity { key, network, .. } = self.setup.identity.clone();
        let now = UnixMillis(self.setup.clock.now_ms());
        let secs = |n: u32| Duration::from_secs(n.into());
        if due.portrait {
            let (key, period) = (Arc::clone(&key), secs(view.parameters.capability_secs));
            let sign = move |log: &TaskLog| portrait.sign(&key, &network, log, now, period);
            self.handle
                .announce_own(self.setup.log.run(sign).await?)
                .await?;
        }
        if due.heartbeat {
            let beat = self.beat();
            let time = heartbeat::TIME.max(secs(view.parameters.heartbeat_secs) * 3);
            let sign = move |log: &TaskLog| beat.sign(&key, &network, log, now, time);
            self.handle
                .announce_own(self.setup.log.run(sign).await?)
                .await?;
        }
        Ok(())
    }

    fn beat(&self) -> Beat {
        let status = self.setup.status.borrow();
        let model = status.model.as_ref();
        Beat {
            session: self.setup.identity.session,
            running: status.running,
            loaded: model.map(|model| model.sha256.clone()).unwrap_or_default(),
        }
    }

    fn show(&mut self) {
        let view = Arc::clone(&self.view.borrow_and_update());
        let picture = SwarmPicture::of(&view, &self.problems);
        let former = Arc::clone(&self.shown.borrow());
        for warning in picture
            .warnings
            .iter()
            .filter(|w| !former.warnings.contains(w))
        {
            tracing::warn!("the swarm: {warning}");
        }
        self.shown.send_replace(Arc::new(picture));
    }
}

#[derive(Debug, thiserror::Error)]
enum SayError {
    #[error(transparent)]
    Log(#[from] TaskLogError),
    #[error(transparent)]
    Swarm(#[from] owm_p2p::P2pError),
}
