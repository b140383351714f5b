//! What becomes of work that comes back: commits and results (`result`, in batches by `desk`), hand-backs, lost and expired
//! leases, cancellations (`lease`). Each is one transaction: load under lock, ask the domain, save; what
//! follows outside (telling nodes and askers) happens after the commit.

mod answer;
pub(crate) mod desk;
mod lease;
mod opened;
mod result;
mod settle;
pub(crate) mod update;

use owm_coordinator_domain::task::{FailureCode, Next, Task};
use owm_coordinator_store::{
    StoreError, Tx,
    node::{Node, node_lookup},
    task::{Ending, task_save},
};
use owm_proto::{EnvelopeError, NodeId, TaskId, wire::coordinator as wire};

pub(crate) use self::opened::share_from;
use crate::{app::App, ask::AnswerFailure};

owm_service::failpoints! {
    /// A verdict is decided and written, not yet committed.
    pub const RESULT_BEFORE_COMMIT = "coordinator.result.before_commit";
    /// A verdict is committed; nobody has been told.
    pub const RESULT_AFTER_COMMIT = "coordinator.result.after_commit";
}

/// Why work that came back could not even be judged.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// It is not signed by the node it comes from, or is malformed.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A part is missing or does not parse.
    #[error("the result is malformed: {0}")]
    Malformed(&'static str),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl App {
    async fn save_next(
        &self,
        tx: &mut Tx,
        id: TaskId,
        task: &Task,
        failure: Option<&AnswerFailure>,
    ) -> Result<(), StoreError> {
        let ending = failure.map_or(Ending::None, |f| Ending::Unanswered {
            message: &f.message,
        });
        task_save(tx, id, task, ending, self.now()).await
    }

    async fn node_of(&self, tx: &mut Tx, id: NodeId) -> Result<Node, StoreError> {
        let missing = || StoreError::Inconsistent {
            table: "task_attempts",
            column: "node_id",
            row: id.to_string(),
            reason: "there is no such node".into(),
        };
        node_lookup(tx, id).await?.ok_or_else(missing)
    }

    /// Tells a node that a task is not wanted from it any more.
    pub(crate) fn tell_cancelled(&self, node: NodeId, task: TaskId, epoch: u64, reason: &str) {
        let cancel = wire::Cancel {
            task_id: task.to_string(),
            epoch,
            reason: reason.to_owned(),
        };
        self.sessions
            .send(node, wire::work_down::Message::Cancel(cancel));
    }
}

fn failure_of(next: Next, message: &str) -> Option<AnswerFailure> {
    match next {
        Next::Requeued => None,
        Next::Failed(code) => {
            let message = match code {
                FailureCode::AttemptsExhausted => format!("{message}; no attempt is left"),
                FailureCode::Timeout | FailureCode::InputRefused => message.to_owned(),
            };
            Some(AnswerFailure {
                code: code.as_str().to_owned(),
                message,
            })
        }
    }
}
