//! From store to store: files on a disk, pieces of 1 MiB, requests of 64 KiB, sources that share pieces.

use std::sync::Arc;

use owm_p2p::exchange::{
    ExchangeConfig, Sources,
    machine::Tuning,
    serve::Audience,
    store::{Store, StoreConfig},
};
use owm_proto::{Ladder, PieceLen};

use crate::world::{Over, PATIENCE, Peer, Script, Scripted, file_of};

const MIB: usize = 1 << 20;

/// Requests of 64 KiB, and so few at a time that several sources get a part of each piece.
fn small_requests() -> ExchangeConfig {
    ExchangeConfig {
        tuning: Tuning {
            request_min: 64 << 10,
            request_max: 64 << 10,
            outstanding_min: 128 << 10,
            outstanding_max: 256 << 10,
            ..Tuning::default()
        },
        ..ExchangeConfig::default()
    }
}

fn large_pieces(size: usize, salt: u8) -> (Arc<Ladder>, Vec<u8>) {
    file_of(PieceLen::new(MIB as u64).unwrap(), size, salt)
}

/// A peer with a store, and the folder that it lies in.
async fn stored(n: u8) -> (Peer<Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path())).unwrap();
    let peer = Peer::over(n, Over::Tcp, small_requests(), store).await;
    (peer, dir)
}

impl Peer<Store> {
    fn brings(&self, ladder: &Arc<Ladder>, bytes: &[u8]) {
        let partial = self.shelf.begin(Arc::clone(ladder)).unwrap();
        partial.write(0, bytes).unwrap();
        for piece in 0..ladder.pieces() {
            assert!(partial.proved(piece).unwrap());
        }
        partial.finish().unwrap();
        self.exchange.share(ladder.spec(), &Audience::Everyone);
    }

    fn check(&self, ladder: &Ladder, bytes: &[u8]) {
        let file = self.shelf.complete(&ladder.spec().sha256()).unwrap();
        let mut kept = vec![0; file.size() as usize];
        self.shelf.read(&file, 0, &mut kept).unwrap();
        assert!(kept == bytes, "other bytes lie in the store");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_from_stores_into_a_store_in_small_requests() {
    let (ladder, bytes) = large_pieces(9 * MIB + 5, 21);
    let (mut sources, mut dirs) = (Vec::new(), Vec::new());
    for n in 1..=3 {
        let (source, dir) = stored(n).await;
        source.brings(&ladder, &bytes);
        sources.push(source);
        dirs.push(dir);
    }
    let (mut fetcher, dir) = stored(100).await;
    let peers = fetcher.knows_all(&sources).await;
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    fetcher.check(&ladder, &bytes);
    assert!(fetcher.bans.try_recv().is_err());
    drop((dir, dirs));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_a_liar_had_a_part_in_is_fetched_again_and_only_the_liar_named() {
    let (ladder, bytes) = large_pieces(MIB + 70_000, 22);
    let (mut fetcher, dir) = stored(100).await;
    let liar = Scripted::start(1, &ladder, &bytes, Script::LiesOnceAndFallsSilent).await;
    let honest = Scripted::start(2, &ladder, &bytes, Script::Honest).await;
    let sources = Sources {
        peers: vec![fetcher.knows(liar.id, &liar.address).await],
        web: None,
    };
    let mut fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    // It has given a part of a piece, and is silent.
    let mut progress = fetch.progress();
    let given = progress.wait_for(|now| now.sources.iter().any(|source| source.bytes >= 64 << 10));
    let given = tokio::time::timeout(PATIENCE, given).await;
    drop(given.unwrap().unwrap());
    fetch.add_peers([fetcher.knows(honest.id, &honest.address).await]);
    let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
    done.unwrap().unwrap();
    fetcher.check(&ladder, &bytes);
    let ban = fetcher.bans.try_recv().unwrap();
    assert_eq!((ban.peer, ban.file), (liar.id, ladder.spec().sha256()));
    assert!(fetcher.bans.try_recv().is_err(), "only one has lied");
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_was_dropped_goes_on_from_what_the_store_has_proved() {
    let (ladder, bytes) = large_pieces(16 * MIB, 23);
    let (source, from) = stored(1).await;
    source.brings(&ladder, &bytes);
    let (fetcher, dir) = stored(100).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    let sources = Sources {
        peers: peers.clone(),
        web: None,
    };
    let fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    let mut progress = fetch.progress();
    let begun = progress.wait_for(|now| now.files.iter().any(|file| file.proved_bytes > 0));
    let begun = tokio::time::timeout(PATIENCE, begun).await;
    drop(begun.unwrap().unwrap());
    drop((fetch, progress));
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    fetcher.check(&ladder, &bytes);
    drop((from, dir));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_exchanges_that_fetch_into_one_store_do_not_spoil_each_others_pieces() {
    // As a web download beside the exchange: two writers of one growing file, each proving what itself has brought.
    let (ladder, bytes) = large_pieces(8 * MIB, 24);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path())).unwrap();
    let (mut fetchers, mut sources) = (Vec::new(), Vec::new());
    for n in 0..2 {
        let source = Scripted::start(n, &ladder, &bytes, Script::Honest).await;
        let fetcher = Peer::over(100 + n, Over::Tcp, small_requests(), store.clone()).await;
        let peer = fetcher.knows(source.id, &source.address).await;
        fetchers.push((fetcher, peer));
        sources.push(source);
    }
    let fetched = fetchers
        .iter()
        .map(|(fetcher, peer)| fetcher.fetch(ladder.spec(), vec![*peer]));
    let fetched = futures::future::join_all(fetched).await;
    assert!(fetched.iter().all(Result::is_ok), "{fetched:?}");
    fetchers[0].0.check(&ladder, &bytes);
    for (fetcher, _) in &mut fetchers {
        assert!(fetcher.bans.try_recv().is_err(), "an honest one was named");
    }
}
