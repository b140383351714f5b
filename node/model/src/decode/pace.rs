//! Whether a step is faster with all threads or with one. On a machine that is busy with other work a
//! thread of the step is often not running when the others wait for it; one thread alone is never
//! waited for. The numbers a step gives do not depend on it, so this may be decided by the clock.

use std::time::Duration;

/// Steps from one comparison to the next: the slower way costs its two steps of so many.
const PERIOD_STEPS: u32 = 128;
/// Steps that are timed in each way; the faster of them counts.
const TRIAL_STEPS: u32 = 2;

/// The last comparison, and where in the period the next step is.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    step: u32,
    together: Option<Duration>,
    alone: Option<Duration>,
}

impl Pace {
    /// Whether the next step is for one thread.
    pub(crate) fn is_alone(&self) -> bool {
        match self.step {
            step if step < TRIAL_STEPS => false,
            step if step < 2 * TRIAL_STEPS => true,
            _ => self.alone < self.together,
        }
    }

    /// Counts a step and how long it took.
    pub(crate) fn took(&mut self, time: Duration) {
        let trial = match self.step {
            step if step < TRIAL_STEPS => Some((&mut self.together, step == 0)),
            step if step < 2 * TRIAL_STEPS => Some((&mut self.alone, step == TRIAL_STEPS)),
            _ => None,
        };
        if let Some((best, is_first)) = trial {
            let before = best.filter(|_| !is_first).unwrap_or(time);
            *best = Some(time.min(before));
        }
        self.step = (self.step + 1) % PERIOD_STEPS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_way_is_taken_until_the_next_comparison() {
        let mut pace = Pace::default();
        for (together, alone) in [(5, 9), (40, 9), (6, 9)] {
            let mut alone_steps = 0;
            for _ in 0..PERIOD_STEPS {
                let is_alone = pace.is_alone();
                alone_steps += u32::from(is_alone);
                let millis = if is_alone { alone } else { together };
                pace.took(Duration::from_millis(millis));
            }
            let expected = if alone < together {
                PERIOD_STEPS - TRIAL_STEPS
            } else {
                TRIAL_STEPS
            };
            assert_eq!(
                alone_steps, expected,
                "{together} ms together, {alone} ms alone"
            );
        }
    }
}
