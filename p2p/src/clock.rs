//! Time as a parameter: what the shell asks, and the [`Moment`] that the rules are given.

use std::{fmt::Debug, time::Duration};

use owm_proto::UnixMillis;

/// What time it is. The daemons pass their own clock, tests and simulations one that they move.
pub trait Clock: Debug + Send + Sync {
    /// Wall time. May jump either way.
    fn wall(&self) -> UnixMillis;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;

    /// Both at once.
    fn moment(&self) -> Moment {
        Moment {
            wall: self.wall(),
            monotonic: self.monotonic(),
        }
    }
}

/// An instant, as the rules see it: signed times are judged by `wall`, spans are measured by `monotonic`,
/// so a laptop that slept neither believes stale messages nor punishes anybody for its own gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Wall time.
    pub wall: UnixMillis,
    /// Since some fixed moment.
    pub monotonic: Duration,
}
