//! Leases that ran out and questions whose patience is over.

use owm_coordinator_store::{
    StoreError, request::RequestState, request::request_lookup, task::task_list_due,
};
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, ask::AnswerFailure};

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
        let mut tx = app.store.begin("task.due").await?;
        let due = task_list_due(&mut tx, app.now(), BATCH_MAX).await?;
        drop(tx);
        for id in &due {
            app.task_review(*id).await?;
        }
        answers_recover(app).await?;
        Ok(Status(serde_json::json!({ "reviewed": due.len() })))
    }
}

/// Answers that another coordinator, or a commit whose reply was lost, has written: whoever waits for
/// them here is told.
async fn answers_recover(app: &App) -> Result<(), StoreError> {
    for (task, id) in app.answers.followed() {
        let mut tx = app.store.begin("answer.recover").await?;
        let Some(request) = request_lookup(&mut tx, &app.vault, &id).await? else {
            continue;
        };
        match request.state {
            RequestState::Answered { answer, .. } => {
                if let Ok(answer) = serde_json::from_slice(&answer) {
                    app.answers.done(task, answer);
                }
            }
            RequestState::Failed { error } => {
                let failure = serde_json::from_value(error).unwrap_or_else(|_| AnswerFailure {
                    code: "failed".into(),
                    message: "the question ended without an answer".into(),
                });
                app.answers.failed(task, failure);
            }
            RequestState::Open | RequestState::Deleted => {}
        }
    }
    Ok(())
}
