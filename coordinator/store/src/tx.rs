//! The pool and named transactions. Called by the server's edges and reconcilers.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    error::StoreError,
    load::{PoolLoad, Waits},
};

/// Waiting longer for a connection means that Postgres is down or overloaded.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// No statement of ours honestly takes this long; a stuck one must not hold its locks.
const STATEMENT_TIMEOUT: &str = "15s";

/// The coordinator's database.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    waits: Arc<Waits>,
}

/// A connection that was used this recently is taken to live still; an older one is asked first, which
/// is a round trip.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// One transaction. Dropped without [`Tx::commit`], it never happened.
#[derive(Debug)]
pub struct Tx {
    pub(crate) inner: Held,
    name: &'static str,
}

/// The connection that a [`Tx`] holds.
#[derive(Debug)]
pub(crate) enum Held {
    /// Inside `BEGIN`.
    Transaction(sqlx::Transaction<'static, Postgres>),
    /// Each statement is its own transaction.
    Plain(PoolConnection<Postgres>),
}

impl Deref for Held {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        match self {
            Self::Transaction(tx) => tx,
            Self::Plain(connection) => connection,
        }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Transaction(tx) => tx,
            Self::Plain(connection) => connection,
        }
    }
}

impl Store {
    /// Connects lazily: an absent database is an error of the first transaction, not of this.
    pub fn connect(url: &str, connections_max: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::from)?;
        let options = options.options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            // Our statements go by an index wherever there is one. A plan made while a table was young,
            // which a connection keeps, would else read the whole table long after it has grown.
            ("enable_seqscan", "off"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > TRUSTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Ok(Self::from_pool(pool))
    }

    /// Around a pool that exists already, such as a test's.
    pub fn from_pool(pool: PgPool) -> Self {
        Self {
            pool,
            waits: Arc::default(),
        }
    }

    /// How busy the connections are.
    pub fn load(&self) -> PoolLoad {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        PoolLoad {
            in_use: self.pool.size().saturating_sub(idle),
            idle,
            max: self.pool.options().get_max_connections(),
            waiting: self.waits.waiting.load(Ordering::Relaxed),
            transactions: self.waits.transactions.load(Ordering::Relaxed),
            waited: self.waits.waited(),
        }
    }

    /// Applies what is missing of the migrations.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(owm_migrations::MIGRATOR.run(&self.pool).await?)
    }

    /// Opens a transaction; `name` is its label in traces.
    pub async fn begin(&self, name: &'static str) -> Result<Tx, StoreError> {
        let _wait = self.waits.begin();
        Ok(Tx {
            inner: Held::Transaction(self.pool.begin().await?),
            name,
        })
    }

    /// As [`Store::begin`], for what is only looked at: Postgres breaks off each statement after `limit`, so
    /// that nothing goes on when nobody waits for it any more.
    pub async fn begin_brief(&self, name: &'static str, limit: Duration) -> Result<Tx, StoreError> {
        let mut tx = self.begin(name).await?;
        sqlx::query!(
            "SELECT set_config('statement_timeout', $1, TRUE)",
            limit.as_millis().to_string()
        )
        .fetch_one(&mut *tx.inner)
        .await?;
        Ok(tx)
    }

    /// For a statement that stands alone: it is its own transaction, which spares the round trips of
    /// `BEGIN` and `COMMIT`. What several statements must see or do together needs [`Store::begin`].
    pub async fn single(&self, name: &'static str) -> Result<Tx, StoreError> {
        Ok(Tx {
            inner: Held::Plain(self.pool.acquire().await?),
            name,
        })
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query!("SELECT 1 AS one")
            .fetch_one(&self.pool)
            .await?;
        Ok(())
    }

    /// Closes all connections, waiting for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Tx {
    /// Makes it so.
    pub async fn commit(self) -> Result<(), StoreError> {
        tracing::trace!(tx.name = self.name, "commit");
        match self.inner {
            Held::Transaction(tx) => Ok(tx.commit().await?),
            Held::Plain(_) => Ok(()),
        }
    }
}
