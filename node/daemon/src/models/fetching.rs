//! `owm-node models fetch` at work: which version, where its files come from, who gives how much. [`Getter`] does it,
//! inside the running daemon for its control socket ([`Fetching`]) or in the command's own process where none runs.
//! Must stay true: nothing is fetched that no release key has signed; the coordinator is not needed; whoever leaves
//! leaves a part that the next fetch goes on with.

mod manifest;
mod picture;
mod service;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

pub use manifest::NoManifest;
use owm_p2p::{NewestCheckpoint, exchange::store::StoreError};
use owm_proto::{Sha256, SubModelId, VersionId, invite::Invite, manifest::ManifestFile};
use owm_service::{
    CancellationToken, backoff::Backoff, clock::SharedClock, report::Chain, rng::Seed,
};
pub use picture::{FetchPicture, Fetched, SourcePicture};
pub use service::Fetching;
use tokio::sync::watch;

use super::{
    DownloadError, Fetcher, NoneWanted, SEQUENCE, ShelfError, SignedManifest,
    bring::{BringError, Bringer, Came},
    files_of,
    teller::count,
    wanted,
    web_seeds::in_order,
};
use crate::{
    home::Lock,
    link::{CallError, Coordinator},
    metrics::Downloads,
    network::{NetworkBook, NetworkError},
    status::{Origin, Status},
    swarm::PeerFiles,
    tasklog::{TaskLog, TaskLogError},
};

