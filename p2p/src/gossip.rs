//! Gossip rules: accept, ignore or reject as pure functions. `service` feeds them, `tests/sim` runs them by
//! the thousand. Must stay true: no I/O, no clock of their own, bounded memory.

pub mod capability;
pub mod checkpoint;
pub mod judged;
pub mod jump;
pub mod limits;
pub mod mesh;
pub mod order;
pub mod rules;
pub mod scoring;
pub mod topic;
pub mod verdict;

pub use checkpoint::KnownCheckpoint;
pub use judged::{Contradiction, Heard, Judged, Notice};
pub use limits::Limits;
pub use rules::Rules;
pub use topic::{Topic, Topics};
pub use verdict::{IgnoreReason, RejectReason, Verdict};
