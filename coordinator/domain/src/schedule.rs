//! Which node gets which task (spec §9). Called by the dispatcher with what it knows of queue and
//! offers; the seed is stored or derived, so that a choice can be replayed.
//!
//! A node's chance is reliability × tier multiplier × stake bonus × free slots. Nodes that hold the
//! weights go first; the others are taken only if the task allows it and none of those is free.
//!
//! **Rounds and the last slot**: a node that trains is counted as not answering for as long as it
//! does (one device does one thing well). So a round's task goes to a node only if, for each weights
//! file the node serves, another node that is not training serves it too. Busy slots count as slots:
//! what matters is that someone is left who answers, not that he is idle.

mod board;

use owm_proto::{
    EvaluationId, NodeId, NodeStatus, Permille, PublicKey, Role, Sha256, TaskType, Tier,
};

use board::Board;
pub use board::{SERVED_FILES_MAX, TRIED_MAX};

/// What a queued task asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskNeed {
    /// What kind; gives role and priority.
    pub task_type: TaskType,
    /// The least effective tier.
    pub min_tier: Tier,
    /// A CPU can do it in time.
    pub cpu_capable: bool,
    /// The weights files it runs on; empty: none.
    pub models: Vec<Sha256>,
    /// Only nodes that hold all of `models` may get it: a user waits, and does not wait for a download.
    pub only_holders: bool,
    /// Nodes that had it already.
    pub tried: Vec<NodeId>,
    /// Nobody else may get it: a round's part is its participant's.
    pub only: Option<NodeId>,
    /// It is one of several tasks that go to nodes of different owners.
    pub apart: Option<Apart>,
}

/// Tasks of which each owner gets one at most: evaluations of one candidate (spec §10.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// Which tasks belong together.
    pub group: EvaluationId,
    /// Who has one of them, or has done one.
    pub owners: Vec<PublicKey>,
}

/// Free slots per role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits {
    /// For inference and audits.
    pub infer: u32,
    /// For evaluations.
    pub evaluate: u32,
    /// For rounds and aggregation.
    pub train: u32,
    /// For reading data.
    pub ingest: u32,
}

impl Credits {
    /// Free slots of `role`.
    pub const fn of(&self, role: Role) -> u32 {
        match role {
            Role::Infer => self.infer,
            Role::Evaluate => self.evaluate,
            Role::Train => self.train,
            Role::Ingest => self.ingest,
        }
    }

    /// The same, to change.
    pub const fn of_mut(&mut self, role: Role) -> &mut u32 {
        match role {
            Role::Infer => &mut self.infer,
            Role::Evaluate => &mut self.evaluate,
            Role::Train => &mut self.train,
            Role::Ingest => &mut self.ingest,
        }
    }
}

/// A connected node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Whose.
    pub owner: PublicKey,
    /// Only active nodes get work.
    pub status: NodeStatus,
    /// Its tier in effect.
    pub tier: Tier,
    /// It gets CPU-capable tasks only.
    pub cpu_only: bool,
    /// Over seven days.
    pub reliability: Permille,
    /// From its stake.
    pub stake_bonus: Permille,
    /// What it offers now.
    pub credits: Credits,
    /// Inference slots it has, busy ones included; 0: it does not answer.
    pub infer_slots: u32,
    /// It holds a lease on a round's task.
    pub training: bool,
    /// Weights files it has loaded.
    pub loaded: Vec<Sha256>,
}

/// The node for one task, as an index into `candidates`; `None`: nobody fits now.
pub fn select(task: &TaskNeed, candidates: &[Candidate], seed: [u8; 32]) -> Option<usize> {
    Board::new(candidates, seed).take(task)
}

/// A batch of leases, as pairs of indices (task, candidate). Within a role lower
/// [`TaskType::priority`] goes first, then the order given (the queue's). No candidate gets more than
/// its credits; a task that fits nobody keeps nobody waiting.
pub fn assign(tasks: &[TaskNeed], candidates: &[Candidate], seed: [u8; 32]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|&index| tasks[index].task_type.priority());
    let mut board = Board::new(candidates, seed);
    order
        .into_iter()
        .filter_map(|index| {
            board
                .take(&tasks[index])
                .map(|candidate| (index, candidate))
        })
        .collect()
}

#[cfg(test)]
mod tests;
