//! What happened in a run, folded into one number, and told line by line (`tracing`, debug) if somebody
//! listens. Two runs of one seed have the same number, or the simulation is not deterministic.

use std::fmt;

use owm_proto::{Sha256, hash::Hasher};

use crate::time::At;

/// The account of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: Hasher,
    lines: u64,
    line: String,
}

impl Trace {
    /// Notes that something happened.
    pub fn note(&mut self, at: At, what: fmt::Arguments<'_>) {
        use fmt::Write as _;
        self.line.clear();
        write!(self.line, "{at} {what}").expect("a String takes any text");
        self.hasher.update(self.line.as_bytes());
        self.hasher.update(b"\n");
        self.lines += 1;
        tracing::debug!(target: "owm_sim", "{}", self.line);
    }

    /// How many lines there were.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The number of all lines so far.
    pub fn hash(&self) -> Sha256 {
        self.hasher.clone().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_line_or_another_time_is_another_trace() {
        let traced = |lines: &[(u64, &str)]| {
            let mut trace = Trace::default();
            for (at, what) in lines {
                trace.note(At(*at), format_args!("{what}"));
            }
            trace.hash()
        };
        let one = traced(&[(1, "a"), (2, "b")]);
        assert_eq!(one, traced(&[(1, "a"), (2, "b")]));
        assert_ne!(one, traced(&[(1, "a"), (3, "b")]));
        assert_ne!(one, traced(&[(2, "b"), (1, "a")]));
    }
}
