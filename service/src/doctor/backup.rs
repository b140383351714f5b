//! How old the last backup is: `backup` leaves `last-backup.json` in the data folder.
//!
//! Must stay true: [`FILE`] and [`LastBackup`] are what the daemons' `backup` commands write.

use std::{io::Read as _, path::Path};

use serde::{Deserialize, Serialize};

use super::Finding;

/// The name of the file in the data folder.
pub const FILE: &str = "last-backup.json";
/// What is read of it, in bytes: a time and a path.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Older ones are worth a word.
const AGE_MS_MAX: u64 = 30 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The last backup that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBackup {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Where it was written.
    pub path: String,
}

/// What [`FILE`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// There is no such file.
    Never,
    /// It is there and says nothing usable.
    Damaged,
    /// It says this.
    At(LastBackup),
}

/// Reads [`FILE`] in `folder`.
pub fn probe(folder: &Path) -> Known {
    let file = match std::fs::File::open(folder.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Known::Never,
        Err(_) => return Known::Damaged,
    };
    let mut bytes = Vec::new();
    match file.take(FILE_BYTES_MAX).read_to_end(&mut bytes) {
        Ok(_) => serde_json::from_slice(&bytes).map_or(Known::Damaged, Known::At),
        Err(_) => Known::Damaged,
    }
}

/// `command` makes a backup; `what` names what would be lost.
pub fn judge(known: &Known, now_ms: u64, command: &str, what: &str) -> Finding {
    const AREA: &str = "backup";
    match known {
        Known::Never => Finding::warning(AREA, format!("never backed up: {what}"), command),
        Known::Damaged => Finding::warning(
            AREA,
            format!("{FILE} does not tell when the last backup was made"),
            command,
        ),
        Known::At(last) => {
            let age_ms = now_ms.saturating_sub(last.at_ms);
            let age = match age_ms / DAY_MS {
                0 => "today".to_owned(),
                1 => "a day ago".to_owned(),
                days => format!("{days} days ago"),
            };
            if age_ms > AGE_MS_MAX {
                return Finding::warning(AREA, format!("the last backup was made {age}"), command);
            }
            Finding::ok(AREA, format!("made {age}: {}", last.path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_backup_that_was_never_made_or_is_old_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(probe(folder.path()), Known::Never);
        std::fs::write(folder.path().join(FILE), "what").unwrap();
        assert_eq!(probe(folder.path()), Known::Damaged);
        std::fs::write(folder.path().join(FILE), r#"{"at_ms":5,"path":"/b"}"#).unwrap();
        let known = probe(folder.path());
        let level = |now| judge(&known, now, "owm-x backup", "the key").level;
        assert_eq!(level(5 + DAY_MS), Level::Ok);
        assert_eq!(level(5 + 30 * DAY_MS), Level::Ok);
        assert_eq!(level(6 + 30 * DAY_MS), Level::Warning);
        let never = judge(&Known::Never, 9, "owm-x backup", "the key");
        assert_eq!(
            (never.level, never.fix.as_deref()),
            (Level::Warning, Some("owm-x backup"))
        );
    }
}
