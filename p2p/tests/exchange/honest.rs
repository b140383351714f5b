//! Everybody is honest: files arrive whole, from one and from many, over TCP and QUIC.

use std::sync::Arc;

use owm_p2p::exchange::{PieceSet, Sources};

use crate::world::{Over, PATIENCE, Peer, file};

async fn a_file_of(size: usize, over: Over, seeds: u8) {
    let (ladder, bytes) = file(size, 0);
    let mut sources = Vec::new();
    for n in 0..seeds {
        let peer = Peer::start(n, over).await;
        peer.seeds(&ladder, &bytes);
        sources.push(peer);
    }
    let fetcher = Peer::start(100, over).await;
    let peers = fetcher.knows_all(&sources).await;
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    let served: u64 = sources.iter().map(|s| s.exchange.served().bytes).sum();
    let whole = (size + ladder.to_bytes().len()) as u64;
    assert!(served >= whole, "{served} of {whole} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_whole_from_one_peer() {
    for size in [0, 1, 256 << 10, (256 << 10) + 1, (5 << 20) - 3] {
        a_file_of(size, Over::Tcp, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_whole_from_eight_peers() {
    a_file_of((24 << 20) + 77, Over::Tcp, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_whole_over_quic() {
    a_file_of((5 << 20) + 1, Over::Quic, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_has_whole_is_put_together_and_passed_on() {
    let (ladder, bytes) = file(4 << 20, 1);
    let halves = [0, 1].map(|half| {
        let mut pieces = PieceSet::none(ladder.pieces());
        for piece in (half..ladder.pieces()).step_by(2) {
            pieces.add(piece);
        }
        pieces
    });
    let mut sources = Vec::new();
    for (n, pieces) in halves.into_iter().enumerate() {
        let peer = Peer::start(n as u8, Over::Tcp).await;
        peer.holds(&ladder, &bytes, pieces);
        sources.push(peer);
    }
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = fetcher.knows_all(&sources).await;
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_two_manifests_name_is_fetched_once() {
    let (ladder, bytes) = file(8 << 20, 2);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    let sources = || Sources {
        peers: peers.clone(),
        web: None,
    };
    let mut first = fetcher.exchange.fetch(vec![*ladder.spec(); 2], sources());
    let mut second = fetcher.exchange.fetch(vec![*ladder.spec()], sources());
    let both = async { tokio::join!(first.done(), second.done()) };
    let both = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
    assert!(fetcher.has(ladder.spec()) == Some(bytes.clone()));
    let served = source.exchange.served().bytes;
    let at_most = (bytes.len() + 2 * ladder.to_bytes().len() + 100) as u64;
    assert!(served <= at_most, "{served} bytes were sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_drops_a_fetch_has_ended_it_and_goes_on_later() {
    let (ladder, bytes) = file(16 << 20, 3);
    let config = owm_p2p::exchange::ExchangeConfig {
        upload_bytes_per_second: Some(4 << 20),
        ..Default::default()
    };
    let source = Peer::with(1, Over::Tcp, config).await;
    source.seeds(&ladder, &bytes);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    let sources = Sources {
        peers: peers.clone(),
        web: None,
    };
    let fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    let mut progress = fetch.progress();
    let begun = progress.wait_for(|now| now.files.iter().any(|file| file.proved_bytes > 0));
    drop(
        tokio::time::timeout(PATIENCE, begun)
            .await
            .unwrap()
            .unwrap(),
    );
    drop(fetch);
    // Its stream to the source ends.
    tokio::time::timeout(PATIENCE, async {
        while source.exchange.served().streams > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let kept = fetcher.shelf.get(&ladder.spec().sha256()).unwrap();
    assert_eq!(kept.complete(), None);
    let before = source.exchange.served().bytes;
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes.clone()));
    let again = source.exchange.served().bytes - before;
    assert!(
        again < bytes.len() as u64,
        "{again} bytes: from the beginning"
    );
    drop(Arc::clone(&kept));
}