/// Attempts without one more whole file.
const TRIES: u32 = 5;
/// First and longest wait between them.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks whether another process has finished with the shelf.
const LOCK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks for an asker; the time to end in good order when it has gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why it is not here.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Which one?
    #[error(transparent)]
    Manifest(#[from] NoManifest),
    /// No room, no right.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// Its files.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// The configuration.
    #[error(transparent)]
    NoneWanted(#[from] NoneWanted),
    /// The node's own records.
    #[error(transparent)]
    Log(#[from] TaskLogError),
    /// The asker.
    #[error("it was stopped; what has come stays, the next fetch goes on from there")]
    Stopped,
}

/// What it takes to get a version. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Getter {
    /// Asked for manifests first.
    pub coordinator: Coordinator,
    /// Whose coordinator it is, and the web seed that does not come from peers.
    pub invite: Invite,
    /// What is known of the network.
    pub book: NetworkBook,
    /// The newest checkpoint that peers know, verified.
    pub heard: watch::Receiver<Option<Arc<NewestCheckpoint>>>,
    /// Other nodes' files, once the swarm runs.
    pub peers: watch::Receiver<Option<PeerFiles>>,
    /// Whether a peer could tell of the network and its newest version.
    pub has_peers: bool,
    /// Fetches by HTTP; its web seed is whichever is known when it is needed.
    pub fetcher: Fetcher,
    /// Sub-models; empty: all.
    pub wanted: Vec<SubModelId>,
    /// Remembers sequences.
    pub log: TaskLog,
    /// The time.
    pub clock: SharedClock,
    /// For the waits.
    pub seed: Seed,
    /// Counts what is fetched.
    pub metrics: Option<Downloads>,
    /// What the daemon does, for who has to wait for it.
    pub status: Option<watch::Receiver<Status>>,
}

impl Getter {
    /// Gets `version`, or the newest; `shown` says how far it is. Ends soon after `stop`.
    pub async fn get(
        &self,
        version: Option<&VersionId>,
        shown: &watch::Sender<FetchPicture>,
        stop: &CancellationToken,
    ) -> Result<Fetched, GetError> {
        let got = tokio::select! {
            biased;
            got = self.try_get(version, shown, stop) => got,
            () = stop_hard(stop) => Err(GetError::Stopped),
        };
        match got {
            Err(GetError::Bring(BringError::Download(DownloadError::Stopped)))
                if stop.is_cancelled() =>
            {
                Err(GetError::Stopped)
            }
            got => got,
        }
    }

    async fn try_get(
        &self,
        version: Option<&VersionId>,
        shown: &watch::Sender<FetchPicture>,
        stop: &CancellationToken,
    ) -> Result<Fetched, GetError> {
        let (web_seeds, away) = self.learn_network(shown).await?;
        let _writer = self.writer(shown).await?;
        // Asked under the lock: whoever had it before may have gone on to a newer version.
        let signed = self.manifest(version, away, shown).await?;
        let manifest = &signed.manifest;
        let files = files_of(manifest, &wanted(manifest, &self.wanted)?);
        let total: u64 = files.iter().map(|file| file.size).sum();
        shown.send_modify(|picture| {
            picture.version = Some(manifest.version.clone());
            picture.total = total;
            picture.doing.clear();
        });
        let damaged = self.repair(&files, shown).await?;
        self.make_room(&files)?;
        self.bring(&files, web_seeds, shown, stop).await?;
        self.remember(&signed, version.is_none()).await?;
        shown.send_modify(|picture| picture.bytes = total);
        Ok(Fetched {
            version: manifest.version.clone(),
            sequence: manifest.sequence,
            note: signed.note.clone(),
            bytes: total,
            damaged,
        })
    }

    async fn writer(&self, shown: &watch::Sender<FetchPicture>) -> Result<Lock, ShelfError> {
        loop {
            if let Some(lock) = self.fetcher.shelf.writer()? {
                return Ok(lock);
            }
            let doing = match &self.status {
                None => "another process fetches into this folder already; waiting for it".into(),
                Some(status) => {
                    // Who gives how much, if it says so.
                    let how_far = status.borrow().model_state.clone().unwrap_or_default();
                    let line = "the running node fetches into this folder already; waiting for it";
                    format!("{line}\n{how_far}").trim_end().to_owned()
                }
            };
            shown.send_if_modified(|picture| {
                let is_new = picture.doing != doing;
                picture.doing = doing;
                is_new
            });
            tokio::time::sleep(LOCK_EVERY).await;
        }
    }

    /// Hashes what is here; what is damaged goes, and is told.
    async fn repair(
        &self,
        files: &[&ManifestFile],
        shown: &watch::Sender<FetchPicture>,
    ) -> Result<Vec<String>, GetError> {
        let mut damaged = Vec::new();
        for file in files {
            let (shelf, sha256) = (self.fetcher.shelf.clone(), file.sha256);
            let look = move || Ok(shelf.store()?.verify(&sha256, &|_| {}));
            let looked: Result<_, ShelfError> = match tokio::task::spawn_blocking(look).await {
                Ok(looked) => looked,
                // The process ends.
                Err(_) => return Err(GetError::Stopped),
            };
            let found = match looked? {
                Ok(_) => continue,
                Err(StoreError::Damaged { found, .. }) => found,
                Err(other) => return Err(ShelfError::from(other).into()),
            };
            let text = format!(
                "{} on this disk is damaged (SHA-256 {found}, not {sha256}); it is fetched again",
                file.name
            );
            // Gone already: the running node has found it too.
            self.fetcher.shelf.discard(&file.sha256)?;
            shown.send_modify(|picture| picture.remarks.push(text.clone()));
            damaged.push(text);
        }
        Ok(damaged)
    }

    /// Files of the version that the node works with must not be pushed out by a quota.
    fn make_room(&self, files: &[&ManifestFile]) -> Result<(), ShelfError> {
        let shelf = &self.fetcher.shelf;
        let known = self.book.known();
        let newest = known.and_then(|known| {
            let newest = SignedManifest::load(&shelf.newest(), &known.network.trust);
            newest.ok().flatten()
        });
        let in_use = newest.iter().flat_map(|signed| &signed.manifest.files);
        let keep: BTreeSet<Sha256> = in_use
            .chain(files.iter().copied())
            .map(|file| file.sha256)
            .collect();
        shelf.make_room(files, &keep)
    }

    async fn bring(
        &self,
        files: &[&ManifestFile],
        web_seeds: Vec<String>,
        shown: &watch::Sender<FetchPicture>,
        stop: &CancellationToken,
    ) -> Result<(), GetError> {
        let mut rng = self.seed.rng("models fetch");
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 2);
        let (mut tries, mut before) = (1, 0);
        let hears = |came: Came| {
            if let Some(counts) = &self.metrics {
                count(counts, &came.gave);
            }
            shown.send_modify(|picture| picture.take(&came));
        };
        loop {
            let mut bringer = Bringer {
                shelf: &self.fetcher.shelf,
                peers: self.peers.clone(),
                fetchers: self.fetcher.of_each(web_seeds.clone()),
                patience: self.fetcher.limits.stall,
                asked: BTreeSet::new(),
                stop: stop.clone(),
            };
            let Err(error) = bringer.bring(files, &hears).await else {
                return Ok(());
            };
            let whole = files.iter().filter(|file| self.fetcher.shelf.has(file));
            let whole = whole.count();
            if whole > before {
                (tries, before) = (1, whole);
                backoff.reset();
            }
            if tries == TRIES || !may_help(&error) {
                return Err(error.into());
            }
            tries += 1;
            let text = format!("{}; trying again", Chain(&error));
            shown.send_modify(|picture| picture.remarks.push(text));
            tokio::time::sleep(backoff.next(&mut rng)).await;
        }
    }

    async fn remember(&self, signed: &SignedManifest, is_newest: bool) -> Result<(), GetError> {
        let shelf = &self.fetcher.shelf;
        let refused = |error| GetError::Manifest(NoManifest::Refused(error));
        let path = shelf.manifest(&signed.manifest.version);
        signed.store(&path).map_err(refused)?;
        if is_newest {
            signed.store(&shelf.newest()).map_err(refused)?;
            let sequence = signed.manifest.sequence;
            let raise = move |log: &TaskLog| log.raise_number(SEQUENCE, sequence);
            self.log.run(raise).await?;
        }
        Ok(())
    }
}

/// Whether trying again soon may help.
fn may_help(error: &BringError) -> bool {
    match error {
        BringError::Download(error) => matches!(
            error,
            DownloadError::Http { .. }
                | DownloadError::Truncated { .. }
                | DownloadError::Stalled { .. }
                | DownloadError::WrongHash { .. }
                | DownloadError::WrongPiece { .. }
                | DownloadError::TooLong { .. }
                // Somebody else writes to the same file.
                | DownloadError::Shelf(ShelfError::Store(
                    StoreError::NotWritable { .. }
                        | StoreError::NotProved { .. }
                        | StoreError::Busy { .. }
                ))
        ),
        // Those have been waited for long enough, and the disk does not change by itself.
        BringError::Peers(_) | BringError::Nobody => false,
    }
}

/// After `stop`, and time to end in good order.
async fn stop_hard(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LOOK_EVERY).await;
}
