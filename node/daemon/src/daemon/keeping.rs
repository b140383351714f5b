//! Models in the daemon: what the keeper and the fetches of `owm-node models fetch` are made of.
//! Must stay true: both go through one shelf and one exchange.

use std::sync::Arc;

use owm_p2p::exchange::rate::Rate;
use owm_proto::SubModelId;
use owm_service::{CancellationToken, RunError, clock::SharedClock, config::HumanBytes};
use tokio::sync::{mpsc, watch};

use super::{AbortOnDrop, Frame, Parts, join};
use crate::{
    caps::Caps,
    config::NodeConfig,
    link::Coordinator,
    metrics::Metrics,
    models::{
        CandidateShelf, Fetcher, Fetching, Getter, Keeper, KeeperSettings, Limits, LoadedModel,
        ModelEvent, Shelf,
    },
    network::{NetworkBook, Networks},
    residue::ResidueStore,
    roles::evaluate::{Means, OwnText, Tools},
    status::Status,
    swarm::Swarm,
    tasklog::TaskLog,
    updates::Updates,
};

/// Keeper events that wait.
const MODEL_QUEUE: usize = 16;

/// What they share with the rest of the daemon.
pub(super) struct Kept<'a> {
    pub(super) caps: &'a Caps,
    pub(super) shelf: &'a Shelf,
    pub(super) log: &'a TaskLog,
    pub(super) coordinator: &'a Coordinator,
    pub(super) swarm: &'a Swarm,
    pub(super) metrics: &'a Metrics,
}

/// A running keeper: its hints, its events, and its end when it is dropped.
pub(super) type Running = (
    AbortOnDrop,
    watch::Sender<Option<String>>,
    mpsc::Receiver<ModelEvent>,
);

/// The sub-models that the configuration wants.
pub(crate) fn wanted(config: &NodeConfig) -> Result<Vec<SubModelId>, RunError> {
    let wanted = config.model.sub_models.iter().map(|id| id.parse());
    wanted.collect::<Result<_, _>>().map_err(RunError::usage)
}

/// What fetches by HTTP under the configuration's limits, from a web seed that is filled in later.
pub(crate) fn fetcher(
    config: &NodeConfig,
    dialer: &owm_service::dialer::Dialer,
    shelf: Shelf,
) -> Fetcher {
    let limit = config.exchange.download_max.map(HumanBytes::get);
    Fetcher {
        http: dialer.http(),
        web_seed: String::new(),
        shelf,
        limits: Limits {
            stall: config.model.stall.get(),
        },
        rate: Arc::new(Rate::new(limit)),
        gives_way: CancellationToken::new(),
    }
}

impl Kept<'_> {
    /// Fetches for `owm-node models fetch`.
    pub(super) fn fetching(
        &self,
        frame: &Frame,
        parts: &Parts,
        book: &NetworkBook,
        status: watch::Receiver<Status>,
    ) -> Result<Fetching, RunError> {
        let config = &parts.config;
        Ok(Fetching::new(Getter {
            coordinator: self.coordinator.clone(),
            invite: parts.invite.clone(),
            book: book.clone(),
            heard: self.swarm.newest(),
            peers: self.swarm.files(),
            has_peers: join::has_peers(&config.p2p, &parts.invite, &parts.home),
            fetcher: fetcher(config, &parts.dialer, self.shelf.clone()),
            wanted: wanted(config)?,
            log: self.log.clone(),
            clock: SharedClock::clone(&frame.clock),
            seed: frame.seed.child("fetching"),
            metrics: Some(self.metrics.downloads.clone()),
            status: Some(status),
        }))
    }

    /// What evaluations are done with.
    pub(super) fn means(&self, parts: &Parts, networks: &Networks) -> Means {
        Means {
            shelf: CandidateShelf {
                networks: networks.clone(),
                invite: parts.invite.clone(),
                peers: self.swarm.files(),
                fetcher: fetcher(&parts.config, &parts.dialer, self.shelf.clone()),
                last: Arc::default(),
            },
            tools: Tools {
                loader: Arc::clone(&parts.loader),
                texts: Arc::clone(&parts.texts),
                own_text: OwnText {
                    per_day: parts.config.text.local_per_day,
                    any_weights: parts.config.text.any_weights,
                },
                ram: self.caps.ram,
                updates: Updates::new(parts.home.updates()),
                residues: ResidueStore::new(parts.home.residues()),
            },
        }
    }

    /// Starts the keeper.
    pub(super) fn start_keeper(
        &self,
        frame: &Frame,
        parts: &Parts,
        networks: &Networks,
        loaded: watch::Sender<Option<Arc<LoadedModel>>>,
    ) -> Result<Running, RunError> {
        let (hints, hint) = watch::channel(None);
        let (model_events, models) = mpsc::channel(MODEL_QUEUE);
        let settings = KeeperSettings {
            coordinator: self.coordinator.clone(),
            networks: networks.clone(),
            heard: self.swarm.newest(),
            peers: self.swarm.files(),
            invite: parts.invite.clone(),
            fetcher: fetcher(&parts.config, &parts.dialer, self.shelf.clone()),
            loader: Arc::clone(&parts.loader),
            wanted: wanted(&parts.config)?,
            ram: self.caps.ram,
            log: self.log.clone(),
            clock: SharedClock::clone(&frame.clock),
            seed: frame.seed.child("models"),
            metrics: Some(self.metrics.downloads.clone()),
            shown: loaded,
        };
        let keeping = Keeper::new(settings, hint, model_events).run();
        Ok((AbortOnDrop(tokio::spawn(keeping)), hints, models))
    }
}
