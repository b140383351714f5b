//! Evaluations on real Postgres with scripted nodes: who gets one, which report counts, what is kept and owed.

use std::time::Duration;

use owm_coordinator_domain::evaluation::summarise;
use owm_coordinator_store::{
    evaluation::{EvaluationTask, evaluation_list, evaluation_tasks},
    session::SessionKind,
};
use owm_proto::{
    NodeId, NodeKey,
    evaluation::{EvaluationReport, ExactF64, Finding},
    seal,
    statement::{Commit, Finish, Statement as _, TaskResultStatement},
    wire::coordinator::Verdict,
};
use owm_service::rng::Seed;
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::*;
use crate::{
    app::testing::{TestApp, app},
    rpc::{NodeService, conversation::Conversation},
};

mod settle;
mod turns;
mod update;
mod upload;

/// t1, weight 1, always there: 10 sats and half as much again.
const REWARD: u64 = 15_000;

/// A node that measures, its conversation and its leases.
struct Evaluator {
    id: NodeId,
    key: NodeKey,
    conversation: Conversation,
    told: mpsc::Receiver<wire::WorkDown>,
}

async fn evaluator(app: &TestApp, n: u8, slots: u32) -> Evaluator {
    let (node, key) = app.register(n).await;
    let (down, told) = mpsc::channel(64);
    let hello = wire::Hello {
        session_id: vec![n; 16],
        started_at_ms: app.now().0,
        software_version: "test".into(),
        running: vec![],
    };
    let service = NodeService::new(app.app.clone());
    let opened = service.converse(key.public(), hello, SessionKind::Stream, down);
    let (conversation, _) = opened.await.unwrap();
    let mut evaluator = Evaluator {
        id: node.node_id,
        key,
        conversation,
        told,
    };
    evaluator.offer(slots).await;
    evaluator
}

impl Evaluator {
    /// Room for so many more.
    async fn offer(&mut self, slots: u32) {
        let offer = wire::Offer {
            role: "evaluate".into(),
            credits: slots,
            sha256: vec![],
        };
        let offer = wire::work_up::Message::Offer(offer);
        self.conversation.take(offer).await.unwrap();
    }

