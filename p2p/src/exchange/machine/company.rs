//! Few sources where few suffice. At many megabytes a second it is mostly this machine that is busy, not the sources:
//! eight of them then bring no more than two, and cost more, since each request wakes somebody at either end. So a fetch
//! that is fast sets half of its sources aside, and keeps to the others if the total does not fall. Who is set aside
//! stays connected, is asked for nothing and is blamed for nothing; all are asked again as soon as the total falls, a
//! source in use stands still or goes away, or the fetch is no longer fast. Now and then one more is tried.
//!
//! Must stay true: two sources that have all of every file are always in use, or nobody is aside.

use std::{cmp::Reverse, time::Duration};

use super::{
    Machine,
    party::{Party, PartyIx},
};

/// So many stay in use at least: one may stand still, and the other takes over.
const IN_USE_MIN: usize = 2;

/// Long enough for tens of requests of those who are that fast.
const WINDOW: Duration = Duration::from_millis(200);

/// After a change nothing is measured for so long, nor before all that had been asked of those set aside has come.
const SETTLES: Duration = Duration::from_millis(100);

/// Fewer do as well as all if the total keeps above so many hundredths.
const AS_WELL: u64 = 90;

/// One more is of use if it makes the total so many hundredths.
const BETTER: u64 = 106;

/// All are asked again if the total falls below so many hundredths of what it was when fewer were found to do.
const FALLEN: u64 = 80;

/// One window is no window on a busy machine: a total that is lower, but not below so many hundredths, is looked at once
/// more.
const DOUBTFUL: u64 = 70;

/// If fewer did not do, they are tried again after so long, then after twice as long, up to the second. A try costs
/// sources that are slower than this machine about half of the total for three tenths of a second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(64));

/// One more is tried so often.
const ONE_MORE: Duration = Duration::from_secs(10);

/// How many are in use, and why.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Bytes that came since.
    bytes: u64,
    since: Duration,
    trial: Option<Trial>,
    /// Bytes per second of all, before anybody was set aside.
    of_all: u64,
    /// Bytes per second when it was last settled who is in use.
    of_some: u64,
    fewer_at: Duration,
    more_at: Duration,
    failures: u32,
    /// The last window was low, and is looked at once more.
    is_doubtful: bool,
}

#[derive(Debug)]
enum Trial {
    /// These were set aside.
    Fewer(Vec<PartyIx>),
    /// This one is asked again.
    More(PartyIx),
}

impl Company {
    pub(super) fn add(&mut self, now: Duration, bytes: u64) {
        if now < self.since {
            return;
        }
        if self.bytes == 0 {
            self.since = now;
        }
        self.bytes += bytes;
    }

