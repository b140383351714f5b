//! Leases that ran out, questions whose patience is over, evaluations whose tasks have all ended.

use owm_coordinator_store::{
    StoreError, request::RequestState, request::request_lookup, task::task_list_due,
};
use owm_proto::{RequestId, TaskId};
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, ask::AnswerFailure, tasks::alive};

/// Tasks of one pass.
const BATCH_MAX: u32 = 500;

/// The reconciler.
#[derive(Debug)]
pub struct Due(pub App);

impl Reconciler for Due {
    const NAME: &'static str = "due";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.0;
        // After an outage of the database nothing is judged before leases are extended by it.
        alive::settle(app).await?;
        let mut tx = app.store.begin("task.due").await?;
        let due = task_list_due(&mut tx, app.now(), BATCH_MAX).await?;
        drop(tx);
        for id in &due {
            survive(app.task_review(*id).await)?;
        }
        let settled = app.evaluations_settle().await?;
        for (task, id) in app.answers.followed() {
            survive(answer_recover(app, task, id).await)?;
        }
        Ok(Status(
            serde_json::json!({ "reviewed": due.len(), "settled": settled }),
        ))
    }
}

/// One item that fails must not keep the rest waiting; a database that is away ends the pass.
fn survive(done: Result<(), StoreError>) -> Result<(), StoreError> {
    match done {
        Err(error) if !matches!(error, StoreError::Unavailable(_)) => {
            tracing::error!(%error, "an item that is due can't be dealt with");
            Ok(())
        }
        done => done,
    }
}

/// An answer that another coordinator, or a commit whose reply was lost, has written: whoever waits for
/// it here is told.
async fn answer_recover(app: &App, task: TaskId, id: RequestId) -> Result<(), StoreError> {
    let mut tx = app.store.begin("answer.recover").await?;
    let Some(request) = request_lookup(&mut tx, &app.vault, &id).await? else {
        return Ok(());
    };
    let ended_otherwise = || AnswerFailure {
        code: "failed".into(),
        message: "the question ended without an answer".into(),
    };
    match request.state {
        RequestState::Open => {}
        RequestState::Answered { answer, .. } => {
            if let Ok(answer) = serde_json::from_slice(&answer) {
                app.answers.done(task, answer);
            }
        }
        RequestState::Failed { error } => {
            let failure = serde_json::from_value(error).unwrap_or_else(|_| ended_otherwise());
            app.answers.failed(task, failure);
        }
        RequestState::Deleted => app.answers.failed(task, ended_otherwise()),
    }
    Ok(())
}
