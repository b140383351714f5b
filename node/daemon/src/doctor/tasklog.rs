//! The task log: whether SQLite finds its pages in order. Opened for reading only; a log that nobody
//! has open is opened as immutable, so that not even a journal file is made.

use std::path::Path;

use owm_service::doctor::{Finding, ports::Daemon, shell};
use rusqlite::{Connection, OpenFlags};

use super::Ground;
use crate::tasklog;

/// What is wrong or fine with the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none yet.
    None,
    /// In order; so many results wait to be handed in.
    Sound { unacked: u64 },
    /// SQLite's words.
    Damaged(String),
    /// Written by a newer program.
    Newer(u32),
}

pub(super) fn probe(ground: &Ground) -> Found {
    let path = ground.home.tasks();
    if !path.exists() {
        return Found::None;
    }
    let is_idle = ground.daemon() == Daemon::Stopped;
    look(&path, is_idle).unwrap_or_else(|error| Found::Damaged(error.to_string()))
}

fn look(path: &Path, is_idle: bool) -> Result<Found, rusqlite::Error> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // What is in a write-ahead log counts, and an immutable file's is not read.
    let immutable = is_idle && std::fs::metadata(wal).map_or(true, |wal| wal.len() == 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let query = if immutable { "?immutable=1" } else { "" };
    let log = Connection::open_with_flags(format!("file:{}{query}", escaped(path)), flags)?;
    log.busy_timeout(std::time::Duration::from_secs(5))?;
    let said: String = log.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Ok(Found::Damaged(said));
    }
    let schema: u32 = log.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if schema > tasklog::schema_known() {
        return Ok(Found::Newer(schema));
    }
    let unacked = log.query_row("SELECT count(*) FROM unacked", [], |row| row.get(0))?;
    Ok(Found::Sound { unacked })
}

/// A path in a `file:` URI.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}

pub(super) fn judge(found: &Found, ground: &Ground) -> Finding {
    judge_log(
        found,
        &shell(&ground.home.tasks()),
        &ground.command("start"),
    )
}

fn judge_log(found: &Found, path: &str, start: &str) -> Finding {
    const AREA: &str = "tasklog";
    match found {
        Found::None => Finding::ok(AREA, "none yet; the first start makes it"),
        Found::Sound { unacked: 0 } => Finding::ok(AREA, "in order, every result is handed in"),
        Found::Sound { unacked } => Finding::ok(
            AREA,
            format!("in order, {unacked} results wait to be handed in"),
        ),
        Found::Damaged(why) => Finding::problem(
            AREA,
            format!("{path} is damaged: {why}"),
            format!(
                "stop the node; restore it from a backup (owm-node restore), or start with an empty one: mv {path} {path}.damaged, then: {start}"
            ),
        ),
        Found::Newer(schema) => Finding::problem(
            AREA,
            format!(
                "{path} has schema {schema}, this owm-node knows up to {}",
                tasklog::schema_known()
            ),
            "update owm-node",
        ),
    }
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;
    use crate::tasklog::TaskLog;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_log_is_looked_at_without_a_trace_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.sqlite");
        let log = TaskLog::open(&path).unwrap();
        assert_eq!(look(&path, false).unwrap(), Found::Sound { unacked: 0 });
        drop(log);
        let before = files(folder.path());
        assert_eq!(look(&path, true).unwrap(), Found::Sound { unacked: 0 });
        assert_eq!(files(folder.path()), before);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        let found = look(&path, true).unwrap_or_else(|e| Found::Damaged(e.to_string()));
        assert!(matches!(found, Found::Damaged(_)), "{found:?}");
    }

    #[test]
    fn a_damaged_or_newer_log_is_a_problem() {
        let level = |found| judge_log(&found, "t.sqlite", "owm-node start").level;
        assert_eq!(level(Found::None), Level::Ok);
        assert_eq!(level(Found::Sound { unacked: 3 }), Level::Ok);
        assert_eq!(level(Found::Newer(99)), Level::Problem);
        assert_eq!(
            level(Found::Damaged("row 1 missing".into())),
            Level::Problem
        );
    }
}
