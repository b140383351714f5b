//! Which updates leave the spool: those that nothing open needs any more, when they are old or too many. `tasks::spool`
//! carries it out. Pure.
//! Must stay true: what is needed stays, however old it is and however full the disk.

use std::{collections::BTreeSet, time::Duration};

use owm_proto::{Sha256, UnixMillis};

use crate::config::RoundsSection;

/// What came within this time stays: it may be received and not judged yet.
pub const YOUNG: Duration = Duration::from_hours(1);

/// An update that lies in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
    /// When it was whole, by the machine's clock.
    pub at: UnixMillis,
}

/// What goes, oldest first.
pub fn leaving(
    mut all: Vec<Kept>,
    needed: &BTreeSet<Sha256>,
    rules: &RoundsSection,
    now: UnixMillis,
) -> Vec<Kept> {
    all.retain(|kept| !needed.contains(&kept.sha256) && now.since(kept.at) >= YOUNG);
    all.sort_by_key(|kept| (kept.at, kept.sha256));
    let mut left: u64 = all.iter().map(|kept| kept.size).sum();
    all.retain(|kept| {
        let is_old = now.since(kept.at) >= rules.spool_kept.get();
        let goes = is_old || left > rules.spool_kept_max.get();
        if goes {
            left -= kept.size;
        }
        goes
    });
    all
}

#[cfg(test)]
mod tests {
    use owm_service::config::{HumanBytes, HumanDuration};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000_000);

    fn kept(n: u8, size: u64, hours: u64) -> Kept {
        Kept {
            sha256: Sha256([n; 32]),
            size,
            at: NOW.before(Duration::from_hours(hours)),
        }
    }

    fn gone(all: &[Kept], needed: &[u8]) -> Vec<u8> {
        let rules = RoundsSection {
            spool_kept: HumanDuration::from_secs(48 * 3_600),
            spool_kept_max: HumanBytes::new(100),
            ..RoundsSection::default()
        };
        let needed = needed.iter().map(|n| Sha256([*n; 32])).collect();
        let leaving = leaving(all.to_vec(), &needed, &rules, NOW);
        leaving.iter().map(|kept| kept.sha256.0[0]).collect()
    }

    #[test]
    fn the_old_go_and_of_the_others_the_oldest_that_are_too_many() {
        let all = [
            kept(1, 40, 2),
            kept(2, 40, 50),
            kept(3, 40, 20),
            kept(4, 40, 10),
        ];
        assert_eq!(gone(&all, &[]), [2, 3]);
        assert_eq!(gone(&all[..2], &[]), [2]);
        assert_eq!(gone(&all[2..], &[]), [] as [u8; 0]);
    }

    #[test]
    fn what_is_needed_or_has_just_come_stays_and_counts_for_nobody() {
        let all = [kept(1, 1_000, 900), kept(2, 1_000, 0), kept(3, 90, 2)];
        assert_eq!(gone(&all, &[1]), [] as [u8; 0]);
        assert_eq!(gone(&all, &[]), [1]);
    }
}