    /// Bytes per second, once the window is over.
    fn window(&mut self, now: Duration) -> Option<u64> {
        let span = now.saturating_sub(self.since);
        if span < WINDOW {
            return None;
        }
        let rate = u128::from(self.bytes) * 1_000_000 / span.as_micros();
        (self.bytes, self.since) = (0, now);
        Some(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Whether `rate` is below so many hundredths of `usual`, and not by accident.
    fn is_below(&mut self, rate: u64, usual: u64, hundredths: u64) -> bool {
        let is_low = rate < usual / 100 * hundredths;
        let is_first = !std::mem::replace(&mut self.is_doubtful, is_low);
        is_low && !(is_first && rate >= usual / 100 * DOUBTFUL)
    }

    fn settles(&mut self, now: Duration) {
        (self.bytes, self.since) = (0, now + SETTLES);
    }

    /// All are needed, for now.
    fn failed(&mut self, now: Duration) {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures += 1;
        self.fewer_at = now + AGAIN.0.saturating_mul(doubled).min(AGAIN.1);
    }
}

impl Machine {
    /// Looks, once a window, whether fewer do or more are needed.
    pub(super) fn keep_company(&mut self, now: Duration) {
        self.fill_up_company(now);
        if let Some(Trial::Fewer(moved)) = &self.company.trial {
            let comes = |ix: &PartyIx| {
                let party = self.parties.find_ix(*ix);
                party.is_some_and(|party| !party.requests.is_empty())
            };
            if moved.iter().any(comes) {
                self.company.settles(now);
                return;
            }
        }
        let Some(rate) = self.company.window(now) else {
            return;
        };
        if rate < self.tuning.few_above {
            self.company.trial = None;
            if self.admit_all() {
                self.company.failed(now);
            }
            return;
        }
        match self.company.trial.take() {
            Some(Trial::Fewer(moved)) => self.judge_fewer(now, rate, moved),
            Some(Trial::More(who)) => {
                if rate < self.company.of_some / 100 * BETTER {
                    self.set_aside(&[who]);
                } else {
                    self.company.of_all = rate.max(self.company.of_all);
                    self.company.fewer_at = now + ONE_MORE;
                }
                self.settled(now, rate);
            }
            None if self.company.is_below(rate, self.company.of_some, FALLEN) => {
                if self.admit_all() {
                    self.company.failed(now);
                }
                self.settled(now, rate);
            }
            None if self.company.is_doubtful => {}
            None => {
                if self.parties.iter().all(|party| !party.is_aside) {
                    (self.company.of_all, self.company.of_some) = (rate, rate);
                }
                if now >= self.company.more_at {
                    self.try_more(now);
                }
                if self.company.trial.is_none() && now >= self.company.fewer_at {
                    self.try_fewer(now);
                }
            }
        }
    }

    fn judge_fewer(&mut self, now: Duration, rate: u64, moved: Vec<PartyIx>) {
        let of_all = self.company.of_all;
        if self.company.is_below(rate, of_all, AS_WELL) {
            self.admit(&moved);
            self.company.failed(now);
            self.settled(now, rate);
        } else if self.company.is_doubtful {
            self.company.trial = Some(Trial::Fewer(moved));
        } else {
            self.company.failures = 0;
            self.settled(now, rate);
            self.try_fewer(now);
        }
    }

    /// Somebody may have gone or rests: too few in use is worse than too many.
    pub(super) fn fill_up_company(&mut self, now: Duration) {
        if self.parties.iter().any(|party| party.is_aside) && self.in_use(now).len() < IN_USE_MIN {
            self.company.trial = None;
            self.admit_all();
            self.company.failed(now);
            self.settled(now, 0);
        }
    }

    fn settled(&mut self, now: Duration, rate: u64) {
        self.company.of_some = rate;
        self.company.is_doubtful = false;
        self.company.more_at = now + ONE_MORE;
        self.company.settles(now);
    }

    /// Peers that may be asked for whatever is missing, and are.
    fn in_use(&self, now: Duration) -> Vec<PartyIx> {
        let ixs = self.parties.ixs().into_iter();
        let in_use = ixs.filter(|ix| {
            let party = self.parties.get(*ix);
            !party.is_aside && party.is_able(now) && self.has_all(party)
        });
        in_use.collect()
    }

    /// Whether it has all of every file that is not complete.
    fn has_all(&self, party: &Party) -> bool {
        let mut missing = self.files.values().filter(|file| !file.is_complete());
        missing.all(|file| party.offers.get(&file.ix) == Some(&None))
    }

    /// Half of those in use are set aside: the slower ones; among about equally fast ones it is chance, so that many
    /// fetches don't all keep to the same sources. Those who have only a part are too.
    fn try_fewer(&mut self, now: Duration) {
        let mut in_use = self.in_use(now);
        in_use.sort_by_key(|ix| {
            let rate = self.parties.get(*ix).rate.known().unwrap_or(0);
            (Reverse(rate.checked_ilog2()), ix.lot(self.seed))
        });
        let keep = in_use.len().div_ceil(2).max(IN_USE_MIN);
        if in_use.len() < IN_USE_MIN {
            return;
        }
        let keeps = &in_use[..keep.min(in_use.len())];
        let ixs = self.parties.ixs().into_iter();
        let moved: Vec<PartyIx> = ixs
            .filter(|ix| {
                let party = self.parties.get(*ix);
                !keeps.contains(ix) && !party.is_aside && party.is_able(now)
            })
            .collect();
        if moved.is_empty() {
            return;
        }
        self.set_aside(&moved);
        self.company.trial = Some(Trial::Fewer(moved));
        self.company.settles(now);
    }

    /// One of those who are aside is asked again.
    fn try_more(&mut self, now: Duration) {
        let turn = self.next_request;
        let ixs = self.parties.ixs().into_iter();
        let aside = ixs.filter(|ix| {
            let party = self.parties.get(*ix);
            party.is_aside && party.is_able(now)
        });
        if let Some(one) = aside.min_by_key(|ix| ix.lot(self.seed ^ turn)) {
            self.admit(&[one]);
            self.company.trial = Some(Trial::More(one));
            self.company.settles(now);
        }
    }

    fn set_aside(&mut self, moved: &[PartyIx]) {
        for ix in moved {
            // Who is away may have been forgotten meanwhile.
            let Some(party) = self.parties.find_ix(*ix) else {
                continue;
            };
            party.is_aside = true;
            // What it was asked for still comes; the rest of its piece is others'.
            if let Some((file, piece)) = party.current.take() {
                self.loosen(file, piece);
            }
            self.idle.remove(ix);
        }
    }

    fn admit(&mut self, moved: &[PartyIx]) {
        for ix in moved {
            if let Some(party) = self.parties.find_ix(*ix) {
                party.is_aside = false;
                self.idle.insert(*ix);
                self.has_freed = true;
            }
        }
    }

    /// Whether anybody was aside.
    fn admit_all(&mut self) -> bool {
        let ixs = self.parties.ixs().into_iter();
        let aside: Vec<PartyIx> = ixs.filter(|ix| self.parties.get(*ix).is_aside).collect();
        self.admit(&aside);
        !aside.is_empty()
    }
}
