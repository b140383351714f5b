//! What `owm-coordinator doctor` wants to know of the database: read over one connection of its own, so
//! that a refusal is told as it is (a pool would try again and only say that time ran out).
//! Must stay true: nothing is written, and nothing of a user's is given out.

use std::{collections::BTreeMap, time::Duration};

use owm_proto::Sha256;
use sqlx::{Connection as _, PgConnection, migrate::Migrate as _, postgres::PgConnectOptions};

use crate::{error::StoreError, request::sealed_row, vault::Vault};

/// Time for the connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Where the database is, without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host or socket folder.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// As whom.
    pub user: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none.
    #[error("the database URL can't be used: {0}")]
    Url(#[source] sqlx::Error),
    /// Nobody answers there.
    #[error("nobody answers: {0}")]
    Silent(#[source] sqlx::Error),
    /// No answer in time.
    #[error("no answer within {} s", CONNECT_TIME.as_secs())]
    Late,
    /// Wrong user or password.
    #[error("Postgres lets this user not in: {0}")]
    Denied(#[source] sqlx::Error),
    /// There is no such database.
    #[error("there is no such database: {0}")]
    NoDatabase(#[source] sqlx::Error),
    /// Another refusal.
    #[error("Postgres refuses: {0}")]
    Refused(#[source] sqlx::Error),
}

impl From<sqlx::Error> for ConnectError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(|inner| inner.code().map(std::borrow::Cow::into_owned));
        match (code.as_deref(), &error) {
            (Some("28P01" | "28000"), _) => Self::Denied(error),
            (Some("3D000"), _) => Self::NoDatabase(error),
            (None, sqlx::Error::Io(_) | sqlx::Error::Tls(_)) => Self::Silent(error),
            _ => Self::Refused(error),
        }
    }
}

/// How the server is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`: 150004 for 15.4.
    pub version_num: i32,
    /// Whether commits are flushed.
    pub fsync: bool,
    /// Whether torn pages are repaired.
    pub full_page_writes: bool,
    /// `on`, `off`, `local`, …
    pub synchronous_commit: String,
    /// Connections at most, those kept for superusers taken off.
    pub connections_max: i32,
    /// Connections now.
    pub connections: i64,
    /// Its clock, Unix milliseconds.
    pub now_ms: u64,
    /// Where its files are; `None`: it does not tell this user.
    pub data_directory: Option<String>,
    /// Whether it is on this machine.
    pub is_local: bool,
}

/// Applied migrations against those of this program, by version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrations {
    /// How many are applied as they should be.
    pub applied: usize,
    /// Not applied yet.
    pub missing: Vec<i64>,
    /// Applied, but this program does not know them.
    pub unknown: Vec<i64>,
    /// Applied with another text.
    pub changed: Vec<i64>,
    /// Begun and not ended.
    pub dirty: Option<i64>,
}

/// An open connection.
#[derive(Debug)]
pub struct Database(PgConnection);

/// Where the URL points to.
pub fn place(url: &str) -> Result<Place, ConnectError> {
    let options: PgConnectOptions = url.parse().map_err(ConnectError::Url)?;
    let socket = options.get_socket().map(|path| path.display().to_string());
    Ok(Place {
        host: socket.unwrap_or_else(|| options.get_host().to_owned()),
        port: options.get_port(),
        database: options
            .get_database()
            .unwrap_or(options.get_username())
            .to_owned(),
        user: options.get_username().to_owned(),
    })
}

