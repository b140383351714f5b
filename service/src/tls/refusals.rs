//! How many TLS handshakes this process has refused, for its metrics. `listener` counts.
//!
//! Statics, as a refused connection belongs to nobody; must stay true: they only rise.

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) static FAILED: AtomicU64 = AtomicU64::new(0);
pub(super) static TIMED_OUT: AtomicU64 = AtomicU64::new(0);

/// Handshakes refused by this process so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    /// No TLS 1.3, no certificate, or a wrong one.
    pub failed: u64,
    /// Not done in time.
    pub timed_out: u64,
}

/// Reads them.
pub fn refusals() -> Refusals {
    Refusals {
        failed: FAILED.load(Ordering::Relaxed),
        timed_out: TIMED_OUT.load(Ordering::Relaxed),
    }
}
