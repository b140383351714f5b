//! An evaluation that nobody wants any more: what is open of it ends, what was reported stays and is owed.

use owm_coordinator_domain::task::Phase;
use owm_coordinator_store::{
    Store, StoreError,
    evaluation::{evaluation_list, evaluation_tasks},
    task::{Ending, task_load, task_save},
};
use owm_proto::{EvaluationId, UnixMillis};

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
        let Some(loaded) = task_load(&mut tx, listed.task_id).await? else {
            continue;
        };
        let Some(ended) = loaded.task.cancel() else {
            cancelled.reported += u32::from(listed.report.is_some());
            continue;
        };
        let ending = Ending::Unanswered { message: REASON };
        task_save(&mut tx, listed.task_id, &ended, ending, now).await?;
        let Phase::Leased { node, .. } = loaded.task.phase else {
            cancelled.queued += 1;
            continue;
        };
        cancelled.leased += 1;
        let told = Told::Cancelled {
            node,
            task: listed.task_id,
            epoch: loaded.task.epoch,
            reason: REASON.to_owned(),
        };
        told.add(&mut tx, now).await?;
    }
    tx.commit().await?;
    Ok(cancelled)
}
