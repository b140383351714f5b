//! What time alone brings about: who stands still or is far too slow, when web seeds help out, when more
//! sources are needed.

use std::time::Duration;

use super::{Effect, Machine, RestReason, Tuning, party::PartyIx};

/// Often enough that a source that ran dry is given others' work without a noticeable pause.
const TICK: Duration = Duration::from_millis(100);

/// A longer time between two calls is the shell's own (a laptop that slept, a machine that was stopped):
/// only so much of it counts, so that nobody is blamed for it.
const GAP_MAX: Duration = Duration::from_secs(1);

/// A source is called slow only after it had so long to show what it can.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// Bytes per second that nobody is sent away for.
const SLOW_BYTES_PER_S: u64 = 16 << 10;

/// Others with the same must be so much faster.
const SLOW_FACTOR: u64 = 20;

/// How long a slow source is left alone.
const SLOW_REST: Duration = Duration::from_mins(1);

/// Over so long a source with requests must bring [`TRICKLE_BYTES`], whether others do better or not.
pub(super) const TRICKLE_WINDOW: Duration = Duration::from_secs(20);

/// 1 KiB a second: a byte now and then is no source but a way to keep a fetch waiting for ever.
pub(super) const TRICKLE_BYTES: u64 = 20 << 10;

/// The machine's own time: the shell's without its pauses.
#[derive(Debug, Default)]
pub(super) struct Steady {
    last: Option<Duration>,
    skipped: Duration,
    ticked: Duration,
}

impl Steady {
    pub(super) fn steady(&mut self, outside: Duration) -> Duration {
        let last = self.last.unwrap_or(outside);
        let gap = outside.saturating_sub(last);
        self.skipped += gap.saturating_sub(GAP_MAX);
        self.last = Some(outside.max(last));
        self.now()
    }

    pub(super) fn now(&self) -> Duration {
        self.last.unwrap_or_default().saturating_sub(self.skipped)
    }

    /// Own time as the shell's.
    pub(super) fn outside(&self, own: Duration) -> Duration {
        own.saturating_add(self.skipped)
    }

    pub(super) fn next_tick(&self) -> Duration {
        self.outside(self.ticked + TICK)
    }
}

impl Tuning {
    /// The rest after so many stalls, failures or busy answers in a row.
    pub(super) fn rest_after(&self, strikes: u32) -> Duration {
        let doubled = 1u32
            .checked_shl(strikes.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.rest_min.saturating_mul(doubled).min(self.rest_max)
    }
}

impl Machine {
    pub(super) fn on_tick(&mut self, now: Duration) {
        self.clock.ticked = now;
        for ix in self.parties.ixs() {
            self.judge(now, ix);
        }
        self.keep_company(now);
        self.share_out(now);
        self.open_web(now);
        for ix in self.parties.ixs() {
            self.fill(now, ix);
        }
        for file in self.files.values_mut() {
            let is_quiet = file
                .active
                .values()
                .all(|a| a.asked.is_empty() && !a.is_checking);
            let silence = now.saturating_sub(file.last_activity);
            if !file.is_complete() && is_quiet && silence >= self.tuning.starved_after {
                file.last_activity = now;
                let file = file.sha256();
                self.effects.push_back(Effect::Starved { file });
            }
        }
    }

    /// Ends a rest; sends away who stands still or only pretends to deliver.
    fn judge(&mut self, now: Duration, ix: PartyIx) {
        let party = self.parties.get_mut(ix);
        party.rest.take_if(|(until, _)| *until <= now);
        if party.requests.is_empty() {
            return;
        }
        let patience = self.tuning.stall_after.max(party.rtt() * 8);
        if now.saturating_sub(party.last_byte) >= patience {
            self.strike(now, ix, RestReason::Stalled);
            return;
        }
        if party.trickles(now) {
            self.rest(now, ix, RestReason::Slow, SLOW_REST);
            return;
        }
        let party = self.parties.get(ix);
        let rate = party.rate.at(now).unwrap_or(0);
        let had_time = now.saturating_sub(party.busy_since) >= SLOW_AFTER;
        if had_time && rate < SLOW_BYTES_PER_S && self.has_faster(now, ix, rate * SLOW_FACTOR) {
            self.rest(now, ix, RestReason::Slow, SLOW_REST);
        }
    }

    /// Whether somebody else who has the same files delivers more than `rate` bytes per second, or waits
    /// because the slow ones hold all that may be asked for.
    fn has_faster(&self, now: Duration, ix: PartyIx, rate: u64) -> bool {
        let slow = self.parties.get(ix);
        let others = self.parties.iter().filter(|p| p.source != slow.source);
        let mut usable = others.filter(|party| party.is_usable(now));
        usable.any(|party| {
            let has_same = || {
                party
                    .offers
                    .keys()
                    .any(|file| slow.offers.contains_key(file))
            };
            let is_faster = party.rate.known().is_some_and(|other| other > rate);
            let is_kept_waiting = self.is_at_limit && party.requests.is_empty() && !party.is_aside;
            (is_faster || is_kept_waiting) && has_same()
        })
    }

    /// If all windows together are above the limit, each source gets its part.
    fn share_out(&mut self, now: Duration) {
        let usable = self.parties.iter().filter(|party| party.is_usable(now));
        let busy = usable.filter(|party| !party.requests.is_empty());
        let wanted: u64 = busy.map(|party| party.window(&self.tuning)).sum();
        let limit = self.tuning.outstanding_total_max;
        self.share = (limit * 1_000)
            .checked_div(wanted)
            .unwrap_or(1_000)
            .min(1_000);
    }

    fn open_web(&mut self, now: Duration) {
        let peers = self
            .parties
            .iter()
            .filter(|p| !p.is_web() && p.is_usable(now));
        let rate: u64 = peers.filter_map(|party| party.rate.at(now)).sum();
        if rate >= self.tuning.web_below {
            self.poor_since = None;
        } else {
            self.poor_since.get_or_insert(now);
        }
        let is_long = |since| now.saturating_sub(since) >= self.tuning.web_after;
        self.is_web_open = self.poor_since.is_some_and(is_long);
    }
}
