//! What may be done a number of times a day, counted so that a restart begins no new day.
//! Must stay true: a count never falls within its day, nor does the day when the clock is set back.

use owm_proto::UnixMillis;
use rusqlite::{OptionalExtension as _, params};

use super::{TaskLog, TaskLogError};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// A day's number stands above its count.
const COUNT_BITS: u32 = 32;

impl TaskLog {
    /// Counts one more of `name` in the UTC day of `now`, if fewer than `max` are; whether it has.
    pub fn take_of_day(&self, name: &str, now: UnixMillis, max: u32) -> Result<bool, TaskLogError> {
        let connection = self.lock();
        let query = "SELECT value FROM number WHERE name = ?1";
        let last = connection.query_row(query, params![name], |row| row.get(0));
        let last: u64 = last.optional()?.unwrap_or(0);
        let day = (now.0 / DAY_MS).max(last >> COUNT_BITS);
        let count = last.max(day << COUNT_BITS);
        if count - (day << COUNT_BITS) >= u64::from(max) {
            return Ok(false);
        }
        connection.execute(
            "INSERT INTO number (name, value) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            params![name, count + 1],
        )?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_gives_so_many_and_a_clock_set_back_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.sqlite");
        let day = |n: u64| UnixMillis(n * DAY_MS + 7);
        let log = TaskLog::open(&path).unwrap();
        let take = |log: &TaskLog, name: &str, n| log.take_of_day(name, day(n), 2).unwrap();
        assert!(take(&log, "a", 20_000) && take(&log, "a", 20_000));
        assert!(!take(&log, "a", 20_000));
        assert!(take(&log, "b", 20_000), "each by itself");
        drop(log);
        let log = TaskLog::open(&path).unwrap();
        assert!(!take(&log, "a", 20_000), "a restart begins no new day");
        assert!(take(&log, "a", 20_001) && take(&log, "a", 20_000));
        assert!(!take(&log, "a", 20_000) && !take(&log, "a", 20_001));
        assert!(!log.take_of_day("c", day(1), 0).unwrap());
    }
}
