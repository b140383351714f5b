//! The task log: one SQLite file with what this node did, what the coordinator said about it, and
//! results that are not acknowledged yet. Written from blocking threads and through [`TaskLog::run`].
//!
//! Must stay true: no prompt is ever in here; an answer's text is in here only inside an
//! unacknowledged result, which is deleted (and overwritten: `secure_delete`) once acknowledged.

mod allowance;
mod migrations;
mod query;
mod recent;
mod snapshot;
mod updates;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use owm_proto::{Msat, Sha256, TaskId, UnixMillis, time::next_sequence};
pub use query::{Earnings, Entry};
pub use recent::FinishedTask;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Longest reason kept, in characters.
const REASON_CHARS_MAX: usize = 200;

/// A lease: the task and the epoch of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// Which task.
    pub task: TaskId,
    /// Which attempt.
    pub epoch: u64,
}

impl std::fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.task, self.epoch)
    }
}

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub enum TaskLogError {
    /// SQLite says no.
    #[error("the task log cannot be used; check the disk, and that only one owm-node uses it")]
    Sqlite(#[from] rusqlite::Error),
    /// Written by a newer program.
    #[error("the task log has schema {found}, this owm-node knows up to {known}: update owm-node")]
    Newer {
        /// In the file.
        found: u32,
        /// In this program.
        known: u32,
    },
    /// The thread that wrote was cancelled.
    #[error("the process stops, the task log was not written")]
    Stopped,
}

/// What is known when a lease is accepted.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Which lease.
    pub key: LeaseKey,
    /// `inference`.
    pub task_type: String,
    /// `owm-v0.1.0`.
    pub model_version: String,
    /// SHA-256 of the opened payload.
    pub input_sha256: Sha256,
    /// When.
    pub at: UnixMillis,
}

/// What is known when a task is done.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which lease.
    pub key: LeaseKey,
    /// SHA-256 of the answer's text.
    pub output_sha256: Sha256,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// Milliseconds of computing.
    pub exec_ms: u64,
    /// When.
    pub at: UnixMillis,
    /// The encoded `TaskResult`, kept until acknowledged.
    pub result: Vec<u8>,
}

/// How an attempt ended that gave no result, or what the coordinator said of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Booking {
    /// Accepted, late or already booked: this much is owed (may be 0).
    Owed {
        /// `accepted`, `late`, `duplicate`.
        verdict: &'static str,
        /// How much.
        reward: Msat,
    },
    /// Nothing comes of it.
    Lost {
        /// `rejected`, `handed_back`, `cancelled`, `interrupted`.
        verdict: &'static str,
        /// Why.
        reason: String,
    },
}

impl Booking {
    /// The coordinator has taken the result; a late one is in no round.
    pub fn is_wanted(&self) -> bool {
        match self {
            Self::Owed { verdict, .. } => *verdict != "late",
            Self::Lost { .. } => false,
        }
    }
}

/// The open log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskLog(Arc<Mutex<Connection>>);

/// The newest schema that this program knows.
pub(crate) fn schema_known() -> u32 {
    migrations::known()
}

