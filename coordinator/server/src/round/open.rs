//! Opening a round: which parent, what is published, what the former rounds of the same training leave to it. The command
//! line asks for it; the running coordinator's driver does the rest.

use std::time::Duration;

use owm_aggregate::{Decision, Policy, StrategyName};
use owm_coordinator_domain::round::{
    Event, Phase, Plan, Round,
    acceptance::{BEST_OF, EVALUATORS, Loss, Verdict},
    deadline::Deadline,
};
use owm_coordinator_store::{
    Store, Tx,
    model::model_lookup,
    round::{
        NewRound, StoredRound, round_computed, round_create, round_load, round_next, round_of,
        round_save,
    },
};
use owm_proto::{PublicKey, Sha256, SubModelId, UnixMillis, VersionId};
use rand::RngCore as _;
use rand_chacha::ChaCha20Rng;

use super::{
    RoundError,
    compute::layout_of,
    config::{Reading, RoundConfig, Training},
    recall::recall,
};
use crate::blobs::Blobs;

/// Nodes that one round asks at most.
pub const PLACES_MAX: u32 = 1_024;

/// What a round is opened with.
#[derive(Clone, Debug)]
pub struct RoundOrder {
    /// Which sub-model is trained.
    pub sub_model: SubModelId,
    /// From which version; the current one if absent.
    pub version: Option<VersionId>,
    /// What participants do.
    pub training: Training,
    /// The public text of a reference update.
    pub reference: Option<Reading>,
    /// What candidate and parent are measured on.
    pub evaluation: Reading,
    /// Nodes that are asked at most.
    pub places: u32,
    /// Whole updates that are needed.
    pub updates_min: u32,
    /// How long nodes that could train are waited for.
    pub gather: Duration,
    /// Until when it collects.
    pub deadline: Deadline,
    /// Reports wanted.
    pub evaluators: u32,
    /// How long a reference or an evaluation may take.
    pub evaluation_time: Duration,
    /// The rule of the first attempt.
    pub strategy: StrategyName,
    /// Whether one or two updates may be averaged.
    pub allow_tiny: bool,
}

/// What the former rounds of one training leave to the next.
#[derive(Debug, Default)]
struct Legacy {
    residue: Option<Sha256>,
    history: owm_aggregate::gates::NormHistory,
    recent: Vec<Loss>,
}

/// Opens a round; its number.
pub async fn open(
    store: &Store,
    blobs: &Blobs,
    order: &RoundOrder,
    mut rng: ChaCha20Rng,
    now: UnixMillis,
) -> Result<(u64, RoundConfig), RoundError> {
    let other = |text: &str| RoundError::Other(text.to_owned());
    if !(1..=PLACES_MAX).contains(&order.places) || order.updates_min > order.places {
        return Err(RoundError::Other(format!(
            "1 to {PLACES_MAX} nodes are asked, and no more updates needed than nodes are asked"
        )));
    }
    if order.updates_min < 3 && !order.allow_tiny {
        return Err(other(
            "fewer than 3 updates say nothing of each other: ask for at least 3, or give --allow-tiny in a devnet",
        ));
    }
    let mut tx = store.begin("round.open").await?;
    let version = model_lookup(&mut tx, order.version.as_ref()).await?;
    let version = version.ok_or_else(|| {
        other("there is no such version here; `owm-coordinator model list` shows all")
    })?;
    let manifest = &version.manifest;
    let sub_model = manifest.sub_models.get(&order.sub_model);
    let sub_model = sub_model.ok_or_else(|| {
        RoundError::Other(format!("{} has no {}", manifest.version, order.sub_model))
    })?;
    let its = |name: &String| sub_model.files.contains(name);
    let files: Vec<_> = manifest
        .files
        .iter()
        .filter(|file| its(&file.name))
        .cloned()
        .collect();
    let [parent] = manifest.weights_sha256(&order.sub_model)[..] else {
        return Err(other("rounds train models whose weights are one file"));
    };
    let layout = layout_of(&blobs.dir().join(parent.to_string()))?;
    let mut draw_seed = [0; 32];
    rng.fill_bytes(&mut draw_seed);
    let legacy = legacy(&mut tx, order, parent).await?;
    let config = RoundConfig {
        files,
        layout: layout.id(),
        elements: layout.elements(&owm_update::Mode::Full)?,
        places: order.places,
        gather_ms: millis(order.gather),
        draw_seed: Sha256(draw_seed),
        training: order.training.clone(),
        reference: order.reference.clone(),
        evaluation: order.evaluation.clone(),
        evaluators: order.evaluators,
        evaluation_ms: millis(order.evaluation_time),
        strategy: order.strategy,
        policy: Policy {
            allow_tiny: order.allow_tiny,
            clip: f64::from(order.training.clip_norm),
            ..Policy::default()
        },
        history: legacy.history,
        recent: legacy.recent,
    };
    let number = round_next(&mut tx).await?;
    // What cannot be asked is told now.
    config.part_ask(number, &PublicKey([0; 32]), 0, 1)?;
    config.loss_ask(None)?;
    if let Some(reading) = &config.reference {
        config.reference_ask(number, reading)?;
    }
    let plan = Plan {
        round: number,
        deadline: order.deadline,
        updates_min: order.updates_min,
    };
    let new = NewRound {
        round: Round::open(plan, now),
        sub_model: order.sub_model.clone(),
        parent_version: manifest.version.clone(),
        parent,
        config: config.to_bytes(),
        residue_before: legacy.residue,
    };
    if !round_create(&mut tx, &new).await? {
        return Err(RoundError::Other(format!(
            "a round of {} is open: wait for it, or give it up with `owm-coordinator round abandon`",
            order.sub_model
        )));
    }
    tx.commit().await?;
    Ok((number, config))
}

