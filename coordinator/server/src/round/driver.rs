//! Drives every open round: loads its row under lock, tells the machine what has happened, writes what the machine says,
//! commits. What takes long (`aggregate`) happens while no transaction is open, and is done again after a crash.

mod aggregate;
mod measure;
mod patience;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub use aggregate::Files;
pub(super) use measure::reports_of;
use patience::Patience;

use owm_coordinator_domain::round::{
    Attempt, Effect, Event, Fault, Part, Phase, Refused,
    participants::{Willing, draw},
};
use owm_coordinator_store::{
    StoreError, Tx,
    round::{
        StoredRound, round_list, round_load, round_save, round_trouble,
        work::{PartWork, round_part_refuse, round_parts},
    },
};
use owm_proto::{
    NodeStatus, PublicKey, Sha256, UnixMillis, VersionId, evaluation::Finding,
    manifest::ManifestFile,
};
use owm_service::{
    reconcile::{Reconciler, Status},
    report::Chain,
};
use owm_update::{Origin, Published};

use super::{
    RoundError, archive::Archive, asks, clean::clean, compute::Task, config::RoundConfig, publish,
    recall::recall,
};
use crate::{
    app::App,
    failpoints::{
        ROUND_AGGREGATED, ROUND_BEFORE_COMMIT, ROUND_COLLECTING, ROUND_EVALUATED, ROUND_PUBLISHED,
        ROUND_SEALED,
    },
    tasks::alive,
};

/// Open rounds that are looked at: there is one for each sub-model.
const OPEN_MAX: u32 = 64;

/// Transitions of one round in one pass: a round has fewer.
const STEPS_MAX: u32 = 32;

/// Said of a part whose file is missing: the round goes on without it.
const GONE: &str = "its bytes were taken and are not in this coordinator's spool any more";

/// What came in this short a while ago may not be visible yet: the clock that ends a round is behind by it.
const SETTLED_MS: u64 = 1_000;

/// The reconciler.
#[derive(Debug)]
pub struct Rounds {
    app: App,
    /// Since when this process can know of willing nodes.
    since: UnixMillis,
    patience: Patience,
    /// Rounds that are over and have been cleaned up after.
    cleaned: Mutex<BTreeSet<u64>>,
}

impl Rounds {
    /// Drives from now on.
    pub fn new(app: App) -> Self {
        let since = app.now();
        let patience = Patience::default();
        Self {
            app,
            since,
            patience,
            cleaned: Mutex::default(),
        }
    }
}

impl Reconciler for Rounds {
    const NAME: &'static str = "rounds";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.app;
        alive::settle(app).await?;
        let mut tx = app.store.begin("round.open_ones").await?;
        let open = round_list(&mut tx, true, OPEN_MAX).await?;
        drop(tx);
        for round in &open {
            if self.patience.waits(round.number, app.now()) {
                continue;
            }
            match advance(app, round.number, self.since).await {
                Ok(()) => self.patience.moved(round.number),
                Err(RoundError::Store(error @ StoreError::Unavailable(_))) => return Err(error),
                Err(error) => {
                    self.patience.held_up(round.number, app.now());
                    let trouble = Chain(&error).to_string();
                    if trouble != round.trouble {
                        tracing::error!(round = round.number, error = %trouble, "the round is held up");
                    }
                    let mut tx = app.store.begin("round.trouble").await?;
                    round_trouble(&mut tx, round.number, &trouble).await?;
                    tx.commit().await?;
                }
            }
        }
        self.clean().await?;
        Ok(Status(serde_json::json!({ "open": open.len() })))
    }
}

