//! A bandwidth cap: a bucket that fills by the second, from which whoever moves bytes takes first. One holds for all
//! uploads, one for all downloads; without a cap it costs nothing.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What may be taken at once after a rest: a tenth of a second's worth, at least one range.
const BURST_MIN: f64 = 256.0 * 1_024.0;

/// The cap.
#[derive(Debug)]
pub struct Rate(Option<Limited>);

#[derive(Debug)]
struct Limited {
    bytes_per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    /// So many bytes a second, or as many as go.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self(bytes_per_second.map(|limit| {
            let bytes_per_second = (limit as f64).max(1.0);
            Limited {
                bytes_per_second,
                state: Mutex::new((0.0, Instant::now())),
            }
        }))
    }

    /// Waits until so many bytes may be moved. Debts are allowed: who takes much at once makes the next wait, so
    /// that the sum keeps to the cap whatever the portions are.
    pub async fn take(&self, bytes: usize) {
        let Some(limited) = &self.0 else { return };
        let wait = limited.reserve(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Limited {
    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, then) = *state;
        let burst = (self.bytes_per_second / 10.0).max(BURST_MIN);
        let passed = now.saturating_duration_since(then).as_secs_f64();
        let left = (left + passed * self.bytes_per_second).min(burst) - bytes as f64;
        *state = (left, now.max(then));
        Duration::from_secs_f64((-left / self.bytes_per_second).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_keeps_to_the_cap_whatever_the_portions() {
        for portion in [1_000, 100_000, 3_000_000] {
            let rate = Rate::new(Some(1_000_000)).0.unwrap();
            let begun = Instant::now();
            let (mut now, mut moved) = (begun, 0);
            while now - begun < Duration::from_mins(1) {
                now += rate.reserve(portion, now);
                moved += portion;
            }
            let rate = moved as f64 / (now - begun).as_secs_f64();
            assert!((0.95e6..1.07e6).contains(&rate), "{portion}: {rate}");
        }
    }

    #[tokio::test]
    async fn without_a_cap_nobody_waits() {
        Rate::new(None).take(usize::MAX).await;
    }
}
