//! The task log's schema, append-only: a step per version, applied in order, all in one transaction.

use rusqlite::{Connection, TransactionBehavior};

use super::TaskLogError;

/// Step n brings schema n to n + 1.
const STEPS: &[&str] = &["
    -- One attempt at one task. Times are Unix milliseconds.
    CREATE TABLE task (
        task_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        task_type TEXT NOT NULL,
        model_version TEXT NOT NULL,
        input_sha256 TEXT NOT NULL,
        output_sha256 TEXT,
        prompt_tokens INTEGER,
        output_tokens INTEGER,
        exec_ms INTEGER,
        started_at_ms INTEGER NOT NULL,
        finished_at_ms INTEGER,
        -- What the coordinator said, or how the attempt ended without a result.
        verdict TEXT,
        reason TEXT,
        reward_msat INTEGER NOT NULL DEFAULT 0,
        -- NULL: nothing is booked yet.
        state TEXT CHECK (state IN ('owed', 'paid', 'lost')),
        PRIMARY KEY (task_id, epoch)
    ) STRICT;
    CREATE INDEX task_by_start ON task (started_at_ms);
    -- Encoded results until they are acknowledged; the only place with an answer's text.
    CREATE TABLE unacked (
        task_id TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        result BLOB NOT NULL,
        finished_at_ms INTEGER NOT NULL,
        PRIMARY KEY (task_id, epoch)
    ) STRICT;
    -- Sequences per purpose: the highest used.
    CREATE TABLE number (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT;
"];

/// How many steps there are.
pub(super) const fn known() -> u32 {
    STEPS.len() as u32
}

/// Applies what is missing.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), TaskLogError> {
    let known = known();
    let version = |connection: &Connection| -> rusqlite::Result<u32> {
        connection.query_row("PRAGMA user_version", [], |row| row.get(0))
    };
    // The usual case writes nothing.
    if version(connection)? == known {
        return Ok(());
    }
    // Another process may be at it: who has the lock looks again.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    if found > known {
        return Err(TaskLogError::Newer { found, known });
    }
    for step in STEPS.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}