    async fn lease(&mut self) -> wire::Lease {
        let waited = async {
            loop {
                let message = self.told.recv().await.unwrap().message;
                if let Some(wire::work_down::Message::Lease(lease)) = message {
                    return lease;
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), waited)
            .await
            .expect("no lease came")
    }

    /// Hands in a report over the leased text, changed as `spoil` says.
    async fn report(
        &mut self,
        app: &TestApp,
        lease: &wire::Lease,
        spoil: impl FnOnce(&mut EvaluationReport),
    ) -> wire::ResultAck {
        let result = wire::work_up::Message::Result(self.result(app, lease, spoil));
        match self.conversation.take(result).await.unwrap() {
            Some(wire::work_down::Message::ResultAck(ack)) => ack,
            other => panic!("{other:?}"),
        }
    }

    /// The signed result with its report.
    fn result(
        &self,
        app: &TestApp,
        lease: &wire::Lease,
        spoil: impl FnOnce(&mut EvaluationReport),
    ) -> wire::TaskResult {
        self.result_knowing(app, lease, &self.key, spoil)
    }

    /// The same, from a payload that was sealed to `reader`.
    fn result_knowing(
        &self,
        app: &TestApp,
        lease: &wire::Lease,
        reader: &NodeKey,
        spoil: impl FnOnce(&mut EvaluationReport),
    ) -> wire::TaskResult {
        let sealed = seal::open(reader, &lease.sealed_payload).unwrap();
        let task = wire::SealedTask::decode(sealed.as_slice()).unwrap();
        let payload = wire::TaskPayload::decode(task.payload.as_slice()).unwrap();
        let Some(wire::task_payload::Task::Evaluate(asked)) = payload.task else {
            panic!("no evaluation");
        };
        let ask = EvaluationAsk::try_from(asked).unwrap();
        let mut report = EvaluationReport {
            candidate: ask.weights_sha256(),
            text: ask.text.clone(),
            window: ask.window,
            documents: 3,
            bytes: 200,
            tokens: 100,
            tokens_sha256: Sha256([7; 32]),
            finding: held_out(2.5),
        };
        spoil(&mut report);
        let bytes = report.to_bytes();
        let said = TaskResultStatement {
            task_id: lease.task_id.parse().unwrap(),
            epoch: lease.epoch,
            model_sha256: ask.weights_sha256(),
            input_sha256: lease.input_hash.parse().unwrap(),
            output_sha256: Sha256::of(&bytes),
            tokens_sha256: report.tokens_sha256,
            prompt_tokens: 100,
            output_tokens: 0,
            finish: Finish::Stop,
            seed: ask.seed,
            backend: "scripted".into(),
            exec_ms: 1,
        }
        .sign(&self.key, &app.network());
        let commit = Commit {
            task_id: lease.task_id.parse().unwrap(),
            epoch: lease.epoch,
            result_sha256: Sha256::of(said.unverified_payload()),
        };
        wire::TaskResult {
            commit: Some((&commit.sign(&self.key, &app.network())).into()),
            result: Some((&said).into()),
            output: Some(wire::Output {
                report: bytes,
                ..wire::Output::default()
            }),
        }
    }
}

fn held_out(loss: f64) -> Finding {
    Finding::HeldOut {
        loss: ExactF64(loss),
        bits_per_byte: ExactF64(loss * 100.0 / std::f64::consts::LN_2 / 200.0),
    }
}

fn order(nodes: u32) -> EvaluationOrder {
    EvaluationOrder {
        sub_model: "owm-geo".parse().unwrap(),
        version: None,
        weights: None,
        text: TextSource::Corpus {
            id: "owm-geo".into(),
            shards: vec!["europe".into()],
        },
        documents_max: 10,
        bytes_max: 1_000,
        tokens_min: 10,
        tokens_max: 1_000,
        window: 64,
        seed: Some(5),
        reference: None,
        nodes,
        lease: Duration::from_mins(10),
        deadline: Duration::from_mins(30),
    }
}

async fn ask(app: &TestApp, order: &EvaluationOrder) -> EvaluationId {
    ask_as(app, order, 9).await
}

/// Each number makes other ids.
async fn ask_as(app: &TestApp, order: &EvaluationOrder, n: u64) -> EvaluationId {
    let rng = Seed::from_u64(n).rng("evaluate");
    let asked = evaluate(&app.store, &app.blobs, &app.vault, order, rng, app.now());
    let (id, ask) = asked.await.unwrap();
    assert_eq!(ask.seed, 5);
    app.dispatcher.wake();
    id
}

/// Rewards in the ledger.
async fn booked(pool: &PgPool) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM ledger_events WHERE kind = 'reward'");
    count.fetch_one(pool).await.unwrap()
}

