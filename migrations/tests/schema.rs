//! The schema's own promises, on a real Postgres (`DATABASE_URL`): one database per test.

use sqlx::{Executor, PgPool};

const NODE: &str = "insert into nodes (node_id, public_key, owner_key, tasks_total, earned_msat, \
    vram_bytes, ram_bytes, bandwidth_kbps, reliability_permille) values \
    ('00000000-0000-4000-8000-000000000001', repeat('a1', 32), repeat('a1', 32), 7, 25999, \
    24000000000, 64500000000, 200000, 987)";
const TASK: &str = "insert into tasks (task_id, task_type, role, priority, deadline_at, lease_ms) values \
    ('00000000-0000-4000-8000-0000000000aa', 'inference', 'infer', 30, now() + interval '1 minute', 2500)";
const LEASE: &str = "with a as (insert into task_attempts (task_id, epoch, node_id, leased_at, expires_at) values \
    ('00000000-0000-4000-8000-0000000000aa', 1, '00000000-0000-4000-8000-000000000001', now(), now() + interval '30 s')) \
    update tasks set phase = 'leased', lease_epoch = 1, attempts = 1, \
    lease_node = '00000000-0000-4000-8000-000000000001', lease_expires_at = now() + interval '30 s'";
const EVENT: &str = "insert into ledger_events (idempotency_key, kind, task_id, epoch, node_id) values \
    ('reward:aa', 'reward', '00000000-0000-4000-8000-0000000000aa', 1, '00000000-0000-4000-8000-000000000001')";
const BALANCED: &str = "insert into ledger_entries (event_id, line, account, node_id, amount_msat) \
    select event_id, 1, 'owed_to_node', '00000000-0000-4000-8000-000000000001'::uuid, -25000 from ledger_events \
    union all select event_id, 2, 'reward_expense', null::uuid, 25000 from ledger_events";

/// The constraint or trigger that refused `statement`.
async fn refused_by(pool: &PgPool, statement: &'static str) -> String {
    let error = pool.execute(statement).await.expect_err(statement);
    let error = error.as_database_error().expect("the database refused it");
    error
        .constraint()
        .unwrap_or_else(|| error.message())
        .to_owned()
}

