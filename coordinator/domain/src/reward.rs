//! What accepted work earns (spec §11). Called where a result is booked; the factors are stored with
//! the ledger event, so that anyone can redo the product.

use owm_proto::{
    Msat, Permille, Sats, TaskType, Tier,
    money::{MSAT_PER_SAT, Overflow},
};
use serde::{Deserialize, Serialize};

/// The founding base rate, 10 sats; the network's config may say otherwise.
pub const BASE_RATE_DEFAULT: Msat = Msat(10 * MSAT_PER_SAT);

/// Uptime above which it pays extra: 0.9.
const UPTIME_BONUS_FROM: u32 = 900;

/// Each thousandth above gives five.
const UPTIME_BONUS_SLOPE: u32 = 5;

/// Bonus for each tier minimum staked above the first, in thousandths: 0.5.
const STAKE_BONUS_SLOPE: u128 = 500;

/// At most a bonus of 1 on top: factor 2.
const STAKE_BONUS_MAX: u128 = 1_000;

/// 1 + max(0, (uptime − 0.9) × 5): 1.0 to 1.5.
pub fn uptime_bonus(uptime: Permille) -> Permille {
    let above = uptime.0.min(1_000).saturating_sub(UPTIME_BONUS_FROM);
    Permille(1_000 + above * UPTIME_BONUS_SLOPE)
}

/// clamp(1 + (stake − minimum) / minimum × 0.5, 1, 2), floored to thousandths; 1 where the minimum
/// is 0.
pub fn stake_bonus(stake: Sats, minimum: Sats) -> Permille {
    let Some(above) = stake.0.checked_sub(minimum.0).filter(|_| minimum.0 > 0) else {
        return Permille::ONE;
    };
    let bonus =
        (u128::from(above) * STAKE_BONUS_SLOPE / u128::from(minimum.0)).min(STAKE_BONUS_MAX);
    Permille(1_000 + u32::try_from(bonus).expect("capped at 1000"))
}

/// Who did what, how well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What kind.
    pub task_type: TaskType,
    /// The node's tier in effect.
    pub tier: Tier,
    /// 0 to 1; a valid answer is 1.
    pub quality: Permille,
    /// The node's uptime over seven days.
    pub uptime: Permille,
    /// The node's stake bonus.
    pub stake_bonus: Permille,
}

/// The factors of one reward, as stored in `ledger_events.factors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardFactors {
    /// In millisatoshi.
    pub base_rate: Msat,
    /// Of the tier in effect.
    pub tier_multiplier: Permille,
    /// Of the kind of work.
    pub task_weight: Permille,
    /// At most 1.
    pub quality: Permille,
    /// 1.0 to 1.5.
    pub uptime_bonus: Permille,
    /// 1.0 to 2.0.
    pub stake_bonus: Permille,
    /// 1 for the first valid result, the late share for one that lost the race.
    pub share: Permille,
}

impl RewardFactors {
    /// For the first valid result.
    pub fn of(base_rate: Msat, work: &Work) -> Self {
        Self {
            base_rate,
            tier_multiplier: work.tier.terms().reward_multiplier,
            task_weight: work.task_type.weight(),
            quality: work.quality.min(Permille::ONE),
            uptime_bonus: uptime_bonus(work.uptime),
            stake_bonus: work.stake_bonus.clamp(Permille::ONE, Permille(2_000)),
            share: Permille::ONE,
        }
    }

    /// For an on-time result that lost the race.
    pub fn of_late(base_rate: Msat, work: &Work) -> Self {
        Self {
            share: work.task_type.late_share(),
            ..Self::of(base_rate, work)
        }
    }

