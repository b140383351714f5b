//! Rounds on real Postgres without training: what nodes would have handed in is written into their rows.

use owm_coordinator_domain::round::{AbandonReason, Round, deadline::Deadline};
use owm_coordinator_store::{
    model::{model_file_add, model_file_size},
    round::{Computed, round_computed_add, round_read},
    task::task_load,
};
use owm_proto::{
    Msat, Permille,
    evaluation::{EvaluationReport, ExactF64, TextSource},
};
use owm_service::rng::Seed;
use sqlx::PgPool;

use super::*;
use crate::{
    app::testing::{TestApp, app, clocked},
    round::{
        config::{Reading, Training},
        open::{RoundOrder, abandon, open},
    },
};

const MINUTE: Duration = Duration::from_mins(1);

fn order() -> RoundOrder {
    let reading = Reading {
        text: TextSource::Corpus {
            id: "owm-code".into(),
            shards: vec!["semver".into()],
        },
        documents_max: 10,
        bytes_max: 10_000,
        tokens_min: 10,
        tokens_max: 1_000,
        window: 32,
        seed: 5,
    };
    RoundOrder {
        sub_model: "owm-code".parse().unwrap(),
        version: None,
        training: Training {
            reading: reading.clone(),
            deal_shards: false,
            steps: 3,
            batch: 2,
            learning_rate: 1e-3,
            clip_norm: 1.0,
            keep_ppm: 100_000,
            value_bits: 2,
        },
        reference: None,
        evaluation: reading,
        places: 3,
        updates_min: 3,
        gather: MINUTE,
        deadline: Deadline {
            min: MINUTE,
            max: 10 * MINUTE,
            quorum: Permille(1_000),
            grace: MINUTE,
        },
        evaluators: 3,
        evaluation_time: MINUTE,
        strategy: owm_aggregate::StrategyName::OwmRobust,
        allow_tiny: false,
    }
}

async fn opened(app: &TestApp) -> u64 {
    let rng = Seed::from_u64(7).rng("round");
    let opened = open(&app.store, &app.blobs, &order(), rng, app.now()).await;
    opened.unwrap().0
}

async fn round(app: &TestApp, number: u64) -> Round {
    let mut tx = app.store.begin("test").await.unwrap();
    round_read(&mut tx, number).await.unwrap().unwrap().round
}

async fn parts(app: &TestApp, number: u64) -> Vec<PartWork> {
    let mut tx = app.store.begin("test").await.unwrap();
    round_parts(&mut tx, number).await.unwrap()
}

/// A round that three nodes are asked to train in; none of them is connected.
async fn collecting(app: &TestApp) -> u64 {
    let number = opened(app).await;
    let mut participants = Vec::new();
    for n in 1..=3 {
        participants.push(app.register(n).await.1.public());
    }
    let mut step = Step::load(app, number).await.unwrap().unwrap();
    step.on(Event::Drawn { participants }).unwrap();
    assert!(step.save(None).await.unwrap());
    number
}

