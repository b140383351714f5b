//! Every process dies at every step that matters, and at random moments; nothing is lost, nothing
//! happens twice. The counts are printed: `make test` shows them.
#![expect(clippy::print_stdout, reason = "the counts are the result")]

use owm_e2e::crash::{Counts, Harness, steps};

/// Random kills of a `make test`; their moments are drawn from this seed.
const SEED: u64 = 3;
const KILLS: u64 = 20;
/// Random kills of a `make test-long`: four seeds of fifty.
const LONG_SEEDS: [u64; 4] = [101, 102, 103, 104];
const LONG_KILLS: u64 = 50;

fn check(counts: &Counts) {
    println!("{counts}");
    assert!(counts.lost.is_empty(), "lost: {:#?}", counts.lost);
    assert!(
        counts.doubled.is_empty(),
        "not exactly once: {:#?}",
        counts.doubled
    );
    assert_eq!(counts.sent, counts.answered);
    assert!(
        counts.sent > counts.kills,
        "too little was under way: {counts}"
    );
}

#[tokio::test]
async fn a_kill_at_every_failpoint_loses_and_doubles_nothing() {
    let mut harness = Harness::start().await.unwrap();
    let steps = steps().await.unwrap();
    assert!(steps.len() > 20, "{steps:?}");
    let mut failed = Vec::new();
    for step in &steps {
        let start = std::time::Instant::now();
        match harness.kill_at(step).await {
            Ok(()) => println!("killed at {step} ({} ms)", start.elapsed().as_millis()),
            Err(error) => {
                failed.push(format!("{step}: {error:#}"));
                // The rest can't be judged on a network that is not whole.
                break;
            }
        }
    }
    assert!(
        failed.is_empty(),
        "never hit, or never recovered: {failed:#?}"
    );
    assert_eq!(harness.hit(), steps);
    check(&harness.end().await.unwrap());
}

#[tokio::test]
async fn kills_at_random_moments_lose_and_double_nothing() {
    let mut harness = Harness::start().await.unwrap();
    harness.kill_at_random(SEED, KILLS).await.unwrap();
    check(&harness.end().await.unwrap());
}

#[tokio::test]
#[ignore = "long: `make test-long` runs it"]
async fn long_two_hundred_kills_at_random_moments_lose_and_double_nothing() {
    for seed in LONG_SEEDS {
        let mut harness = Harness::start().await.unwrap();
        harness.kill_at_random(seed, LONG_KILLS).await.unwrap();
        check(&harness.end().await.unwrap());
    }
}
