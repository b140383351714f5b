//! Sees the wall clock jump (a laptop that slept, a clock that was set) by comparing it with the monotonic
//! one. Must stay true: after a jump nobody is blamed for a while for what piled up meanwhile.

use std::time::Duration;

use crate::Moment;

/// Less is a clock that is being slewed, or a busy machine.
const JUMP_MIN: Duration = Duration::from_secs(30);

/// So long after a jump floods are not held against peers: what piled up in their queues and ours comes at
/// once.
const SETTLING: Duration = Duration::from_secs(30);

/// Watches the clocks.
#[derive(Clone, Copy, Debug)]
pub struct JumpWatch {
    last: Moment,
    settled_at: Duration,
}

impl JumpWatch {
    /// Starts at `at`.
    pub fn new(at: Moment) -> Self {
        Self {
            last: at,
            settled_at: Duration::ZERO,
        }
    }

    /// Takes note of the time; tells a jump since the last note, in milliseconds.
    pub fn note(&mut self, at: Moment) -> Option<i64> {
        let wall = (at.wall.0 as i64).saturating_sub(self.last.wall.0 as i64);
        let monotonic = at.monotonic.saturating_sub(self.last.monotonic).as_millis() as i64;
        self.last = at;
        let by_ms = wall.saturating_sub(monotonic);
        let jumped = by_ms.unsigned_abs() >= JUMP_MIN.as_millis() as u64;
        if jumped {
            self.settled_at = at.monotonic.saturating_add(SETTLING);
        }
        jumped.then_some(by_ms)
    }

    /// Whether a jump has just been.
    pub fn is_settling(&self, at: Moment) -> bool {
        at.monotonic < self.settled_at
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::UnixMillis;

    use super::*;

    fn at(wall_secs: u64, monotonic_secs: u64) -> Moment {
        Moment {
            wall: UnixMillis(wall_secs * 1_000),
            monotonic: Duration::from_secs(monotonic_secs),
        }
    }

    #[test]
    fn sleep_and_a_clock_that_is_set_are_jumps_and_waiting_is_none() {
        let mut watch = JumpWatch::new(at(1_000, 0));
        assert_eq!(watch.note(at(9_000, 8_000)), None);
        assert_eq!(watch.note(at(9_020, 8_001)), None);
        assert!(!watch.is_settling(at(9_020, 8_001)));
        assert_eq!(watch.note(at(19_021, 8_002)), Some(10_000_000));
        assert!(watch.is_settling(at(19_050, 8_031)));
        assert!(!watch.is_settling(at(19_051, 8_032)));
        assert_eq!(watch.note(at(9_021, 8_033)), Some(-10_031_000));
        assert!(watch.note(at(u64::MAX / 1_000, 8_034)).is_some());
    }
}
