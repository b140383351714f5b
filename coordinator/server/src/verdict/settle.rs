//! What the reports of an evaluation earn: booked together, once all its tasks have ended and the reports have been
//! compared (spec §10.8, §11). `result` settles after the last report, `tasks::due` what ended otherwise or was
//! interrupted.
//! A part in a round is booked at the round's end, with the quality that the gates gave it.
//! Must stay true: each report is booked at most once, whoever settles and however often; a report that does not hold
//! earns nothing.

use owm_coordinator_domain::evaluation::{Flag, Report, summarise};
use owm_coordinator_store::{
    StoreError, Tx,
    evaluation::{
        EvaluationTask, evaluation_of, evaluation_part_quality, evaluation_settle,
        evaluation_settle_lock, evaluation_tasks, evaluations_unsettled,
    },
    ledger::{LedgerEvent, LedgerKind, ledger_book, ledger_booked_for},
    node::nodes_lock,
};
use owm_proto::{EvaluationId, Msat, Permille, TaskId, TaskType};

use crate::{app::App, tasks::outbox::Told};

/// Evaluations of one pass.
const BATCH_MAX: u32 = 64;

impl App {
    /// Settles whatever has ended; gives how many.
    pub(crate) async fn evaluations_settle(&self) -> Result<usize, StoreError> {
        let mut tx = self.store.begin("evaluation.unsettled").await?;
        let ended = evaluations_unsettled(&mut tx, BATCH_MAX).await?;
        drop(tx);
        let mut settled = 0;
        for id in ended {
            settled += usize::from(self.evaluation_settle(id).await?);
        }
        Ok(settled)
    }

    /// After a report: settles its evaluation if it was the last one, and gives what is owed for this one by now.
    pub(super) async fn report_settle(&self, task: TaskId, epoch: u64) -> Result<Msat, StoreError> {
        let mut tx = self.store.begin("evaluation.of").await?;
        let id = evaluation_of(&mut tx, task).await?;
        drop(tx);
        if let Some(id) = id {
            self.evaluation_settle(id).await?;
        }
        let mut tx = self.store.begin("evaluation.booked").await?;
        ledger_booked_for(&mut tx, task, epoch).await
    }

    async fn evaluation_settle(&self, id: EvaluationId) -> Result<bool, StoreError> {
        let mut tx = self.store.begin("evaluation.settle").await?;
        if !evaluation_settle_lock(&mut tx, id).await? {
            return Ok(false);
        }
        let tasks = evaluation_tasks(&mut tx, id).await?;
        let part = evaluation_part_quality(&mut tx, id).await?;
        let rewards = self.reports_book(&mut tx, &tasks, part).await?;
        evaluation_settle(&mut tx, id, &rewards, self.now()).await?;
        tx.commit().await?;
        tracing::info!(evaluation.id = %id, reports = rewards.len(), "evaluation settled");
        Ok(true)
    }

    /// Books every report by what the others say of it; a part in a round by what the round says.
    async fn reports_book(
        &self,
        tx: &mut Tx,
        tasks: &[EvaluationTask],
        part: Option<Permille>,
    ) -> Result<Vec<(TaskId, Msat)>, StoreError> {
        let reported: Vec<(&EvaluationTask, &Report, u64)> = tasks
            .iter()
            .filter_map(|task| Some((task, task.report.as_ref()?, task.epoch?)))
            .collect();
        let reports: Vec<Report> = reported.iter().map(|(_, r, _)| (*r).clone()).collect();
        let flags = summarise(&reports).flags;
        let ids: Vec<_> = reports.iter().map(|report| report.node).collect();
        let nodes = nodes_lock(tx, &ids).await?;
        let mut rewards = Vec::with_capacity(reported.len());
        for ((task, report, epoch), flag) in reported.into_iter().zip(flags) {
            let before = ledger_booked_for(tx, task.task_id, epoch).await?;
            if before != Msat::ZERO {
                // From before reports waited for each other.
                rewards.push((task.task_id, before));
                continue;
            }
            let Some(node) = nodes.get(&report.node) else {
                continue;
            };
            let (task_type, quality) = match (part, flag) {
                (Some(quality), _) => (TaskType::FlRound, quality),
                (None, Some(flag)) if Flag::is_unpaid(flag) => (TaskType::Evaluate, Permille(0)),
                (None, _) => (TaskType::Evaluate, Permille::ONE),
            };
            let (factors, amount) = self.reward_of(node, task_type, quality, false);
            if amount != Msat::ZERO {
                let event = LedgerEvent {
                    kind: LedgerKind::Reward,
                    task_id: task.task_id,
                    epoch,
                    node: report.node,
                    amount,
                    factors: serde_json::to_value(factors).unwrap_or_default(),
                };
                ledger_book(tx, &event, self.now()).await?;
                let told = Told::Booked {
                    node: report.node,
                    task: task.task_id,
                    epoch,
                    amount,
                };
                told.add(tx, self.now()).await?;
            }
            if let Some(flag) = flag {
                tracing::warn!(task.id = %task.task_id, node.id = %report.node, %flag, reward = %amount, "a report was flagged");
            }
            rewards.push((task.task_id, amount));
        }
        Ok(rewards)
    }
}
