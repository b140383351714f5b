//! Jittered exponential back-off as a pure value: no clock, no sleep, chance passed in.
//!
//! Reconnecting clients, reconcilers and pollers call it. Must stay true: a delay lies within half
//! of the current step and the step itself, and no step exceeds the maximum.

use std::time::Duration;

use rand::Rng;

/// How long to wait before the next try.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    factor: u32,
    step: Duration,
}

impl Backoff {
    /// Steps `min`, `min·factor`, `min·factor²`, … up to `max`. A `factor` of 0 counts as 1, a `max`
    /// below `min` as `min`.
    pub fn new(min: Duration, max: Duration, factor: u32) -> Self {
        Self {
            min,
            max: max.max(min),
            factor: factor.max(1),
            step: min,
        }
    }

    /// The next delay: uniform in [step/2, step] (in microseconds), so that clients that failed
    /// together do not come back together.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let step = self.step;
        self.step = step.saturating_mul(self.factor).min(self.max);
        let step_us = step.as_micros() as u64;
        Duration::from_micros(rng.random_range(step_us / 2..=step_us))
    }

    /// Start again from `min`: call it after a success.
    pub fn reset(&mut self) {
        self.step = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    #[test]
    fn delays_grow_to_the_maximum_and_start_again_after_a_reset() {
        let mut rng = Seed::from_u64(1).rng("backoff");
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1_000), 3);
        for step in [100, 300, 900, 1_000, 1_000] {
            let delay = backoff.next(&mut rng);
            assert!(
                delay >= ms(step / 2) && delay <= ms(step),
                "{delay:?} at step {step}"
            );
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= ms(100));
    }

    #[test]
    fn two_clients_do_not_come_back_together() {
        let mut one = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), 2);
        let mut two = one.clone();
        let (mut a, mut b) = (Seed::from_u64(1).rng("x"), Seed::from_u64(2).rng("x"));
        assert_ne!(one.next(&mut a), two.next(&mut b));
    }

    #[test]
    fn senseless_parameters_are_mended() {
        let mut rng = Seed::from_u64(1).rng("x");
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!(backoff.next(&mut rng), Duration::ZERO);
        let mut endless = Backoff::new(Duration::from_secs(1), Duration::MAX, u32::MAX);
        for _ in 0..10 {
            endless.next(&mut rng);
        }
    }
}
