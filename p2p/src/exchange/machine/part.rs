//! How much of what is left a source is trusted with: no more than it will bring of it while the others work too.
//! Otherwise the first few who are known are asked for all of a small file, and the last of a large one waits for
//! whoever happened to be asked for it. Used by [`super::fill`].

use super::{Machine, party::PartyIx};

impl Machine {
    /// Bytes that a source should be asked for at any time, the limit for all aside.
    pub(super) fn window(&self, ix: PartyIx) -> u64 {
        let window = self.parties.get(ix).window(&self.tuning);
        let part = self.part(ix).unwrap_or(u64::MAX);
        window.min(part.max(self.tuning.request_min))
    }

    /// Its part, by what it brings beside the others, of the bytes that have not come. `None`: nobody else is asked.
    fn part(&self, ix: PartyIx) -> Option<u64> {
        let others = self.parties.busy().filter(|(other, _)| *other != ix);
        let others: Vec<Option<u64>> = others.map(|(_, party)| party.rate.known()).collect();
        if others.is_empty() {
            return None;
        }
        let own = self.parties.get(ix);
        let known = others.iter().copied().chain([own.rate.known()]).flatten();
        let (sum, count) = known.fold((0_u64, 0_u64), |(sum, n), rate| (sum + rate, n + 1));
        // Of whom nothing is known does what the others do.
        let usual = sum.checked_div(count).unwrap_or(1).max(1);
        let own_rate = own.rate.known().unwrap_or(usual);
        let all: u64 = others.iter().map(|rate| rate.unwrap_or(usual)).sum();
        let all = all.saturating_add(own_rate).max(1);
        let wanted = self.files.values().filter(|file| !file.is_complete());
        let wanted = wanted.filter(|file| own.offers.contains_key(&file.ix));
        let left: u64 = wanted.map(super::File::left).sum();
        let part = u128::from(left) * u128::from(own_rate) / u128::from(all);
        Some(u64::try_from(part).unwrap_or(u64::MAX))
    }
}
