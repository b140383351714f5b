//! Fetches of files from honest, slow, silent, lying, busy, boasting and vanishing sources in virtual time:
//! the real fetch machine of `owm-p2p`, everything around it made up from a seed. What must hold in each:
//!
//! - every file is whole in time, for one honest source that has it all is always there or comes back;
//! - nobody is banned who gave no wrong byte; everybody is whose wrong bytes were ever checked;
//! - the bytes asked for never exceed the limit;
//! - nothing is written into a piece while it is checked, nor after it was proved;
//! - the bytes fetched are little more than the files have, beside what liars spoilt.

mod disk;
mod peer;
pub mod scenario;
pub mod world;

use std::{fmt, ops::Range};

pub use scenario::{Kind, Scenario};
pub use world::{Outcome, World};

/// What did not hold in a run.
#[derive(Debug)]
pub struct Failure {
    /// Of which seed.
    pub seed: u64,
    /// What.
    pub what: Vec<String>,
    /// What was run.
    pub scenario: Scenario,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what.join("; "))?;
        write!(f, "  {:?}", self.scenario)
    }
}

/// Runs the scenario of a seed.
pub fn run_seed(seed: u64) -> Outcome {
    World::new(Scenario::draw(seed)).run()
}

/// Runs seeds, or the one of `OWM_SEED` alone.
///
/// # Errors
/// Those in which something did not hold.
pub fn check_seeds(seeds: Range<u64>) -> Result<(), Vec<Failure>> {
    let wanted = crate::run::wanted_seed();
    let seeds = seeds.filter(|seed| wanted.is_none_or(|wanted| wanted == *seed));
    let failures = seeds.filter_map(|seed| {
        let what = run_seed(seed).violations;
        let scenario = Scenario::draw(seed);
        (!what.is_empty()).then_some(Failure {
            seed,
            what,
            scenario,
        })
    });
    let failures: Vec<Failure> = failures.collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}
