//! Batches of results as the desk gets them, on real Postgres: each is judged by itself, and one that
//! can't be written takes no other with it.

use owm_coordinator_store::session::SessionKind;
use owm_proto::{NodeKey, Sha256, wire::coordinator::Verdict};
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::*;
use crate::{
    app::testing::{Script, TestApp, app, clocked, follow},
    ask::{Question, QuestionPrompt},
    publish::{Release, publish},
    rpc::NodeService,
};

fn question() -> Question {
    Question {
        api_key: None,
        sub_model: None,
        prompt: QuestionPrompt::Raw("Say one two".into()),
        max_tokens: 8,
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: None,
        stop: vec![],
        stream: false,
    }
}

/// A node that was leased `n` questions and has done none of them, and its leases.
async fn leased(app: &TestApp, n: usize) -> (NodeId, NodeKey, Vec<wire::Lease>) {
    let (node, key) = app.register(1).await;
    let (down, mut told) = mpsc::channel(64);
    let hello = wire::Hello {
        session_id: vec![1; 16],
        started_at_ms: app.now().0,
        software_version: "test".into(),
        running: vec![],
    };
    let service = NodeService::new(app.app.clone());
    let opened = service.converse(key.public(), hello, SessionKind::Stream, down);
    let (mut conversation, _) = opened.await.unwrap();
    let model = app.current_model().await.unwrap().unwrap();
    let weights = model
        .manifest
        .weights_sha256(&model.manifest.default_sub_model);
    let offer = wire::Offer {
        role: "infer".into(),
        credits: n as u32,
        sha256: weights.iter().map(Sha256::to_string).collect(),
    };
    let offer = wire::work_up::Message::Offer(offer);
    conversation.take(offer).await.unwrap();
    let mut leases = vec![];
    for _ in 0..n {
        app.ask(question()).await.unwrap();
    }
    while leases.len() < n {
        let message = told.recv().await.unwrap().message;
        if let Some(wire::work_down::Message::Lease(lease)) = message {
            leases.push(lease);
        }
    }
    (node.node_id, key, leases)
}

fn result_of(app: &TestApp, key: &NodeKey, lease: &wire::Lease) -> wire::TaskResult {
    let script = Script::Words(vec!["one", " two"]);
    match follow(app, key, &script, lease).pop() {
        Some(wire::work_up::Message::Result(result)) => result,
        other => panic!("no result: {other:?}"),
    }
}

fn handed_in(app: &TestApp, node: NodeId, key: &NodeKey, result: wire::TaskResult) -> HandedIn {
    let opened = Opened::open(app, &key.public(), result).unwrap();
    let at = app.now();
    HandedIn { node, opened, at }
}

/// What the callers of a batch hear, those who have to judge theirs alone included.
async fn heard(app: &TestApp, items: Vec<HandedIn>) -> Vec<Result<wire::ResultAck, StoreError>> {
    let mut acks = vec![];
    for heard in Desk::work(app, items).await {
        acks.push(match heard {
            Ok(Heard::Judged(ack)) => Ok(ack),
            Ok(Heard::Alone(item)) => app.result_alone(*item).await,
            Err(error) => Err(error),
        });
    }
    acks
}

fn verdicts(acks: &[Result<wire::ResultAck, StoreError>]) -> Vec<Option<Verdict>> {
    acks.iter()
        .map(|ack| ack.as_ref().ok().map(wire::ResultAck::verdict))
        .collect()
}

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Counts {
    done: i64,
    answered: i64,
    booked: i64,
    balance: i64,
    total: i64,
    succeeded: i64,
    earned_is_owed: bool,
}

