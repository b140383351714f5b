//! Commits and results: opened, judged by the domain, written. The first valid one answers the task.
//! Results come through `desk`, which judges the plain cases in batches; here is how one is judged alone.

use owm_coordinator_domain::{
    reward::{RewardFactors, Work},
    task::{
        Attempt, CommitDecision, Next, Outcome, Phase, RejectReason, ResultDecision, Task,
        decide_result,
    },
};
use owm_coordinator_store::{
    StoreError, Tx,
    chunk::Delivered,
    evaluation::evaluation_report,
    ledger::{LedgerEvent, LedgerKind, ledger_book, ledger_booked_for},
    node::Node,
    outcome::{AttemptEnd, attempt_end, attempt_load, commit_record},
    task::{Ending, LoadedTask, task_load, task_save},
};
use owm_proto::{
    Envelope, Msat, NodeId, Permille, PublicKey, Sha256, SignerRule, TaskId,
    statement::{Commit as CommitStatement, Statement as _},
    wire::coordinator as wire,
};

use super::{
    RESULT_AFTER_COMMIT, RESULT_BEFORE_COMMIT, VerdictError,
    desk::{Desk, HandedIn, Heard},
    failure_of,
    opened::{Asked, GivenWork, Opened, Product},
    update,
};
use crate::{
    app::App,
    ask::{Answer, AnswerFailure},
    batch::hand_in,
    tasks::alive,
};

/// What a judged result is answered with, and what has to be told.
pub(super) struct Judged {
    pub(super) ack: wire::ResultAck,
    pub(super) task: TaskId,
    pub(super) epoch: u64,
    /// The answer, where this result was the first.
    pub(super) answer: Option<Answer>,
    /// The failure, where a bad result used up the last attempt.
    pub(super) failure: Option<AnswerFailure>,
    /// Nodes whose attempts are moot now.
    pub(super) cancelled: Option<(NodeId, u64)>,
}

