//! A thousand seeds of at most 32 peers, in twenty tests that run side by side. A seed that fails is printed
//! with its scenario; `OWM_SEED=17 cargo test -p owm-sim --test seeds -- --nocapture` runs it alone and
//! tells every step.

use owm_sim::{
    run::{check_seeds, run_seed, wanted_seed},
    scenario::SMALL,
};

/// Seeds of one test.
const SEEDS: u64 = 50;

fn check(part: u64) {
    if let Err(failures) = check_seeds(part * SEEDS..(part + 1) * SEEDS, &SMALL) {
        panic!("{failures}");
    }
}

macro_rules! parts {
    ($($name:ident = $part:literal),* $(,)?) => {$(
        #[test]
        fn $name() {
            check($part);
        }
    )*};
}

parts! {
    seeds_0_to_49 = 0,
    seeds_50_to_99 = 1,
    seeds_100_to_149 = 2,
    seeds_150_to_199 = 3,
    seeds_200_to_249 = 4,
    seeds_250_to_299 = 5,
    seeds_300_to_349 = 6,
    seeds_350_to_399 = 7,
    seeds_400_to_449 = 8,
    seeds_450_to_499 = 9,
    seeds_500_to_549 = 10,
    seeds_550_to_599 = 11,
    seeds_600_to_649 = 12,
    seeds_650_to_699 = 13,
    seeds_700_to_749 = 14,
    seeds_750_to_799 = 15,
    seeds_800_to_849 = 16,
    seeds_850_to_899 = 17,
    seeds_900_to_949 = 18,
    seeds_950_to_999 = 19,
}

#[test]
fn a_wanted_seed_beyond_the_thousand_is_run_too() {
    let beyond = wanted_seed().filter(|seed| *seed >= 20 * SEEDS);
    if let Some(seed) = beyond
        && let Err(failures) = check_seeds(seed..seed + 1, &SMALL)
    {
        panic!("{failures}");
    }
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in [3, 14, 15, 92, 65] {
        let [one, two] = [(); 2].map(|()| run_seed(seed, &SMALL));
        assert!(one.lines > 100, "nothing much happened: {}", one.scenario);
        assert_eq!(
            (one.trace, one.lines),
            (two.trace, two.lines),
            "seed {seed}"
        );
    }
    assert_ne!(run_seed(1, &SMALL).trace, run_seed(2, &SMALL).trace);
}