/// Gives a round up, if it is not over: the phase it is in then. `None`: there is no such round.
pub async fn abandon(
    store: &Store,
    number: u64,
    now: UnixMillis,
) -> Result<Option<Phase>, RoundError> {
    let mut tx = store.begin("round.abandon").await?;
    let Some(mut stored) = round_load(&mut tx, number).await? else {
        return Ok(None);
    };
    if stored.round.on(Event::Stopped).is_ok() {
        round_save(&mut tx, &stored.round, None, now).await?;
        recall(&mut tx, number, stored.round.phase, now).await?;
        tx.commit().await?;
    }
    Ok(Some(stored.round.phase))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Follows the rounds that have made the parent, from the newest on.
async fn legacy(tx: &mut Tx, order: &RoundOrder, parent: Sha256) -> Result<Legacy, RoundError> {
    let mut legacy = Legacy::default();
    let mut file = parent;
    for nr in 0..BEST_OF {
        let Some(before) = round_of(tx, &order.sub_model, &file).await? else {
            break;
        };
        let config = RoundConfig::from_bytes(&before.config)?;
        if nr == 0 {
            legacy.residue = before.round.candidate.map(|made| made.residue_after);
            if is_same_training(&config.training, &order.training) {
                legacy.history = history(tx, &before).await?.unwrap_or_default();
            }
        }
        // Losses on another text cannot be compared.
        if config.evaluation == order.evaluation
            && let Some(loss) = kept_loss(&before.round)
        {
            legacy.recent.push(loss);
        }
        file = before.parent;
    }
    Ok(legacy)
}

/// The loss that later rounds are held against. One lie among fewer than three owners moves the median, and a low one
/// would block every later candidate: such a loss is not kept.
fn kept_loss(round: &Round) -> Option<Loss> {
    match round.verdicts.last()?.1 {
        Verdict::Accepted { candidate, .. } if round.reports.len() >= EVALUATORS => Some(candidate),
        _ => None,
    }
}

/// Norms can be compared.
fn is_same_training(a: &Training, b: &Training) -> bool {
    (a.steps, a.batch) == (b.steps, b.batch)
        && a.clip_norm.to_bits() == b.clip_norm.to_bits()
        && a.learning_rate.to_bits() == b.learning_rate.to_bits()
}

async fn history(
    tx: &mut Tx,
    before: &StoredRound,
) -> Result<Option<owm_aggregate::gates::NormHistory>, RoundError> {
    let computed = round_computed(tx, before.number).await?;
    let its = computed
        .iter()
        .find(|made| made.attempt == before.round.attempt);
    let Some(its) = its else { return Ok(None) };
    let decision = Decision::from_json(&String::from_utf8_lossy(&its.decision))?;
    Ok(Some(decision.history))
}

#[cfg(test)]
mod tests {
    use owm_coordinator_domain::round::Report;

    use super::*;

    #[test]
    fn a_loss_that_fewer_than_three_owners_found_blocks_no_later_round() {
        let plan = Plan {
            round: 1,
            deadline: Deadline::DEFAULT,
            updates_min: 3,
        };
        let mut round = Round::open(plan, UnixMillis(0));
        assert_eq!(kept_loss(&round), None);
        let accepted = Verdict::Accepted {
            candidate: Loss(1),
            parent: Loss(1),
        };
        round
            .verdicts
            .push((owm_coordinator_domain::round::Attempt::First, accepted));
        for owner in 1..=3 {
            assert_eq!(kept_loss(&round), None);
            round.reports.push(Report {
                node: PublicKey([owner; 32]),
                owner: Sha256([owner; 32]),
                checkpoint: Sha256([9; 32]),
                candidate: Loss(1),
                parent: Loss(1),
            });
        }
        assert_eq!(kept_loss(&round), Some(Loss(1)));
        round.verdicts[0].1 = Verdict::Unmeasured;
        assert_eq!(kept_loss(&round), None);
    }
}
