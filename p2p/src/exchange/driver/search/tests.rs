//! Who keeps its place, and whom it is still worth waiting for.

use owm_proto::{Ladder, LadderBuilder, PieceLen};

use super::{
    super::{Exchange, places::LINKS_MAX},
    *,
};
use crate::exchange::{
    PieceSet, Sources,
    driver::testing::alone,
    files::{Target as _, memory::MemoryShelf},
    machine::Event,
};

/// All places are taken and somebody waits; nobody is really dialled before the test lets others run.
fn full(shared: &Arc<Shared>) -> Vec<PeerId> {
    shared.open_fetch();
    let peers: Vec<PeerId> = (0..=LINKS_MAX).map(|_| PeerId::random()).collect();
    for peer in &peers {
        shared.link(*peer);
    }
    assert!(!has_place(shared, peers[LINKS_MAX]));
    peers
}

fn has_place(shared: &Shared, peer: PeerId) -> bool {
    shared.core().links.get(&peer).is_some()
}

fn offer(shared: &Shared, ladder: &Ladder, peer: PeerId, pieces: Option<PieceSet>) {
    let offered = Event::Offered {
        source: Source::Peer(peer),
        file: ladder.spec().sha256(),
        pieces,
        rtt: None,
    };
    let mut core = shared.core();
    core.machine.handle(shared.now(), offered);
    while core.machine.poll_effect().is_some() {}
}

fn wanted(shared: &Arc<Shared>) -> Arc<Ladder> {
    let mut builder = LadderBuilder::new(PieceLen::MIN);
    builder.update(&vec![7; 1 << 20]);
    let ladder = Arc::new(builder.finish().unwrap());
    let growing = MemoryShelf::default().begin(&ladder).unwrap().unwrap();
    drop(shared.want(&ladder, growing));
    ladder
}

#[tokio::test]
async fn who_lacks_one_ladder_of_two_keeps_its_place() {
    let (shared, _) = alone();
    let peers = full(&shared);
    let (one, other) = (shared.search(), shared.search());
    one.lacks(peers[0]);
    assert!(has_place(&shared, peers[0]), "it may have the other one");
    other.lacks(peers[0]);
    assert!(!has_place(&shared, peers[0]), "another one's turn");
    assert!(has_place(&shared, peers[LINKS_MAX]));
}

#[tokio::test]
async fn who_lacks_a_ladder_keeps_its_place_while_it_has_pieces_of_another_file() {
    let (shared, _) = alone();
    let (peers, ladder) = (full(&shared), wanted(&shared));
    // One of them has not said yet what it has.
    let [has, has_none, silent] = [peers[0], peers[1], peers[2]];
    offer(&shared, &ladder, has, None);
    let none = PieceSet::none(ladder.pieces());
    offer(&shared, &ladder, has_none, Some(none));
    let search = shared.search();
    // One after the other: who gives way comes back when the next one does.
    for (peer, stays) in [(has, true), (silent, true), (has_none, false)] {
        search.lacks(peer);
        assert_eq!(has_place(&shared, peer), stays);
    }
}

#[tokio::test]
async fn nobody_is_hoped_for_when_all_have_said_no() {
    let (shared, _) = alone();
    shared.open_fetch();
    let (peer, other) = (PeerId::random(), PeerId::random());
    shared.link(peer);
    let ladder = wanted(&shared);
    assert_eq!(shared.core().hopes(), 1, "it has not said anything");
    offer(
        &shared,
        &ladder,
        peer,
        Some(PieceSet::none(ladder.pieces())),
    );
    assert_eq!(shared.core().hopes(), 0);
    let search = shared.search();
    assert_eq!(shared.core().hopes(), 1, "a ladder is looked for as well");
    search.lacks(peer);
    assert_eq!(shared.core().hopes(), 0);
    shared.link(other);
    assert_eq!(shared.core().hopes(), 1);
    drop(search);
    let mut one = PieceSet::none(ladder.pieces());
    one.add(2);
    offer(&shared, &ladder, peer, Some(one));
    assert_eq!(shared.core().hopes(), 2);
}

#[tokio::test]
async fn peers_that_are_named_after_the_end_of_a_fetch_are_not_spoken_with() {
    let (shared, _) = alone();
    let exchange = Exchange(Arc::clone(&shared));
    let mut fetch = exchange.fetch(Vec::new(), Sources::default());
    fetch.done().await.unwrap();
    fetch.add_peers([PeerId::random()]);
    assert_eq!(shared.core().links.iter().count(), 0);
}
