//! Runs of seeds: what tests and the program call.

use std::{fmt, ops::Range};

use owm_proto::Sha256;

use crate::{
    scenario::{Scenario, Size},
    watch::Violation,
    world::World,
};

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// What was run.
    pub scenario: Scenario,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// Of everything that happened.
    pub trace: Sha256,
    /// How much happened.
    pub lines: u64,
    /// Of the scenario.
    pub size: Size,
}

/// Runs the scenario of a seed to its end.
pub fn run_seed(seed: u64, size: &Size) -> Report {
    let mut world = World::new(Scenario::draw(seed, size));
    world.run();
    Report {
        violations: world.watch.violations().to_vec(),
        trace: world.trace.hash(),
        lines: world.trace.lines(),
        size: *size,
        scenario: world.scenario,
    }
}

/// The seed that the caller wants to see alone: `OWM_SEED=17 cargo test -p owm-sim`.
pub fn wanted_seed() -> Option<u64> {
    let text = std::env::var("OWM_SEED").ok()?;
    Some(text.parse().expect("OWM_SEED is a number"))
}

/// Runs seeds, or the wanted one alone with its trace, and says of each that failed how to see it again.
///
/// # Errors
/// What did not hold, for people.
pub fn check_seeds(seeds: Range<u64>, size: &Size) -> Result<u64, Failures> {
    let mut failures = Failures::default();
    let mut count = 0;
    let wanted = wanted_seed();
    if wanted.is_some() {
        listen();
    }
    for seed in seeds.filter(|seed| wanted.is_none_or(|wanted| wanted == *seed)) {
        let report = run_seed(seed, size);
        count += 1;
        if !report.violations.is_empty() {
            failures.0.push(report);
        }
    }
    if failures.0.is_empty() {
        Ok(count)
    } else {
        Err(failures)
    }
}

/// Shows the trace on standard error.
fn listen() {
    let filter = tracing_subscriber::EnvFilter::new("owm_sim=debug");
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false);
    // Another test of this process may have done it already.
    let _ = subscriber.try_init();
}

/// Runs in which something did not hold.
#[derive(Debug, Default)]
pub struct Failures(pub Vec<Report>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Failing runs that are told in full.
        const TOLD: usize = 5;
        writeln!(f, "{} seeds failed:", self.0.len())?;
        for Report {
            scenario,
            violations,
            size,
            ..
        } in self.0.iter().take(TOLD)
        {
            writeln!(f, "{scenario}")?;
            for violation in violations {
                let (invariant, at, what) = (violation.invariant, violation.at, &violation.what);
                writeln!(f, "  {invariant:?} at {at}: {what}")?;
            }
            let (seed, test) = (scenario.seed, size.test);
            writeln!(
                f,
                "  see it alone, step by step: OWM_SEED={seed} cargo test -p owm-sim {test}"
            )?;
        }
        let rest = self.0.iter().skip(TOLD).map(|report| report.scenario.seed);
        writeln!(f, "further seeds: {:?}", rest.collect::<Vec<_>>())
    }
}

impl std::error::Error for Failures {}
