//! What is remembered and what is counted anew give together what a walk over all tasks gives.

use sqlx::PgPool;

use super::*;
use crate::{stats::stats_network, tx::Store};

const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

/// A task of each of these ages (seconds before `now`) that ended without an answer, of 3 tokens.
async fn ended(tx: &mut Tx, now: UnixMillis, ages: &[i64]) {
    sqlx::query(
        "INSERT INTO tasks (task_type, phase, role, priority, deadline_at, submitted_at,
             completed_at, failure_code, output_tokens)
         SELECT 'inference', 'failed', 'infer', 0, $1, at, at, 'timeout', 3
         FROM (SELECT $1 - make_interval(secs => age) AS at FROM unnest($2::bigint[]) a(age)) t",
    )
    .bind(to_pg(now))
    .bind(ages)
    .execute(&mut *tx.inner)
    .await
    .unwrap();
}

async fn waits(tx: &mut Tx, at: UnixMillis) {
    sqlx::query(
        "INSERT INTO tasks (task_type, role, priority, deadline_at, submitted_at)
         VALUES ('inference', 'infer', 0, $1, $1)",
    )
    .bind(to_pg(at))
    .execute(&mut *tx.inner)
    .await
    .unwrap();
}

async fn counted(tx: &mut Tx, tally: &mut Tally, now: UnixMillis) -> NetworkCounts {
    tally_by(tx, tally, now, 2).await.unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_long_history_is_counted_in_steps_that_say_so_and_then_not_again(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    // Six of the past, two of them at one time, and one that may still get company.
    ended(&mut tx, NOW, &[900, 800, 700, 600, 500, 500, 1]).await;
    let mut tally = Tally::default();
    let seen: Vec<(u64, bool)> = [
        counted(&mut tx, &mut tally, NOW).await,
        counted(&mut tx, &mut tally, NOW).await,
        counted(&mut tx, &mut tally, NOW).await,
    ]
    .map(|n| (n.tasks_failed, n.counting))
    .into();
    assert_eq!(seen, [(3, true), (5, true), (7, false)]);
    let whole = stats_network(&mut tx).await.unwrap();
    assert_eq!(counted(&mut tx, &mut tally, NOW).await, whole);
    assert_eq!(whole.output_tokens, 21);
    // What is remembered is not read again: this is wrong on purpose, and is not seen.
    sqlx::query("UPDATE tasks SET output_tokens = 1000 WHERE submitted_at < $1")
        .bind(to_pg(NOW.before(SETTLED_AFTER)))
        .execute(&mut *tx.inner)
        .await
        .unwrap();
    assert_eq!(counted(&mut tx, &mut tally, NOW).await.output_tokens, 21);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_still_waits_is_counted_when_it_ends_and_a_clock_set_back_starts_anew(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let mut tally = Tally::default();
    waits(&mut tx, NOW.before(10 * SETTLED_AFTER)).await;
    ended(&mut tx, NOW, &[900, 800]).await;
    let n = counted(&mut tx, &mut tally, NOW).await;
    assert_eq!((n.tasks_queued, n.tasks_failed), (1, 2));
    sqlx::query(
        "UPDATE tasks SET phase = 'failed', failure_code = 'timeout', completed_at = $1
         WHERE phase = 'queued'",
    )
    .bind(to_pg(NOW))
    .execute(&mut *tx.inner)
    .await
    .unwrap();
    let n = loop {
        let n = counted(&mut tx, &mut tally, NOW).await;
        if !n.counting {
            break n;
        }
    };
    assert_eq!((n.tasks_queued, n.tasks_failed), (0, 3));
    let back = NOW.before(20 * SETTLED_AFTER);
    ended(&mut tx, back, &[1]).await;
    let n = counted(&mut tx, &mut tally, back).await;
    assert_eq!(n.tasks_failed, 4, "all are after the clock's time");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_look_that_is_meant_to_be_brief_is_broken_off_by_the_database(pool: PgPool) {
    let store = Store::from_pool(pool);
    let limit = Duration::from_millis(20);
    let mut tx = store.begin_brief("test", limit).await.unwrap();
    let slow = sqlx::query("SELECT pg_sleep(60)")
        .execute(&mut *tx.inner)
        .await;
    let error = slow.unwrap_err().to_string();
    assert!(error.contains("statement timeout"), "{error}");
}