    /// The product, floored once to a millisatoshi.
    pub fn amount(&self) -> Result<Msat, Overflow> {
        self.base_rate.times(&[
            self.tier_multiplier,
            self.task_weight,
            self.quality,
            self.uptime_bonus,
            self.stake_bonus,
            self.share,
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn work(tier: Tier, task_type: TaskType) -> Work {
        Work {
            task_type,
            tier,
            quality: Permille::ONE,
            uptime: Permille(900),
            stake_bonus: stake_bonus(tier.terms().stake_min, tier.terms().stake_min),
        }
    }

    fn reward(work: &Work) -> Msat {
        RewardFactors::of(BASE_RATE_DEFAULT, work).amount().unwrap()
    }

    #[test]
    fn the_check_values_of_the_specification_hold() {
        let cases = [
            (Tier::T2, TaskType::Inference, 25),
            (Tier::T2, TaskType::FlRound, 75),
            (Tier::T1, TaskType::FlRound, 30),
        ];
        for (tier, task_type, sats) in cases {
            assert_eq!(reward(&work(tier, task_type)), Msat(sats * 1_000));
        }
    }

    #[test]
    fn three_times_the_minimum_stake_doubles_the_reward_and_more_does_not() {
        let minimum = Sats(100_000);
        let cases = [
            (0, 1_000),
            (99_999, 1_000),
            (100_000, 1_000),
            (200_000, 1_500),
            (300_000, 2_000),
            (u64::MAX, 2_000),
            (100_201, 1_001),
        ];
        for (stake, permille) in cases {
            assert_eq!(
                stake_bonus(Sats(stake), minimum),
                Permille(permille),
                "{stake}"
            );
        }
        assert_eq!(
            stake_bonus(Sats(u64::MAX), Sats(0)),
            Permille::ONE,
            "no minimum, no bonus"
        );
        let staked = Work {
            stake_bonus: Permille(2_000),
            ..work(Tier::T2, TaskType::Inference)
        };
        assert_eq!(reward(&staked), Msat(50_000));
    }

    #[test]
    fn uptime_pays_extra_only_above_ninety_percent() {
        for (uptime, bonus) in [
            (0, 1_000),
            (900, 1_000),
            (901, 1_005),
            (1_000, 1_500),
            (u32::MAX, 1_500),
        ] {
            assert_eq!(uptime_bonus(Permille(uptime)), Permille(bonus));
        }
    }

    #[test]
    fn a_late_inference_earns_nothing_and_a_late_update_all() {
        let late = |work| {
            RewardFactors::of_late(BASE_RATE_DEFAULT, &work)
                .amount()
                .unwrap()
        };
        assert_eq!(late(work(Tier::T2, TaskType::Inference)), Msat::ZERO);
        assert_eq!(late(work(Tier::T2, TaskType::FlRound)), Msat(75_000));
    }

    #[test]
    fn an_amount_is_floored_once_at_the_end() {
        let odd = Work {
            quality: Permille(333),
            uptime: Permille(901),
            ..work(Tier::T2, TaskType::Inference)
        };
        // 10,000 × 2.5 × 0.333 × 1.005 = 8,366.625
        assert_eq!(reward(&odd), Msat(8_366));
    }

    #[test]
    fn stored_factors_give_the_same_amount_again() {
        let factors = RewardFactors::of(BASE_RATE_DEFAULT, &work(Tier::T3, TaskType::GradientAgg));
        let stored = serde_json::to_string(&factors).unwrap();
        assert_eq!(
            serde_json::from_str::<RewardFactors>(&stored).unwrap(),
            factors
        );
        assert!(stored.contains("\"tier_multiplier\":8000"), "{stored}");
    }

    proptest! {
        #[test]
        fn any_factors_give_an_amount_or_an_overflow_never_a_panic(
            base: u64, factors: [u32; 6], quality: u32, uptime: u32, stake: u64, minimum: u64,
        ) {
            let [a, b, c, d, e, f] = factors.map(Permille);
            let any = RewardFactors {
                base_rate: Msat(base), tier_multiplier: a, task_weight: b, quality: c,
                uptime_bonus: d, stake_bonus: e, share: f,
            };
            let _ = any.amount();
            let bonus = stake_bonus(Sats(stake), Sats(minimum));
            prop_assert!((Permille(1_000)..=Permille(2_000)).contains(&bonus));
            let made = RewardFactors::of(Msat(base % 1_000_000_000_000), &Work {
                task_type: TaskType::GradientAgg, tier: Tier::T3, quality: Permille(quality),
                uptime: Permille(uptime), stake_bonus: bonus,
            });
            // 8 × 5 × 1 × 1.5 × 2 at most.
            prop_assert!(made.amount().unwrap().0 <= base % 1_000_000_000_000 * 120);
        }
    }
}
