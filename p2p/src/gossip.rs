//! Gossip rules: accept, ignore or reject as pure functions. `service` feeds them, `tests/sim` runs them by
//! the thousand. Must stay true: no I/O, no clock of their own, bounded memory.

pub mod topic;
pub mod verdict;

pub use topic::{Topic, Topics};
pub use verdict::{IgnoreReason, RejectReason, Verdict};
