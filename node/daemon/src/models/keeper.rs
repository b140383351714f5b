//! The task that keeps the newest version loaded: asks for the manifest, fetches what is missing, loads,
//! and starts over when the coordinator names a newer one. `daemon` starts it and feeds it hints.
//! Must stay true: a failure is told, waited out and tried again; it never ends the process.

mod loading;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use owm_p2p::NewestCheckpoint;
use owm_proto::{
    Sha256, SubModelId, UnixMillis,
    invite::Invite,
    manifest::{Manifest, ManifestFile},
    wire::coordinator::{GetModelVersionRequest, GetModelVersionResponse},
};
use owm_service::{
    CancellationToken, backoff::Backoff, clock::SharedClock, report::Chain, rng::Seed,
};
use tokio::sync::{mpsc, watch};

use super::{
    Fetcher, LoadedModel, ManifestRefused, ModelEvent, NoneWanted, SEQUENCE, ShelfError,
    SignedManifest,
    bring::{BringError, Bringer, Came},
    delta, files_of,
    teller::Teller,
    wanted,
    web_seeds::in_order,
};
use crate::{
    engine::{EngineLoader, LoadError},
    home::Lock,
    link::{CallError, Coordinator},
    metrics::Downloads,
    network::{NetworkError, Networks},
    status::Origin,
    swarm::PeerFiles,
    tasklog::{TaskLog, TaskLogError},
};

/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Between two looks whether another process has finished with the shelf.
const LOCK_EVERY: Duration = Duration::from_millis(500);
/// Memory a loaded model takes at most, per byte of its files: f16 weights become f32.
pub(crate) const RAM_PER_BYTE: u64 = 2;

