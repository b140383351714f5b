//! The web seed: the same bytes by HTTP (here: from memory), where peers lack something or there are none.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{FutureExt as _, future::BoxFuture};
use owm_p2p::exchange::{PieceSet, Sources, driver::WebSeed};
use owm_proto::{FileSpec, Ladder, Sha256};

use crate::world::{Over, PATIENCE, Peer, file};

const SIZE: usize = (3 << 20) + 9;

/// A server that has one file.
#[derive(Debug)]
struct Seed {
    ladder: Arc<Ladder>,
    bytes: Vec<u8>,
    /// What it gives is wrong, or it gives nothing.
    lies: bool,
    fails: bool,
    given: AtomicU64,
}

impl Seed {
    fn of(ladder: &Arc<Ladder>, bytes: &[u8]) -> Self {
        Self {
            ladder: Arc::clone(ladder),
            bytes: bytes.to_vec(),
            lies: false,
            fails: false,
            given: AtomicU64::new(0),
        }
    }
}

impl WebSeed for Seed {
    fn range(&self, file: Sha256, range: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        assert_eq!(file, self.ladder.spec().sha256());
        let mut bytes = self.bytes[range.start as usize..range.end as usize].to_vec();
        bytes[0] ^= u8::from(self.lies);
        self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let fails = self.fails;
        async move {
            if fails {
                return Err(io::Error::other("503"));
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn ladder(&self, file: &FileSpec) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        assert_eq!(file, self.ladder.spec());
        let bytes = self.ladder.to_bytes();
        async move { Ok(bytes) }.boxed()
    }
}

async fn fetched(fetcher: &Peer, peers: Vec<libp2p::PeerId>, seed: &Arc<Seed>) {
    let web: Arc<dyn WebSeed> = seed.clone();
    let sources = Sources {
        peers,
        web: Some(web),
    };
    let mut fetch = fetcher.exchange.fetch(vec![*seed.ladder.spec()], sources);
    let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
    done.unwrap_or_else(|_| panic!("not fetched in time: {:?}", fetch.progress().borrow()))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_peer_the_web_seed_brings_all() {
    let (ladder, bytes) = file(SIZE, 31);
    let seed = Arc::new(Seed::of(&ladder, &bytes));
    let fetcher = Peer::start(100, Over::Tcp).await;
    fetched(&fetcher, Vec::new(), &seed).await;
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_peer_has_comes_from_the_web_seed() {
    let (ladder, bytes) = file(SIZE, 32);
    let source = Peer::start(1, Over::Tcp).await;
    let mut pieces = PieceSet::all(ladder.pieces());
    pieces.remove(5);
    source.holds(&ladder, &bytes, pieces);
    let seed = Arc::new(Seed::of(&ladder, &bytes));
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(source.id, &source.address).await];
    fetched(&fetcher, peers, &seed).await;
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    let missing = ladder.range(5).end - ladder.range(5).start;
    assert!(seed.given.load(Ordering::Relaxed) >= missing);
    assert!(source.exchange.served().bytes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_seed_that_fails_or_lies_costs_nobody_the_file() {
    for (lies, fails) in [(true, false), (false, true)] {
        let (ladder, bytes) = file(SIZE, 33);
        let source = Peer::start(1, Over::Tcp).await;
        source.seeds(&ladder, &bytes);
        let mut seed = Seed::of(&ladder, &bytes);
        (seed.lies, seed.fails) = (lies, fails);
        let seed = Arc::new(seed);
        let mut fetcher = Peer::start(100, Over::Tcp).await;
        let web: Arc<dyn WebSeed> = seed.clone();
        let sources = Sources {
            peers: Vec::new(),
            web: Some(web),
        };
        let mut fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
        // Alone it is asked, and is of no use.
        let asked = tokio::time::timeout(PATIENCE, async {
            while seed.given.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        asked.await.unwrap();
        fetch.add_peers([fetcher.knows(source.id, &source.address).await]);
        let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
        done.unwrap().unwrap();
        assert!(fetcher.has(ladder.spec()) == Some(bytes));
        assert!(fetcher.bans.try_recv().is_err(), "no peer has lied");
    }
}
