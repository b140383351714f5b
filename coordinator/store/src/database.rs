//! The database as a whole: which server, which schema, whether it is empty. `backup`, `restore` and
//! `doctor` ask; nothing else should.

use sqlx::migrate::{Migrate as _, MigrateError};

use crate::{error::StoreError, tx::Store};

/// sqlx's own table of applied migrations.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";

/// The newest migration that this program knows.
pub fn schema_known() -> i64 {
    let versions = owm_migrations::MIGRATOR.iter().map(|step| step.version);
    versions.max().unwrap_or_default()
}

impl Store {
    /// The server's major version: 15.
    #[tracing::instrument(name = "db.server_major", skip_all, err)]
    pub async fn server_major(&self) -> Result<u32, StoreError> {
        let mut tx = self.begin("database.server_major").await?;
        let number = sqlx::query_scalar!(
            r#"SELECT current_setting('server_version_num')::integer / 10000 AS "major!""#
        )
        .fetch_one(&mut *tx.inner)
        .await?;
        Ok(number.unsigned_abs())
    }

    /// Tables, views, sequences and functions that are neither Postgres's own nor an extension's.
    #[tracing::instrument(name = "db.objects", skip_all, err)]
    pub async fn objects(&self) -> Result<i64, StoreError> {
        let mut tx = self.begin("database.objects").await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (
                   SELECT oid, relnamespace AS namespace FROM pg_class
                   UNION ALL
                   SELECT oid, pronamespace FROM pg_proc
               ) AS object
               JOIN pg_namespace ON pg_namespace.oid = object.namespace
               WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                 AND NOT EXISTS (
                     SELECT FROM pg_depend WHERE pg_depend.objid = object.oid AND deptype = 'e')"#
        )
        .fetch_one(&mut *tx.inner)
        .await?;
        Ok(count)
    }

    /// The newest migration applied; 0 before the first.
    #[tracing::instrument(name = "db.schema", skip_all, err)]
    pub async fn schema(&self) -> Result<i64, StoreError> {
        let mut tx = self.begin("database.schema").await?;
        match tx.inner.list_applied_migrations(MIGRATIONS_TABLE).await {
            Ok(applied) => {
                let versions = applied.iter().map(|step| step.version);
                Ok(versions.max().unwrap_or_default())
            }
            // No such table: nothing was ever applied.
            Err(MigrateError::Execute(sqlx::Error::Database(error)))
                if error.code().as_deref() == Some("42P01") =>
            {
                Ok(0)
            }
            Err(MigrateError::Execute(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        }
    }
}
