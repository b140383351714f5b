//! Updates: announced by a signed result, committed before their bytes, held against what was asked, then judged like
//! every result.

use owm_coordinator_domain::task::CommitDecision;
use owm_coordinator_store::{
    StoreError,
    evaluation::evaluation_ask,
    outcome::{attempt_load, commit_record},
    task::task_load,
};
use owm_proto::{
    NodeId, PublicKey, Sha256, SubModelId, UnixMillis,
    evaluation::{EvaluationAsk, EvaluationReport, Finding, LoraPlan, ReferenceSteps},
    genesis::NetworkId,
    limits::UPDATE_BYTES_MAX,
    wire::coordinator as wire,
};
use owm_update::{Layout, LoraEpoch, Mode, Origin, Published, Update};
use tokio::sync::Semaphore;

use super::{
    VerdictError,
    desk::{Desk, HandedIn, Heard},
    opened::{Opened, Product},
};
use crate::{app::App, batch::hand_in, layout::layout_of, tasks::alive};

/// Updates that are read and checked at once: each is in memory as a whole.
static CHECKING: Semaphore = Semaphore::const_new(2);

/// What a signed result announces.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    /// Who announces it.
    pub(crate) node: NodeId,
    /// SHA-256 of the update's bytes.
    pub(crate) sha256: Sha256,
    /// How many they are.
    pub(crate) size: u64,
    /// Whether they are taken: it was committed on time, and the grace for bytes is not over.
    pub(crate) is_wanted: bool,
    /// When the last of them has to be here.
    pub(crate) until: UnixMillis,
    /// When it was received.
    at: UnixMillis,
}

/// What an update has to be of.
#[derive(Clone, Debug)]
struct Expected {
    network: NetworkId,
    node: PublicKey,
    sub_model: SubModelId,
    ask: EvaluationAsk,
    /// Of the parent's file.
    layout: Layout,
}

/// The update that a report names.
pub(super) fn named(product: &Product) -> Option<(Sha256, u64)> {
    let Product::Report(bytes) = product else {
        return None;
    };
    match EvaluationReport::from_bytes(bytes)?.finding {
        Finding::Update { sha256, size, .. } => Some((sha256, size)),
        Finding::HeldOut { .. } => None,
    }
}

impl App {
    /// Opens what announces an update and records its commit: from here on the bytes may take their time.
    pub(crate) async fn update_announced(
        &self,
        node: NodeId,
        key: &PublicKey,
        wire: &wire::TaskResult,
    ) -> Result<Announced, VerdictError> {
        let at = self.now();
        let opened = Opened::open(self, key, wire.clone())?;
        let named = named(&opened.product);
        let (sha256, size) = named.ok_or(VerdictError::Malformed("the report names no update"))?;
        if size > UPDATE_BYTES_MAX {
            return Err(VerdictError::Malformed("no update is as large as that"));
        }
        let Product::Report(report) = &opened.product else {
            return Err(VerdictError::Malformed("the report is missing"));
        };
        let result = Sha256::of(opened.result_envelope.unverified_payload());
        let is_signed = opened.statement.output_sha256 == Sha256::of(report)
            && opened.commit.result_sha256 == result
            && opened.commit.task_id == opened.statement.task_id
            && opened.commit.epoch == opened.statement.epoch;
        if !is_signed {
            return Err(VerdictError::Malformed(
                "commit, result and report do not belong together",
            ));
        }
        let until = self.update_commit(node, &opened, result, at).await?;
        // What is here already is judged, however late its sender asks again.
        let is_wanted = until.is_some_and(|until| at < until || self.spool.has(&sha256, size));
        Ok(Announced {
            node,
            sha256,
            size,
            is_wanted,
            until: until.unwrap_or(at),
            at,
        })
    }

    /// When the grace for bytes ends; `None`: none are taken, the commit does not stand or was late.
    async fn update_commit(
        &self,
        node: NodeId,
        opened: &Opened,
        result: Sha256,
        at: UnixMillis,
    ) -> Result<Option<UnixMillis>, StoreError> {
        let (id, epoch) = (opened.commit.task_id, opened.commit.epoch);
        alive::settle(self).await?;
        let mut tx = self.store.begin("update.commit").await?;
        if task_load(&mut tx, id).await?.is_none() {
            return Ok(None);
        }
        let found = attempt_load(&mut tx, id, epoch).await?;
        let Some(attempt) = found.filter(|attempt| attempt.node == node) else {
            return Ok(None);
        };
        // A task that wants no update gets none, whatever a report names.
        let ask = evaluation_ask(&mut tx, id).await?;
        let is_asked = ask.is_some_and(|ask| ask.reference.is_some());
        let decided = attempt.commit(result, at);
        if let CommitDecision::Recorded(commit) = &decided {
            commit_record(&mut tx, id, epoch, commit, &opened.commit_envelope).await?;
            tx.commit().await?;
        }
        let stands = decided.standing();
        // What was judged is answered as then; its bytes are not taken twice.
        let is_open = attempt.result.is_none();
        let is_taken = is_asked && is_open && stands.on_time && stands.result == result;
        let grace = self.config.rounds.upload_grace.get();
        Ok(is_taken.then(|| attempt.expires_at.after(grace)))
    }

