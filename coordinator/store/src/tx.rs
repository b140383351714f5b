//! The pool and named transactions. Called by the server's edges and reconcilers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sqlx::{
    PgPool,
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

/// One transaction. Dropped without [`Tx::commit`], it never happened.
#[derive(Debug)]
pub struct Tx {
    pub(crate) inner: sqlx::Transaction<'static, sqlx::Postgres>,
    name: &'static str,
}

impl Store {
    /// Connects lazily: an absent database is an error of the first transaction, not of this.
    pub fn connect(url: &str, connections_max: u32) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::from)?;
        let options = options.options([("statement_timeout", STATEMENT_TIMEOUT)]);
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
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
            inner: self.pool.begin().await?,
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
        Ok(self.inner.commit().await?)
    }
}
