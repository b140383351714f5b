//! What holds a round up is tried again, less and less often: a candidate of gigabytes is not computed twice a second
//! because a disk is full.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use owm_proto::UnixMillis;

/// After the first failure; twice as long after each further one.
const FIRST: Duration = Duration::from_millis(500);

/// The longest: an operator who has mended the cause sees it go on within this.
const LONGEST: Duration = Duration::from_mins(1);

/// Which rounds wait, until when, after how many failures. Bounded by the open rounds, one for each sub-model.
#[derive(Debug, Default)]
pub(super) struct Patience(Mutex<HashMap<u64, (u32, UnixMillis)>>);

impl Patience {
    /// Whether it is too early to try a round again.
    pub(super) fn waits(&self, round: u64, now: UnixMillis) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&round).is_some_and(|(_, until)| now < *until)
    }

    /// Nothing is in its way.
    pub(super) fn moved(&self, round: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&round);
    }

    /// It has failed once more.
    pub(super) fn held_up(&self, round: u64, now: UnixMillis) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = held.get(&round).map_or(0, |(failures, _)| *failures);
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(failures));
        let until = now.after(wait.min(LONGEST));
        held.insert(round, (failures.saturating_add(1), until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_less_and_less_often_and_never_given_up() {
        let patience = Patience::default();
        let mut now = UnixMillis(1_000_000);
        let mut waits = Vec::new();
        assert!(!patience.waits(1, now));
        for _ in 0..40 {
            patience.held_up(1, now);
            let failed = now;
            while patience.waits(1, now) {
                now = now.after(FIRST);
            }
            waits.push(now.since(failed));
        }
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits.last(), Some(&LONGEST));
        assert!(!patience.waits(2, UnixMillis(0)), "others go on");
        patience.held_up(1, now);
        patience.moved(1);
        patience.held_up(1, now);
        assert!(!patience.waits(1, now.after(FIRST)), "from the beginning");
    }
}