async fn tasks(app: &TestApp, id: EvaluationId) -> Vec<EvaluationTask> {
    let mut tx = app.store.begin("test").await.unwrap();
    evaluation_tasks(&mut tx, id).await.unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn each_owner_reports_once_and_is_owed_once(pool: PgPool) {
    let app = app(pool.clone()).await;
    // Room for all three at one node: they are kept apart all the same.
    let mut nodes = vec![];
    for n in 1..=3 {
        nodes.push(evaluator(&app, n, 3).await);
    }
    let id = ask(&app, &order(3)).await;
    for (n, node) in nodes.iter_mut().enumerate() {
        let lease = node.lease().await;
        assert_eq!(lease.task_type, "evaluate");
        let ack = node.report(&app, &lease, |_| {}).await;
        // Nothing is owed before all can be compared.
        let owed = if n == 2 { REWARD } else { 0 };
        assert_eq!((ack.verdict(), ack.reward_msat), (Verdict::Accepted, owed));
        assert_eq!(booked(&pool).await, if n == 2 { 3 } else { 0 });
        let again = node.report(&app, &lease, |_| {}).await;
        assert_eq!(again.verdict(), Verdict::Duplicate, "the same again");
        let other = node
            .report(&app, &lease, |r| r.finding = held_out(1.0))
            .await;
        assert_eq!(other.verdict(), Verdict::Rejected, "another one is refused");
    }
    let mut tx = app.store.begin("test").await.unwrap();
    let shown = evaluation_list(&mut tx, None, 10).await.unwrap().remove(0);
    assert_eq!((shown.id, shown.reported, shown.open), (id, 3, 0));
    drop(tx);
    let tasks = tasks(&app, id).await;
    let reports: Vec<_> = tasks
        .iter()
        .filter_map(|task| task.report.clone())
        .collect();
    let summary = summarise(&reports);
    assert_eq!((summary.loss, summary.owners), (Some(2.5), 3));
    assert_eq!(reports[0].backend, "scripted");
    assert_eq!(app.evaluations_settle().await.unwrap(), 0, "once");
    assert_eq!(booked(&pool).await, 3);
    // The row itself refuses another report.
    let changed = sqlx::query("UPDATE evaluation_tasks SET report = '{}'")
        .execute(&pool)
        .await;
    assert!(changed.unwrap_err().to_string().contains("written once"));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_lying_report_is_refused_with_the_reason_and_another_node_is_asked(pool: PgPool) {
    let app = app(pool).await;
    let mut liar = evaluator(&app, 1, 1).await;
    let id = ask(&app, &order(1)).await;
    let lease = liar.lease().await;
    let mut honest = evaluator(&app, 2, 1).await;
    let ack = liar
        .report(&app, &lease, |r| r.finding = held_out(f64::NAN))
        .await;
    assert_eq!((ack.verdict(), ack.reward_msat), (Verdict::Rejected, 0));
    assert!(ack.reason.contains("loss"), "{}", ack.reason);
    let lease = honest.lease().await;
    let ack = honest.report(&app, &lease, |_| {}).await;
    assert_eq!(ack.verdict(), Verdict::Accepted);
    let tasks = tasks(&app, id).await;
    assert_eq!(tasks[0].node.map(|(_, key)| key), Some(honest.key.public()));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_answer_is_no_report_and_a_report_no_answer(pool: PgPool) {
    let app = app(pool).await;
    let mut node = evaluator(&app, 1, 1).await;
    ask(&app, &order(1)).await;
    let lease = node.lease().await;
    let ack = node
        .report(&app, &lease, |r| r.candidate = vec![Sha256([9; 32])])
        .await;
    assert!(ack.reason.contains("another candidate"), "{}", ack.reason);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn weights_that_no_manifest_names_are_served_by_their_hash(pool: PgPool) {
    let app = app(pool).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("candidate.safetensors");
    let bytes = vec![3; (2 << 20) + 5];
    std::fs::write(&path, &bytes).unwrap();
    let order = EvaluationOrder {
        weights: Some(path),
        ..order(1)
    };
    let id = ask(&app, &order).await;
    let mut tx = app.store.begin("test").await.unwrap();
    let shown = evaluation_list(&mut tx, Some(id), 1)
        .await
        .unwrap()
        .remove(0);
    let candidate = Sha256::of(&bytes);
    assert_eq!(shown.ask.weights_sha256(), [candidate]);
    let size = owm_coordinator_store::model::model_file_size(&mut tx, &candidate).await;
    assert_eq!(size.unwrap(), Some(bytes.len() as u64));
    let weights = shown
        .ask
        .files
        .iter()
        .find(|file| file.is_weights())
        .unwrap();
    let ladder = weights.ladder_sha256.expect("it has full pieces");
    assert!(app.blobs.has(&ladder, 2 * 32).await.unwrap());
    let model = app.current_model().await.unwrap().unwrap();
    assert!(
        !model
            .manifest
            .files
            .iter()
            .any(|file| file.sha256 == candidate)
    );
}
