//! Coordinator processes: their signs of life, and what an outage does to leases (spec §9: downtime
//! extends all leases by the outage).

use std::time::Duration;

use owm_proto::{PublicKey, UnixMillis};

use crate::{
    error::StoreError,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A sign of life that is further ahead of now is no sign: a clock was wrong when it was written.
const AHEAD_MAX: Duration = Duration::from_mins(2);

/// Says that this process lives. The time may be before the last one: a clock that was wrong is put right.
#[tracing::instrument(name = "db.instance.mark_alive", skip_all, err)]
pub async fn instance_mark_alive(
    tx: &mut Tx,
    instance: &PublicKey,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO coordinator_instances (instance_key, started_at, last_alive_at) VALUES ($1, $2, $2)
         ON CONFLICT (instance_key) DO UPDATE SET last_alive_at = EXCLUDED.last_alive_at",
        instance.to_string(),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// When any coordinator was last known to live; a time that is ahead of now is now, or none if it cannot
/// be right.
#[tracing::instrument(name = "db.instance.last_alive", skip_all, err)]
pub async fn instance_last_alive(
    tx: &mut Tx,
    now: UnixMillis,
) -> Result<Option<UnixMillis>, StoreError> {
    let last = sqlx::query_scalar!(
        "SELECT max(last_alive_at) FROM coordinator_instances WHERE last_alive_at <= $1",
        to_pg(now.after(AHEAD_MAX))
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(last.map(|at| from_pg(at).min(now)))
}

/// Extends all live leases and deadlines by an outage that began at `from`; once per outage. Returns
/// how many leases, or `None` if that outage is dealt with already.
#[tracing::instrument(name = "db.instance.extend_leases", skip_all, err)]
pub async fn leases_extend(
    tx: &mut Tx,
    from: UnixMillis,
    to: UnixMillis,
) -> Result<Option<u64>, StoreError> {
    let outage: Duration = to.since(from);
    let seconds = outage.as_secs_f64();
    let recorded = sqlx::query!(
        "INSERT INTO coordinator_outages (from_at, to_at, leases_extended)
         VALUES ($1, $2, (SELECT count(*) FROM tasks WHERE phase = 'leased'))
         ON CONFLICT (from_at) DO NOTHING",
        to_pg(from),
        to_pg(to)
    )
    .execute(&mut *tx.inner)
    .await?;
    if recorded.rows_affected() == 0 {
        return Ok(None);
    }
    // Tasks before attempts, as every verdict locks them.
    let done = sqlx::query!(
        "UPDATE tasks SET deadline_at = deadline_at + make_interval(secs => $1),
             lease_expires_at = lease_expires_at + make_interval(secs => $1)
         WHERE phase IN ('queued', 'leased') AND deadline_at >= $2",
        seconds,
        to_pg(from)
    )
    .execute(&mut *tx.inner)
    .await?;
    sqlx::query!(
        "UPDATE task_attempts a SET expires_at = a.expires_at + make_interval(secs => $1)
         FROM tasks t WHERE t.phase = 'leased' AND a.task_id = t.task_id AND a.epoch = t.lease_epoch",
        seconds
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(Some(done.rows_affected()))
}

#[cfg(test)]
mod tests {
    use owm_proto::NodeKey;
    use sqlx::PgPool;

    use super::*;
    use crate::tx::Store;

    const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

    #[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
    async fn a_sign_of_life_of_a_wrong_clock_hides_no_outage(pool: PgPool) {
        let store = Store::from_pool(pool);
        let mut tx = store.begin("test").await.unwrap();
        let [ours, other] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]).public());
        let hour = Duration::from_hours(1);
        for instance in [&ours, &other] {
            instance_mark_alive(&mut tx, instance, NOW.after(hour))
                .await
                .unwrap();
        }
        // The clock is set back; the other coordinator is gone for good.
        assert_eq!(instance_last_alive(&mut tx, NOW).await.unwrap(), None);
        instance_mark_alive(&mut tx, &ours, NOW).await.unwrap();
        let later = NOW.after(Duration::from_mins(5));
        let last = instance_last_alive(&mut tx, later).await.unwrap();
        assert_eq!(last, Some(NOW), "five minutes of silence are seen");
        // Two clocks that differ a little are no outage and no surprise.
        let before = NOW.before(Duration::from_secs(30));
        let last = instance_last_alive(&mut tx, before).await.unwrap();
        assert_eq!(last, Some(before));
    }
}
