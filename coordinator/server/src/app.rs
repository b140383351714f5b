//! What every door of the coordinator shares: store, keys, sessions, followers. `App` is cheap to
//! clone; starting and stopping is in `serve`.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use owm_coordinator_store::{
    Store, StoreError, Tx, Vault,
    model::{ModelVersion, model_lookup},
};
use owm_proto::{PublicKey, UnixMillis, VersionId, genesis::NetworkId};
use owm_service::{
    clock::{SharedClock, SteadyClock},
    rng::Seed,
};
use rand_chacha::ChaCha20Rng;
use tokio::sync::Semaphore;

use crate::{
    answers::Answers,
    ask::{
        delivered::Deliveries,
        intake::{Intake, QueueBound},
    },
    batch::Batcher,
    blobs::Blobs,
    config::Config,
    counts::Counts,
    dispatch::DispatchHandle,
    identity::Authority,
    metrics::Metrics,
    page::Feed,
    rpc::chunks::ChunkSender,
    sessions::Sessions,
    spool::Spool,
    swarm::Swarm,
    tasks::signs::SignSender,
    verdict::desk::Desk,
};

#[cfg(test)]
mod faults;
#[cfg(test)]
pub mod testing;

/// How long the current model is remembered before the database is asked again.
const MODEL_REMEMBERED_MS: u64 = 1_000;

/// Versions remembered beside it: those that answers in flight were begun with.
const MODELS_REMEMBERED_MAX: usize = 8;

/// Results judged alone at once, each on a connection of its own: the pool has more for everybody else.
const JUDGED_ALONE_MAX: usize = 4;

/// The parts of a coordinator.
#[derive(Debug)]
pub struct Parts {
    /// As read from `coordinator.toml`.
    pub config: Arc<Config>,
    /// Postgres.
    pub store: Store,
    /// Users' text at rest.
    pub vault: Vault,
    /// The network's documents and this instance's key.
    pub authority: Arc<Authority>,
    /// Published files.
    pub blobs: Blobs,
    /// Updates that nodes have handed in.
    pub spool: Spool,
    /// Connected nodes.
    pub sessions: Sessions,
    /// Who waits for which answer.
    pub answers: Answers,
    /// Wakes the dispatcher.
    pub dispatcher: DispatchHandle,
    /// Takes chunks to be journalled.
    pub chunks: ChunkSender,
    /// Takes signs of life to be folded.
    pub signs: SignSender,
    /// This coordinator as a peer.
    pub swarm: Swarm,
    /// The public page, made at most once a second for all who look.
    pub page: Feed,
    /// The network's figures.
    pub(crate) counts: Counts,
    /// The time that leases, sessions and deadlines are judged by: it does not jump.
    pub clock: SharedClock,
    /// The machine's own time, for what strangers have signed.
    wall: SharedClock,
    /// The root of this process's randomness.
    pub seed: Seed,
    /// When this process last wrote that it lives; 0: not yet.
    alive_at: AtomicU64,
    /// What is counted.
    pub metrics: Metrics,
    pub(crate) intake: Batcher<Intake>,
    pub(crate) queue_bound: QueueBound,
    pub(crate) desk: Batcher<Desk>,
    pub(crate) deliveries: Batcher<Deliveries>,
    /// Turns for results that are judged alone.
    pub(crate) alone: Arc<Semaphore>,
    requests: AtomicU64,
    models: Mutex<HashMap<VersionId, (u64, Arc<ModelVersion>)>>,
    model: Mutex<Option<(u64, Option<Arc<ModelVersion>>)>>,
}

/// A coordinator.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What an [`App`] is made of.
#[derive(Debug)]
pub struct Ingredients {
    /// As read from `coordinator.toml`.
    pub config: Arc<Config>,
    /// Postgres.
    pub store: Store,
    /// Users' text at rest.
    pub vault: Vault,
    /// Documents and keys.
    pub authority: Arc<Authority>,
    /// Published files.
    pub blobs: Blobs,
    /// Wakes the dispatcher.
    pub dispatcher: DispatchHandle,
    /// Takes chunks.
    pub chunks: ChunkSender,
    /// Takes signs of life.
    pub signs: SignSender,
    /// The machine's time.
    pub clock: SharedClock,
    /// Randomness.
    pub seed: Seed,
    /// Where is counted.
    pub metrics: Metrics,
}

