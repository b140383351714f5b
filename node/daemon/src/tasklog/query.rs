//! Reading the task log: the latest attempts and what is owed. `status` and `earnings` show it.

use owm_proto::Msat;
use rusqlite::{Row, params, types::Type};
use serde::{Deserialize, Serialize};

use super::{LeaseKey, TaskLog, TaskLogError};

/// One attempt, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Which task.
    pub task_id: String,
    /// Which attempt.
    pub epoch: u64,
    /// `inference`.
    pub task_type: String,
    /// Which model.
    pub model_version: String,
    /// SHA-256 of the input.
    pub input_sha256: String,
    /// SHA-256 of the answer's text.
    pub output_sha256: Option<String>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Milliseconds of computing.
    pub exec_ms: Option<u64>,
    /// Unix milliseconds.
    pub started_at_ms: u64,
    /// What was said.
    pub verdict: Option<String>,
    /// `owed`, `paid`, `lost`; absent: not booked yet.
    pub state: Option<String>,
    /// How much.
    pub reward_msat: u64,
}

/// What the log adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earnings {
    /// Booked by the coordinator, not paid.
    pub owed_msat: Msat,
    /// Paid.
    pub paid_msat: Msat,
    /// Attempts that are owed or paid for.
    pub tasks_booked: u64,
    /// Attempts that nothing came of.
    pub tasks_lost: u64,
    /// Attempts not booked yet.
    pub tasks_open: u64,
    /// Tokens of booked answers.
    pub output_tokens: u64,
}

/// Reads (task_id, epoch) from `row` starting at column `at`.
pub(super) fn lease_key(row: &Row<'_>, at: usize) -> rusqlite::Result<LeaseKey> {
    let text: String = row.get(at)?;
    let task = text.parse().map_err(|error: owm_proto::hash::ParseError| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
    })?;
    Ok(LeaseKey {
        task,
        epoch: row.get(at + 1)?,
    })
}

impl TaskLog {
    /// The latest attempts, newest first.
    pub fn latest(&self, count: u32) -> Result<Vec<Entry>, TaskLogError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT task_id, epoch, task_type, model_version, input_sha256, output_sha256, \
             output_tokens, exec_ms, started_at_ms, verdict, state, reward_msat \
             FROM task ORDER BY started_at_ms DESC, rowid DESC LIMIT ?1",
        )?;
        let rows = statement.query_map(params![count], |row| {
            Ok(Entry {
                task_id: row.get(0)?,
                epoch: row.get(1)?,
                task_type: row.get(2)?,
                model_version: row.get(3)?,
                input_sha256: row.get(4)?,
                output_sha256: row.get(5)?,
                output_tokens: row.get(6)?,
                exec_ms: row.get(7)?,
                started_at_ms: row.get(8)?,
                verdict: row.get(9)?,
                state: row.get(10)?,
                reward_msat: row.get(11)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Sums over all attempts.
    pub fn earnings(&self) -> Result<Earnings, TaskLogError> {
        let connection = self.lock();
        let sums = connection.query_row(
            "SELECT coalesce(sum(reward_msat) FILTER (WHERE state = 'owed'), 0), \
             coalesce(sum(reward_msat) FILTER (WHERE state = 'paid'), 0), \
             count(*) FILTER (WHERE state IN ('owed', 'paid')), \
             count(*) FILTER (WHERE state = 'lost'), \
             count(*) FILTER (WHERE state IS NULL), \
             coalesce(sum(output_tokens) FILTER (WHERE state IN ('owed', 'paid')), 0) FROM task",
            [],
            |row| {
                Ok(Earnings {
                    owed_msat: Msat(row.get(0)?),
                    paid_msat: Msat(row.get(1)?),
                    tasks_booked: row.get(2)?,
                    tasks_lost: row.get(3)?,
                    tasks_open: row.get(4)?,
                    output_tokens: row.get(5)?,
                })
            },
        )?;
        Ok(sums)
    }
}
