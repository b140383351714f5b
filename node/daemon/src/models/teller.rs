//! How far a fetch is, told to people and counted. `keeper` feeds it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use owm_proto::VersionId;
use owm_service::{clock::SharedClock, progress::Progress};

use super::bring::Came;
use crate::{metrics::Downloads, swarm::Gave};

/// Between two lines in the log while something is fetched.
const LOG_EVERY: Duration = Duration::from_secs(3);
/// Sources in one line.
const SOURCES_SHOWN: usize = 8;

/// Tells a person how far a download is: a bar, and a line in the log every few seconds.
pub(super) struct Teller<'a> {
    clock: &'a SharedClock,
    version: &'a VersionId,
    bar: Progress,
    counts: Option<&'a Downloads>,
    said: Mutex<Said>,
}

/// What has been said.
struct Said {
    at: Duration,
    here: Option<u64>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(
        clock: &'a SharedClock,
        version: &'a VersionId,
        total: u64,
        counts: Option<&'a Downloads>,
    ) -> Self {
        let said = Said {
            at: clock.monotonic(),
            here: None,
        };
        Self {
            clock,
            version,
            bar: Progress::bytes(total, format!("fetching {version}")),
            counts,
            said: Mutex::new(said),
        }
    }

    /// Counts; a line when there is something new to say.
    pub(super) fn take(&self, came: &Came) -> Option<String> {
        if let Some(counts) = self.counts {
            count(counts, &came.gave);
        }
        self.bar.set(came.here);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = said.here == Some(came.here) && came.gave.iter().all(|gave| gave.bytes == 0);
        said.here = Some(came.here);
        if is_old {
            return None;
        }
        let line = self.line(came);
        let now = self.clock.monotonic();
        if now >= said.at + LOG_EVERY {
            said.at = now;
            tracing::info!("{line}");
        }
        Some(line)
    }

    /// The bar goes.
    pub(super) fn done(&self) {
        self.bar.clear();
    }

    fn line(&self, came: &Came) -> String {
        let (version, here, total) = (self.version, came.here, came.total);
        let from = rates(&came.gave);
        let from = if from.is_empty() {
            String::new()
        } else {
            format!("; from {from}")
        };
        format!("fetching {version}: {here} of {total} bytes are here{from}")
    }
}

/// Counts what has come.
pub(super) fn count(counts: &Downloads, gave: &[Gave]) {
    for gave in gave {
        let counter = match gave.peer {
            Some(_) => &counts.peer_bytes,
            None => &counts.bytes,
        };
        counter.inc_by(gave.bytes);
    }
}

/// Who gives how fast, the fastest first.
fn rates(gave: &[Gave]) -> String {
    let mut giving: Vec<&Gave> = gave.iter().filter(|gave| gave.bytes_per_s > 0).collect();
    giving.sort_by_key(|gave| std::cmp::Reverse(gave.bytes_per_s));
    let each = giving.iter().take(SOURCES_SHOWN).map(|gave| {
        let rate = HumanRate(gave.bytes_per_s);
        match gave.peer {
            Some(peer) => format!("{peer} {rate}"),
            None => format!("the web seed {rate}"),
        }
    });
    let each: Vec<String> = each.collect();
    each.join(", ")
}

/// Bytes a second, for people.
pub(crate) struct HumanRate(pub(crate) u64);

impl fmt::Display for HumanRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB/s", self.0 as f64 / 1e6)
    }
}