impl TaskLog {
    /// Opens or makes the file and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, TaskLogError> {
        Self::prepare(Connection::open(path)?)
    }

    /// A log that nobody keeps.
    pub fn in_memory() -> Result<Self, TaskLogError> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(mut connection: Connection) -> Result<Self, TaskLogError> {
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        use_wal(&connection)?;
        // FULL: a result is on the disk before it is sent.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", "ON")?;
        migrations::migrate(&mut connection)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on a blocking thread.
    pub async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Self) -> Result<T, TaskLogError> + Send + 'static,
    ) -> Result<T, TaskLogError> {
        let log = self.clone();
        let done = tokio::task::spawn_blocking(move || f(&log)).await;
        done.map_err(|_| TaskLogError::Stopped)?
    }

    /// What a former process left half done gives nothing any more.
    pub fn close_interrupted(&self, at: UnixMillis) -> Result<usize, TaskLogError> {
        Ok(self.lock().execute(
            "UPDATE task SET state = 'lost', verdict = 'interrupted', finished_at_ms = ?1 \
             WHERE finished_at_ms IS NULL",
            params![at.0],
        )?)
    }

    /// A lease has been accepted.
    pub fn accepted(&self, lease: &Accepted) -> Result<(), TaskLogError> {
        self.lock().execute(
            "INSERT INTO task (task_id, epoch, task_type, model_version, input_sha256, \
             started_at_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![
                lease.key.task.to_string(),
                lease.key.epoch,
                lease.task_type,
                lease.model_version,
                lease.input_sha256.to_string(),
                lease.at.0
            ],
        )?;
        Ok(())
    }

    /// A task is done and its result waits to be handed in: one transaction.
    pub fn finished(&self, done: &Finished) -> Result<(), TaskLogError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let task = done.key.task.to_string();
        transaction.execute(
            "UPDATE task SET output_sha256 = ?3, prompt_tokens = ?4, output_tokens = ?5, \
             exec_ms = ?6, finished_at_ms = ?7 WHERE task_id = ?1 AND epoch = ?2",
            params![
                task,
                done.key.epoch,
                done.output_sha256.to_string(),
                done.prompt_tokens,
                done.output_tokens,
                done.exec_ms,
                done.at.0
            ],
        )?;
        transaction.execute(
            "INSERT OR REPLACE INTO unacked (task_id, epoch, result, finished_at_ms) \
             VALUES (?1, ?2, ?3, ?4)",
            params![task, done.key.epoch, done.result, done.at.0],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// What came of an attempt; its result, if any, is deleted. A booking stands: later ones for the
    /// same lease change nothing, but that a report's reward may come later. Returns whether this one counted.
    pub fn booked(
        &self,
        key: LeaseKey,
        booking: &Booking,
        at: UnixMillis,
    ) -> Result<bool, TaskLogError> {
        let (state, verdict, reward, reason) = match booking {
            Booking::Owed { verdict, reward } => ("owed", verdict, reward.0, None),
            Booking::Lost { verdict, reason } => {
                let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
                ("lost", verdict, 0, Some(reason))
            }
        };
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let task = key.task.to_string();
        let counted = transaction.execute(
            "UPDATE task SET state = ?3, verdict = ?4, reward_msat = ?5, reason = ?6, \
             finished_at_ms = coalesce(finished_at_ms, ?7) \
             WHERE task_id = ?1 AND epoch = ?2 AND state IS NULL",
            params![task, key.epoch, state, verdict, reward, reason, at.0],
        )?;
        // What a report earns is known only when all are in: told later, and as often as need be.
        transaction.execute(
            "UPDATE task SET reward_msat = ?3 \
             WHERE task_id = ?1 AND epoch = ?2 AND state = 'owed' AND ?4 = 'owed' AND reward_msat < ?3",
            params![task, key.epoch, reward, state],
        )?;
        transaction.execute(
            "DELETE FROM unacked WHERE task_id = ?1 AND epoch = ?2",
            params![task, key.epoch],
        )?;
        transaction.commit()?;
        // The write-ahead log would keep the deleted text until its next checkpoint.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(counted > 0)
    }

    /// Results that wait to be acknowledged, oldest first.
    pub fn unacked(&self) -> Result<Vec<LeaseKey>, TaskLogError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT task_id, epoch FROM unacked ORDER BY finished_at_ms")?;
        let rows = statement.query_map([], |row| query::lease_key(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One such result's bytes.
    pub fn unacked_result(&self, key: LeaseKey) -> Result<Option<Vec<u8>>, TaskLogError> {
        let found = self.lock().query_row(
            "SELECT result FROM unacked WHERE task_id = ?1 AND epoch = ?2",
            params![key.task.to_string(), key.epoch],
            |row| row.get(0),
        );
        Ok(found.optional()?)
    }

    /// A remembered number (sequences).
    pub fn number(&self, name: &str) -> Result<Option<u64>, TaskLogError> {
        let found = self.lock().query_row(
            "SELECT value FROM number WHERE name = ?1",
            params![name],
            |row| row.get(0),
        );
        Ok(found.optional()?)
    }

    /// The next sequence of a purpose, stored before it is told and never told twice, whoever asks at the
    /// same time.
    pub fn take_sequence(&self, name: &str, issued_at: UnixMillis) -> Result<u64, TaskLogError> {
        let connection = self.lock();
        let query = "SELECT value FROM number WHERE name = ?1";
        let last = connection.query_row(query, params![name], |row| row.get(0));
        let sequence = next_sequence(last.optional()?, issued_at);
        connection.execute(
            "INSERT INTO number (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![name, sequence],
        )?;
        Ok(sequence)
    }

    /// Remembers a number; it never falls.
    pub fn raise_number(&self, name: &str, value: u64) -> Result<(), TaskLogError> {
        self.lock().execute(
            "INSERT INTO number (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            params![name, value],
        )?;
        Ok(())
    }
}

/// Turns write-ahead logging on. SQLite does not wait for others at this one step, whatever the busy time-out:
/// two processes that open a new file together have to take turns themselves.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    /// Together as long as the busy time-out.
    const TURNS: u32 = 500;
    const TURN: std::time::Duration = std::time::Duration::from_millis(10);
    let mut turn = 0;
    loop {
        let outcome = connection.pragma_update(None, "journal_mode", "WAL");
        let busy = outcome.as_ref().is_err_and(|error| {
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
        });
        turn += 1;
        if !busy || turn == TURNS {
            return outcome;
        }
        std::thread::sleep(TURN);
    }
}

#[cfg(test)]
mod tests;
