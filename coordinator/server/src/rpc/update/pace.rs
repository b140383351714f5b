//! How fast an upload has to come: a least rate, judged window by window, and a time when all of it has to be here.
//! `rpc::update` asks it at every message. Pure: the time is a parameter.
//! Must stay true: whoever keeps to the rate is through after size / rate and one window; nobody is waited for longer.

use std::time::Duration;

use owm_proto::UnixMillis;

use crate::config::RoundsSection;

/// Why an upload is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooSlow {
    /// The last window brought too little.
    #[error(
        "{got} bytes came in {window_s} s, at least {least} are wanted; the commit stands: send the update again on a \
         better line"
    )]
    Rate {
        /// Bytes that came in it.
        got: u64,
        /// Bytes that are wanted in it.
        least: u64,
        /// How long it is.
        window_s: u64,
    },
    /// It took too long in all.
    #[error("the lease and its grace for bytes are over")]
    Over,
}

/// One upload's pace.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    window: Duration,
    /// Bytes of one window.
    least: u64,
    until: UnixMillis,
    from: UnixMillis,
    got: u64,
}

impl Pace {
    /// Begins now; all has to be here at `until`.
    pub(super) fn new(rules: &RoundsSection, now: UnixMillis, until: UnixMillis) -> Self {
        let window = rules.upload_window.get().max(Duration::from_millis(1));
        let rate = u128::from(rules.upload_rate_min.get());
        let least = rate * window.as_millis() / 1_000;
        Self {
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX),
            until,
            from: now,
            got: 0,
        }
    }

    /// The time of the next judgement, if nothing comes before.
    pub(super) fn next(&self) -> UnixMillis {
        self.from.after(self.window).min(self.until)
    }

    /// So many bytes have come, or none until [`Self::next`].
    pub(super) fn heard(&mut self, now: UnixMillis, bytes: u64) -> Result<(), TooSlow> {
        if now >= self.until {
            return Err(TooSlow::Over);
        }
        // A message that ends a window has come during it.
        self.got = self.got.saturating_add(bytes);
        if now >= self.from.after(self.window) {
            if self.got < self.least {
                return Err(TooSlow::Rate {
                    got: self.got,
                    least: self.least,
                    window_s: self.window.as_secs(),
                });
            }
            (self.from, self.got) = (now, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use owm_service::config::{HumanBytes, HumanDuration};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pace(until_s: u64) -> Pace {
        let rules = RoundsSection {
            upload_rate_min: HumanBytes::new(64 << 10),
            upload_window: HumanDuration::from_secs(60),
            ..RoundsSection::default()
        };
        Pace::new(&rules, UnixMillis(0), UnixMillis(until_s * 1_000))
    }

    /// Seconds until it is refused, if so many bytes come each second.
    fn refused(pace: &mut Pace, bytes: u64, until_s: u64) -> Option<(u64, TooSlow)> {
        (1..=until_s).find_map(|s| {
            let heard = pace.heard(UnixMillis(s * 1_000), bytes);
            heard.err().map(|why| (s, why))
        })
    }

    #[test]
    fn the_slowest_honest_line_is_waited_for_and_a_slower_one_is_not() {
        assert_eq!(refused(&mut pace(100_000), 64 << 10, 16 * 1024), None);
        let (s, why) = refused(&mut pace(100_000), (64 << 10) - 2_000, 1_000).unwrap();
        assert_eq!(s, 60);
        assert!(matches!(why, TooSlow::Rate { .. }), "{why}");
    }

    #[test]
    fn bytes_of_one_window_buy_no_time_in_the_next() {
        let mut pace = pace(100_000);
        pace.heard(UnixMillis(1), 1_000 * MIB).unwrap();
        pace.heard(UnixMillis(60_000), 0).unwrap();
        assert_eq!(pace.next(), UnixMillis(120_000));
        let refused = pace.heard(UnixMillis(120_000), MIB);
        assert!(matches!(refused, Err(TooSlow::Rate { got: MIB, .. })));
    }

    #[test]
    fn however_fast_it_comes_it_is_over_with_the_grace() {
        assert_eq!(
            refused(&mut pace(90), MIB, 1_000),
            Some((90, TooSlow::Over))
        );
        assert_eq!(pace(20).next(), UnixMillis(20_000));
    }
}