/// What the keeper needs.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// Asks for manifests.
    pub coordinator: Coordinator,
    /// Verifies them, and says where files are.
    pub networks: Networks,
    /// The newest checkpoint that peers know, verified.
    pub heard: watch::Receiver<Option<Arc<NewestCheckpoint>>>,
    /// Whose coordinator is asked, and the web seed that does not come from peers.
    pub invite: Invite,
    /// Other nodes' files, once the swarm runs.
    pub peers: watch::Receiver<Option<PeerFiles>>,
    /// Fetches files; its web seed is whichever is known when it is needed.
    pub fetcher: Fetcher,
    /// Loads them.
    pub loader: Arc<dyn EngineLoader>,
    /// Sub-models to load; empty: all.
    pub wanted: Vec<SubModelId>,
    /// Bytes of memory a model may take.
    pub ram: Option<u64>,
    /// Remembers sequences.
    pub log: TaskLog,
    /// The time.
    pub clock: SharedClock,
    /// For the waits.
    pub seed: Seed,
    /// Counts what is fetched.
    pub metrics: Option<Downloads>,
    /// Where the loaded version is shown to who asks this machine.
    pub shown: watch::Sender<Option<Arc<LoadedModel>>>,
}

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("cannot get the model's manifest")]
    Call(#[from] CallError),
    #[error("the coordinator is not asked for the model's manifest")]
    NotAsked(#[from] NetworkError),
    #[error("the model's manifest is refused")]
    Manifest(#[from] ManifestRefused),
    #[error("no room for the model")]
    Shelf(#[from] ShelfError),
    #[error(transparent)]
    Bring(#[from] BringError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Log(#[from] TaskLogError),
    #[error(transparent)]
    NoneWanted(#[from] NoneWanted),
    #[error("{0}")]
    Refused(String),
}

/// The running keeper.
#[derive(Debug)]
pub struct Keeper {
    settings: KeeperSettings,
    /// The newest version as the coordinator named it last.
    newest: watch::Receiver<Option<String>>,
    events: mpsc::Sender<ModelEvent>,
    loaded: Option<Arc<LoadedModel>>,
    /// What was last said of a coordinator that names an older version: said once.
    behind: String,
}

impl Keeper {
    /// Made with where hints come from and where events go.
    pub fn new(
        settings: KeeperSettings,
        newest: watch::Receiver<Option<String>>,
        events: mpsc::Sender<ModelEvent>,
    ) -> Self {
        Self {
            settings,
            newest,
            events,
            loaded: None,
            behind: String::new(),
        }
    }

    /// Runs until nobody listens.
    pub async fn run(mut self) {
        let mut rng = self.settings.seed.rng("models");
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 2);
        self.start_with_what_is_there().await;
        while !self.events.is_closed() {
            let hint = self.newest.borrow_and_update().clone();
            match self.bring_up_to_date(hint.as_deref()).await {
                Ok(()) => {
                    backoff.reset();
                    if !self.something_new().await {
                        return;
                    }
                }
                Err(error) => {
                    let wait = backoff.next(&mut rng);
                    if let (KeeperError::Bring(_), Some(metrics)) = (&error, &self.settings.metrics)
                    {
                        metrics.failures.inc();
                    }
                    let error = Chain(&error).to_string();
                    tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "no model yet, trying again");
                    self.tell(ModelEvent::Failed(error)).await;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        is_there = self.something_new() => if !is_there { return },
                    }
                }
            }
        }
    }

    /// Waits for a hint, from the coordinator or from peers; `false`: nobody hints any more.
    async fn something_new(&mut self) -> bool {
        tokio::select! {
            changed = self.newest.changed() => changed.is_ok(),
            Ok(()) = self.settings.heard.changed() => true,
        }
    }

    /// A version that is on the disk is loaded without asking anyone.
    async fn start_with_what_is_there(&mut self) {
        let path = self.settings.fetcher.shelf.newest();
        let network = self.settings.networks.now();
        let kept = SignedManifest::load(&path, &network.network.trust);
        let signed = match kept {
            Ok(Some(signed)) => signed,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the kept manifest is not used");
                return;
            }
        };
        if let Ok(known) = self.known().await
            && known > Some(signed.manifest.sequence)
        {
            tracing::warn!(
                known,
                sequence = signed.manifest.sequence,
                "the kept manifest is older than what this node has had; it is not used"
            );
            return;
        }
        let is_whole = self.files(&signed.manifest).is_ok_and(|files| {
            let shelf = &self.settings.fetcher.shelf;
            files.iter().all(|file| shelf.has(file))
        });
        if is_whole && let Err(error) = self.load(&signed).await {
            tracing::warn!(error = %Chain(&error), "the model on the disk cannot be used");
        }
    }

    async fn bring_up_to_date(&mut self, hint: Option<&str>) -> Result<(), KeeperError> {
        let is_loaded = self
            .loaded
            .as_ref()
            .filter(|l| hint.is_some_and(|hint| hint == l.version.as_str()))
            // Peers may know more than the coordinator that spoke last.
            .is_some_and(|l| {
                let heard = self.heard(Some(l.sequence));
                heard.is_none_or(|heard| heard.manifest.sequence <= l.sequence)
            });
        if is_loaded {
            return Ok(());
        }
        let mut signed = self.ask().await?;
        if self
            .loaded
            .as_ref()
            .is_some_and(|l| l.sequence == signed.manifest.sequence)
        {
            return Ok(());
        }
        let (version, note) = (&signed.manifest.version, &signed.note);
        tracing::info!(model.version = %version, model.note = %note, "model version found");
        let writer = self.writer().await?;
        if self.known().await? > Some(signed.manifest.sequence) {
            // Whoever had the lock went on to a newer one meanwhile.
            signed = self.ask().await?;
        }
        self.fetch(&signed).await?;
        let shelf = &self.settings.fetcher.shelf;
        signed.store(&shelf.manifest(&signed.manifest.version))?;
        signed.store(&shelf.newest())?;
        let sequence = signed.manifest.sequence;
        self.settings
            .log
            .run(move |log| log.raise_number(SEQUENCE, sequence))
            .await?;
        drop(writer);
        self.load(&signed).await
    }

    /// The newest version's manifest, verified: the coordinator's, or what peers know if that is newer or
    /// the coordinator is away. A hint is only a reason to ask.
    async fn ask(&mut self) -> Result<SignedManifest, KeeperError> {
        let known = self.known().await?;
        let heard = self.heard(known);
        match (self.ask_coordinator(known).await, heard) {
            (Ok(said), Some(heard)) if heard.manifest.sequence > said.manifest.sequence => {
                Ok(heard)
            }
            (Ok(said), _) => Ok(said),
            (Err(error @ (KeeperError::Call(_) | KeeperError::NotAsked(_))), Some(heard)) => {
                tracing::info!(error = %Chain(&error), "the coordinator is away; going by the newest checkpoint of the swarm");
                Ok(heard)
            }
            // The coordinator is behind the swarm, or behind what this node has had.
            (Err(KeeperError::Manifest(older @ ManifestRefused::Older { .. })), heard) => {
                let ours = heard.or_else(|| self.kept(known)).ok_or(older)?;
                self.say_behind(&ours.manifest).await;
                Ok(ours)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The version that this node had last.
    fn kept(&self, known: Option<u64>) -> Option<SignedManifest> {
        let network = self.settings.networks.now();
        let path = self.settings.fetcher.shelf.newest();
        let kept = SignedManifest::load(&path, &network.network.trust);
        let kept = kept.ok().flatten()?;
        (Some(kept.manifest.sequence) >= known).then_some(kept)
    }

    async fn say_behind(&mut self, ours: &Manifest) {
        let (version, sequence) = (&ours.version, ours.sequence);
        let text = format!(
            "the coordinator names an older version; this node stays with {version} (sequence {sequence}), as a node never goes back by itself"
        );
        if self.behind != text {
            tracing::warn!("{text}");
            self.behind.clone_from(&text);
            self.tell(ModelEvent::Busy(text)).await;
        }
    }

    async fn ask_coordinator(&self, known: Option<u64>) -> Result<SignedManifest, KeeperError> {
        let now = UnixMillis(self.settings.clock.now_ms());
        let network = self.settings.networks.now();
        network.network.check_instance(&self.settings.invite, now)?;
        // Empty asks for the newest.
        let request = GetModelVersionRequest {
            version: String::new(),
        };
        let answer = self.settings.coordinator.get_model_version(request).await?;
        Ok(self.verified(answer, known)?)
    }

    /// What peers know, if a release key that holds now has signed it and it is no step back.
    fn heard(&self, known: Option<u64>) -> Option<SignedManifest> {
        let heard = self.settings.heard.borrow().clone()?;
        let wire = GetModelVersionResponse {
            manifest: Some((&heard.manifest_envelope).into()),
            note: String::new(),
        };
        self.verified(wire, known).ok()
    }

    fn verified(
        &self,
        wire: GetModelVersionResponse,
        known: Option<u64>,
    ) -> Result<SignedManifest, ManifestRefused> {
        let now = UnixMillis(self.settings.clock.now_ms());
        let network = self.settings.networks.now();
        SignedManifest::verify(wire, &network.network.trust, now, known)
    }

    /// The highest sequence this node has had.
    async fn known(&self) -> Result<Option<u64>, TaskLogError> {
        self.settings.log.run(|log| log.number(SEQUENCE)).await
    }

    fn wanted(&self, manifest: &Manifest) -> Result<Vec<SubModelId>, NoneWanted> {
        wanted(manifest, &self.settings.wanted)
    }

    /// All files of the wanted sub-models, each once.
    fn files<'a>(&self, manifest: &'a Manifest) -> Result<Vec<&'a ManifestFile>, NoneWanted> {
        Ok(files_of(manifest, &self.wanted(manifest)?))
    }

    /// Waits while `owm-node models fetch` is at it.
    async fn writer(&self) -> Result<Lock, KeeperError> {
        let mut said = false;
        loop {
            if let Some(lock) = self.settings.fetcher.shelf.writer()? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut said, true) {
                let text = "another process fetches models into this folder, waiting for it";
                tracing::info!("{text}");
                self.tell(ModelEvent::Busy(text.into())).await;
            }
            tokio::time::sleep(LOCK_EVERY).await;
        }
    }

    async fn damaged(&self, manifest: &Manifest, what: &str) {
        let text = format!("{}: {what}", manifest.version);
        tracing::warn!("{text}");
        self.tell(ModelEvent::Damaged(text)).await;
    }

    async fn fetch(&self, signed: &SignedManifest) -> Result<(), KeeperError> {
        let files = self.files(&signed.manifest)?;
        for file in &files {
            if let Some(found) = self.settings.fetcher.shelf.wrong_size(file) {
                let (name, size) = (&file.name, file.size);
                let what = format!(
                    "{name} on this disk is damaged ({found} bytes, not {size}); it is fetched again"
                );
                self.damaged(&signed.manifest, &what).await;
                self.settings.fetcher.shelf.discard(&file.sha256)?;
            }
        }
        let mut keep: BTreeSet<Sha256> = files.iter().map(|file| file.sha256).collect();
        let usable = delta::usable(&self.settings.fetcher.shelf, &signed.manifest, &files);
        // What it is made from stays until it is made, if there is room for both.
        let from = usable
            .iter()
            .flat_map(|(delta, _)| [delta.parent, delta.file.sha256]);
        let with_parents: BTreeSet<Sha256> = keep.iter().copied().chain(from).collect();
        let shelf = &self.settings.fetcher.shelf;
        if shelf.make_room(&files, &with_parents).is_ok() {
            keep = with_parents;
        }
        shelf.make_room(&files, &keep)?;
        if files
            .iter()
            .all(|file| self.settings.fetcher.shelf.has(file))
        {
            return Ok(());
        }
        let total: u64 = files.iter().map(|file| file.size).sum();
        let version = &signed.manifest.version;
        self.tell(ModelEvent::Busy(format!(
            "fetching {version} ({total} bytes)"
        )))
        .await;
        let counts = self.settings.metrics.as_ref();
        let teller = Teller::new(&self.settings.clock, version, total, counts);
        let hears = |came: Came| {
            if let Some(line) = teller.take(&came) {
                // One that waits says the same a little later.
                drop(self.events.try_send(ModelEvent::Busy(line)));
            }
        };
        let mut bringer = Bringer {
            shelf: &self.settings.fetcher.shelf,
            peers: self.settings.peers.clone(),
            fetchers: self.fetchers(),
            patience: self.settings.fetcher.limits.stall,
            asked: BTreeSet::new(),
            stop: CancellationToken::new(),
        };
        delta::make(&mut bringer, &usable, &hears).await;
        let brought = bringer.bring(&files, &hears).await;
        teller.done();
        brought?;
        tracing::info!(model.version = %version, bytes = total, "model fetched and verified");
        Ok(())
    }

    fn fetchers(&self) -> Vec<Fetcher> {
        let known = self.settings.networks.now();
        let invited = self.settings.invite.web_seed.as_deref();
        let is_coordinators = known.from == Origin::Coordinator;
        let urls = in_order(&known.network.web_seed, invited, is_coordinators);
        self.settings.fetcher.of_each(urls)
    }

    async fn tell(&self, event: ModelEvent) {
        // Without a receiver `run` ends.
        drop(self.events.send(event).await);
    }
}
