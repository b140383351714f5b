//! The ledger: append-only double entry in millisatoshi. Work books what is *owed*; nothing here is
//! ever called paid. The schema refuses a second booking, an unbalanced event and any change.

use std::collections::HashMap;

use owm_proto::{Msat, NodeId, TaskId, UnixMillis};

use crate::{
    error::{StoreError, one_row},
    time::to_pg,
    tx::Tx,
};

/// Why something is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerKind {
    /// The accepted result of a task.
    Reward,
    /// An on-time result that lost the race.
    LateShare,
}

impl LedgerKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::LateShare => "late_share",
        }
    }
}

/// Something owed to a node for an attempt.
#[derive(Clone, Debug)]
pub struct LedgerEvent {
    /// Why.
    pub kind: LedgerKind,
    /// For which task.
    pub task_id: TaskId,
    /// For which attempt.
    pub epoch: u64,
    /// To whom.
    pub node: NodeId,
    /// How much; positive.
    pub amount: Msat,
    /// The formula's factors in thousandths, so that the amount explains itself.
    pub factors: serde_json::Value,
}

/// Books an event: reward expense against what is owed to the node.
#[tracing::instrument(name = "db.ledger.book", skip_all, err)]
pub async fn ledger_book(
    tx: &mut Tx,
    event: &LedgerEvent,
    now: UnixMillis,
) -> Result<(), StoreError> {
    ledger_book_all(tx, &[event], now).await?;
    let done = sqlx::query!(
        "UPDATE nodes SET earned_msat = earned_msat + $2 WHERE node_id = $1",
        event.node.0,
        event.amount.0.cast_signed()
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "nodes", event.node)
}

/// What was booked for one attempt; zero if nothing was.
#[tracing::instrument(name = "db.ledger.booked_for", skip_all, err)]
pub async fn ledger_booked_for(tx: &mut Tx, task: TaskId, epoch: u64) -> Result<Msat, StoreError> {
    let booked = sqlx::query_scalar!(
        r#"select coalesce(sum(-l.amount_msat), 0)::bigint as "msat!"
           from ledger_events e join ledger_entries l using (event_id)
           where e.task_id = $1 and e.epoch = $2 and e.kind in ('reward', 'late_share')
             and l.node_id is not null"#,
        task.0,
        epoch as i64,
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(Msat(booked.unsigned_abs()))
}

/// Books events, two lines each; the nodes' own counters are the caller's business.
pub(crate) async fn ledger_book_all(
    tx: &mut Tx,
    events: &[&LedgerEvent],
    now: UnixMillis,
) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    macro_rules! column {
        (|$event:ident| $value:expr) => {
            events.iter().map(|$event| $value).collect::<Vec<_>>()
        };
    }
    let amounts = events.iter().map(|event| {
        i64::try_from(event.amount.0).map_err(|_| {
            let (row, why) = (event.task_id, "over 2^63 msat");
            StoreError::inconsistent("ledger_entries", "amount_msat", row, why)
        })
    });
    let amounts: Vec<i64> = amounts.collect::<Result<_, _>>()?;
    let key = |e: &LedgerEvent| format!("{}:{}:{}", e.kind.as_str(), e.task_id, e.epoch);
    let keys = column!(|event| key(event));
    let booked = sqlx::query!(
        "INSERT INTO ledger_events (idempotency_key, kind, task_id, epoch, node_id, factors, booked_at)
         SELECT e.*, $7 FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::uuid[],
             $6::jsonb[]) AS e
         RETURNING event_id, idempotency_key",
        &keys,
        &column!(|event| event.kind.as_str().to_owned()),
        &column!(|event| event.task_id.0),
        &column!(|event| event.epoch.cast_signed()),
        &column!(|event| event.node.0),
        &column!(|event| event.factors.clone()),
        to_pg(now)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    // Not by a join over the events: Postgres would read all of history for it while its statistics are
    // those of a young table.
    let ids: HashMap<String, i64> = booked
        .into_iter()
        .map(|row| (row.idempotency_key, row.event_id))
        .collect();
    let ids: Vec<i64> = keys
        .iter()
        .filter_map(|key| ids.get(key).copied())
        .collect();
    let done = sqlx::query!(
        "INSERT INTO ledger_entries (event_id, line, account, node_id, amount_msat)
         SELECT e.event_id, l.line, l.account, CASE WHEN l.line = 2 THEN e.node_id END,
             CASE WHEN l.line = 1 THEN e.amount ELSE -e.amount END
         FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS e(event_id, node_id, amount)
             CROSS JOIN (VALUES (1::smallint, 'reward_expense'), (2::smallint, 'owed_to_node'))
                 AS l(line, account)",
        &ids,
        &column!(|event| event.node.0),
        &amounts
    )
    .execute(&mut *tx.inner)
    .await?;
    if done.rows_affected() == 2 * events.len() as u64 {
        return Ok(());
    }
    let reason = format!("{} lines of {} events", done.rows_affected(), events.len());
    Err(StoreError::inconsistent(
        "ledger_entries",
        "line",
        "batch",
        reason,
    ))
}

/// What is owed to all nodes together, by a walk over the ledger: the truth, and slow with a long history.
/// What is asked often takes `stats::stats_owed`.
#[tracing::instrument(name = "db.ledger.total_owed", skip_all, err)]
pub async fn ledger_total_owed(tx: &mut Tx) -> Result<Msat, StoreError> {
    let sum = sqlx::query_scalar!(
        r#"SELECT COALESCE(-sum(amount_msat), 0)::bigint AS "sum!" FROM ledger_entries
           WHERE account = 'owed_to_node'"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(Msat(u64::try_from(sum).unwrap_or(0)))
}