/// Writes what is on record once a part's update was committed and taken.
async fn handed_in(pool: &PgPool, app: &TestApp, part: &PartWork, update: Sha256) {
    let report = EvaluationReport {
        candidate: vec![Sha256([1; 32])],
        text: order().evaluation.text,
        window: 32,
        documents: 3,
        bytes: 200,
        tokens: 100,
        tokens_sha256: Sha256([7; 32]),
        finding: Finding::Update {
            sha256: update,
            size: 100,
            losses: [ExactF64(3.0), ExactF64(2.0)],
        },
    };
    let bytes = report.to_bytes();
    let mut tx = app.store.begin("test").await.unwrap();
    let kept =
        owm_coordinator_store::evaluation::evaluation_report(&mut tx, part.task, &bytes, app.now());
    kept.await.unwrap();
    tx.commit().await.unwrap();
    sqlx::query(
        "INSERT INTO task_attempts (task_id, epoch, node_id, leased_at, expires_at, committed_at, commit_hash, on_time)
         VALUES ($1, 1, $2, now(), now() + interval '1 hour', now(), $3, TRUE)",
    )
    .bind(part.task.0)
    .bind(part.node.0)
    .bind(&update.0[..])
    .execute(pool)
    .await
    .unwrap();
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_update_whose_file_is_gone_holds_no_round(pool: PgPool) {
    let (app, clock) = clocked(pool.clone()).await;
    let number = collecting(&app).await;
    let part = parts(&app, number).await.remove(0);
    handed_in(&pool, &app, &part, Sha256([9; 32])).await;
    let since = app.now();
    advance(&app, number, since).await.unwrap();
    let waits = round(&app, number).await;
    assert_eq!(waits.phase, Phase::Collecting);
    assert!(matches!(
        waits.parts.get(&part.key),
        Some(Part::Committed { .. })
    ));
    // Its end comes all the same: that its bytes could still come is over.
    app.live_through(&clock, 15 * MINUTE).await;
    advance(&app, number, since).await.unwrap();
    let over = round(&app, number).await;
    assert_eq!(over.abandoned, Some(AbandonReason::TooFewUpdates));
    let gone = parts(&app, number).await.remove(0);
    assert_eq!(gone.refused, GONE);
    assert_eq!(over.equivocated.len(), 0, "nobody is accused");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_a_round_has_asked_for_ends_with_it(pool: PgPool) {
    let app = app(pool.clone()).await;
    let number = collecting(&app).await;
    let asked = parts(&app, number).await;
    let phases = |parts: &[PartWork]| -> Vec<String> {
        parts.iter().map(|part| part.phase.clone()).collect()
    };
    assert_eq!(phases(&asked), ["queued"; 3]);
    // One is at a node, one has been answered.
    for (part, leased) in [
        (
            &asked[0],
            "phase = 'leased', lease_epoch = 1, attempts = 1, lease_node = $2, lease_expires_at = now()",
        ),
        (
            &asked[1],
            "phase = 'done', lease_epoch = 1, winner_epoch = 1, winner_node = $2, completed_at = now(), output_hash = repeat('0', 64)",
        ),
    ] {
        let set = format!("UPDATE tasks SET {leased} WHERE task_id = $1");
        let query = sqlx::query(sqlx::AssertSqlSafe(set)).bind(part.task.0);
        query.bind(part.node.0).execute(&pool).await.unwrap();
    }
    abandon(&app.store, number, app.now()).await.unwrap();
    let ended = parts(&app, number).await;
    assert_eq!(phases(&ended), ["cancelled", "done", "cancelled"]);
    let told: Vec<serde_json::Value> = sqlx::query_scalar("SELECT payload FROM outbox")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(told.len(), 1, "only a node that is at it is told: {told:?}");
    assert_eq!(told[0]["task"], serde_json::json!(asked[0].task));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_part_is_owed_once_the_round_has_ended_and_as_its_gates_say(pool: PgPool) {
    let app = app(pool.clone()).await;
    let number = collecting(&app).await;
    let mut updates = Vec::new();
    for (n, part) in parts(&app, number).await.iter().enumerate() {
        let update = Sha256([n as u8 + 1; 32]);
        handed_in(&pool, &app, part, update).await;
        updates.push(update);
        sqlx::query(
            "UPDATE tasks SET phase = 'done', lease_epoch = 1, winner_epoch = 1, winner_node = $2, completed_at = now(),
             output_hash = repeat('0', 64) WHERE task_id = $1",
        )
        .bind(part.task.0)
        .bind(part.node.0)
        .execute(&pool)
        .await
        .unwrap();
        // The first counts, a gate rejected the second, the third came too late.
        let (quality, refused) = [(Some(1_000), ""), (Some(0), ""), (None, "late")][n];
        sqlx::query(
            "UPDATE fl_participants SET quality_permille = $2, refused = $3 WHERE task_id = $1",
        )
        .bind(part.task.0)
        .bind(quality)
        .bind(refused)
        .execute(&pool)
        .await
        .unwrap();
    }
    let needed = async || {
        let mut tx = app.store.begin("test").await.unwrap();
        let needed = owm_coordinator_store::evaluation::updates_needed(&mut tx).await;
        needed.unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        app.evaluations_settle().await.unwrap(),
        0,
        "the round goes on"
    );
    assert_eq!(needed().await, updates);
    abandon(&app.store, number, app.now()).await.unwrap();
    assert_eq!(app.evaluations_settle().await.unwrap(), 3);
    assert_eq!(app.evaluations_settle().await.unwrap(), 0, "once");
    assert_eq!(needed().await, []);
    let rewards: Vec<Msat> = parts(&app, number)
        .await
        .iter()
        .map(|part| part.reward)
        .collect();
    let whole = Msat(45_000);
    assert_eq!(
        rewards,
        [whole, Msat::ZERO, Msat::ZERO],
        "30 sats, a round's for tier 1, times 1.5 for uptime"
    );
    let booked: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ledger_events WHERE kind = 'reward'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(booked, 1);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_coordinator_that_has_just_started_waits_for_its_nodes_to_come_back(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    let number = opened(&app).await;
    app.live_through(&clock, 2 * MINUTE).await;
    // Gathering is over by the round's own clock; this process has heard of nobody yet.
    advance(&app, number, app.now()).await.unwrap();
    assert_eq!(round(&app, number).await.phase, Phase::Open);
    // Even later fewer than it needs are no reason to give up before its time is over.
    app.live_through(&clock, 5 * MINUTE).await;
    let since = UnixMillis(0);
    advance(&app, number, since).await.unwrap();
    assert_eq!(round(&app, number).await.phase, Phase::Open);
    app.live_through(&clock, 5 * MINUTE).await;
    advance(&app, number, since).await.unwrap();
    let over = round(&app, number).await;
    assert_eq!(over.abandoned, Some(AbandonReason::NoParticipants));
}

/// Writes that an attempt has made these files, and places them.
async fn made(app: &TestApp, number: u64, attempt: Attempt, n: u8) -> [Sha256; 2] {
    let named = |bytes: &[u8]| ManifestFile {
        name: String::new(),
        size: bytes.len() as u64,
        sha256: Sha256::of(bytes),
        piece_len: None,
        ladder_sha256: None,
    };
    let (checkpoint, delta) = ([n, 1], [n, 2]);
    let files = Files {
        checkpoint: named(&checkpoint),
        delta: named(&delta),
    };
    let computed = Computed {
        attempt,
        inputs: b"{}".to_vec(),
        decision: b"{}".to_vec(),
        checkpoint: files.checkpoint.sha256,
        delta: files.delta.sha256,
        residue_after: Sha256([n; 32]),
        files: serde_json::to_vec(&files).unwrap(),
    };
    let mut tx = app.store.begin("test").await.unwrap();
    for bytes in [checkpoint, delta] {
        let sha256 = Sha256::of(&bytes);
        app.blobs.put_bytes(&sha256, bytes.to_vec()).await.unwrap();
        model_file_add(&mut tx, &sha256, 2, app.now())
            .await
            .unwrap();
    }
    round_computed_add(&mut tx, number, &computed, app.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    [computed.checkpoint, computed.delta]
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_candidate_that_became_nothing_is_not_kept(pool: PgPool) {
    let app = app(pool).await;
    let number = collecting(&app).await;
    let dead = made(&app, number, Attempt::First, 1).await;
    let parent = round_parent(&app, number).await;
    let rounds = Rounds::new(app.app.clone());
    rounds.run().await.unwrap();
    assert!(app.blobs.has(&dead[0], 2).await.unwrap(), "it is open");
    abandon(&app.store, number, app.now()).await.unwrap();
    rounds.run().await.unwrap();
    let mut tx = app.store.begin("test").await.unwrap();
    for sha256 in dead {
        assert!(!app.blobs.has(&sha256, 2).await.unwrap());
        assert_eq!(model_file_size(&mut tx, &sha256).await.unwrap(), None);
    }
    // What a version names stays, were it a dead candidate a hundred times.
    let size = model_file_size(&mut tx, &parent).await.unwrap().unwrap();
    assert!(app.blobs.has(&parent, size).await.unwrap());
}

async fn round_parent(app: &TestApp, number: u64) -> Sha256 {
    let mut tx = app.store.begin("test").await.unwrap();
    round_read(&mut tx, number).await.unwrap().unwrap().parent
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_outage_moves_a_rounds_end_once(pool: PgPool) {
    let (app, clock) = clocked(pool).await;
    alive::mark(&app).await.unwrap();
    let number = collecting(&app).await;
    let before = round(&app, number).await;
    let task = parts(&app, number).await[0].task;
    clock.pass(20 * MINUTE);
    // The driver itself makes good for it before it judges by time.
    Rounds::new(app.app.clone()).run().await.unwrap();
    let after = round(&app, number).await;
    assert_eq!(after.phase, Phase::Collecting);
    assert!(after.held >= 20 * MINUTE, "{:?}", after.held);
    assert_eq!(after.ends_at(), before.ends_at().after(after.held));
    let mut tx = app.store.begin("test").await.unwrap();
    let loaded = task_load(&mut tx, task).await.unwrap().unwrap();
    drop(tx);
    // The last sign of life was before the round was opened: of its tasks that counts as well.
    assert!(loaded.task.deadline_at >= after.ends_at(), "as its tasks'");
    alive::mark(&app).await.unwrap();
    assert_eq!(round(&app, number).await.held, after.held);
}
