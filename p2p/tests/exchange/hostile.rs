//! Peers that lie, crawl, vanish, boast or are busy: the file comes all the same, and who has lied is named with the
//! piece; nobody else is.

use owm_p2p::exchange::{Fetch, Sources};

use crate::world::{Over, PATIENCE, Peer, Script, Scripted, file};

const SIZE: usize = (6 << 20) + 5;

/// A fetch from peers by these scripts; who was banned for which piece, by their place in the list.
async fn fetched_from(scripts: &[Script]) -> Vec<(usize, u32)> {
    let (ladder, bytes) = file(SIZE, 9);
    let mut fetcher = Peer::start(100, Over::Tcp).await;
    let (mut actors, mut peers) = (Vec::new(), Vec::new());
    for (n, script) in scripts.iter().enumerate() {
        let actor = Scripted::start(n as u8, &ladder, &bytes, *script).await;
        peers.push(fetcher.knows(actor.id, &actor.address).await);
        actors.push(actor);
    }
    fetcher.fetch(ladder.spec(), peers.clone()).await.unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    let mut banned = Vec::new();
    while let Ok(ban) = fetcher.bans.try_recv() {
        let who = peers.iter().position(|peer| *peer == ban.peer).unwrap();
        banned.push((who, ban.piece));
    }
    banned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_is_named_with_its_piece() {
    // Alone, so that it is asked for every piece; the honest one is known a moment later.
    let (ladder, bytes) = file(SIZE, 9);
    let mut fetcher = Peer::start(100, Over::Tcp).await;
    let liar = Scripted::start(1, &ladder, &bytes, Script::LiesAbout(3)).await;
    let honest = Scripted::start(2, &ladder, &bytes, Script::Honest).await;
    let sources = Sources {
        peers: vec![fetcher.knows(liar.id, &liar.address).await],
        web: None,
    };
    let mut fetch: Fetch = fetcher.exchange.fetch(vec![*ladder.spec()], sources);
    let ban = tokio::time::timeout(PATIENCE, fetcher.bans.recv()).await;
    let ban = ban.unwrap().unwrap();
    assert_eq!((ban.peer, ban.piece), (liar.id, 3));
    fetch.add_peers([fetcher.knows(honest.id, &honest.address).await]);
    let done = tokio::time::timeout(PATIENCE, fetch.done()).await;
    done.unwrap().unwrap();
    assert!(fetcher.has(ladder.spec()) == Some(bytes));
    assert!(fetcher.bans.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_but_one_lying_the_file_comes_and_no_honest_one_is_named() {
    let lies = (0..7).map(Script::LiesAbout);
    let scripts: Vec<_> = lies.chain([Script::Honest]).collect();
    for (who, piece) in fetched_from(&scripts).await {
        assert_eq!(who, piece as usize);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_a_second_holds_nobody_up() {
    assert_eq!(fetched_from(&[Script::Crawls, Script::Honest]).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_falls_silent_or_vanishes_is_replaced() {
    let scripts = [
        Script::FallsSilentAfter(3),
        Script::VanishesAfter(3),
        Script::Honest,
    ];
    assert_eq!(fetched_from(&scripts).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_vanishes_in_the_end_game_is_replaced() {
    // All ranges but the last few.
    let ranges = SIZE / (256 << 10);
    let scripts = [Script::VanishesAfter(ranges / 2 - 1), Script::Honest];
    assert_eq!(fetched_from(&scripts).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_what_it_lacks_cost_nobody_the_file() {
    assert_eq!(fetched_from(&[Script::Boasts, Script::Honest]).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_busy_is_left_alone() {
    assert_eq!(fetched_from(&[Script::IsBusy, Script::Honest]).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_too_long_are_not_read() {
    assert_eq!(fetched_from(&[Script::Overflows, Script::Honest]).await, []);
}
