//! What the database says afterwards: whether every task was answered once and booked once, and when
//! each was queued.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use owm_proto::TaskId;
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};

use crate::{network::Network, report::Latencies};

/// Counts of one network's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) tasks: i64,
    pub(crate) answered: i64,
    pub(crate) booked: i64,
    pub(crate) second_attempts: i64,
}

/// A connection for looking, not for measuring.
pub(crate) async fn pool(network: &Network) -> Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(1);
    Ok(options.connect(network.postgres.url()).await?)
}

/// Fails unless every task has one winner, one answer and one booking, and the ledger sums to zero.
pub(crate) async fn check(pool: &PgPool) -> Result<Counts> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM tasks) AS tasks,
            (SELECT count(*) FROM tasks WHERE phase = 'done') AS done,
            (SELECT count(*) FROM requests WHERE state = 'answered') AS answered,
            (SELECT count(*) FROM task_attempts WHERE outcome = 'accepted') AS accepted,
            (SELECT count(*) FROM task_attempts WHERE epoch > 1) AS again,
            (SELECT count(DISTINCT task_id) FROM ledger_events WHERE kind = 'reward') AS booked_tasks,
            (SELECT count(*) FROM ledger_events) AS booked,
            (SELECT COALESCE(sum(amount_msat), 0)::bigint FROM ledger_entries) AS balance,
            (SELECT count(*) FROM (SELECT event_id FROM ledger_entries GROUP BY event_id
                HAVING sum(amount_msat) <> 0 OR count(*) < 2) AS e) AS unbalanced,
            (SELECT COALESCE(sum(earned_msat), 0)::bigint FROM nodes) AS earned,
            (SELECT COALESCE(-sum(amount_msat), 0)::bigint FROM ledger_entries
                WHERE account = 'owed_to_node') AS owed",
    )
    .fetch_one(pool)
    .await?;
    let n = |column: &str| row.get::<i64, _>(column);
    let tasks = n("tasks");
    for column in ["done", "answered", "accepted", "booked", "booked_tasks"] {
        ensure!(
            n(column) == tasks,
            "{column} is {}, tasks are {tasks}",
            n(column)
        );
    }
    ensure!(
        n("balance") == 0 && n("unbalanced") == 0,
        "the ledger does not sum to zero"
    );
    ensure!(
        n("earned") == n("owed"),
        "nodes' counters and the ledger disagree"
    );
    Ok(Counts {
        tasks,
        answered: n("answered"),
        booked: n("booked"),
        second_attempts: n("again"),
    })
}

/// From queued (the coordinator's clock when it made the task, before its commit) to the lease's arrival
/// at the node. Both clocks are this machine's, read in whole milliseconds.
pub(crate) async fn dispatch(pool: &PgPool, leases: &[(TaskId, u64)]) -> Result<Latencies> {
    let ids: Vec<_> = leases.iter().map(|(task, _)| task.0).collect();
    let rows = sqlx::query(
        "SELECT task_id, (extract(epoch FROM submitted_at) * 1000)::bigint AS ms
         FROM tasks WHERE task_id = ANY($1)",
    )
    .bind(&ids)
    .fetch_all(pool)
    .await?;
    let queued: HashMap<uuid::Uuid, i64> = rows
        .iter()
        .map(|r| (r.get("task_id"), r.get("ms")))
        .collect();
    Ok(leases
        .iter()
        .filter_map(|(task, at)| {
            let queued = queued.get(&task.0)?;
            Some((at.cast_signed() - queued).max(0).unsigned_abs() * 1_000)
        })
        .collect())
}
