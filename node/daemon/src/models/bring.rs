//! Brings a version's files onto the shelf: from peers with the web seed as one more source, and from the web seeds
//! alone as long as there is no peer. `keeper` does it for the daemon, `fetching` for `owm-node models fetch`.
//! Must stay true: a download from the web alone gives way as soon as a peer appears, and nothing of it is lost.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use owm_p2p::{PeerId, exchange::driver::Progress};
use owm_proto::{FileSpec, manifest::ManifestFile};
use owm_service::{CancellationToken, report::Chain};
use tokio::{sync::watch, time::Instant};

use super::{
    DownloadError, Fetcher, Shelf,
    peers::{self, PeersError},
    web_seeds::fetch_from_any,
};
use crate::swarm::{Gave, PeerFiles};

/// How long bytes of the web alone are gathered for one figure of its speed.
const RATE_OVER: Duration = Duration::from_millis(500);

/// How far it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// Bytes of all files.
    pub(super) total: u64,
    /// Those that are here.
    pub(super) here: u64,
    /// What every source has given since the last time.
    pub(super) gave: Vec<Gave>,
}

/// Hears how far it is.
pub(super) type Hears<'a> = &'a (dyn Fn(Came) + Sync);

/// Why the files are not here.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// From the web.
    #[error("the download failed")]
    Download(#[from] DownloadError),
    /// From peers.
    #[error("the download from peers failed")]
    Peers(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// From nobody.
    #[error(
        "nobody has named a web seed to fetch models from, and no peer has the files; it is tried again later"
    )]
    Nobody,
}

/// What it takes.
pub(super) struct Bringer<'a> {
    /// Where they go.
    pub(super) shelf: &'a Shelf,
    /// Other nodes, once the swarm runs.
    pub(super) peers: watch::Receiver<Option<PeerFiles>>,
    /// One for each web seed, the likeliest first.
    pub(super) fetchers: Vec<Fetcher>,
    /// Without a single byte for so long, a source is given up.
    pub(super) patience: Duration,
    /// Who was asked already.
    pub(super) asked: BTreeSet<PeerId>,
    /// Ends it in good order.
    pub(super) stop: CancellationToken,
}

impl Bringer<'_> {
    /// Brings what is missing of `files`.
    pub(super) async fn bring(
        &mut self,
        files: &[&ManifestFile],
        hears: Hears<'_>,
    ) -> Result<(), BringError> {
        loop {
            if self.is_done(files) {
                return Ok(());
            }
            let asked = self.ask_peers(files, hears).await;
            if self.is_done(files) {
                return Ok(());
            }
            if self.stop.is_cancelled() {
                return Err(DownloadError::Stopped.into());
            }
            if self.fetchers.is_empty() {
                return Err(match asked {
                    Err(error) => BringError::Peers(Box::new(error)),
                    Ok(()) => BringError::Nobody,
                });
            }
            match self.ask_web(files, hears).await {
                Err(DownloadError::GivesWay) if !self.stop.is_cancelled() => {
                    tracing::info!("a peer may have the files; going on with it");
                }
                Err(DownloadError::GivesWay) => return Err(DownloadError::Stopped.into()),
                done => return Ok(done?),
            }
        }
    }

    fn is_done(&self, files: &[&ManifestFile]) -> bool {
        files.iter().all(|file| self.shelf.has(file))
    }

    /// What peers can bring of it.
    fn for_peers(&self, files: &[&ManifestFile]) -> Vec<FileSpec> {
        let missing = files.iter().filter(|file| !self.shelf.has(file));
        missing.filter_map(|file| peers::spec(file)).collect()
    }

    async fn ask_peers(
        &mut self,
        files: &[&ManifestFile],
        hears: Hears<'_>,
    ) -> Result<(), PeersError> {
        let Some(from) = self.peers.borrow().clone() else {
            return Ok(());
        };
        let specs = self.for_peers(files);
        if specs.is_empty() {
            return Ok(());
        }
        let web = self.fetchers.first().map(Fetcher::as_source);
        // With nobody to help, the web seed alone is asked, which says best what is wrong with it.
        if !peers::somebody_soon(&from, &specs, &self.asked).await && web.is_some() {
            return Ok(());
        }
        let total: u64 = files.iter().map(|file| file.size).sum();
        let whole = files.iter().filter(|file| self.shelf.has(file));
        let before = whole.map(|file| file.size).sum::<u64>();
        let progress = |progress: &Progress| {
            let proved = progress.files.iter().map(|file| file.proved_bytes);
            hears(Came {
                total,
                here: before + proved.sum::<u64>(),
                gave: from.gave(progress),
            });
        };
        let brought = peers::fetch(&from, specs, web, self.patience, &mut self.asked, &progress);
        let brought = tokio::select! {
            brought = brought => brought,
            () = self.stop.cancelled() => Ok(()),
        };
        if let Err(error) = &brought {
            tracing::info!(error = %Chain(error), "peers have not brought everything");
        }
        brought
    }

    /// From the web seeds alone; gives way to a peer that nobody has asked yet.
    async fn ask_web(
        &mut self,
        files: &[&ManifestFile],
        hears: Hears<'_>,
    ) -> Result<(), DownloadError> {
        let gives_way = self.stop.child_token();
        let _watching = self.watch(files, &gives_way);
        for fetcher in &mut self.fetchers {
            fetcher.gives_way = gives_way.clone();
        }
        let total: u64 = files.iter().map(|file| file.size).sum();
        let mut before = 0;
        for file in files {
            let speed = Mutex::new(Speed::default());
            let progress = |got: u64| {
                let mut speed = speed.lock().unwrap_or_else(PoisonError::into_inner);
                let gave = speed.add(got, Instant::now());
                hears(Came {
                    total,
                    here: before + got,
                    gave: vec![gave],
                });
            };
            fetch_from_any(&mut self.fetchers, file, &progress).await?;
            before += file.size;
        }
        Ok(())
    }

    /// Cancels `gives_way` when there is a peer to ask, until it is dropped.
    fn watch(
        &self,
        files: &[&ManifestFile],
        gives_way: &CancellationToken,
    ) -> tokio_util::task::AbortOnDropHandle<()> {
        let specs = self.for_peers(files);
        let (mut peers, asked) = (self.peers.clone(), self.asked.clone());
        let gives_way = gives_way.clone();
        let watching = async move {
            if specs.is_empty() {
                return;
            }
            // A swarm that ends brings nobody.
            let Ok(from) = peers
                .wait_for(Option::is_some)
                .await
                .map(|from| from.clone())
            else {
                return;
            };
            let Some(from) = from else { return };
            peers::somebody(&from, &specs, &asked).await;
            gives_way.cancel();
        };
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(watching))
    }
}

/// How fast the web alone is.
#[derive(Default)]
struct Speed {
    /// What had come at the last look; `None`: what was here already does not count.
    got: Option<u64>,
    since: Option<(Instant, u64)>,
    bytes_per_s: u64,
}

impl Speed {
    fn add(&mut self, got: u64, now: Instant) -> Gave {
        let former = self.got.replace(got).unwrap_or(got);
        let (since, from) = *self.since.get_or_insert((now, got));
        let passed = now.saturating_duration_since(since);
        if passed >= RATE_OVER {
            let bytes = got.saturating_sub(from) as f64;
            self.bytes_per_s = (bytes / passed.as_secs_f64()) as u64;
            self.since = Some((now, got));
        }
        Gave {
            peer: None,
            bytes: got.saturating_sub(former),
            bytes_per_s: self.bytes_per_s,
        }
    }
}