impl Database {
    /// Connects once.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        let options: PgConnectOptions = url.parse().map_err(ConnectError::Url)?;
        let connecting = PgConnection::connect_with(&options);
        match tokio::time::timeout(CONNECT_TIME, connecting).await {
            Ok(connection) => Ok(Self(connection?)),
            Err(_) => Err(ConnectError::Late),
        }
    }

    /// How the server is set.
    pub async fn server(&mut self) -> Result<Server, StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_setting('server_version_num')::int AS "version_num!",
                   current_setting('fsync') = 'on' AS "fsync!",
                   current_setting('full_page_writes') = 'on' AS "full_page_writes!",
                   current_setting('synchronous_commit') AS "synchronous_commit!",
                   current_setting('max_connections')::int
                       - current_setting('superuser_reserved_connections')::int AS "connections_max!",
                   (SELECT count(*) FROM pg_stat_activity
                       WHERE backend_type = 'client backend') AS "connections!",
                   (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now_ms!",
                   (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory,
                   COALESCE(host(inet_server_addr()) IN ('127.0.0.1', '::1'), true) AS "is_local!""#
        )
        .fetch_one(&mut self.0)
        .await?;
        Ok(Server {
            version_num: row.version_num,
            fsync: row.fsync,
            full_page_writes: row.full_page_writes,
            synchronous_commit: row.synchronous_commit,
            connections_max: row.connections_max,
            connections: row.connections,
            now_ms: row.now_ms.unsigned_abs(),
            data_directory: row.data_directory,
            is_local: row.is_local,
        })
    }

    /// Which migrations are applied.
    pub async fn migrations(&mut self) -> Result<Migrations, StoreError> {
        let migrator = &owm_migrations::MIGRATOR;
        let known: BTreeMap<i64, &[u8]> = migrator
            .iter()
            .filter(|m| !m.migration_type.is_down_migration())
            .map(|m| (m.version, m.checksum.as_ref()))
            .collect();
        let table = migrator.table_name.as_ref();
        let is_there = sqlx::query_scalar!(
            r#"SELECT to_regclass($1) IS NOT NULL AS "is_there!""#,
            table
        )
        .fetch_one(&mut self.0)
        .await?;
        if !is_there {
            return Ok(compare(&known, &BTreeMap::new(), None));
        }
        let dirty = self.0.dirty_version(table).await?;
        let rows = self.0.list_applied_migrations(table).await?;
        let applied: BTreeMap<i64, Vec<u8>> = rows
            .into_iter()
            .map(|row| (row.version, row.checksum.into_owned()))
            .collect();
        Ok(compare(&known, &applied, dirty))
    }

    /// Whether the data key opens what is stored; `None`: nothing is stored that it could open.
    pub async fn opens(&mut self, vault: &Vault) -> Result<Option<bool>, StoreError> {
        let row = sqlx::query!(
            "SELECT request_key, id_ciphertext, receipt_ciphertext FROM requests
             WHERE id_ciphertext IS NOT NULL OR receipt_ciphertext IS NOT NULL LIMIT 1"
        )
        .fetch_optional(&mut self.0)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let Ok(key) = row.request_key.try_into().map(Sha256) else {
            return Ok(Some(false));
        };
        let (part, sealed) = match (row.id_ciphertext, row.receipt_ciphertext) {
            (Some(sealed), _) => ("id", sealed),
            (None, Some(sealed)) => ("receipt", sealed),
            (None, None) => return Ok(None),
        };
        let opened = vault.open("requests", &sealed_row(&key, part), &sealed);
        Ok(Some(opened.is_ok()))
    }
}

fn compare(
    known: &BTreeMap<i64, &[u8]>,
    applied: &BTreeMap<i64, Vec<u8>>,
    dirty: Option<i64>,
) -> Migrations {
    let mut found = Migrations {
        dirty,
        ..Migrations::default()
    };
    for (version, checksum) in known {
        match applied.get(version) {
            None => found.missing.push(*version),
            Some(other) if other != checksum => found.changed.push(*version),
            Some(_) => found.applied += 1,
        }
    }
    let unknown = applied
        .keys()
        .filter(|version| !known.contains_key(version));
    found.unknown = unknown.copied().collect();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_applied_missing_unknown_or_changed() {
        let known = BTreeMap::from([(1, &b"a"[..]), (2, b"b"), (3, b"c")]);
        let applied = BTreeMap::from([(1, b"a".to_vec()), (2, b"x".to_vec()), (9, b"z".to_vec())]);
        let expected = Migrations {
            applied: 1,
            missing: vec![3],
            unknown: vec![9],
            changed: vec![2],
            dirty: None,
        };
        assert_eq!(compare(&known, &applied, None), expected);
    }

    #[test]
    fn a_place_is_told_without_the_password() {
        let place = place("postgres://owm:hunter2@db.example:5433/net").unwrap();
        let shown = format!("{place:?}");
        assert!(
            shown.contains("db.example") && !shown.contains("hunter2"),
            "{shown}"
        );
        assert_eq!((place.port, &*place.database), (5433, "net"));
        assert!(super::place("what").is_err());
    }
}
