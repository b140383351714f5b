//! Who is cut off, and for how long: ten minutes at first, twice as long each time again, at most a day.
//! Must stay true: a ban ends by itself (keys are cheap, so bans only slow an attacker down, and an honest
//! peer with a bug must be able to come back after its update); bounded memory; monotonic time only.

use std::time::Duration;

use lru::LruCache;
use owm_proto::PublicKey;

use crate::Moment;

/// Bans that are remembered. The one that was given longest ago is forgotten first.
pub const BANNED_MAX: usize = 4_096;

/// The first one: a score has halved in that time.
pub const FIRST_BAN: Duration = Duration::from_mins(10);

/// The longest one.
pub const LONGEST_BAN: Duration = Duration::from_hours(24);

/// A peer that behaves for so long after a ban starts at the shortest again.
const FORGIVEN_AFTER: Duration = Duration::from_hours(24);

/// Who is cut off.
#[derive(Debug)]
pub struct Bans {
    bans: LruCache<PublicKey, Ban>,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Ban {
    until: Duration,
    length: Duration,
}

impl Bans {
    /// Nobody, and never more than `max`.
    pub fn new(max: usize) -> Self {
        Self {
            bans: LruCache::unbounded(),
            max: max.max(1),
        }
    }

    /// Cuts `peer` off; says for how long.
    pub fn ban(&mut self, at: Moment, peer: &PublicKey) -> Duration {
        let before = self.bans.peek(peer).copied();
        let length = before.map_or(FIRST_BAN, |ban| (ban.length * 2).min(LONGEST_BAN));
        if self.bans.len() >= self.max && before.is_none() {
            self.bans.pop_lru();
        }
        let until = at.monotonic.saturating_add(length);
        self.bans.put(*peer, Ban { until, length });
        length
    }

    /// Whether `peer` is cut off.
    pub fn is_banned(&self, at: Moment, peer: &PublicKey) -> bool {
        self.bans
            .peek(peer)
            .is_some_and(|ban| at.monotonic < ban.until)
    }

    /// Forgets whom nothing is held against any more.
    pub fn tick(&mut self, at: Moment) {
        self.bans
            .retain(|_, ban| at.monotonic < ban.until.saturating_add(FORGIVEN_AFTER));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }
}