impl Rounds {
    /// Cleans up once after each of the last rounds that are over, whoever has ended them.
    async fn clean(&self) -> Result<(), StoreError> {
        let mut tx = self.app.store.begin("round.last_ones").await?;
        let last = round_list(&mut tx, false, OPEN_MAX).await?;
        drop(tx);
        let cleaned = || self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        for round in last {
            let is_over = matches!(
                round.round.phase,
                Phase::Published | Phase::Anchored | Phase::Abandoned
            );
            if !is_over || cleaned().contains(&round.number) {
                continue;
            }
            match clean(&self.app, round.number).await {
                Ok(0) => {}
                Ok(files) => {
                    tracing::info!(round = round.number, files, "dead candidates are gone");
                }
                Err(RoundError::Store(error)) => return Err(error),
                // Tried again by the next process.
                Err(error) => {
                    tracing::warn!(round = round.number, error = %Chain(&error), "files of a round that is over stay");
                }
            }
            cleaned().insert(round.number);
        }
        Ok(())
    }
}

/// Takes a round as far as it goes now. `since`: when this process has begun to hear of nodes.
pub async fn advance(app: &App, number: u64, since: UnixMillis) -> Result<(), RoundError> {
    for _ in 0..STEPS_MAX {
        let Some(step) = Step::load(app, number).await? else {
            return Ok(());
        };
        let moved = match step.stored.round.phase {
            Phase::Open => step.draw(since).await?,
            Phase::Collecting => step.collect().await?,
            Phase::Sealed => step.aggregate().await?,
            Phase::Aggregated => step.measure().await?,
            Phase::Evaluated => step.publish().await?,
            Phase::Published | Phase::Anchored | Phase::Abandoned => false,
        };
        if !moved {
            return Ok(());
        }
    }
    Ok(())
}

/// One transaction on one round.
pub(super) struct Step<'a> {
    pub(super) app: &'a App,
    pub(super) tx: Tx,
    pub(super) stored: StoredRound,
    pub(super) config: RoundConfig,
    pub(super) before: Phase,
    effects: Vec<Effect>,
    /// Of the candidate, where one was made in this step.
    made: Option<ManifestFile>,
}

