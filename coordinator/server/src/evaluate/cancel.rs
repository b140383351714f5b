//! An evaluation that nobody wants any more: what is open of it ends, what was reported stays and is owed.

use owm_coordinator_domain::task::Phase;
use owm_coordinator_store::{
    Store, StoreError, Tx,
    evaluation::{evaluation_list, evaluation_tasks},
    task::{Ending, task_load, task_save},
};
use owm_proto::{EvaluationId, TaskId, UnixMillis};

use crate::tasks::outbox::Told;

/// Why a task ended, for its node and for `task show`.
const REASON: &str = "the operator has cancelled the evaluation";

/// What became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cancelled {
    /// Tasks that waited for a node.
    pub queued: u32,
    /// Tasks that nodes were at; they are told to stop.
    pub leased: u32,
    /// Reports that are there.
    pub reported: u32,
}

/// Why it is not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// Not here.
    #[error("there is no evaluation {0} here; `owm-coordinator task list` shows all")]
    Unknown(EvaluationId),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ends every open task in one transaction; doing it again finds none. The running coordinator tells the nodes, and settles
/// what was reported.
pub async fn cancel(
    store: &Store,
    id: EvaluationId,
    now: UnixMillis,
) -> Result<Cancelled, CancelError> {
    let mut tx = store.begin("evaluation.cancel").await?;
    if evaluation_list(&mut tx, Some(id), 1).await?.is_empty() {
        return Err(CancelError::Unknown(id));
    }
    let mut cancelled = Cancelled::default();
    // By task id, the order in which everybody locks.
    for listed in evaluation_tasks(&mut tx, id).await? {
        match task_cancel(&mut tx, listed.task_id, REASON, now).await? {
            Ended::Queued => cancelled.queued += 1,
            Ended::Leased => cancelled.leased += 1,
            Ended::Before => cancelled.reported += u32::from(listed.report.is_some()),
        }
    }
    tx.commit().await?;
    Ok(cancelled)
}

/// Where a task was when it was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It waited for a node.
    Queued,
    /// A node was at it, which is told.
    Leased,
    /// It had ended, or there is none.
    Before,
}

/// Ends one task, if it is open, in the caller's transaction. `reason`: for its node and for `task show`.
pub(crate) async fn task_cancel(
    tx: &mut Tx,
    id: TaskId,
    reason: &'static str,
    now: UnixMillis,
) -> Result<Ended, StoreError> {
    let Some(loaded) = task_load(tx, id).await? else {
        return Ok(Ended::Before);
    };
    let Some(ended) = loaded.task.cancel() else {
        return Ok(Ended::Before);
    };
    let ending = Ending::Unanswered { message: reason };
    task_save(tx, id, &ended, ending, now).await?;
    let Phase::Leased { node, .. } = loaded.task.phase else {
        return Ok(Ended::Queued);
    };
    let told = Told::Cancelled {
        node,
        task: id,
        epoch: loaded.task.epoch,
        reason: reason.to_owned(),
    };
    told.add(tx, now).await?;
    Ok(Ended::Leased)
}
