//! Looks at the shelf for what others may have, beside the swarm's task and never in its way: a file that nothing is
//! known of is hashed, which takes minutes for a large one. `serving` begins a look and hears of its end.
//! Must stay true: one look at a time; neither beginning one nor waiting for it blocks.

use std::time::Duration;

use tokio::task::JoinHandle;

/// Between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The looks.
#[derive(Debug)]
pub(super) struct Looking<T> {
    under_way: Option<JoinHandle<T>>,
    /// When the last one ended or began.
    at: Option<Duration>,
}

impl<T: Send + 'static> Looking<T> {
    pub(super) const fn new() -> Self {
        Self {
            under_way: None,
            at: None,
        }
    }

    /// Whether it is time for one, and none is under way.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.under_way.is_none() && self.at.is_none_or(|at| now >= at + LOOK_EVERY)
    }

    /// Begins one on a blocking thread.
    pub(super) fn begin(&mut self, now: Duration, look: impl FnOnce() -> T + Send + 'static) {
        self.at = Some(now);
        self.under_way = Some(tokio::task::spawn_blocking(look));
    }

    /// Waits for the one under way, for ever if there is none. Cancelling it loses nothing. The next one is due a while
    /// after its end, by `clock`: a long look is not followed by another at once.
    pub(super) async fn seen(&mut self, clock: impl Fn() -> Duration) -> T {
        loop {
            let Some(under_way) = &mut self.under_way else {
                std::future::pending::<()>().await;
                continue;
            };
            let seen = under_way.await;
            (self.under_way, self.at) = (None, Some(clock()));
            if let Ok(seen) = seen {
                return seen;
            }
            // It panicked, or the runtime ends: the next look may see more.
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_long_look_is_in_nobodys_way() {
        let (release, released) = mpsc::channel();
        let mut looking = Looking::new();
        let (now, ended) = (LOOK_EVERY, 20 * LOOK_EVERY);
        assert!(looking.is_due(now));
        looking.begin(now, move || released.recv().unwrap());
        // The task goes on while the look waits.
        for turn in 0..100 {
            tokio::select! {
                biased;
                seen = looking.seen(|| ended) => panic!("turn {turn}: seen {seen}"),
                () = std::future::ready(()) => {}
            }
        }
        assert!(!looking.is_due(now + 2 * LOOK_EVERY), "one at a time");
        release.send(7).unwrap();
        assert_eq!(looking.seen(|| ended).await, 7);
        let next = ended + LOOK_EVERY;
        assert!(
            !looking.is_due(next.saturating_sub(Duration::from_millis(1))),
            "it took long"
        );
        assert!(looking.is_due(next));
    }

    #[tokio::test]
    async fn a_look_that_panics_is_followed_by_the_next_one() {
        let mut looking = Looking::<u8>::new();
        looking.begin(LOOK_EVERY, || panic!("a defect"));
        while !looking.is_due(3 * LOOK_EVERY) {
            tokio::select! {
                biased;
                seen = looking.seen(|| 2 * LOOK_EVERY) => panic!("seen {seen}"),
                () = tokio::task::yield_now() => {}
            }
        }
        looking.begin(3 * LOOK_EVERY, || 8);
        assert_eq!(looking.seen(|| 4 * LOOK_EVERY).await, 8);
    }
}
