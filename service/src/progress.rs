//! Progress of long work for a person at a terminal; silence for everything else.
//!
//! Downloads and imports call it. Must stay true: nothing is written unless standard error is a
//! terminal (logs tell services what happens).

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// One bar. Cheap to clone; all clones move the same bar.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over `total` bytes.
    pub fn bytes(total: u64, label: impl Into<String>) -> Self {
        Self::with_template(
            Some(total),
            label.into(),
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        )
    }

    /// A bar over `total` things.
    pub fn items(total: u64, label: impl Into<String>) -> Self {
        Self::with_template(
            Some(total),
            label.into(),
            "{msg} {wide_bar} {pos}/{len} {eta}",
        )
    }

    /// Work of unknown length.
    pub fn spinner(label: impl Into<String>) -> Self {
        let progress = Self::with_template(None, label.into(), "{spinner} {msg} {elapsed}");
        if !progress.bar.is_hidden() {
            progress.bar.enable_steady_tick(TICK);
        }
        progress
    }

    /// A bar that is never shown.
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }

    /// `by` more is done.
    pub fn inc(&self, by: u64) {
        self.bar.inc(by);
    }

    /// `done` of the total is done (a resumed download starts above zero).
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// What is written before the bar from now on.
    pub fn label(&self, label: impl Into<String>) {
        self.bar.set_message(label.into());
    }

    /// Of how much; 0 for work of unknown length.
    pub fn total(&self) -> u64 {
        self.bar.length().unwrap_or_default()
    }

    /// How much is done.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// Leaves the full bar on the screen.
    pub fn finish(&self) {
        self.bar.finish();
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn with_template(total: Option<u64>, label: String, template: &str) -> Self {
        // indicatif hides a bar itself when standard error is no terminal.
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(template)
            .expect("the templates in this file are well-formed: a test makes each");
        bar.set_style(style);
        bar.set_message(label);
        Self { bar }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_bar_counts() {
        for bar in [
            Progress::bytes(10, "weights"),
            Progress::items(10, "files"),
            Progress::spinner("thinking"),
            Progress::hidden(),
        ] {
            bar.set(4);
            bar.inc(3);
            assert_eq!(bar.position(), 7);
            bar.clear();
        }
    }
}
