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