impl<'a> Step<'a> {
    async fn load(app: &'a App, number: u64) -> Result<Option<Step<'a>>, RoundError> {
        let mut tx = app.store.begin("round.step").await?;
        let Some(stored) = round_load(&mut tx, number).await? else {
            return Ok(None);
        };
        let config = RoundConfig::from_bytes(&stored.config)?;
        Ok(Some(Step {
            app,
            tx,
            before: stored.round.phase,
            stored,
            config,
            effects: Vec::new(),
            made: None,
        }))
    }

    pub(super) fn on(&mut self, event: Event) -> Result<(), Refused> {
        let effects = self.stored.round.on(event)?;
        self.effects.extend(effects);
        Ok(())
    }

    /// Where this round's files lie.
    pub(super) fn archive(&self) -> Archive {
        Archive::in_folder(&self.app.config.rounds.archive)
    }

    /// The round as its arithmetic sees it.
    pub(super) fn task(&self) -> Task {
        task(self.app, &self.stored, &self.config)
    }

    /// Writes what the machine has become with what it asks for, and commits. Whether the phase has changed.
    pub(super) async fn save(mut self, version: Option<&VersionId>) -> Result<bool, RoundError> {
        let (app, number) = (self.app, self.stored.number);
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Lease { participants } => {
                    asks::parts(app, &mut self.tx, &self.stored, &self.config, &participants)
                        .await?;
                }
                Effect::Evaluate { evaluators, .. } => {
                    if let Some(candidate) = &self.made {
                        let what = (candidate, evaluators);
                        asks::losses(app, &mut self.tx, &self.stored, &self.config, what).await?;
                    }
                }
                Effect::Signal { node, fault } => {
                    tracing::warn!(round = number, %node, ?fault, "a fault that signed bytes prove");
                }
                Effect::Abandon { reason } => {
                    tracing::warn!(
                        round = number,
                        reason = reason.as_str(),
                        "the round is abandoned"
                    );
                }
                // Done by the steps of the phases, which these lead to.
                Effect::Aggregate { .. } | Effect::Publish(_) => {}
            }
        }
        let phase = self.stored.round.phase;
        if phase != self.before {
            recall(&mut self.tx, number, phase, app.now()).await?;
        }
        round_save(&mut self.tx, &self.stored.round, version, app.now()).await?;
        owm_service::failpoint::hit(ROUND_BEFORE_COMMIT);
        self.tx.commit().await?;
        let moved = phase != self.before;
        if moved {
            tracing::info!(round = number, phase = phase.as_str(), "the round goes on");
            if let Some(name) = entered(phase) {
                owm_service::failpoint::hit(name);
            }
        }
        app.dispatcher.wake();
        Ok(moved)
    }

    /// Draws the participants once enough nodes offer to train, or have been waited for. A coordinator that has just
    /// started waits as well: its nodes are on their way back.
    async fn draw(mut self, since: UnixMillis) -> Result<bool, RoundError> {
        let willing: Vec<Willing> = self
            .app
            .sessions
            .candidates()
            .into_iter()
            .filter(|node| {
                node.candidate.status == NodeStatus::Active && node.candidate.credits.train > 0
            })
            .map(|node| Willing {
                node: node.key,
                owner: Sha256(node.candidate.owner.0),
                reliability: node.candidate.reliability,
            })
            .collect();
        let (now, round) = (self.app.now(), &self.stored.round);
        let gather = Duration::from_millis(self.config.gather_ms);
        let places = self.config.places as usize;
        let needed = round.plan.updates_min.max(1) as usize;
        let is_gathering = now < round.opened_at.max(since).after(gather);
        if willing.len() < places && is_gathering || willing.len() < needed && now < round.ends_at()
        {
            return Ok(false);
        }
        // What was waited for longer than planned is not taken from those who train.
        let from = round.opened_at.after(gather);
        self.on(Event::Held { from, to: now })?;
        let participants = draw(&willing, places, self.config.draw_seed.0);
        self.on(Event::Drawn { participants })?;
        self.save(None).await
    }

    /// Tells the machine of every commit and every update that has come, in the order of time.
    async fn collect(mut self) -> Result<bool, RoundError> {
        let parts = round_parts(&mut self.tx, self.stored.number).await?;
        let published = self.task().published();
        let mut events: Vec<(UnixMillis, usize, Event)> = Vec::new();
        let mut gone: Vec<usize> = Vec::new();
        for (nr, part) in parts.iter().enumerate() {
            let Some((at, sha256)) = part.committed else {
                continue;
            };
            let node = part.key;
            events.push((at, nr, Event::Committed { node, sha256, at }));
            let known = self.stored.round.parts.get(&node);
            if let (Some((at, _)), Some(Part::Asked | Part::Committed { .. })) =
                (&part.reported, known)
            {
                let Some(good) = self.is_of_the_round(part, &published).await? else {
                    gone.push(nr);
                    continue;
                };
                let at = *at;
                let event = Event::Bytes {
                    node,
                    sha256,
                    good,
                    at,
                };
                events.push((at, nr, event));
            }
        }
        events.sort_by_key(|(at, nr, event)| (*at, *nr, matches!(event, Event::Bytes { .. })));
        let before = self.stored.round.clone();
        let mut told: BTreeSet<usize> = BTreeSet::new();
        for (_, nr, event) in events {
            let part = &parts[nr];
            // Of a late commit the bytes are not committed to either: the first reason is the one.
            if let Err(refused) = self.on(event)
                && part.refused.is_empty()
                && told.insert(nr)
            {
                let why = refused.to_string();
                round_part_refuse(&mut self.tx, self.stored.number, part.node, &why).await?;
            }
        }
        for effect in &self.effects {
            if let Effect::Signal { node, fault } = effect
                && let Some(part) = parts.iter().find(|part| part.key == *node)
            {
                let why = said_of(fault);
                round_part_refuse(&mut self.tx, self.stored.number, part.node, why).await?;
            }
        }
        let now = UnixMillis(self.app.now().0.saturating_sub(SETTLED_MS));
        self.on(Event::Tick { now })?;
        if self.stored.round.phase != before.phase {
            for part in gone.into_iter().map(|nr| &parts[nr]) {
                tracing::warn!(round = self.stored.number, node = %part.key, "{GONE}");
                round_part_refuse(&mut self.tx, self.stored.number, part.node, GONE).await?;
            }
        }
        if self.stored.round == before {
            // What was refused is kept.
            self.tx.commit().await?;
            return Ok(false);
        }
        self.save(None).await
    }

    /// Whether an update that was accepted by itself is one of this round's parent: what only the parent's file tells.
    /// `None`: its bytes are not here.
    async fn is_of_the_round(
        &self,
        part: &PartWork,
        published: &Published,
    ) -> Result<Option<bool>, RoundError> {
        match update_of(part) {
            Some(sha256) => self.is_update(sha256, published).await,
            None => Ok(Some(false)),
        }
    }

    /// Keeps an update for the round, and says whether it is what was published. `None`: its bytes are not here.
    pub(super) async fn is_update(
        &self,
        sha256: Sha256,
        published: &Published,
    ) -> Result<Option<bool>, RoundError> {
        let (archive, spool) = (self.archive(), self.app.spool.clone());
        let (number, published) = (self.stored.number, published.clone());
        let checked = blocking(move || {
            if !archive.keep_update(number, &sha256, &spool.path(&sha256))? {
                return Ok(None);
            }
            let path = archive.update(number, &sha256);
            let opened = owm_aggregate::FileSpool::open([&path]);
            let opened = opened.map_err(|source| RoundError::File { path, source })?;
            let header = &owm_aggregate::Spool::opened(&opened, 0).header;
            let is_nodes = matches!(header.subject.origin, Origin::Node { .. });
            Ok(Some(is_nodes && published.check(header).is_ok()))
        });
        checked.await
    }

    async fn publish(self) -> Result<bool, RoundError> {
        publish::publish(self).await
    }
}