async fn run(pool: &PgPool, statements: &[&'static str]) {
    for statement in statements {
        pool.execute(*statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn every_table_and_column_is_commented(pool: PgPool) {
    let bare: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '') \
         from pg_class c \
         left join lateral (select attname, attnum from pg_attribute where attrelid = c.oid \
            and attnum > 0 and not attisdropped union all select null, 0) a on true \
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') \
            and c.relname <> '_sqlx_migrations' \
            and coalesce(length(case when a.attnum = 0 then obj_description(c.oid, 'pg_class') \
                else col_description(c.oid, a.attnum) end), 0) < 5",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(bare.is_empty(), "without COMMENT ON: {bare:?}");
    let commented: i64 = sqlx::query_scalar(
        "select count(*) from information_schema.columns where table_schema = 'public'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(
        commented > 200,
        "the query looked at {commented} columns only"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_founding_columns_keep_their_names_and_types(pool: PgPool) {
    let listed: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name || ' ' || data_type \
            || coalesce('(' || numeric_precision || ',' || nullif(numeric_scale, 0) || ')', '') \
         from information_schema.columns where table_schema = 'public'",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let founding = include_str!("founding_columns.txt");
    assert_eq!(founding.lines().count(), 85);
    for column in founding.lines() {
        assert!(
            listed.iter().any(|have| have == column),
            "gone or changed: {column}"
        );
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn founding_columns_of_a_node_follow_in_the_same_write(pool: PgPool) {
    run(&pool, &[NODE]).await;
    let shown: String = sqlx::query_scalar(
        "select concat_ws(' ', vram_gb, ram_gb, bandwidth_mbps, reliability, total_tasks, total_sats, \
         ln_node_uri = '', tier, status) from nodes",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(shown, "24.00 64.50 200.00 0.9870 7 25 t t1 pending");
    run(
        &pool,
        &["update nodes set earned_msat = 1999, total_sats = 12345"],
    )
    .await;
    let sats: i64 = sqlx::query_scalar("select total_sats from nodes")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(
        sats, 1,
        "what is written into a derived column doesn't count"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn founding_columns_of_a_task_follow_its_phase(pool: PgPool) {
    run(&pool, &[NODE, TASK]).await;
    let shown = || async {
        sqlx::query_scalar::<_, String>(
            "select concat_ws(' ', status, assigned_node is not null, reward_sats, timeout_seconds, \
             payment_status) from tasks",
        )
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    assert_eq!(shown().await, "pending f 3 pending");
    run(&pool, &[LEASE]).await;
    assert_eq!(shown().await, "running t 3 pending");
    run(&pool, &["update tasks set phase = 'done', lease_node = null, lease_expires_at = null, \
        winner_node = '00000000-0000-4000-8000-000000000001', winner_epoch = 1, reward_msat = 25999, \
        output_hash = repeat('0b', 32), completed_at = now()"]).await;
    assert_eq!(shown().await, "completed t 25 3 pending");
    run(
        &pool,
        &[
            "update tasks set phase = 'failed', winner_node = null, winner_epoch = null, \
        failure_code = 'timeout', reward_msat = null",
        ],
    )
    .await;
    assert_eq!(shown().await, "timeout t 3 pending");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn half_a_lease_is_refused(pool: PgPool) {
    run(&pool, &[NODE, TASK]).await;
    assert_eq!(
        refused_by(&pool, "update tasks set phase = 'leased'").await,
        "tasks_lease_whole"
    );
    assert_eq!(
        refused_by(
            &pool,
            "update tasks set phase = 'done', completed_at = now()"
        )
        .await,
        "tasks_done_whole"
    );
    assert_eq!(
        refused_by(
            &pool,
            "update tasks set phase = 'failed', completed_at = now()"
        )
        .await,
        "tasks_failure_named"
    );
    assert_eq!(
        refused_by(&pool, "update tasks set attempts = 4").await,
        "tasks_attempts_bounded"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_second_winner_is_refused(pool: PgPool) {
    run(&pool, &[NODE, TASK, LEASE]).await;
    run(&pool, &[
        "insert into task_attempts (task_id, epoch, node_id, leased_at, expires_at) \
         select task_id, 2, lease_node, now(), now() from tasks",
        "update task_attempts set committed_at = now(), on_time = true, commit_hash = decode(repeat('01', 32), 'hex'), \
         result_envelope = 'x'",
        "update task_attempts set outcome = 'accepted', ended_at = now() where epoch = 1",
    ])
    .await;
    assert_eq!(
        refused_by(
            &pool,
            "update task_attempts set outcome = 'accepted', ended_at = now() where epoch = 2"
        )
        .await,
        "task_attempts_one_winner"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_answer_is_given_once_and_can_only_be_deleted(pool: PgPool) {
    run(&pool, &[NODE, TASK]).await;
    run(&pool, &[
        "insert into requests (request_key, task_id) select decode(repeat('07', 32), 'hex'), task_id from tasks",
        "update requests set state = 'answered', answered_at = now(), answer_ciphertext = 'Paris', \
         answer_hash = decode(repeat('0c', 32), 'hex')",
        "update requests set delivered_at = now(), delete_after = now()",
    ])
    .await;
    for change in [
        "update requests set answer_ciphertext = 'Lyon'",
        "update requests set answer_hash = decode(repeat('0d', 32), 'hex')",
        "update requests set state = 'open', answered_at = null, answer_hash = null, answer_ciphertext = null",
        "update requests set state = 'failed', error = '{}', answer_hash = null, answer_ciphertext = null",
    ] {
        assert_eq!(refused_by(&pool, change).await, "requests_answered_once");
    }
    run(
        &pool,
        &["update requests set answer_ciphertext = null, deleted_at = now()"],
    )
    .await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_balanced_event_is_booked_once_and_stays(pool: PgPool) {
    run(&pool, &[NODE, TASK]).await;
    let mut tx = pool.begin().await.unwrap();
    tx.execute(EVENT).await.unwrap();
    tx.execute(BALANCED).await.unwrap();
    tx.commit().await.unwrap();
    let owed: i64 = sqlx::query_scalar(
        "select balance_msat from ledger_balances where account = 'owed_to_node'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(owed, -25_000);

    assert_eq!(
        refused_by(&pool, EVENT).await,
        "ledger_events_idempotency_key_key"
    );
    assert_eq!(
        refused_by(
            &pool,
            "insert into ledger_events (idempotency_key, kind, task_id, epoch, node_id) \
            select 'another name', kind, task_id, 2, node_id from ledger_events"
        )
        .await,
        "ledger_one_reward_per_task"
    );
    for change in [
        "update ledger_entries set amount_msat = 0",
        "delete from ledger_entries",
        "truncate ledger_entries",
        "update ledger_events set kind = 'correction'",
        "delete from ledger_events",
        "truncate ledger_events cascade",
    ] {
        assert_eq!(
            refused_by(&pool, change).await,
            "ledger_append_only",
            "{change}"
        );
    }
    assert_eq!(
        refused_by(
            &pool,
            "insert into ledger_entries (event_id, line, account, amount_msat) \
            select event_id, 3, 'reward_expense', 1 from ledger_events"
        )
        .await,
        "ledger_entry_belongs",
        "lines are not added later"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_event_that_does_not_sum_to_zero_never_commits(pool: PgPool) {
    run(&pool, &[NODE, TASK]).await;
    for lines in [
        "select 1",
        "insert into ledger_entries (event_id, line, account, node_id, amount_msat) \
         select event_id, 1, 'owed_to_node', node_id, -5 from ledger_events \
         union all select event_id, 2, 'reward_expense', null, 4 from ledger_events",
        "insert into ledger_entries (event_id, line, account, node_id, amount_msat) \
         select event_id, 1, 'owed_to_node', node_id, 0 from ledger_events",
    ] {
        let mut tx = pool.begin().await.unwrap();
        tx.execute(EVENT).await.unwrap();
        tx.execute(lines).await.unwrap();
        let error = tx.commit().await.expect_err(lines);
        let error = error.as_database_error().unwrap();
        assert_eq!(error.constraint(), Some("ledger_event_balanced"));
    }
    let events: i64 = sqlx::query_scalar("select count(*) from ledger_events")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(events, 0);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_queue_and_the_expiry_scan_use_their_indices(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    connection
        .execute("set enable_seqscan = off")
        .await
        .unwrap();
    for (index, query) in [
        (
            "tasks_dispatch",
            "explain select task_id from tasks where phase = 'queued' and role = 'infer' \
            order by priority, submitted_at, task_id limit 50 for update skip locked",
        ),
        (
            "tasks_lease_expiry",
            "explain select task_id from tasks where phase = 'leased' and lease_expires_at < now() \
            order by lease_expires_at limit 50 for update skip locked",
        ),
        (
            "requests_delete_after",
            "explain select request_key from requests where deleted_at is null and delete_after < now()",
        ),
        (
            "outbox_due",
            "explain select id from outbox where done_at is null and next_attempt_at <= now() \
            order by next_attempt_at, id limit 10 for update skip locked",
        ),
    ] {
        let plan: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        assert!(
            plan.iter().any(|line| line.contains(index)),
            "{index}: {plan:#?}"
        );
    }
}
