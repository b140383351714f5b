//! Water-filling under a cap for each and one for each group. At most one stop per node and owner: it ends.

/// Sums of shares are wrong by less.
pub(super) const ROUNDING: f64 = 1e-12;

/// Shares that grow at given speeds.
#[derive(Debug)]
pub(super) struct Tank {
    shares: Vec<f64>,
    speeds: Vec<f64>,
    groups: Vec<usize>,
    cap: f64,
    group_cap: f64,
    /// By group.
    sums: Vec<f64>,
    full: Vec<bool>,
    group_full: Vec<bool>,
}

impl Tank {
    /// All empty. `groups` names each one's group by a number below its length.
    pub(super) fn new(speeds: &[f64], groups: &[usize], cap: f64, group_cap: f64) -> Self {
        let n = speeds.len();
        // Only their proportions matter; so no number gets out of range.
        let most = speeds.iter().fold(0.0_f64, |most, speed| most.max(*speed));
        Self {
            shares: vec![0.0; n],
            speeds: speeds.iter().map(|speed| speed / most).collect(),
            groups: groups.to_vec(),
            cap,
            group_cap,
            sums: vec![0.0; n],
            full: vec![false; n],
            group_full: vec![false; n],
        }
    }

    /// Raises those in `some` until the shares of `some` sum to `until` (or all shares to 1), or all are full.
    pub(super) fn fill(&mut self, some: &[usize], until: f64) {
        loop {
            let left = (until - self.sum(some)).min(1.0 - self.total());
            let rising: Vec<usize> = some.iter().copied().filter(|i| self.rises(*i)).collect();
            if left <= 0.0 || rising.is_empty() {
                return;
            }
            let mut group_speeds = vec![0.0; self.groups.len()];
            for i in &rising {
                group_speeds[self.groups[*i]] += self.speeds[*i];
            }
            let speed: f64 = rising.iter().map(|i| self.speeds[*i]).sum();
            let mut time = left / speed;
            for i in &rising {
                let group = self.groups[*i];
                time = time
                    .min((self.cap - self.shares[*i]) / self.speeds[*i])
                    .min((self.group_cap - self.sums[group]) / group_speeds[group]);
            }
            let time = time.max(0.0);
            for i in &rising {
                self.shares[*i] += time * self.speeds[*i];
                self.sums[self.groups[*i]] += time * self.speeds[*i];
            }
            // Whoever stopped the water is full, by the same comparison.
            let mut stopped = false;
            for i in &rising {
                let group = self.groups[*i];
                if self.cap - self.shares[*i] <= ROUNDING {
                    (self.full[*i], stopped) = (true, true);
                }
                if self.group_cap - self.sums[group] <= ROUNDING {
                    (self.group_full[group], stopped) = (true, true);
                }
            }
            if !stopped {
                return;
            }
        }
    }

    fn rises(&self, i: usize) -> bool {
        !self.full[i] && !self.group_full[self.groups[i]] && self.speeds[i] > 0.0
    }

    pub(super) fn sum(&self, some: &[usize]) -> f64 {
        some.iter().map(|i| self.shares[*i]).sum()
    }

    pub(super) fn total(&self) -> f64 {
        self.shares.iter().sum()
    }

    pub(super) fn into_shares(self) -> Vec<f64> {
        self.shares
    }
}