async fn counts(pool: &PgPool) -> Counts {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM tasks WHERE phase = 'done') AS done,
             (SELECT count(*) FROM requests WHERE state = 'answered') AS answered,
             (SELECT count(*) FROM ledger_events) AS booked,
             (SELECT COALESCE(sum(amount_msat), 0)::bigint FROM ledger_entries) AS balance,
             tasks_total AS total, tasks_succeeded AS succeeded,
             earned_msat = (SELECT COALESCE(-sum(amount_msat), 0)::bigint FROM ledger_entries
                 WHERE account = 'owed_to_node') AS earned_is_owed
         FROM nodes",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn results_of_one_batch_are_judged_each_by_itself(pool: PgPool) {
    let app = app(pool.clone()).await;
    let (node, key, leases) = leased(&app, 4).await;
    let results: Vec<_> = leases
        .iter()
        .map(|lease| result_of(&app, &key, lease))
        .collect();
    let mut forged = results[1].clone();
    forged.output.as_mut().unwrap().text = "something else".into();
    let items = vec![
        handed_in(&app, node, &key, results[0].clone()),
        handed_in(&app, node, &key, forged),
        handed_in(&app, node, &key, results[2].clone()),
        // The same again, in the same batch.
        handed_in(&app, node, &key, results[2].clone()),
        // A node that never had the lease.
        handed_in(&app, NodeId::from_random([9; 16]), &key, results[3].clone()),
    ];
    let acks = heard(&app, items).await;
    let expected = [
        Verdict::Accepted,
        Verdict::Rejected,
        Verdict::Accepted,
        Verdict::Duplicate,
        Verdict::Rejected,
    ];
    assert_eq!(verdicts(&acks), expected.map(Some));
    let expected = Counts {
        done: 2,
        answered: 2,
        booked: 2,
        balance: 0,
        total: 3,
        succeeded: 2,
        earned_is_owed: true,
    };
    assert_eq!(counts(&pool).await, expected);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_result_that_cannot_be_booked_takes_no_other_with_it(pool: PgPool) {
    let app = app(pool.clone()).await;
    let (node, key, leases) = leased(&app, 3).await;
    // Somebody booked the second one already, whatever our code believes.
    let mut tx = pool.begin().await.unwrap();
    let event: i64 = sqlx::query_scalar(
        "INSERT INTO ledger_events (idempotency_key, kind, task_id, epoch, node_id)
         VALUES ('before', 'reward', $1::uuid, 1, $2) RETURNING event_id",
    )
    .bind(uuid::Uuid::parse_str(&leases[1].task_id).unwrap())
    .bind(node.0)
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO ledger_entries (event_id, line, account, node_id, amount_msat)
         VALUES ($1, 1, 'reward_expense', NULL, 5), ($1, 2, 'owed_to_node', $2, -5)",
    )
    .bind(event)
    .bind(node.0)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let results = leases.iter().map(|lease| result_of(&app, &key, lease));
    let items = results
        .map(|result| handed_in(&app, node, &key, result))
        .collect();
    let acks = heard(&app, items).await;
    assert_eq!(
        verdicts(&acks),
        [Some(Verdict::Accepted), None, Some(Verdict::Accepted)]
    );
    assert!(
        matches!(&acks[1], Err(StoreError::Constraint { constraint, .. }) if constraint == "ledger_one_reward_per_task"),
        "{:?}",
        acks[1]
    );
    let counts = counts(&pool).await;
    assert_eq!((counts.done, counts.answered, counts.booked), (2, 2, 3));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn work_that_is_done_during_an_outage_is_on_time(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    alive::mark(&app).await.unwrap();
    let (node, key, leases) = leased(&app, 3).await;
    let lease = app.config.scheduler.lease.get();
    let first = handed_in(&app, node, &key, result_of(&app, &key, &leases[0]));
    // Twice as long as a lease nobody says that we live: the database is away.
    clock.pass(lease * 2);
    let acks = heard(&app, vec![first]).await;
    assert_eq!(verdicts(&acks), [Some(Verdict::Accepted)]);
    clock.pass(lease * 2);
    let later = result_of(&app, &key, &leases[1]);
    let ack = app.result_take(node, &key.public(), later).await.unwrap();
    assert_eq!(ack.verdict(), Verdict::Accepted);
    clock.pass(lease * 2);
    let alone = handed_in(&app, node, &key, result_of(&app, &key, &leases[2]));
    let judged = app.result_judge_alone(&alone).await.unwrap();
    assert_eq!(judged.ack.verdict(), Verdict::Accepted);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_result_that_waits_to_be_judged_is_as_late_as_it_came(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    alive::mark(&app).await.unwrap();
    let (node, key, leases) = leased(&app, 2).await;
    let in_time = |lease| handed_in(&app, node, &key, result_of(&app, &key, lease));
    let (together, alone) = (in_time(&leases[0]), in_time(&leases[1]));
    for _ in 0..app.config.scheduler.lease.get().as_secs() * 2 {
        clock.pass(std::time::Duration::from_secs(1));
        alive::mark(&app).await.unwrap();
    }
    let acks = heard(&app, vec![together]).await;
    assert_eq!(verdicts(&acks), [Some(Verdict::Accepted)]);
    let judged = app.result_judge_alone(&alone).await.unwrap();
    assert_eq!(judged.ack.verdict(), Verdict::Accepted);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn answers_of_the_version_before_are_judged_together_and_what_is_at_fault_by_itself(
    pool: PgPool,
) {
    let app = app(pool.clone()).await;
    let (node, key, leases) = leased(&app, 3).await;
    let release = Release {
        source: "tiny".into(),
        version: "owm-v0.0.2".parse().unwrap(),
        sub_models: ["owm-code", "owm-geo"].map(|s| s.parse().unwrap()).to_vec(),
        default_sub_model: "owm-geo".parse().unwrap(),
        sequence: None,
    };
    let (authority, now) = (&app.authority, app.now());
    publish(
        &app.store,
        &app.blobs,
        authority,
        &release,
        now,
        &mut |_| {},
    )
    .await
    .unwrap();
    let mut results: Vec<_> = leases
        .iter()
        .map(|lease| result_of(&app, &key, lease))
        .collect();
    results[1].output.as_mut().unwrap().text = "something else".into();
    let items = results
        .into_iter()
        .map(|result| handed_in(&app, node, &key, result))
        .collect();
    let heard = Desk::work(&app, items).await;
    let together: Vec<_> = heard
        .iter()
        .map(|one| matches!(one, Ok(Heard::Judged(_))))
        .collect();
    assert_eq!(together, [true, false, true]);
    let answered: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM tasks WHERE phase = 'done' AND model_version = 'owm-v0.0.1'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(answered, 2);
}
