//! How busy the connections to Postgres are: `tx` counts, the server's metrics show.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The pool at one moment, and what was waited for so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLoad {
    /// Connections with a transaction.
    pub in_use: u32,
    /// Connections without.
    pub idle: u32,
    /// Connections at most.
    pub max: u32,
    /// Transactions that wait for one now.
    pub waiting: u64,
    /// Transactions begun.
    pub transactions: u64,
    /// Time they waited for a connection, summed.
    pub waited: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Waits {
    pub(crate) waiting: AtomicU64,
    pub(crate) transactions: AtomicU64,
    waited_us: AtomicU64,
}

impl Waits {
    pub(crate) fn begin(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait {
            waits: self,
            since: Instant::now(),
        }
    }

    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_us.load(Ordering::Relaxed))
    }
}

/// One wait; it ends when this is dropped, also half-way.
pub(crate) struct Wait<'a> {
    waits: &'a Waits,
    since: Instant,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waits = self.waits;
        waits.waiting.fetch_sub(1, Ordering::Relaxed);
        waits.transactions.fetch_add(1, Ordering::Relaxed);
        let waited = self.since.elapsed().as_micros() as u64;
        waits.waited_us.fetch_add(waited, Ordering::Relaxed);
    }
}