/// The failpoint of a phase that has just been entered.
const fn entered(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Collecting => Some(ROUND_COLLECTING),
        Phase::Sealed => Some(ROUND_SEALED),
        Phase::Aggregated => Some(ROUND_AGGREGATED),
        Phase::Evaluated => Some(ROUND_EVALUATED),
        Phase::Published => Some(ROUND_PUBLISHED),
        Phase::Open | Phase::Anchored | Phase::Abandoned => None,
    }
}

const fn said_of(fault: &Fault) -> &'static str {
    match fault {
        Fault::Equivocation { .. } => "it has signed two results for one lease",
        Fault::Structure { .. } => "its bytes are no update of this round",
    }
}

/// A round as its arithmetic sees it.
pub(super) fn task(app: &App, stored: &StoredRound, config: &RoundConfig) -> Task {
    Task {
        network: app.network(),
        round: stored.number,
        sub_model: stored.sub_model.clone(),
        parent: stored.parent,
        parent_path: app.blobs.dir().join(stored.parent.to_string()),
        config: config.clone(),
        residue_before: stored.residue_before,
    }
}

/// The update that a part's report names.
pub fn update_of(part: &PartWork) -> Option<Sha256> {
    match part.reported.as_ref()?.1.finding {
        Finding::Update { sha256, .. } => Some(sha256),
        Finding::HeldOut { .. } => None,
    }
}

/// Whose update of `parts` the machine counts, in key order.
pub(super) fn whole<'p>(
    stored: &StoredRound,
    parts: &'p [PartWork],
) -> Vec<(&'p PartWork, Sha256, UnixMillis)> {
    let is = |key: &PublicKey| match stored.round.parts.get(key) {
        Some(Part::Whole { at, .. }) => Some(*at),
        _ => None,
    };
    let mut whole: Vec<_> = parts
        .iter()
        .filter_map(|part| Some((part, update_of(part)?, is(&part.key)?)))
        .collect();
    whole.sort_by_key(|(part, ..)| part.key);
    whole
}

/// Runs what blocks beside everything else.
pub(in crate::round) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RoundError> + Send + 'static,
) -> Result<T, RoundError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(StoreError::interrupted().into()))
}

/// The attempt that a round is at.
pub(super) const fn attempt_of(stored: &StoredRound) -> Attempt {
    stored.round.attempt
}
