//! Bandwidth caps hold. Rates are measured over whole fetches, from above only: a slow machine passes.

use std::time::Instant;

use owm_p2p::exchange::ExchangeConfig;

use crate::world::{Over, Peer, file};

const SIZE: usize = 6 << 20;

/// Bytes per second.
const CAP: u64 = 2 << 20;

async fn seconds(serving: ExchangeConfig, fetching: ExchangeConfig) -> f64 {
    let (ladder, bytes) = file(SIZE, 7);
    let source = Peer::with(1, Over::Tcp, serving).await;
    source.seeds(&ladder, &bytes);
    let fetcher = Peer::with(100, Over::Tcp, fetching).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    let begun = Instant::now();
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_and_downloads_keep_to_their_caps() {
    let least = 0.9 * (SIZE as f64 - 1e6) / CAP as f64;
    let capped = ExchangeConfig {
        upload_bytes_per_second: Some(CAP),
        ..Default::default()
    };
    let upload = seconds(capped, ExchangeConfig::default()).await;
    assert!(upload > least, "{upload} s with a capped upload");
    let capped = ExchangeConfig {
        download_bytes_per_second: Some(CAP),
        ..Default::default()
    };
    let download = seconds(ExchangeConfig::default(), capped).await;
    assert!(download > least, "{download} s with a capped download");
}

/// Slow enough that no source can bring all before the last is asked, however busy the machine is.
const SLOW: u64 = 128 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_slow_sources_of_a_small_file_all_bring_their_part() {
    let (ladder, bytes) = file(SIZE, 9);
    let mut sources = Vec::new();
    for n in 1..=8 {
        let capped = ExchangeConfig {
            upload_bytes_per_second: Some(SLOW),
            ..Default::default()
        };
        let source = Peer::with(n, Over::Tcp, capped).await;
        source.seeds(&ladder, &bytes);
        sources.push(source);
    }
    let fetcher = Peer::with(100, Over::Tcp, ExchangeConfig::default()).await;
    let peers = fetcher.knows_all(&sources).await;
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert_eq!(fetcher.has(ladder.spec()).unwrap(), bytes);
    // An eighth would be its fair part.
    let given: Vec<u64> = sources
        .iter()
        .map(|source| source.exchange.served().bytes)
        .collect();
    let least = SIZE as u64 / 32;
    assert!(given.iter().all(|bytes| *bytes >= least), "{given:?}");
}
