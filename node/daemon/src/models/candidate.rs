//! Models that are looked at and not served: files that may be in no manifest, brought onto the shelf by their hash,
//! laid out beside the versions. `roles::evaluate` asks.
//! Must stay true: the served version's files are never freed for a candidate's; a file counts only with its hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use owm_proto::{Sha256, invite::Invite, manifest::ManifestFile};
use owm_service::CancellationToken;
use tokio::sync::watch;

use super::{
    BringError, Fetcher, ShelfError, SignedManifest,
    bring::{Bringer, Came},
    web_seeds::in_order,
};
use crate::{home::Lock, network::Networks, status::Origin, swarm::PeerFiles, tasklog::LeaseKey};

/// Between two looks whether somebody else has finished with the shelf.
const LOCK_EVERY: Duration = Duration::from_millis(500);

/// Why a candidate can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// Its files.
    #[error(transparent)]
    Bring(#[from] BringError),
    /// The disk.
    #[error("no room for the candidate")]
    Shelf(#[from] ShelfError),
    /// Whoever asked does not want it any more.
    #[error("it is not wanted any more")]
    Stopped,
}

impl CandidateError {
    /// Why, for others to hear: without this machine's paths.
    pub fn told(&self) -> String {
        match self {
            Self::Shelf(ShelfError::DiskFull { needed, free, .. }) => {
                format!("{self}: {needed} bytes are needed, {free} are free")
            }
            Self::Shelf(error @ ShelfError::Quota { .. }) => format!("{self}: {error}"),
            Self::Shelf(_) => "the node's disk cannot be used for the candidate".into(),
            Self::Bring(_) | Self::Stopped => self.to_string(),
        }
    }
}

/// Brings candidates; clones share what was brought last.
#[derive(Clone, Debug)]
pub struct CandidateShelf {
    /// Says where files are.
    pub networks: Networks,
    /// Names a web seed that does not come from peers.
    pub invite: Invite,
    /// Other nodes' files, once the swarm runs.
    pub peers: watch::Receiver<Option<PeerFiles>>,
    /// Fetches files; its web seed is whichever is known when it is needed.
    pub fetcher: Fetcher,
    /// The candidate that was brought last: its files make room for the next one's.
    pub last: Arc<Mutex<BTreeSet<Sha256>>>,
}

/// A candidate's folder; the links go with it.
#[derive(Debug)]
pub struct LaidOut {
    /// Where.
    pub folder: PathBuf,
    /// SHA-256 of each file.
    pub expected: BTreeMap<String, [u8; 32]>,
}

impl Drop for LaidOut {
    fn drop(&mut self) {
        // Links only; what stays is cleared away by the next one of this name.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

impl CandidateShelf {
    /// Brings what is missing and lays everything out for a lease; `hears` is told the bytes there are, of how many.
    pub async fn bring(
        &self,
        key: LeaseKey,
        files: &[ManifestFile],
        stop: &CancellationToken,
        hears: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<LaidOut, CandidateError> {
        let shelf = &self.fetcher.shelf;
        if files.iter().all(|file| shelf.has(file)) {
            return Ok(self.lay_out(key, files)?);
        }
        // Held until the links are there: another candidate's may free the files after that.
        let _writer = self.writer(stop).await?;
        let named = self.named();
        let wanted: BTreeSet<Sha256> = files.iter().map(|file| file.sha256).collect();
        self.forget_last(&named, &wanted)?;
        for file in files {
            if shelf.wrong_size(file).is_some() {
                shelf.discard(&file.sha256)?;
            }
        }
        let missing: Vec<&ManifestFile> = files.iter().collect();
        let keep: BTreeSet<Sha256> = named.union(&wanted).copied().collect();
        shelf.make_room(&missing, &keep)?;
        let network = self.networks.now();
        let invited = self.invite.web_seed.as_deref();
        let is_coordinators = network.from == Origin::Coordinator;
        let urls = in_order(&network.network.web_seed, invited, is_coordinators);
        let mut bringer = Bringer {
            shelf,
            peers: self.peers.clone(),
            fetchers: self.fetcher.of_each(urls),
            patience: self.fetcher.limits.stall,
            asked: BTreeSet::new(),
            stop: stop.clone(),
        };
        let hears = |came: Came| hears(came.here, came.total);
        let brought = bringer.bring(&missing, &hears).await;
        if stop.is_cancelled() {
            return Err(CandidateError::Stopped);
        }
        brought?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = wanted.difference(&named).copied().collect();
        drop(last);
        Ok(self.lay_out(key, files)?)
    }

    /// Links a candidate's files, all of which are here, into a folder of their own.
    fn lay_out(&self, key: LeaseKey, files: &[ManifestFile]) -> Result<LaidOut, ShelfError> {
        let name = format!("{}-{}", key.task, key.epoch);
        let (folder, expected) = self.fetcher.shelf.lay_out_candidate(&name, files)?;
        Ok(LaidOut { folder, expected })
    }

    /// Whether the newest version's manifest, which this node trusts, names each of these files.
    pub fn is_named(&self, files: &[ManifestFile]) -> bool {
        let named = self.named();
        files.iter().all(|file| named.contains(&file.sha256))
    }

    /// Files of the version that is served.
    fn named(&self) -> BTreeSet<Sha256> {
        let network = self.networks.now();
        let path = self.fetcher.shelf.newest();
        let kept = SignedManifest::load(&path, &network.network.trust);
        let files = kept.ok().flatten().map(|signed| signed.manifest.files);
        let files = files.unwrap_or_default().into_iter();
        files.map(|file| file.sha256).collect()
    }

    /// Frees the former candidate, as far as nothing else needs it.
    fn forget_last(
        &self,
        named: &BTreeSet<Sha256>,
        wanted: &BTreeSet<Sha256>,
    ) -> Result<(), ShelfError> {
        let last = std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner));
        for sha256 in last {
            if !named.contains(&sha256) && !wanted.contains(&sha256) {
                self.fetcher.shelf.discard(&sha256)?;
            }
        }
        Ok(())
    }

    /// Waits while the keeper, or `owm-node models fetch`, is at it.
    async fn writer(&self, stop: &CancellationToken) -> Result<Lock, CandidateError> {
        loop {
            if let Some(lock) = self.fetcher.shelf.writer()? {
                return Ok(lock);
            }
            tokio::select! {
                () = stop.cancelled() => return Err(CandidateError::Stopped),
                () = tokio::time::sleep(LOCK_EVERY) => {}
            }
        }
    }
}
