//! What is served, and to whom.

use owm_p2p::exchange::{PieceSet, Sources, serve::Audience};

use crate::world::{Over, PATIENCE, Peer, file, seen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unannounced_file_is_served_to_named_peers_only() {
    let (ladder, bytes) = file(1 << 20, 4);
    let source = Peer::start(1, Over::Tcp).await;
    source.seeds(&ladder, &bytes);
    let (friend, stranger) = (
        Peer::start(2, Over::Tcp).await,
        Peer::start(3, Over::Tcp).await,
    );
    source
        .exchange
        .share(ladder.spec(), &Audience::Named([friend.id].into()));
    let peers = vec![stranger.knows(source.id, &source.address).await];
    let sources = Sources { peers, web: None };
    let refused = stranger.exchange.fetch(vec![*ladder.spec()], sources);
    seen(&source, "the stranger is refused", |counts| {
        counts.missing > 0
    })
    .await;
    assert_eq!(source.exchange.served().bytes, 0);
    let peers = vec![friend.knows(source.id, &source.address).await];
    friend.fetch(ladder.spec(), peers).await.unwrap();
    assert!(friend.has(ladder.spec()) == Some(bytes));
    assert_eq!(stranger.has(ladder.spec()), None);
    drop(refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changed_on_disk_is_served_no_more() {
    let (ladder, bytes) = file(4 << 20, 5);
    let (changed, whole) = (
        Peer::start(1, Over::Tcp).await,
        Peer::start(2, Over::Tcp).await,
    );
    changed.seeds(&ladder, &bytes).change();
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(changed.id, &changed.address).await];
    let sources = Sources { peers, web: None };
    let mut fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    seen(&changed, "it notices", |counts| counts.changed > 0).await;
    whole.seeds(&ladder, &bytes);
    fetch.add_peers([fetcher.knows(whole.id, &whole.address).await]);
    tokio::time::timeout(PATIENCE, fetch.done())
        .await
        .unwrap()
        .unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    // The ladder, which has not changed, may have been sent.
    let sent = changed.exchange.served().bytes;
    assert!(sent <= 2 * ladder.to_bytes().len() as u64, "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_proven_is_not_sent() {
    let (ladder, bytes) = file(2 << 20, 6);
    let partly = Peer::start(1, Over::Tcp).await;
    let mut pieces = PieceSet::none(ladder.pieces());
    pieces.add(2);
    partly.holds(&ladder, &bytes, pieces);
    let fetcher = Peer::start(100, Over::Tcp).await;
    let peers = vec![fetcher.knows(partly.id, &partly.address).await];
    let sources = Sources { peers, web: None };
    let fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    let mut progress = fetch.progress();
    let piece = ladder.range(2).end - ladder.range(2).start;
    let one = progress.wait_for(|now| now.files.iter().any(|file| file.proved_bytes == piece));
    drop(tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap());
    let sent = partly.exchange.served().bytes;
    let ladders = 2 * ladder.to_bytes().len() as u64;
    assert!(sent <= 2 * piece + ladders, "{sent} bytes were sent");
}
