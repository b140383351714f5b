//! Fetches files for the daemon: it carries out what [`super::machine`] decides. One machine for all fetches of a
//! daemon, so that a file that two manifests name is fetched once and the bytes under way have one limit.
//!
//! ```text
//! link (a task per peer) ──bytes──▶ Core (machine, under a lock) ──requests──▶ links
//!        └──────────────▶ a blocking thread: write, hash ──▶ Core: checked
//! ```
//!
//! Must stay true: nothing blocks while the lock is held or on an async thread; a piece is checked only after all its
//! accepted bytes are written; whoever drops a [`Fetch`] has ended it.

mod core;
mod fetch;
mod ladder;
mod link;
mod places;
mod proving;
mod search;
#[cfg(test)]
mod testing;
mod web;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p::PeerId;
use owm_proto::{FileSpec, Sha256};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::core::Core;
pub use self::{
    fetch::{Fetch, FetchError, FileProgress, Progress},
    places::{LINKS_MAX, WAITING_MAX},
    web::WebSeed,
};
use super::{
    behaviour::Streams,
    files::{Shelf, Target},
    machine::{Machine, Tuning},
    rate::Rate,
    serve::{Audience, ServedCounts, Server},
};
use crate::Clock;

/// How the exchange behaves.
#[derive(Clone, Debug, Default)]
pub struct ExchangeConfig {
    /// Uploads of all peers together, at most.
    pub upload_bytes_per_second: Option<u64>,
    /// Downloads from all peers together, at most.
    pub download_bytes_per_second: Option<u64>,
    /// The fetch machine's numbers.
    pub tuning: Tuning,
    /// For choices among equals.
    pub seed: [u8; 32],
    /// Where proven liars are named, for the swarm to cut them off.
    pub bans: Option<mpsc::Sender<Banned>>,
}

/// A peer that gave wrong bytes, proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Who.
    pub peer: PeerId,
    /// Of which file.
    pub file: Sha256,
    /// Which piece.
    pub piece: u32,
}

/// Where a fetch may find its files.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Peers that may have them; more can be named later ([`Fetch::add_peers`]). However many are named,
    /// [`LINKS_MAX`] are spoken with at a time and [`WAITING_MAX`] more remembered.
    pub peers: Vec<PeerId>,
    /// Asked where peers lack something or are too slow.
    pub web: Option<Arc<dyn WebSeed>>,
}

/// The exchange of a daemon: serves and fetches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Shared>);

pub(super) struct Shared {
    core: Mutex<Core>,
    server: Server,
    target: Arc<dyn Target>,
    streams: Streams,
    clock: Arc<dyn Clock>,
    download: Rate,
    bans: Option<mpsc::Sender<Banned>>,
    /// The machine's next moment may have changed.
    woken: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// Serves what is shared of `shelf`, and fetches into `target`, over the streams of a swarm
    /// ([`crate::Handle::streams`]). Nothing happens until the future is polled, which ends with `stop`.
    pub fn new(
        streams: Streams,
        shelf: Arc<dyn Shelf>,
        target: Arc<dyn Target>,
        clock: Arc<dyn Clock>,
        config: ExchangeConfig,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let upload = config.upload_bytes_per_second;
        let seed = u64::from_be_bytes(config.seed[..8].try_into().expect("eight of 32 bytes"));
        let machine = Machine::new(config.tuning, seed);
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(machine)),
            server: Server::new(shelf, Arc::clone(&clock), config.seed, upload),
            target,
            streams: streams.clone(),
            clock,
            download: Rate::new(config.download_bytes_per_second),
            bans: config.bans,
            woken: Notify::new(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let exchange = Self(Arc::clone(&shared));
        let run = async move {
            let serving = shared.server.clone().run(streams, stop.clone());
            tokio::join!(serving, shared.wake_in_time());
            shared.tasks.close();
            shared.tasks.wait().await;
        };
        (exchange, run)
    }

    /// Serves a file from now on, complete or as far as it is proven, and its ladder.
    pub fn share(&self, file: &FileSpec, audience: &Audience) {
        self.0.server.share(file, audience);
    }

    /// Serves it no more.
    pub fn unshare(&self, file: &FileSpec) {
        self.0.server.unshare(file);
    }

    /// What has been served.
    pub fn served(&self) -> ServedCounts {
        self.0.server.counts()
    }

    /// Fetches files; those that are there already are done at once. Dropping the [`Fetch`] ends it, and what is
    /// proven stays for the next one.
    pub fn fetch(&self, files: Vec<FileSpec>, sources: Sources) -> Fetch {
        fetch::begin(&self.0, files, sources)
    }
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Tells the machine the time when it wants to know it.
    async fn wake_in_time(self: &Arc<Self>) {
        /// Without anything to wait for, look again so often.
        const REST: Duration = Duration::from_mins(1);
        loop {
            let wait = {
                let now = self.now();
                let mut core = self.core();
                let wait = core.wake_at().map_or(REST, |due| due.saturating_sub(now));
                core.armed = now.saturating_add(wait);
                wait
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.woken.notified() => {}
                () = tokio::time::sleep(wait) => self.tick(),
            }
        }
    }
}