impl App {
    /// Records a commit that came ahead of its result.
    pub async fn commit_take(
        &self,
        node: NodeId,
        key: &PublicKey,
        envelope: Envelope,
    ) -> Result<(), VerdictError> {
        let at = self.now();
        let said = CommitStatement::open(&envelope, &self.network(), SignerRule::Exactly(key))?;
        alive::settle(self).await?;
        let mut tx = self.store.begin("task.commit").await?;
        let Some(_locked) = task_load(&mut tx, said.task_id).await? else {
            return Ok(());
        };
        let found = attempt_load(&mut tx, said.task_id, said.epoch).await?;
        let Some(attempt) = found.filter(|a| a.node == node) else {
            return Ok(());
        };
        if let CommitDecision::Recorded(commit) = attempt.commit(said.result_sha256, at) {
            commit_record(&mut tx, said.task_id, said.epoch, &commit, &envelope).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Judges a result; the first valid one answers the task.
    pub async fn result_take(
        &self,
        node: NodeId,
        key: &PublicKey,
        wire: wire::TaskResult,
    ) -> Result<wire::ResultAck, VerdictError> {
        let at = self.now();
        let opened = Opened::open(self, key, wire)?;
        if update::named(&opened.product).is_some() {
            return Err(VerdictError::Malformed(
                "an update comes with its bytes: call SubmitUpdate",
            ));
        }
        match hand_in::<Desk>(self, HandedIn { node, opened, at }).await? {
            Heard::Judged(ack) => Ok(ack),
            Heard::Alone(item) => Ok(self.result_alone(*item).await?),
        }
    }

    /// Tells whoever has to know of a committed verdict.
    pub(super) fn verdict_tell(&self, node: NodeId, judged: Judged) -> wire::ResultAck {
        self.metrics.judged(&judged.ack);
        self.sessions
            .release(node, judged.task, judged.epoch, self.now());
        if let Some(answer) = judged.answer {
            self.answers.done(judged.task, answer);
        }
        if let Some(failure) = judged.failure {
            self.answers.failed(judged.task, failure);
            self.dispatcher.wake();
        }
        if let Some((other, epoch)) = judged.cancelled {
            self.sessions.release(other, judged.task, epoch, self.now());
            self.tell_cancelled(other, judged.task, epoch, "another node was first");
        }
        judged.ack
    }

    /// Judges one result in a transaction of its own.
    pub(super) async fn result_judge_alone(&self, item: &HandedIn) -> Result<Judged, StoreError> {
        let mut judged = self.result_judge(item).await?;
        owm_service::failpoint::hit(RESULT_AFTER_COMMIT);
        if matches!(item.opened.product, Product::Report(_))
            && judged.ack.verdict() == wire::Verdict::Accepted
        {
            // What fails here is done by `due`; the report is in.
            match self.report_settle(judged.task, judged.epoch).await {
                Ok(owed) => judged.ack.reward_msat = owed.0,
                Err(error) => tracing::warn!(%error, "an evaluation is settled later"),
            }
            if judged.ack.reward_msat == 0 {
                "owed when all reports are in and compared".clone_into(&mut judged.ack.reason);
            }
        }
        // It may have gone back into the queue.
        self.dispatcher.wake();
        Ok(judged)
    }

    async fn result_judge(&self, item: &HandedIn) -> Result<Judged, StoreError> {
        let HandedIn { node, opened, at } = item;
        let (node, said) = (*node, &opened.statement);
        let (id, epoch) = (said.task_id, said.epoch);
        let refuse = |reason: &str| Judged {
            ack: ack(id, epoch, wire::Verdict::Rejected, reason, Msat::ZERO),
            task: id,
            epoch,
            answer: None,
            failure: None,
            cancelled: None,
        };
        alive::settle(self).await?;
        let now = self.now();
        let mut tx = self.store.begin("task.result").await?;
        let Some(loaded) = task_load(&mut tx, id).await? else {
            return Ok(refuse("there is no such task"));
        };
        let found = attempt_load(&mut tx, id, epoch).await?;
        let Some(found) = found.filter(|a| a.node == node) else {
            return Ok(refuse("this node never had a lease under this epoch"));
        };
        let asked = Asked::load(self, &mut tx, &loaded).await?;
        let GivenWork {
            decided,
            attempt,
            delivered,
            given,
        } = GivenWork::new(&loaded, &found, asked, opened, *at);
        if let CommitDecision::Recorded(commit) = &decided {
            commit_record(&mut tx, id, epoch, commit, &opened.commit_envelope).await?;
        }
        let judged = match decide_result(&loaded.task, &attempt, &given, now) {
            ResultDecision::First { task, .. } => {
                let work = Accepted {
                    loaded: &loaded,
                    attempt: &attempt,
                    delivered: &delivered,
                };
                self.accept(&mut tx, &work, &task, opened, given.hash)
                    .await?
            }
            ResultDecision::Late { .. } => {
                self.accept_late(&mut tx, &loaded, &attempt, opened, given.hash)
                    .await?
            }
            ResultDecision::Duplicate { outcome } => {
                let verdict = match outcome {
                    Outcome::Accepted | Outcome::Late => wire::Verdict::Duplicate,
                    _ => wire::Verdict::Rejected,
                };
                let booked = ledger_booked_for(&mut tx, id, epoch).await?;
                Judged {
                    // The first acknowledgement may never have arrived.
                    ack: ack(id, epoch, verdict, "this result was judged before", booked),
                    ..refuse("")
                }
            }
            ResultDecision::Rejected { reason, ended } => {
                let failure = match ended {
                    None => None,
                    Some((_, then)) => {
                        let hash = given.hash;
                        self.reject(&mut tx, &loaded, &attempt, opened, &reason, hash, then)
                            .await?
                    }
                };
                tracing::warn!(task.id = %id, node.id = %node, %reason, "result rejected");
                Judged {
                    failure,
                    ..refuse(&reason.to_string())
                }
            }
        };
        owm_service::failpoint::hit(RESULT_BEFORE_COMMIT);
        tx.commit().await?;
        Ok(judged)
    }

    async fn accept(
        &self,
        tx: &mut Tx,
        work: &Accepted<'_>,
        task: &Task,
        opened: &Opened,
        hash: Sha256,
    ) -> Result<Judged, StoreError> {
        let (facts, attempt, now) = (&work.loaded.facts, work.attempt, self.now());
        let id = facts.task_id;
        let node = self.node_of(tx, attempt.node).await?;
        let (factors, reward) = match &opened.product {
            Product::Answer(_) => self.reward(&node, facts.task_type, false),
            // Owed when its evaluation is settled: not before the others have spoken.
            Product::Report(_) => self.reward_of(&node, facts.task_type, Permille(0), false),
        };
        let end = AttemptEnd {
            outcome: Outcome::Accepted,
            reason: "",
            hand_back: None,
            result: Some((hash, &opened.result_envelope)),
        };
        attempt_end(tx, id, attempt, &end, now).await?;
        let ending = Ending::Done {
            statement: &opened.statement,
            reward,
        };
        task_save(tx, id, task, ending, now).await?;
        self.book(tx, work.attempt, id, LedgerKind::Reward, reward, &factors)
            .await?;
        let answer = match &opened.product {
            Product::Answer(_) => self.answer_write(tx, work, opened).await?,
            Product::Report(report) => {
                evaluation_report(tx, id, report, now).await?;
                None
            }
        };
        // The live lease may be another node's: its work is moot.
        let other = match work.loaded.task.phase {
            Phase::Leased { node, .. } if node != attempt.node => {
                Some((node, work.loaded.task.epoch))
            }
            _ => None,
        };
        Ok(Judged {
            ack: ack(id, attempt.epoch, wire::Verdict::Accepted, "", reward),
            task: id,
            epoch: attempt.epoch,
            answer,
            failure: None,
            cancelled: other,
        })
    }

    async fn accept_late(
        &self,
        tx: &mut Tx,
        loaded: &LoadedTask,
        attempt: &Attempt,
        opened: &Opened,
        hash: Sha256,
    ) -> Result<Judged, StoreError> {
        let id = loaded.facts.task_id;
        let node = self.node_of(tx, attempt.node).await?;
        let (factors, reward) = self.reward(&node, loaded.facts.task_type, true);
        let end = AttemptEnd {
            outcome: Outcome::Late,
            reason: "another was first",
            hand_back: None,
            result: Some((hash, &opened.result_envelope)),
        };
        attempt_end(tx, id, attempt, &end, self.now()).await?;
        self.book(tx, attempt, id, LedgerKind::LateShare, reward, &factors)
            .await?;
        Ok(Judged {
            ack: ack(
                id,
                attempt.epoch,
                wire::Verdict::Late,
                "another was first",
                reward,
            ),
            task: id,
            epoch: attempt.epoch,
            answer: None,
            failure: None,
            cancelled: None,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that a rejection is recorded with"
    )]
    async fn reject(
        &self,
        tx: &mut Tx,
        loaded: &LoadedTask,
        attempt: &Attempt,
        opened: &Opened,
        reason: &RejectReason,
        hash: Sha256,
        then: Option<(Task, Next)>,
    ) -> Result<Option<AnswerFailure>, StoreError> {
        let id = loaded.facts.task_id;
        let reason = reason.to_string();
        let end = AttemptEnd {
            outcome: Outcome::Rejected,
            reason: &reason,
            hand_back: None,
            result: Some((hash, &opened.result_envelope)),
        };
        attempt_end(tx, id, attempt, &end, self.now()).await?;
        let Some((task, next)) = then else {
            return Ok(None);
        };
        let failure = failure_of(next, "a node's result was not valid");
        self.save_next(tx, id, &task, failure.as_ref()).await?;
        Ok(failure)
    }

    pub(super) fn reward(
        &self,
        node: &Node,
        task_type: owm_proto::TaskType,
        late: bool,
    ) -> (RewardFactors, Msat) {
        self.reward_of(node, task_type, Permille::ONE, late)
    }

    pub(super) fn reward_of(
        &self,
        node: &Node,
        task_type: owm_proto::TaskType,
        quality: Permille,
        late: bool,
    ) -> (RewardFactors, Msat) {
        let work = Work {
            task_type,
            tier: node.effective_tier,
            quality,
            uptime: node.uptime,
            stake_bonus: node.stake_bonus,
        };
        let base = self.config.rewards.base_rate();
        let factors = if late {
            RewardFactors::of_late(base, &work)
        } else {
            RewardFactors::of(base, &work)
        };
        // Only an absurd base rate overflows; nothing is then owed rather than a wrong amount.
        let amount = factors.amount().unwrap_or(Msat::ZERO);
        (factors, amount)
    }

    async fn book(
        &self,
        tx: &mut Tx,
        attempt: &Attempt,
        task_id: TaskId,
        kind: LedgerKind,
        amount: Msat,
        factors: &RewardFactors,
    ) -> Result<(), StoreError> {
        if amount == Msat::ZERO {
            return Ok(());
        }
        let event = LedgerEvent {
            kind,
            task_id,
            epoch: attempt.epoch,
            node: attempt.node,
            amount,
            factors: serde_json::to_value(factors).unwrap_or_default(),
        };
        ledger_book(tx, &event, self.now()).await
    }
}

/// A first valid result on its way to be written.
pub(super) struct Accepted<'a> {
    pub(super) loaded: &'a LoadedTask,
    pub(super) attempt: &'a Attempt,
    pub(super) delivered: &'a Delivered,
}

pub(super) fn ack(
    task: TaskId,
    epoch: u64,
    verdict: wire::Verdict,
    reason: &str,
    reward: Msat,
) -> wire::ResultAck {
    wire::ResultAck {
        task_id: task.to_string(),
        epoch,
        verdict: verdict.into(),
        reason: reason.to_owned(),
        reward_msat: reward.0,
    }
}
