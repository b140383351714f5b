//! The state of one batch: credits left, who trains, who serves what. Integer weights only, so that
//! every machine draws the same.

use std::collections::HashMap;

use owm_proto::{EvaluationId, NodeStatus, PublicKey, Role, Sha256, TaskType};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

use super::{Apart, Candidate, Credits, TaskNeed};

/// Weights files of one node that are looked at: a node that serves more names the rest in vain.
pub const SERVED_FILES_MAX: usize = 256;

/// Nodes a task remembers having tried; a task ends long before (attempts and leases are bounded).
pub const TRIED_MAX: usize = 64;

/// Free slots that raise a node's chance; above, more slots don't draw more work at once.
const COUNTED_CREDITS_MAX: u64 = 16;

pub(super) struct Board<'a> {
    candidates: &'a [Candidate],
    credits: Vec<Credits>,
    training: Vec<bool>,
    /// reliability × tier multiplier × stake bonus, at least 1 so that a bad week isn't for ever.
    merit: Vec<u64>,
    /// How many nodes serve a file and do not train.
    serving: HashMap<Sha256, u32>,
    /// Which candidates hold all of a task's files, by the files: tasks of one model share it.
    holders: HashMap<Vec<Sha256>, Vec<bool>>,
    /// Owners that got a task of a group in this batch.
    apart: HashMap<EvaluationId, Vec<PublicKey>>,
    rng: ChaCha20Rng,
    /// Kept between tasks to spare allocations: (candidate, weight so far).
    drawn: Vec<(usize, u64)>,
}

impl<'a> Board<'a> {
    pub(super) fn new(candidates: &'a [Candidate], seed: [u8; 32]) -> Self {
        let mut serving = HashMap::new();
        for candidate in candidates
            .iter()
            .filter(|candidate| serves(candidate, candidate.training))
        {
            for file in served(candidate) {
                *serving.entry(*file).or_insert(0) += 1;
            }
        }
        Self {
            candidates,
            credits: candidates
                .iter()
                .map(|candidate| candidate.credits)
                .collect(),
            training: candidates
                .iter()
                .map(|candidate| candidate.training)
                .collect(),
            merit: candidates.iter().map(merit).collect(),
            serving,
            holders: HashMap::new(),
            apart: HashMap::new(),
            rng: ChaCha20Rng::from_seed(seed),
            drawn: Vec::with_capacity(candidates.len()),
        }
    }

    /// Draws a node for `task` and takes its credit.
    pub(super) fn take(&mut self, task: &TaskNeed) -> Option<usize> {
        let chosen = self.draw(task, true).or_else(|| {
            if task.only_holders {
                None
            } else {
                self.draw(task, false)
            }
        })?;
        let credit = self.credits[chosen].of_mut(task.task_type.role());
        *credit = credit.saturating_sub(1);
        if let Some(apart) = &task.apart {
            let owner = self.candidates[chosen].owner;
            self.apart.entry(apart.group).or_default().push(owner);
        }
        if is_round(task) && !std::mem::replace(&mut self.training[chosen], true) {
            let candidate = &self.candidates[chosen];
            if serves(candidate, false) {
                for file in served(candidate) {
                    if let Some(count) = self.serving.get_mut(file) {
                        *count = count.saturating_sub(1);
                    }
                }
            }
        }
        Some(chosen)
    }

    /// A weighted draw among those who hold the task's files, or among those who don't.
    fn draw(&mut self, task: &TaskNeed, holding: bool) -> Option<usize> {
        let role = task.task_type.role();
        if !self.holders.contains_key(&task.models) {
            let holds = |candidate: &Candidate| {
                task.models
                    .iter()
                    .all(|file| served(candidate).contains(file))
            };
            let held = self.candidates.iter().map(holds).collect();
            self.holders.insert(task.models.clone(), held);
        }
        let held = &self.holders[&task.models];
        let mut total = 0_u64;
        let mut drawn = std::mem::take(&mut self.drawn);
        drawn.clear();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let free = self.credits[index].of(role);
            if free == 0 || held[index] != holding || !fits(task, candidate) {
                continue;
            }
            if is_round(task) && !self.may_train(index) {
                continue;
            }
            if task
                .apart
                .as_ref()
                .is_some_and(|apart| self.has_one(apart, candidate))
            {
                continue;
            }
            total += self.merit[index] * u64::from(free).min(COUNTED_CREDITS_MAX);
            drawn.push((index, total));
        }
        let chosen = (total > 0).then(|| {
            let at = below(&mut self.rng, total);
            drawn[drawn.partition_point(|(_, upto)| *upto <= at)].0
        });
        self.drawn = drawn;
        chosen
    }

    /// Whether the candidate's owner has a task of the group already.
    fn has_one(&self, apart: &Apart, candidate: &Candidate) -> bool {
        let now = self.apart.get(&apart.group);
        apart.owners.contains(&candidate.owner)
            || now.is_some_and(|owners| owners.contains(&candidate.owner))
    }

    /// Whether someone else answers for everything this node serves.
    fn may_train(&self, index: usize) -> bool {
        let candidate = &self.candidates[index];
        self.training[index]
            || !serves(candidate, false)
            || served(candidate)
                .iter()
                .all(|file| self.serving.get(file).is_some_and(|count| *count > 1))
    }
}

fn merit(candidate: &Candidate) -> u64 {
    // At most 1,000 × 8,000 × 2,000: times 16 credits and 10^6 candidates it still fits a u64.
    let reliability = u64::from(candidate.reliability.0.min(1_000));
    let tier = u64::from(candidate.tier.terms().reward_multiplier.0);
    let stake = u64::from(candidate.stake_bonus.0.clamp(1_000, 2_000));
    (reliability * tier * stake).max(1)
}

fn is_round(task: &TaskNeed) -> bool {
    task.task_type == TaskType::FlRound
}

fn fits(task: &TaskNeed, candidate: &Candidate) -> bool {
    candidate.status == NodeStatus::Active
        && task.only.is_none_or(|node| node == candidate.node)
        && candidate.tier >= task.min_tier
        && (task.cpu_capable || !candidate.cpu_only)
        && !task
            .tried
            .iter()
            .take(TRIED_MAX)
            .any(|tried| *tried == candidate.node)
}

fn serves(candidate: &Candidate, training: bool) -> bool {
    candidate.status == NodeStatus::Active
        && candidate.infer_slots.max(candidate.credits.of(Role::Infer)) > 0
        && !training
}

fn served(candidate: &Candidate) -> &[Sha256] {
    &candidate.loaded[..candidate.loaded.len().min(SERVED_FILES_MAX)]
}

/// A number below `bound`, by multiply and shift: the bias is below bound / 2^64.
fn below(rng: &mut ChaCha20Rng, bound: u64) -> u64 {
    let wide = u128::from(rng.next_u64()) * u128::from(bound);
    u64::try_from(wide >> 64).expect("the upper half of a 128-bit product")
}
