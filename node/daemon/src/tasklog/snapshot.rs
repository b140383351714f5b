//! A copy of the log as it is at one instant, also while a daemon writes it.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::{TaskLog, TaskLogError};

impl TaskLog {
    /// Copies the log at `from` to the new file `to`. One read transaction: what is committed is in it,
    /// what is deleted is not (SQLite writes the copy afresh, without free pages).
    pub fn snapshot(from: &Path, to: &Path) -> Result<(), TaskLogError> {
        // Neither makes a log nor changes its schema.
        let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        // Its path is UTF-8 or refused: SQLite takes no other.
        let to = to.to_string_lossy();
        connection.execute("VACUUM INTO ?1", params![to])?;
        Ok(())
    }
}
