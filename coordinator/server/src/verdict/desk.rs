//! Results in batches: those that came while the last verdicts were being committed are judged together,
//! each by the same rules, and the first valid ones written in one transaction. Everything else (late,
//! repeated, rejected, two of one task, streamed answers of several nodes) is rare and is judged alone,
//! as is every result of a batch that failed: by who handed it in, not here, so that it holds up nobody
//! else. Called by `result`.

use std::{collections::HashSet, sync::Arc};

use owm_coordinator_domain::task::{Attempt, Phase, ResultDecision, decide_result};
use owm_coordinator_store::{
    StoreError, Tx,
    ledger::{LedgerEvent, LedgerKind},
    verdict::{
        AnswerGiven, ResultAccepted, ResultKey, ResultsLoaded, results_accept, results_load,
    },
};
use owm_proto::{Msat, NodeId, Role, Sha256, UnixMillis, wire::coordinator as wire};

use super::{
    RESULT_AFTER_COMMIT, RESULT_BEFORE_COMMIT,
    opened::{Asked, GivenWork, Opened},
    result::{Accepted, Judged, ack},
};
use crate::{
    app::App,
    ask::Answer,
    batch::{Batch, Batcher, WORK_WITHIN, all_unavailable},
    tasks::alive,
};

/// The desk.
pub(crate) struct Desk;

/// A result that was opened, and who handed it in.
pub(crate) struct HandedIn {
    pub(super) node: NodeId,
    pub(super) opened: Opened,
    /// When it was received: what was on time then is on time, however long it waits here.
    pub(super) at: UnixMillis,
}

impl HandedIn {
    fn key(&self) -> ResultKey {
        let said = &self.opened.statement;
        ResultKey {
            task_id: said.task_id,
            epoch: said.epoch,
            node: self.node,
        }
    }
}

/// What the desk makes of a result.
pub(crate) enum Heard {
    /// It was judged with others.
    Judged(wire::ResultAck),
    /// It has to be judged alone. Whose caller has gone is not: its node was told nothing and hands it
    /// in again.
    Alone(Box<HandedIn>),
}

impl Batch for Desk {
    type Item = HandedIn;
    type Answer = Heard;
    const MAX: usize = 128;

    fn of(app: &App) -> &Batcher<Self> {
        &app.desk
    }

    async fn work(app: &App, items: Vec<HandedIn>) -> Vec<Result<Heard, StoreError>> {
        let judged = match app.results_judge(&items).await {
            Ok(judged) => judged,
            Err(error) => {
                if let Some(all) = all_unavailable(&error, items.len()) {
                    return all;
                }
                tracing::warn!(%error, results = items.len(), "a batch of results failed; each is judged alone");
                items.iter().map(|_| None).collect()
            }
        };
        if judged.iter().any(Option::is_some) {
            owm_service::failpoint::hit(RESULT_AFTER_COMMIT);
        }
        let heard = items
            .into_iter()
            .zip(judged)
            .map(|(item, judged)| {
                Ok(match judged {
                    Some(judged) => Heard::Judged(app.verdict_tell(item.node, judged)),
                    None => Heard::Alone(Box::new(item)),
                })
            })
            .collect();
        app.dispatcher.slot_free(Role::Infer);
        app.dispatcher.slot_free(Role::Evaluate);
        heard
    }
}

/// A first valid result on its way into the batch's statements.
struct Winner<'a> {
    item: &'a HandedIn,
    attempt: Attempt,
    others: bool,
    reward: Msat,
    booking: Option<LedgerEvent>,
    given: Option<AnswerGiven>,
    hash: Sha256,
}

impl App {
    /// Judges and tells what can't be judged with others, few at a time. Once begun it is finished, also
    /// when the caller goes away.
    pub(super) async fn result_alone(&self, item: HandedIn) -> Result<wire::ResultAck, StoreError> {
        let turn = Arc::clone(&self.alone).acquire_owned().await.ok();
        let app = self.clone();
        let judging = tokio::spawn(async move {
            let _turn = turn;
            let judged = tokio::time::timeout(WORK_WITHIN, app.result_judge_alone(&item)).await;
            let judged = judged.unwrap_or_else(|_| Err(StoreError::interrupted()))?;
            Ok(app.verdict_tell(item.node, judged))
        });
        judging
            .await
            .unwrap_or_else(|_| Err(StoreError::interrupted()))
    }

