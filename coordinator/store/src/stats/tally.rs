//! Figures over the whole history that stay cheap however long it is: what can no longer change is counted
//! once and remembered. Called by the server for its page and its statistics, at most once a second.
//!
//! Must stay true: a task is counted exactly once; what a look reads is bounded by [`STEP_TASKS`], by what
//! is being worked on, and by what was asked within [`SETTLED_AFTER`].

use std::time::Duration;

use owm_proto::{Msat, UnixMillis};

use super::{NetworkCounts, nodes_counted};
use crate::{
    error::StoreError,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// Whoever asks now is not written with a time earlier than this before now: transactions are shorter, and
/// the clocks of coordinators do not differ as much.
const SETTLED_AFTER: Duration = Duration::from_mins(2);

/// Tasks that one look adds to what is remembered: some hundred milliseconds.
const STEP_TASKS: i64 = 100_000;

/// After every task: the last time that Postgres is given.
const FOR_EVER: UnixMillis = UnixMillis(u64::MAX);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ended {
    done: u64,
    failed: u64,
    output_tokens: u64,
}

impl Ended {
    fn and(self, more: Self) -> Self {
        Self {
            done: self.done + more.done,
            failed: self.failed + more.failed,
            output_tokens: self.output_tokens + more.output_tokens,
        }
    }
}

/// What is remembered between looks: the sums over all tasks submitted before a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    until: UnixMillis,
    ended: Ended,
}

/// Counts everything; what "ever" counts comes from `tally`, which goes on by one step.
#[tracing::instrument(name = "db.stats.tally", skip_all, err)]
pub async fn stats_tally(
    tx: &mut Tx,
    tally: &mut Tally,
    now: UnixMillis,
) -> Result<NetworkCounts, StoreError> {
    tally_by(tx, tally, now, STEP_TASKS).await
}

async fn tally_by(
    tx: &mut Tx,
    tally: &mut Tally,
    now: UnixMillis,
    step: i64,
) -> Result<NetworkCounts, StoreError> {
    let live = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE phase = 'queued') AS "queued!",
               count(*) FILTER (WHERE phase = 'leased') AS "leased!", min(submitted_at) AS oldest
           FROM tasks WHERE phase IN ('queued','leased')"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    // Nothing before it changes any more: what has ended stays so, and nothing is submitted there.
    let settled = now.before(SETTLED_AFTER);
    let settled = live.oldest.map_or(settled, |at| settled.min(from_pg(at)));
    if settled < tally.until {
        // A clock was set back, or another coordinator's is wrong.
        *tally = Tally::default();
    }
    let next = sqlx::query_scalar!(
        "SELECT submitted_at FROM tasks WHERE submitted_at >= $1 AND submitted_at < $2
         ORDER BY submitted_at OFFSET $3 LIMIT 1",
        to_pg(tally.until),
        to_pg(settled),
        step
    )
    .fetch_optional(&mut *tx.inner)
    .await?
    .flatten()
    .map(from_pg)
    // More than a step at one time: then all is in this step.
    .filter(|at| *at > tally.until);
    let until = next.unwrap_or(settled);
    let ended = ended_between(tx, tally.until, until).await?;
    *tally = Tally {
        until,
        ended: tally.ended.and(ended),
    };
    let ended = tally.ended.and(ended_between(tx, settled, FOR_EVER).await?);
    Ok(NetworkCounts {
        tasks_queued: live.queued.unsigned_abs(),
        tasks_running: live.leased.unsigned_abs(),
        tasks_done: ended.done,
        tasks_failed: ended.failed,
        output_tokens: ended.output_tokens,
        counting: next.is_some(),
        ..nodes_counted(tx).await?
    })
}

/// Sums over the tasks submitted from `from` on, and before `until`.
async fn ended_between(
    tx: &mut Tx,
    from: UnixMillis,
    until: UnixMillis,
) -> Result<Ended, StoreError> {
    let t = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE phase = 'done') AS "done!",
               count(*) FILTER (WHERE phase = 'failed') AS "failed!",
               COALESCE(sum(output_tokens), 0)::bigint AS "tokens!"
           FROM tasks WHERE submitted_at >= $1 AND submitted_at < $2"#,
        to_pg(from),
        to_pg(until)
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(Ended {
        done: t.done.unsigned_abs(),
        failed: t.failed.unsigned_abs(),
        output_tokens: t.tokens.unsigned_abs(),
    })
}

/// What is owed to all nodes together, from each node's own sum: every booking adds to it in its own
/// transaction, so that the ledger need not be walked.
#[tracing::instrument(name = "db.stats.owed", skip_all, err)]
pub async fn stats_owed(tx: &mut Tx) -> Result<Msat, StoreError> {
    let sum =
        sqlx::query_scalar!(r#"SELECT COALESCE(sum(earned_msat), 0)::bigint AS "sum!" FROM nodes"#)
            .fetch_one(&mut *tx.inner)
            .await?;
    Ok(Msat(u64::try_from(sum).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
