//! Token buckets, one per asker: pure arithmetic over the time that is passed in. Called by the
//! caller's extractor. Memory is bounded: when the table is full of askers in debt, newcomers share
//! one bucket.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use owm_proto::UnixMillis;
use uuid::Uuid;

/// Buckets kept: 10 000 askers at 64 bytes are under a megabyte.
const BUCKETS_MAX: usize = 10_000;

/// A bucket's unit: thousandths of a question, so that a rate per second is one per millisecond.
const UNITS_PER_QUESTION: u64 = 1_000;

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// At once, after a rest.
    pub(crate) burst: u32,
    /// For good.
    pub(crate) per_second: u32,
}

/// Who has a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// An API key.
    Key(Uuid),
    /// A network: an IPv4 address, or an IPv6 /64, which is what one customer gets.
    Net(IpAddr),
    /// Everybody for whom there is no room.
    Others,
}

impl Who {
    /// The network that an address belongs to.
    pub(super) fn net(address: IpAddr) -> Self {
        Self::Net(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    units: u64,
    at: UnixMillis,
}

/// How an asker stands after a question was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    rate: Rate,
    /// Questions left right now.
    pub(super) remaining: u32,
    /// Until all are back.
    pub(super) full_after: Duration,
    /// Set if this question was one too many: when the next is allowed.
    pub(super) wait: Option<Duration>,
}

/// All buckets of one kind.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: Rate,
    room: usize,
    buckets: Mutex<HashMap<Who, Bucket>>,
}

impl Rate {
    fn full(self) -> u64 {
        u64::from(self.burst) * UNITS_PER_QUESTION
    }

    /// Until `units` have come in.
    fn time_for(self, units: u64) -> Duration {
        Duration::from_millis(units.div_ceil(u64::from(self.per_second.max(1))))
    }

    fn refilled(self, bucket: Bucket, now: UnixMillis) -> u64 {
        let elapsed = now.0.saturating_sub(bucket.at.0);
        let gained = elapsed.saturating_mul(u64::from(self.per_second));
        bucket.units.saturating_add(gained).min(self.full())
    }
}

impl Limiter {
    /// Nobody has asked yet.
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            room: BUCKETS_MAX,
            buckets: Mutex::default(),
        }
    }

    /// Counts one question at `now`.
    pub(super) fn take(&self, who: Who, now: UnixMillis) -> Standing {
        let rate = self.rate;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let who =
            if buckets.contains_key(&who) || Self::has_room(&mut buckets, rate, self.room, now) {
                who
            } else {
                Who::Others
            };
        let bucket = buckets.entry(who).or_insert(Bucket {
            units: rate.full(),
            at: now,
        });
        let have = rate.refilled(*bucket, now);
        let left = have.checked_sub(UNITS_PER_QUESTION);
        *bucket = Bucket {
            units: left.unwrap_or(have),
            at: now.max(bucket.at),
        };
        let units = bucket.units;
        Standing {
            rate,
            remaining: u32::try_from(units / UNITS_PER_QUESTION).unwrap_or(u32::MAX),
            full_after: rate.time_for(rate.full() - units),
            wait: left
                .is_none()
                .then(|| rate.time_for(UNITS_PER_QUESTION - units)),
        }
    }

    /// Makes room by forgetting full buckets: those askers are as good as new.
    fn has_room(
        buckets: &mut HashMap<Who, Bucket>,
        rate: Rate,
        room: usize,
        now: UnixMillis,
    ) -> bool {
        if buckets.len() >= room {
            buckets.retain(|_, bucket| rate.refilled(*bucket, now) < rate.full());
        }
        buckets.len() < room
    }
}

impl Standing {
    /// Tells the asker: the IETF draft's `RateLimit` pair, and what OpenAI's clients log.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let Rate { burst, per_second } = self.rate;
        let window = u64::from(burst).div_ceil(u64::from(per_second.max(1)));
        let remaining = self.remaining;
        let seconds = self.full_after.as_millis().div_ceil(1_000);
        for (name, value) in [
            (
                "ratelimit-policy",
                format!("\"questions\";q={burst};w={window}"),
            ),
            (
                "ratelimit",
                format!("\"questions\";r={remaining};t={seconds}"),
            ),
            ("x-ratelimit-limit-requests", burst.to_string()),
            ("x-ratelimit-remaining-requests", remaining.to_string()),
            ("x-ratelimit-reset-requests", format!("{seconds}s")),
        ] {
            let value = HeaderValue::from_str(&value).expect("ASCII digits and punctuation");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        per_second: 2,
    };
    const ALICE: Who = Who::Key(Uuid::from_u128(1));
    const BOB: Who = Who::Key(Uuid::from_u128(2));

    #[test]
    fn a_burst_passes_and_the_next_question_says_how_long_to_wait() {
        let limiter = Limiter::new(RATE);
        let now = UnixMillis(1_000_000);
        for remaining in [2, 1, 0] {
            let standing = limiter.take(ALICE, now);
            assert_eq!((standing.remaining, standing.wait), (remaining, None));
        }
        assert_eq!(
            limiter.take(ALICE, now).wait,
            Some(Duration::from_millis(500))
        );
        assert_eq!(limiter.take(BOB, now).wait, None, "bob pays for nobody");
        let early = now.after(Duration::from_millis(499));
        assert_eq!(
            limiter.take(ALICE, early).wait,
            Some(Duration::from_millis(1))
        );
        assert_eq!(
            limiter
                .take(ALICE, now.after(Duration::from_millis(500)))
                .wait,
            None
        );
    }

    #[test]
    fn a_refused_question_costs_nothing_and_a_clock_that_falls_gives_nothing() {
        let limiter = Limiter::new(RATE);
        let now = UnixMillis(1_000_000);
        for _ in 0..10 {
            limiter.take(ALICE, now);
        }
        assert!(limiter.take(ALICE, UnixMillis(0)).wait.is_some());
        assert_eq!(
            limiter
                .take(ALICE, now.after(Duration::from_millis(500)))
                .wait,
            None
        );
    }

    #[test]
    fn a_full_table_makes_newcomers_share_and_forgets_the_rested() {
        let mut limiter = Limiter::new(RATE);
        limiter.room = 2;
        let now = UnixMillis(1_000_000);
        limiter.take(ALICE, now);
        limiter.take(BOB, now);
        let newcomer = |n| Who::Key(Uuid::from_u128(n));
        for n in 3..6 {
            assert_eq!(limiter.take(newcomer(n), now).wait, None);
        }
        assert!(
            limiter.take(newcomer(6), now).wait.is_some(),
            "three newcomers shared one bucket"
        );
        let later = now.after(Duration::from_mins(1));
        assert_eq!(limiter.take(newcomer(7), later).wait, None);
        assert!(limiter.buckets.lock().unwrap().len() <= 2);
    }

    #[test]
    fn neighbours_in_an_ipv6_network_share_a_bucket() {
        let net = |text: &str| Who::net(text.parse().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:2"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
        assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
    }
}
