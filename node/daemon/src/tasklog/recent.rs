//! Reading the task log for `top`: the attempts that ended last, and what was earned since a moment.

use owm_proto::{Msat, UnixMillis};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{TaskLog, TaskLogError};

/// An attempt that has ended, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedTask {
    /// Which task; not the request.
    pub task_id: String,
    /// Which attempt.
    pub epoch: u64,
    /// Which model.
    pub model_version: String,
    /// Tokens of the prompt; absent where there was no result.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Milliseconds of computing.
    pub exec_ms: Option<u64>,
    /// Unix milliseconds.
    pub finished_at_ms: u64,
    /// What the coordinator said, or how it ended without a result; absent: not acknowledged yet.
    pub verdict: Option<String>,
    /// Booked as owed.
    pub reward_msat: u64,
}

impl TaskLog {
    /// The attempts that ended last, newest first.
    pub fn finished_latest(&self, count: u32) -> Result<Vec<FinishedTask>, TaskLogError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT task_id, epoch, model_version, prompt_tokens, output_tokens, exec_ms, \
             finished_at_ms, verdict, reward_msat FROM task WHERE finished_at_ms IS NOT NULL \
             ORDER BY started_at_ms DESC, rowid DESC LIMIT ?1",
        )?;
        let rows = statement.query_map(params![count], |row| {
            Ok(FinishedTask {
                task_id: row.get(0)?,
                epoch: row.get(1)?,
                model_version: row.get(2)?,
                prompt_tokens: row.get(3)?,
                output_tokens: row.get(4)?,
                exec_ms: row.get(5)?,
                finished_at_ms: row.get(6)?,
                verdict: row.get(7)?,
                reward_msat: row.get(8)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What attempts that began at `since` or later have earned, paid or not.
    pub fn earned_since(&self, since: UnixMillis) -> Result<Msat, TaskLogError> {
        let sum = self.lock().query_row(
            "SELECT coalesce(sum(reward_msat), 0) FROM task WHERE started_at_ms >= ?1",
            params![since.0],
            |row| row.get(0),
        )?;
        Ok(Msat(sum))
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{Sha256, TaskId};

    use super::super::{Accepted, Booking, Finished, LeaseKey};
    use super::*;

    #[test]
    fn ended_attempts_come_newest_first_with_what_was_said() {
        let log = TaskLog::in_memory().unwrap();
        for n in 1..=3_u8 {
            let key = LeaseKey {
                task: TaskId::from_random([n; 16]),
                epoch: 1,
            };
            let at = UnixMillis(u64::from(n) * 1_000);
            log.accepted(&Accepted {
                key,
                task_type: "inference".into(),
                model_version: "owm-v0.1.0".into(),
                input_sha256: Sha256::of(b"i"),
                at,
            })
            .unwrap();
            // The third still runs.
            if n < 3 {
                log.finished(&Finished {
                    key,
                    output_sha256: Sha256::of(b"o"),
                    prompt_tokens: 7,
                    output_tokens: 9,
                    exec_ms: 50,
                    at: UnixMillis(at.0 + 50),
                    result: vec![1],
                })
                .unwrap();
            }
            // The second waits.
            if n == 1 {
                let booking = Booking::Owed {
                    verdict: "accepted",
                    reward: Msat(10_000),
                };
                log.booked(key, &booking, UnixMillis(at.0 + 60)).unwrap();
            }
        }
        let shown = log.finished_latest(10).unwrap();
        let verdicts: Vec<_> = shown.iter().map(|task| task.verdict.as_deref()).collect();
        assert_eq!(verdicts, [None, Some("accepted")]);
        assert_eq!((shown[1].reward_msat, shown[1].exec_ms), (10_000, Some(50)));
        assert_eq!(log.finished_latest(1).unwrap().len(), 1);
        assert_eq!(log.earned_since(UnixMillis(1_000)).unwrap(), Msat(10_000));
        assert_eq!(log.earned_since(UnixMillis(1_001)).unwrap(), Msat::ZERO);
    }
}
