//! Twenty seeds of a thousand peers, a test each: `make test-long`.

use owm_sim::{run::check_seeds, scenario::LARGE};

fn check(seed: u64) {
    if let Err(failures) = check_seeds(seed..seed + 1, &LARGE) {
        panic!("{failures}");
    }
}

macro_rules! seeds {
    ($($name:ident = $seed:literal),* $(,)?) => {$(
        #[test]
        #[ignore = "long: a thousand peers; make test-long"]
        fn $name() {
            check($seed);
        }
    )*};
}

seeds! {
    long_a_thousand_peers_seed_0 = 0,
    long_a_thousand_peers_seed_1 = 1,
    long_a_thousand_peers_seed_2 = 2,
    long_a_thousand_peers_seed_3 = 3,
    long_a_thousand_peers_seed_4 = 4,
    long_a_thousand_peers_seed_5 = 5,
    long_a_thousand_peers_seed_6 = 6,
    long_a_thousand_peers_seed_7 = 7,
    long_a_thousand_peers_seed_8 = 8,
    long_a_thousand_peers_seed_9 = 9,
    long_a_thousand_peers_seed_10 = 10,
    long_a_thousand_peers_seed_11 = 11,
    long_a_thousand_peers_seed_12 = 12,
    long_a_thousand_peers_seed_13 = 13,
    long_a_thousand_peers_seed_14 = 14,
    long_a_thousand_peers_seed_15 = 15,
    long_a_thousand_peers_seed_16 = 16,
    long_a_thousand_peers_seed_17 = 17,
    long_a_thousand_peers_seed_18 = 18,
    long_a_thousand_peers_seed_19 = 19,
}
