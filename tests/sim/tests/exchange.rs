//! A thousand seeds of fetches, in tests that run side by side. A seed that fails is printed with its
//! scenario; `OWM_SEED=17 cargo test -p owm-sim --test exchange` runs it alone.

use std::time::Duration;

use owm_p2p::exchange::machine::Tuning;
use owm_sim::exchange::{
    Kind, Scenario, World, check_seeds, run_seed,
    scenario::{Spec, ladders},
};

/// Seeds of one test.
const SEEDS: u64 = 125;

fn check(part: u64) {
    if let Err(failures) = check_seeds(part * SEEDS..(part + 1) * SEEDS) {
        let count = failures.len();
        let first: Vec<String> = failures.iter().take(5).map(ToString::to_string).collect();
        panic!("{count} seeds failed:\n{}", first.join("\n"));
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
    seeds_0_to_124 = 0,
    seeds_125_to_249 = 1,
    seeds_250_to_374 = 2,
    seeds_375_to_499 = 3,
    seeds_500_to_624 = 4,
    seeds_625_to_749 = 5,
    seeds_750_to_874 = 6,
    seeds_875_to_999 = 7,
}

#[test]
fn a_seed_gives_the_same_fetch_again() {
    for seed in 0..10 {
        assert_eq!(run_seed(seed), run_seed(seed), "{seed}");
    }
}

#[test]
fn among_a_thousand_seeds_much_goes_wrong() {
    // The scenarios must contain what the rules are for, or the seeds prove nothing.
    let outcomes: Vec<_> = (0..60).map(run_seed).collect();
    assert!(outcomes.iter().filter(|o| o.banned > 0).count() >= 15);
    assert!(outcomes.iter().any(|o| o.banned >= 3));
    assert!(
        outcomes
            .iter()
            .filter(|o| o.took > Duration::from_secs(10))
            .count()
            >= 5
    );
}

/// Fetches the largest file from honest sources of these rates (bytes per second, one way 20 ms).
fn fetch(rates: &[u64]) -> Duration {
    fetch_with(rates, Tuning::default())
}

fn fetch_with(rates: &[u64], tuning: Tuning) -> Duration {
    let source = |rate: &u64| Spec {
        kind: Kind::Honest,
        rate: *rate,
        delay: Duration::from_millis(20),
    };
    let scenario = Scenario {
        seed: 1,
        files: vec![ladders().len() - 1],
        sources: rates.iter().map(source).collect(),
        have_permille: 0,
        tuning,
    };
    let outcome = World::new(scenario).run();
    assert_eq!(outcome.violations, Vec::<String>::new());
    outcome.took
}

#[test]
fn eight_sources_of_an_eighth_give_nine_tenths_of_the_sum() {
    let size = ladders().last().unwrap().spec().size();
    for rate in [1_600_000, 320_000] {
        let took = fetch(&[rate / 8; 8]).as_secs_f64();
        let best = size as f64 / rate as f64;
        assert!(best / took >= 0.9, "{rate}: {took} s, {best} s at best");
    }
}

#[test]
fn eight_sources_of_an_eighth_give_nine_tenths_of_the_sum_though_fewer_are_tried() {
    let size = ladders().last().unwrap().spec().size();
    for rate in [1_600_000, 320_000] {
        let few_above = rate / 4;
        let tuning = Tuning {
            few_above,
            ..Tuning::default()
        };
        let took = fetch_with(&[rate / 8; 8], tuning).as_secs_f64();
        let best = size as f64 / rate as f64;
        assert!(best / took >= 0.9, "{rate}: {took} s, {best} s at best");
    }
}

#[test]
fn unequal_sources_give_most_of_their_sum() {
    let size = ladders().last().unwrap().spec().size();
    let rates = [1_000_000, 500_000, 100_000, 50_000, 20_000];
    let took = fetch(&rates).as_secs_f64();
    let best = size as f64 / rates.iter().sum::<u64>() as f64;
    assert!(best / took >= 0.85, "{took} s, {best} s at best");
}
