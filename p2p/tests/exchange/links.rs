//! Whom a fetch speaks with: a few at a time, however many it is told of, and one of them for the ladder.

use libp2p::{PeerId, identity::Keypair};
use owm_p2p::exchange::Sources;

use crate::world::{Over, PATIENCE, Peer, Script, Scripted, file};

/// Peers that nobody has an address of.
fn nobody(count: u32) -> Vec<PeerId> {
    let seed = |n: u32| {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        seed
    };
    let key = |n| Keypair::ed25519_from_bytes(seed(n)).unwrap();
    (0..count).map(|n| key(n).public().to_peer_id()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_behind_a_hundred_that_are_not_there_gets_its_turn() {
    let (ladder, bytes) = file(2 << 20, 41);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let mut peers = nobody(100);
    peers.push(fetcher.knows(source.id, &source.address).await);
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_a_wrong_ladder_is_left_alone_and_nobody_else() {
    let (ladder, bytes) = file(2 << 20, 42);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let forger = Scripted::start(1, &ladder, &bytes, Script::ForgesLadder).await;
    let honest = Scripted::start(2, &ladder, &bytes, Script::Honest).await;
    let sources = Sources {
        peers: vec![fetcher.knows(forger.id, &forger.address).await],
        web: None,
    };
    let mut fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    let asked = tokio::time::timeout(PATIENCE, async {
        while forger.ladders() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    asked.await.unwrap();
    fetch.add_peers([fetcher.knows(honest.id, &honest.address).await]);
    let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
    done.unwrap().unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    assert_eq!((forger.ladders(), forger.answered()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ladder_is_asked_of_one_source_and_of_the_next_if_that_is_silent() {
    let (ladder, bytes) = file(2 << 20, 43);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let mut actors = Vec::new();
    let mut peers = Vec::new();
    for n in 1..=6 {
        // Sources are asked in the order of their names: these two come first.
        let script = if matches!(n, 2 | 5) {
            Script::KeepsLadder
        } else {
            Script::Honest
        };
        let actor = Scripted::start(n, &ladder, &bytes, script).await;
        peers.push(fetcher.knows(actor.id, &actor.address).await);
        actors.push(actor);
    }
    fetcher.fetch(ladder.spec(), peers).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    let asked: usize = actors.iter().map(Scripted::ladders).sum();
    assert_eq!(asked, 3, "two that keep it, and the next");
}