    /// Judges the result of an update whose bytes are here (or were not wanted).
    pub(crate) async fn update_judge(
        &self,
        key: &PublicKey,
        wire: wire::TaskResult,
        announced: Announced,
    ) -> Result<wire::ResultAck, VerdictError> {
        let mut opened = Opened::open(self, key, wire)?;
        let checked = if announced.is_wanted {
            self.update_check(key, &opened, &announced).await?
        } else {
            Err("its bytes were not taken: it was not asked for, not committed to on time, or the grace for bytes is over".to_owned())
        };
        if checked.is_err() && announced.is_wanted {
            // Nobody reads it any more; sent again, it is judged as before.
            let (spool, sha256) = (self.spool.clone(), announced.sha256);
            let removed = tokio::task::spawn_blocking(move || spool.remove(&sha256)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(%error, "a rejected update stays in the spool");
            }
        }
        opened.update = Some(checked);
        let (node, at) = (announced.node, announced.at);
        match hand_in::<Desk>(self, HandedIn { node, opened, at }).await? {
            Heard::Judged(ack) => Ok(ack),
            Heard::Alone(item) => Ok(self.result_alone(*item).await?),
        }
    }

    async fn update_check(
        &self,
        key: &PublicKey,
        opened: &Opened,
        announced: &Announced,
    ) -> Result<Result<(), String>, StoreError> {
        let id = opened.statement.task_id;
        let mut tx = self.store.begin("update.ask").await?;
        let (ask, task) = (
            evaluation_ask(&mut tx, id).await?,
            task_load(&mut tx, id).await?,
        );
        drop(tx);
        let (Some(ask), Some(task)) = (ask, task) else {
            return Ok(Err("nobody has asked for it".into()));
        };
        let parent = ask.weights_sha256();
        let [parent] = parent.as_slice() else {
            return Ok(Err("its parent is no single file".into()));
        };
        let layout = layout_of(&self.blobs, *parent).await;
        let layout = layout.map_err(|error| {
            // Our own store's fault decides nothing: the node sends it again.
            tracing::error!(%error, task.id = %id, "an update can't be checked");
            StoreError::interrupted()
        })?;
        let expected = Expected {
            network: self.network(),
            node: *key,
            sub_model: task.facts.sub_model,
            ask,
            layout,
        };
        let path = self.spool.path(&announced.sha256);
        let _turn = CHECKING.acquire().await;
        let checking = tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(&path);
            bytes.map(|bytes| check(&bytes, &expected))
        });
        match checking.await {
            Ok(Ok(checked)) => Ok(checked),
            // Our own disk's fault decides nothing: the node sends it again.
            Ok(Err(error)) => {
                tracing::error!(%error, "a received update cannot be read");
                Err(StoreError::interrupted())
            }
            Err(_) => Err(StoreError::interrupted()),
        }
    }
}

/// What is wrong with an update, in words. Blocks.
fn check(bytes: &[u8], expected: &Expected) -> Result<(), String> {
    let update = Update::parse(bytes).map_err(|error| error.to_string())?;
    let (said, steps) = (&update.header().subject, expected.ask.reference);
    let steps = steps.ok_or("an update was not asked for")?;
    let of_another = [
        ("network", said.network != expected.network),
        ("sub-model", said.sub_model != expected.sub_model),
        ("round", said.round != steps.round),
        ("parent", expected.ask.weights_sha256() != [said.base]),
        ("maker or plan", !is_planned(&said.origin, &steps, expected)),
        (
            "coding",
            update.header().codec.keep.ppm() != steps.keep_ppm
                || update.header().codec.values.bits() != steps.value_bits,
        ),
    ];
    if let Some((what, _)) = of_another.iter().find(|(_, differs)| *differs) {
        return Err(format!("it is of another {what} than the lease's"));
    }
    // What it is of is the lease's and the parent's file's to say, never the sender's.
    let (header, layout) = (update.header(), &expected.layout);
    let mode = mode(steps.lora, layout)?;
    if said.mode != mode {
        return Err(match (&said.mode, &mode) {
            (Mode::Lora(said), Mode::Lora(lora)) if said.targets != lora.targets => {
                "it adapts other matrices than the parent's layers have".into()
            }
            _ => "it is of another mode than the lease's".into(),
        });
    }
    let elements = layout.elements(&mode).map_err(|error| error.to_string())?;
    let published = Published {
        network: expected.network,
        round: steps.round,
        sub_model: expected.sub_model.clone(),
        base: said.base,
        layout: layout.id(),
        mode,
        elements,
        codec: header.codec,
        clip: steps.clip_norm,
    };
    let verified = update.verify(&published).map(drop);
    verified.map_err(|error| error.to_string())
}

/// The mode of an update by plan on this file.
fn mode(planned: Option<LoraPlan>, layout: &Layout) -> Result<Mode, String> {
    let Some(plan) = planned else {
        return Ok(Mode::Full);
    };
    let targets = layout.adapted();
    Ok(Mode::Lora(LoraEpoch {
        epoch: plan.epoch,
        rank: plan.rank,
        seed: plan.seed,
        targets: targets.ok_or("its parent has no matrices that LoRA adapts")?,
    }))
}

fn is_planned(origin: &Origin, steps: &ReferenceSteps, expected: &Expected) -> bool {
    let most = u64::from(steps.steps) * u64::from(steps.batch);
    match origin {
        Origin::Node {
            node,
            samples,
            steps: done,
            clip,
        } => {
            *node == expected.node
                && (1..=most).contains(samples)
                && *done == steps.steps
                && clip.to_bits() == steps.clip_norm.to_bits()
        }
        Origin::Aggregate { .. } => false,
    }
}
