//! The spool of updates: how full it is by its own bound, and whether its disk has room for the rest.

use owm_service::doctor::{
    Finding,
    disk::{bytes, judge_room, probe_room},
    shell,
};

use super::Ground;
use crate::{config::RoundsSection, spool::Spool};

const AREA: &str = "spool";

/// From this share of its bound on, in percent, it is soon full.
const FULL_PERCENT: u64 = 90;

pub(super) fn check(ground: &Ground) -> Vec<Finding> {
    let rules = &ground.config.rounds;
    let kept = match Spool::in_folder(&rules.spool, rules.spool_max.get()).kept() {
        Ok(kept) => kept,
        Err(error) => {
            let fix = format!("ls -ld {}", shell(&rules.spool));
            return vec![Finding::problem(AREA, error.to_string(), fix)];
        }
    };
    let used = kept.iter().map(|kept| kept.size).sum();
    let mut findings = vec![judge(kept.len(), used, rules)];
    if rules.spool.exists()
        && let Ok(room) = probe_room(&rules.spool)
    {
        let fix = "lower [rounds] spool_max, or move [rounds] spool to a larger disk";
        let left = rules.spool_max.get().saturating_sub(used);
        let room = judge_room(
            AREA,
            room,
            left,
            "updates up to [rounds] spool_max",
            &rules.spool,
            fix,
        );
        findings.extend(room);
    }
    findings
}

fn judge(updates: usize, used: u64, rules: &RoundsSection) -> Finding {
    let max = rules.spool_max.get();
    let what = format!("{updates} updates, {} of {}", bytes(used), bytes(max));
    if u128::from(used) * 100 < u128::from(max) * u128::from(FULL_PERCENT) {
        return Finding::ok(AREA, what);
    }
    Finding::warning(
        AREA,
        format!("{what}: more updates are soon told to come again"),
        "raise [rounds] spool_max, or lower spool_kept or spool_kept_max; what an open evaluation needs stays",
    )
}

#[cfg(test)]
mod tests {
    use owm_service::{config::HumanBytes, doctor::Level};

    use super::*;

    #[test]
    fn a_spool_that_is_nearly_full_is_told_before_it_is() {
        let rules = RoundsSection {
            spool_max: HumanBytes::new(1_000),
            ..RoundsSection::default()
        };
        assert_eq!(judge(0, 0, &rules).level, Level::Ok);
        assert_eq!(judge(3, 899, &rules).level, Level::Ok);
        let full = judge(3, 900, &rules);
        assert_eq!(full.level, Level::Warning);
        assert!(full.fix.unwrap().contains("spool_max"));
    }
}
