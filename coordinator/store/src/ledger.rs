//! The ledger: append-only double entry in millisatoshi. Work books what is *owed*; nothing here is
//! ever called paid. The schema refuses a second booking, an unbalanced event and any change.

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
    let amount = i64::try_from(event.amount.0).map_err(|_| {
        StoreError::inconsistent(
            "ledger_entries",
            "amount_msat",
            event.task_id,
            "over 2^63 msat",
        )
    })?;
    let key = format!("{}:{}:{}", event.kind.as_str(), event.task_id, event.epoch);
    let id = sqlx::query_scalar!(
        "INSERT INTO ledger_events (idempotency_key, kind, task_id, epoch, node_id, factors, booked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING event_id",
        key,
        event.kind.as_str(),
        event.task_id.0,
        event.epoch.cast_signed(),
        event.node.0,
        event.factors,
        to_pg(now)
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    sqlx::query!(
        "INSERT INTO ledger_entries (event_id, line, account, node_id, amount_msat)
         VALUES ($1, 1, 'reward_expense', NULL, $2), ($1, 2, 'owed_to_node', $3, -$2::bigint)",
        id,
        amount,
        event.node.0
    )
    .execute(&mut *tx.inner)
    .await?;
    let done = sqlx::query!(
        "UPDATE nodes SET earned_msat = earned_msat + $2 WHERE node_id = $1",
        event.node.0,
        amount
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

/// What is owed to all nodes together.
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
