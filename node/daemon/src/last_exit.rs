//! How the last run ended, for `doctor` and `drain`: `start` writes that it runs when it begins, and how it
//! went when it ends; who finds the first without a process knows that it ended without a word.
//! Must stay true: only the process that holds the folder's lock writes it.

use owm_service::{Exit, RunError, report::Chain};
use serde::{Deserialize, Serialize};

use crate::home::{Home, read_small, write_atomically};

/// A code, a time and a reason.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The end of a run, or that one is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The exit code.
    pub code: u8,
    /// Why; empty for 0.
    pub reason: String,
    /// It has begun (at `at_ms`) and has not ended, as far as it could say.
    #[serde(default)]
    pub running: bool,
}

impl LastExit {
    /// From how the daemon ended.
    pub fn of(outcome: &Result<(), RunError>, at_ms: u64) -> Self {
        let (code, reason) = match outcome {
            Ok(()) => (Exit::Ok, String::new()),
            Err(error) => (error.code, Chain(&*error.source).to_string()),
        };
        Self {
            at_ms,
            code: code.code(),
            reason,
            running: false,
        }
    }

    /// Whether another process with this node's key ended it.
    pub fn is_fenced(&self) -> bool {
        self.code == Exit::DoNotRestart.code()
    }

    /// Keeps it. Failing is told in the log only: the end has a reason of its own.
    pub fn store(&self, home: &Home) {
        let text = serde_json::to_vec(self).expect("numbers and a string are JSON");
        if let Err(error) = write_atomically(&home.last_exit(), &text) {
            tracing::debug!(%error, "the reason for the end is not kept");
        }
    }

    /// What the last run left; `None`: nothing, or nothing usable.
    pub fn load(home: &Home) -> Option<Self> {
        let bytes = read_small(&home.last_exit(), FILE_BYTES_MAX).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// A run begins.
    pub fn begin(home: &Home, at_ms: u64) {
        let begun = Self {
            running: true,
            ..Self::of(&Ok(()), at_ms)
        };
        begun.store(home);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_kept_until_the_next_begins() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        assert_eq!(LastExit::load(&home), None);
        let fenced = LastExit::of(&Err(RunError::do_not_restart("another")), 7);
        fenced.store(&home);
        assert_eq!(LastExit::load(&home), Some(fenced.clone()));
        assert!(fenced.is_fenced() && fenced.reason == "another");
        assert!(!LastExit::of(&Ok(()), 7).is_fenced());
        LastExit::begin(&home, 8);
        assert!(LastExit::load(&home).unwrap().running);
        // As an earlier version wrote it.
        std::fs::write(home.last_exit(), r#"{"at_ms":1,"code":1,"reason":"x"}"#).unwrap();
        assert!(!LastExit::load(&home).unwrap().running);
    }
}