    /// Judges and commits what can be judged together; `None` for what has to be judged alone.
    async fn results_judge(&self, items: &[HandedIn]) -> Result<Vec<Option<Judged>>, StoreError> {
        // Of two for one task the later one is judged alone, after the first.
        let mut seen = HashSet::new();
        let first: Vec<bool> = items
            .iter()
            .map(|item| seen.insert(item.opened.statement.task_id))
            .collect();
        let mut keys: Vec<ResultKey> = items
            .iter()
            .zip(&first)
            .filter(|(_, first)| **first)
            .map(|(item, _)| item.key())
            .collect();
        keys.sort_by_key(|key| key.task_id);
        alive::settle(self).await?;
        let mut tx = self.store.begin("task.results").await?;
        let loaded = results_load(&mut tx, &self.vault, &keys).await?;
        let mut winners = Vec::with_capacity(items.len());
        let mut judged = Vec::with_capacity(items.len());
        for (item, first) in items.iter().zip(first) {
            let won = if first {
                self.result_first(&mut tx, &loaded, item).await?
            } else {
                None
            };
            judged.push(won.map(|(winner, verdict)| {
                winners.push(winner);
                verdict
            }));
        }
        if winners.is_empty() {
            return Ok(judged);
        }
        let rows: Vec<ResultAccepted<'_>> = winners.iter().map(Winner::row).collect();
        results_accept(&mut tx, &self.vault, &rows, self.now()).await?;
        owm_service::failpoint::hit(RESULT_BEFORE_COMMIT);
        tx.commit().await?;
        Ok(judged)
    }

    /// Whether this is the plain case: a first valid result of a known lease.
    async fn result_first<'a>(
        &self,
        tx: &mut Tx,
        all: &ResultsLoaded,
        item: &'a HandedIn,
    ) -> Result<Option<(Winner<'a>, Judged)>, StoreError> {
        let opened = &item.opened;
        let said = &opened.statement;
        let (id, now) = (said.task_id, self.now());
        let Some(loaded) = all.tasks.get(&id) else {
            return Ok(None);
        };
        let found = all.attempts.get(&id).filter(|a| a.node == item.node);
        let (Some(attempt), Some(node)) = (found, all.nodes.get(&item.node)) else {
            return Ok(None);
        };
        // The receipt names the files of the version that answered, current or not.
        let version = &loaded.facts.model_version;
        let Some(model) = self.model_of(tx, version).await? else {
            return Ok(None);
        };
        // Reports are few and have rows of their own to be written.
        let Some(part) = opened.answer() else {
            return Ok(None);
        };
        let asked = Asked::load(self, tx, loaded).await?;
        let work = GivenWork::new(loaded, attempt, asked, opened, item.at);
        let ResultDecision::First { .. } =
            decide_result(&loaded.task, &work.attempt, &work.given, now)
        else {
            return Ok(None);
        };
        let (factors, reward) = self.reward(node, loaded.facts.task_type, false);
        let booking = (reward != Msat::ZERO).then(|| LedgerEvent {
            kind: LedgerKind::Reward,
            task_id: id,
            epoch: attempt.epoch,
            node: item.node,
            amount: reward,
            factors: serde_json::to_value(factors).unwrap_or_default(),
        });
        let accepted = Accepted {
            loaded,
            attempt: &work.attempt,
            delivered: &work.delivered,
        };
        let request = all.requests.get(&id);
        let answer =
            request.map(|open| self.answer_make(&accepted, (opened, part), open, Some(&model)));
        let given = answer.as_ref().map(|(answer, receipt)| AnswerGiven {
            id: answer.request_id,
            answer: serde_json::to_vec(answer).unwrap_or_default(),
            receipt: receipt.clone(),
        });
        let verdict = Judged {
            ack: ack(id, attempt.epoch, wire::Verdict::Accepted, "", reward),
            task: id,
            epoch: attempt.epoch,
            answer: answer.map(|(answer, _): (Answer, _)| answer),
            failure: None,
            cancelled: match loaded.task.phase {
                Phase::Leased { node, .. } if node != item.node => Some((node, loaded.task.epoch)),
                _ => None,
            },
        };
        let winner = Winner {
            item,
            others: loaded.task.epoch > 1,
            reward,
            booking,
            given,
            hash: work.given.hash,
            attempt: work.attempt,
        };
        Ok(Some((winner, verdict)))
    }
}

impl Winner<'_> {
    fn row(&self) -> ResultAccepted<'_> {
        let opened = &self.item.opened;
        ResultAccepted {
            task_id: opened.statement.task_id,
            attempt: &self.attempt,
            commit: self
                .attempt
                .commit
                .as_ref()
                .expect("what was decided on was committed"),
            commit_envelope: &opened.commit_envelope,
            statement: &opened.statement,
            envelope: &opened.result_envelope,
            hash: self.hash,
            others: self.others,
            reward: self.reward,
            booking: self.booking.clone(),
            answer: self.given.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
