//! Figures for `/metrics`, cheap enough to be read every few seconds: only what is not done yet is counted,
//! through partial indexes. Never a user's text.

use owm_proto::UnixMillis;

use crate::{error::StoreError, time::from_pg, tx::Tx};

/// What waits and who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveFigures {
    /// Tasks in the queue.
    pub queued: u64,
    /// Tasks at a node.
    pub leased: u64,
    /// When the oldest task in the queue was submitted.
    pub queued_since: Option<UnixMillis>,
    /// Outbox items that are not done.
    pub outbox: u64,
    /// When the oldest of them was written.
    pub outbox_since: Option<UnixMillis>,
    /// Registered nodes by status.
    pub nodes: Vec<(String, u64)>,
}

/// Reads them.
#[tracing::instrument(name = "db.figures.live", skip_all, err)]
pub async fn figures_live(tx: &mut Tx) -> Result<LiveFigures, StoreError> {
    let tasks = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE phase = 'queued') AS "queued!",
               count(*) FILTER (WHERE phase = 'leased') AS "leased!",
               min(submitted_at) FILTER (WHERE phase = 'queued') AS since
           FROM tasks WHERE phase IN ('queued','leased')"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    let outbox = sqlx::query!(
        r#"SELECT count(*) AS "waiting!", min(created_at) AS since FROM outbox WHERE done_at IS NULL"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    let nodes = sqlx::query!(r#"SELECT status, count(*) AS "count!" FROM nodes GROUP BY status"#)
        .fetch_all(&mut *tx.inner)
        .await?;
    Ok(LiveFigures {
        queued: tasks.queued.unsigned_abs(),
        leased: tasks.leased.unsigned_abs(),
        queued_since: tasks.since.map(from_pg),
        outbox: outbox.waiting.unsigned_abs(),
        outbox_since: outbox.since.map(from_pg),
        nodes: nodes
            .into_iter()
            .map(|row| (row.status, row.count.unsigned_abs()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::{outbox::outbox_add, tx::Store};

    #[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
    async fn what_waits_is_counted_with_its_age(pool: PgPool) {
        let store = Store::from_pool(pool);
        let mut tx = store.begin("test").await.unwrap();
        assert_eq!(figures_live(&mut tx).await.unwrap(), LiveFigures::default());
        for at in [7_000, 5_000] {
            let payload = serde_json::json!({});
            outbox_add(&mut tx, "a", &payload, UnixMillis(at))
                .await
                .unwrap();
        }
        let figures = figures_live(&mut tx).await.unwrap();
        assert_eq!(
            (figures.outbox, figures.outbox_since),
            (2, Some(UnixMillis(5_000)))
        );
        let load = store.load();
        assert_eq!((load.transactions, load.waiting), (1, 0));
        assert!(load.in_use >= 1 && load.max >= load.in_use, "{load:?}");
    }
}
