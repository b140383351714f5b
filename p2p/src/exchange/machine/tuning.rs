//! The numbers of the fetch machine, each with its unit and reason. The shell may change them before it
//! starts; the rules take them from here.

use std::time::Duration;

/// Requests that should be on their way at once, so that the next is there when one ends.
const REQUESTS_IN_WINDOW: u64 = 4;

/// Limits and times of one [`super::Machine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes asked of all sources together, at most: bounds what may wait in buffers. Pieces that wait for
    /// their check count too, so that nothing is asked for faster than it is proved.
    pub outstanding_total_max: u64,
    /// Bytes asked of one source at least, once it delivers at a fair rate: below it, one late wake-up of
    /// either side leaves a fast link idle.
    pub outstanding_min: u64,
    /// Bytes asked of a source of which nothing is known; as many more as it has brought, up to `outstanding_min`.
    /// With `outstanding_min` at once, the first six of eight slow sources are asked for all of a small file.
    pub outstanding_first: u64,
    /// Bytes asked of one source at most.
    pub outstanding_max: u64,
    /// A request's bytes at least (the end of a piece aside): its header and wake-ups cost more below.
    pub request_min: u64,
    /// A request's bytes at most: what the protocol allows, and what a slow source may hold up.
    pub request_max: u64,
    /// A source with requests and without a byte for so long stands still: it is not waited for.
    /// Eight round trips if that is longer.
    pub stall_after: Duration,
    /// How long a source that stood still or failed is left alone at first; doubles up to `rest_max`.
    pub rest_min: Duration,
    /// How long it is left alone at most: an honest source must be found again after an outage.
    pub rest_max: Duration,
    /// A peer whose claims were wrong is left alone for so long.
    pub rest_after_false_claims: Duration,
    /// Pieces that a source may claim and not have before it is left alone.
    pub false_claims_max: u32,
    /// Without enough from peers for so long, web seeds are asked.
    pub web_after: Duration,
    /// Bytes per second from all peers together below which web seeds help out.
    pub web_below: u64,
    /// Bytes per second of all sources together from which on fewer of them are tried: far above what a line to the
    /// world brings, so that there all are always in use; below what one near source does.
    pub few_above: u64,
    /// Sources that are known at a time; more are not listened to.
    pub sources_max: usize,
    /// Without any source to ask for so long, [`super::Effect::Starved`] is said (again).
    pub starved_after: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            outstanding_total_max: 64 << 20,
            outstanding_min: 1 << 20,
            outstanding_first: 512 << 10,
            outstanding_max: 32 << 20,
            request_min: 64 << 10,
            request_max: 1 << 20,
            stall_after: Duration::from_secs(5),
            rest_min: Duration::from_secs(1),
            rest_max: Duration::from_secs(30),
            rest_after_false_claims: Duration::from_mins(10),
            false_claims_max: 3,
            web_after: Duration::from_secs(2),
            web_below: 256 << 10,
            few_above: 64 << 20,
            sources_max: 1_024,
            starved_after: Duration::from_secs(5),
        }
    }
}

impl Tuning {
    /// Bytes of one request to a source that is asked for so many at a time.
    pub(super) fn request_len(&self, window: u64) -> u64 {
        let part = window / REQUESTS_IN_WINDOW;
        // A multiple, so that requests begin and end where blocks of the disk do.
        let part = part / self.request_min * self.request_min;
        part.clamp(self.request_min, self.request_max)
    }
}
