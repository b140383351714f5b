//! Leases that end without a result, and tasks that nobody wants any more.

use owm_coordinator_domain::task::{Attempt, HandBackReason, Next, Outcome, Phase, Task};
use owm_coordinator_store::{
    StoreError,
    chunk::chunk_load,
    outcome::{AttemptEnd, attempt_end, attempt_load},
    task::{Ending, task_load, task_save},
};
use owm_proto::{NodeId, TaskId, UnixMillis};

use super::failure_of;
use crate::{
    app::App,
    ask::AnswerFailure,
    failpoints::{LEASE_END_AFTER_COMMIT, LEASE_END_BEFORE_COMMIT},
};

/// Characters of a node's reason that are kept. Logs never show it: it is the node's text.
const REASON_CHARS_MAX: usize = 300;

impl App {
    /// A node gives a lease back.
    pub async fn hand_back_take(
        &self,
        node: NodeId,
        id: TaskId,
        epoch: u64,
        reason: HandBackReason,
        message: &str,
    ) -> Result<(), StoreError> {
        let reason = if reason == HandBackReason::InputRefused {
            reason.believed(self.has_delivered(id).await?)
        } else {
            reason
        };
        let message: String = message
            .chars()
            .filter(|c| !c.is_control())
            .take(REASON_CHARS_MAX)
            .collect();
        let end = AttemptEnd {
            outcome: Outcome::HandedBack,
            reason: &message,
            hand_back: Some(reason),
            result: None,
        };
        let decide =
            |task: &Task, attempt: &Attempt, now| task.hand_back(attempt, reason, now).ok();
        let why = if reason == HandBackReason::InputRefused {
            &message
        } else {
            "no node could do it"
        };
        self.lease_end(node, id, epoch, &end, why, decide).await
    }

    /// Whether a part of the answer is journalled: some node has taken the input.
    async fn has_delivered(&self, id: TaskId) -> Result<bool, StoreError> {
        let mut tx = self.store.begin("task.delivered").await?;
        let delivered = chunk_load(&mut tx, &self.vault, id).await?;
        Ok(!delivered.tokens.is_empty())
    }

    /// A lease of a node whose session is gone, or whose chunk was at fault.
    pub async fn lease_lose(
        &self,
        node: NodeId,
        id: TaskId,
        epoch: u64,
        outcome: Outcome,
        reason: &str,
    ) -> Result<(), StoreError> {
        let end = AttemptEnd {
            outcome,
            reason,
            hand_back: None,
            result: None,
        };
        let decide = |task: &Task, attempt: &Attempt, now| task.lose(attempt, now).ok();
        self.lease_end(
            node,
            id,
            epoch,
            &end,
            "every node that tried was lost",
            decide,
        )
        .await
    }

    async fn lease_end(
        &self,
        node: NodeId,
        id: TaskId,
        epoch: u64,
        end: &AttemptEnd<'_>,
        failure_message: &str,
        decide: impl Fn(&Task, &Attempt, UnixMillis) -> Option<(Task, Next)>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.store.begin("task.lease_end").await?;
        let Some(loaded) = task_load(&mut tx, id).await? else {
            return Ok(());
        };
        let found = attempt_load(&mut tx, id, epoch).await?;
        let Some(attempt) = found.filter(|a| a.node == node) else {
            return Ok(());
        };
        let Some((task, next)) = decide(&loaded.task, &attempt, now) else {
            return Ok(());
        };
        attempt_end(&mut tx, id, &attempt, end, now).await?;
        let failure = failure_of(next, failure_message);
        self.save_next(&mut tx, id, &task, failure.as_ref()).await?;
        owm_service::failpoint::hit(LEASE_END_BEFORE_COMMIT);
        tx.commit().await?;
        owm_service::failpoint::hit(LEASE_END_AFTER_COMMIT);
        self.metrics.lease_ended(end.outcome);
        tracing::info!(task.id = %id, node.id = %node, outcome = %end.outcome, hand_back = ?end.hand_back, "lease ended");
        self.sessions.release(node, id, epoch, self.now());
        if let Some(failure) = failure {
            self.answers.failed(id, failure);
        }
        self.dispatcher.wake();
        Ok(())
    }

    /// A task whose time may be up: a lease that ran out, or patience that ended.
    pub async fn task_review(&self, id: TaskId) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.store.begin("task.review").await?;
        let Some(loaded) = task_load(&mut tx, id).await? else {
            return Ok(());
        };
        let task = &loaded.task;
        if let Some((ended, code)) = task.time_out(now) {
            let failure = failure_of(Next::Failed(code), "no node was free in time");
            self.save_next(&mut tx, id, &ended, failure.as_ref())
                .await?;
            tx.commit().await?;
            if let Some(failure) = failure {
                self.answers.failed(id, failure);
            }
            return Ok(());
        }
        let Some(attempt) = attempt_load(&mut tx, id, task.epoch).await? else {
            return Ok(());
        };
        let Ok(Some((ended, next))) = task.expire(&attempt, now) else {
            return Ok(());
        };
        let end = AttemptEnd {
            outcome: Outcome::Expired,
            reason: "its time was up",
            hand_back: None,
            result: None,
        };
        attempt_end(&mut tx, id, &attempt, &end, now).await?;
        let failure = failure_of(next, "no node answered in time");
        self.save_next(&mut tx, id, &ended, failure.as_ref())
            .await?;
        tx.commit().await?;
        self.sessions
            .release(attempt.node, id, attempt.epoch, self.now());
        self.metrics.lease_ended(Outcome::Expired);
        self.tell_cancelled(attempt.node, id, attempt.epoch, "the lease has run out");
        if let Some(failure) = failure {
            self.answers.failed(id, failure);
        }
        self.dispatcher.wake();
        Ok(())
    }

    /// Nobody wants the task any more.
    pub async fn task_cancel(&self, id: TaskId, reason: &str) -> Result<(), StoreError> {
        let mut tx = self.store.begin("task.cancel").await?;
        let Some(loaded) = task_load(&mut tx, id).await? else {
            return Ok(());
        };
        let Some(task) = loaded.task.cancel() else {
            return Ok(());
        };
        task_save(
            &mut tx,
            id,
            &task,
            Ending::Unanswered { message: reason },
            self.now(),
        )
        .await?;
        tx.commit().await?;
        if let Phase::Leased { node, .. } = loaded.task.phase {
            self.sessions
                .release(node, id, loaded.task.epoch, self.now());
            self.tell_cancelled(node, id, loaded.task.epoch, reason);
        }
        let failure = AnswerFailure {
            code: "cancelled".into(),
            message: reason.into(),
        };
        self.answers.failed(id, failure);
        self.dispatcher.wake();
        Ok(())
    }
}