impl App {
    /// Puts the parts together; nothing runs yet.
    pub fn new(with: Ingredients) -> Self {
        let now = UnixMillis(with.clock.now_ms());
        Self(Arc::new(Parts {
            swarm: Swarm::new(&with.config, &with.authority, now),
            spool: Spool::in_folder(
                &with.config.rounds.spool,
                with.config.rounds.spool_max.get(),
            ),
            config: with.config,
            store: with.store,
            vault: with.vault,
            authority: with.authority,
            blobs: with.blobs,
            sessions: Sessions::default(),
            answers: Answers::new(with.metrics.clone()),
            dispatcher: with.dispatcher,
            chunks: with.chunks,
            signs: with.signs,
            counts: Counts::default(),
            page: Feed::new(now),
            clock: SteadyClock::shared(with.clock.clone()),
            wall: with.clock,
            seed: with.seed,
            alive_at: AtomicU64::new(0),
            metrics: with.metrics,
            intake: Batcher::default(),
            queue_bound: QueueBound::default(),
            desk: Batcher::default(),
            deliveries: Batcher::default(),
            alone: Arc::new(Semaphore::new(JUDGED_ALONE_MAX)),
            requests: AtomicU64::new(0),
            models: Mutex::default(),
            model: Mutex::new(None),
        }))
    }

    /// The time; it does not jump.
    pub fn now(&self) -> UnixMillis {
        UnixMillis(self.clock.now_ms())
    }

    /// The machine's time, jumps included: what strangers say of time is held against this.
    pub fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall.now_ms())
    }

    /// The machine's clock, jumps included.
    pub(crate) fn wall_clock(&self) -> SharedClock {
        self.wall.clone()
    }

    /// When this process last wrote that it lives.
    pub(crate) fn alive_at(&self) -> UnixMillis {
        UnixMillis(self.alive_at.load(Ordering::Relaxed))
    }

    /// It has just written that it lives.
    pub(crate) fn mark_alive(&self, now: UnixMillis) {
        self.alive_at.store(now.0, Ordering::Relaxed);
    }

    /// The network.
    pub fn network(&self) -> NetworkId {
        self.authority.network()
    }

    /// This process's name in the network.
    pub fn instance(&self) -> PublicKey {
        self.authority.instance.public()
    }

    /// Randomness for one request; every call another stream of the process's seed.
    pub fn request_rng(&self) -> ChaCha20Rng {
        let nr = self.requests.fetch_add(1, Ordering::Relaxed);
        self.seed.rng(&format!("request.{nr}"))
    }

    /// How stake is looked at, for people.
    pub fn stake_policy_str(&self) -> &'static str {
        self.config.policy.stake_policy().as_str()
    }

    /// The version that new tasks use; at most a second old.
    pub async fn current_model(&self) -> Result<Option<Arc<ModelVersion>>, StoreError> {
        let now = self.now().0;
        let remembered = self
            .model
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((at, model)) = remembered
            && now.saturating_sub(at) < MODEL_REMEMBERED_MS
        {
            return Ok(model);
        }
        let mut tx = self.store.single("model.current").await?;
        let model = model_lookup(&mut tx, None).await?.map(Arc::new);
        *self.model.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, model.clone()));
        Ok(model)
    }

    /// A version by name, current or not; at most a second old. Asks the database on the caller's
    /// connection.
    pub(crate) async fn model_of(
        &self,
        tx: &mut Tx,
        version: &VersionId,
    ) -> Result<Option<Arc<ModelVersion>>, StoreError> {
        let now = self.now().0;
        let models = || self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = models().get(version).cloned();
        if let Some((at, model)) = remembered
            && now.saturating_sub(at) < MODEL_REMEMBERED_MS
        {
            return Ok(Some(model));
        }
        let found = model_lookup(tx, Some(version)).await?.map(Arc::new);
        if let Some(model) = &found {
            let mut models = models();
            if models.len() >= MODELS_REMEMBERED_MAX {
                models.clear();
            }
            models.insert(version.clone(), (now, Arc::clone(model)));
        }
        Ok(found)
    }
}
