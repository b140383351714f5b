//! Eclipse bounds, ageing, drawing and the file.

use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// No key needed: the book knows names only.
fn peer(n: u32) -> PeerId {
    let hash = libp2p::multihash::Multihash::wrap(0, &n.to_le_bytes()).unwrap();
    PeerId::from_multihash(hash).unwrap()
}

fn at(a: u8, b: u8, c: u8, d: u8) -> Multiaddr {
    format!("/ip4/{a}.{b}.{c}.{d}/tcp/4001").parse().unwrap()
}

fn book() -> Book {
    Book::new(NetworkPolicy::Clearnet)
}

/// `count` claims of one origin, each in a /16 of its own.
fn flood(book: &mut Book, origin: &Origin, from: u32, count: u32) -> usize {
    let claims = (from..from + count).filter(|n| {
        let [_, _, a, b] = n.to_be_bytes();
        let address = at(20 + a, b, 1, 1);
        book.learn(peer(*n), &[address], origin, NOW)
    });
    claims.count()
}

#[test]
fn a_source_and_an_announcer_fill_their_share_only() {
    let mut book = book();
    assert_eq!(flood(&mut book, &Origin::source("dns"), 0, 400), SOURCE_MAX);
    let liar = Origin::Peer {
        peer: peer(1_000),
        group: Group::Ip4([9, 9]),
    };
    assert_eq!(flood(&mut book, &liar, 2_000, 100), ANNOUNCER_MAX);
    // Its neighbours are the same owner, most likely.
    let neighbour = |n| Origin::Peer {
        peer: peer(n),
        group: Group::Ip4([9, 9]),
    };
    let more = flood(&mut book, &neighbour(1_001), 3_000, 100)
        + flood(&mut book, &neighbour(1_002), 4_000, 100);
    assert_eq!(more, ANNOUNCER_GROUP_MAX - ANNOUNCER_MAX);
}

#[test]
fn one_network_cannot_fill_the_book() {
    let mut book = book();
    let source = Origin::source("coordinator");
    let learnt = (0..200).filter(|n| book.learn(peer(*n), &[at(30, 1, *n as u8, 1)], &source, NOW));
    assert_eq!(learnt.count(), GROUP_MAX);
    // Nor by giving honest addresses beside.
    let both = [at(30, 1, 77, 77), at(31, 1, 1, 1)];
    assert!(book.learn(peer(500), &both, &source, NOW));
    assert_eq!(book.get(&peer(500)).unwrap().addresses.len(), 1);
}

#[test]
fn proven_peers_outlive_any_flood_of_claims() {
    let mut book = book();
    let origin = Origin::source("static");
    for n in 0..40u8 {
        book.reached(peer(n.into()), &at(40 + n, 1, 1, 1), &origin, NOW);
    }
    for announcer in 0..100 {
        let [a, b] = (announcer as u16).to_be_bytes();
        let liar = Origin::Peer {
            peer: peer(10_000 + announcer),
            group: Group::Ip4([a, b]),
        };
        flood(&mut book, &liar, 100_000 + announcer * 100, 50);
    }
    assert!(book.len() <= PEERS_MAX);
    assert!((0..40).all(|n| book.get(&peer(n)).is_some_and(|known| known.tried)));
}

#[test]
fn a_full_book_takes_new_origins_from_the_largest_share() {
    let mut book = book();
    for n in 0..5 {
        flood(&mut book, &Origin::source(&format!("s{n}")), n * 1_000, 256);
    }
    assert_eq!(book.len(), PEERS_MAX);
    let late = Origin::source("late");
    assert_eq!(flood(&mut book, &late, 50_000, 5), 5);
    assert_eq!(book.len(), PEERS_MAX);
}

#[test]
fn an_address_that_worked_is_not_replaced_by_claims() {
    let mut book = book();
    let origin = Origin::source("static");
    let good = at(50, 1, 1, 1);
    book.reached(peer(1), &good, &origin, NOW);
    for n in 0..50 {
        book.learn(peer(1), &[at(60, n, 1, 1)], &origin, NOW);
        book.failed(&peer(1), &at(60, n, 1, 1), FailedLayer::Transport, NOW);
    }
    let known = book.get(&peer(1)).unwrap();
    assert!(known.addresses.len() <= ADDRESSES_PER_PEER);
    assert!(known.addresses.iter().any(|a| a.address == good));
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let choice = book.choose(1, |_| false, NOW, &mut rng).pop().unwrap();
    assert_eq!(
        choice.addresses[0], good,
        "what has worked is dialled first"
    );
}

#[test]
fn poisoned_claims_go_at_once_and_silent_ones_slowly() {
    let mut book = book();
    let origin = Origin::source("dns");
    let fail = |book: &mut Book, layer| {
        book.learn(peer(1), &[at(50, 1, 1, 1)], &origin, NOW);
        book.failed(&peer(1), &at(50, 1, 1, 1), layer, NOW);
        book.get(&peer(1)).is_none()
    };
    assert!(
        fail(&mut book, FailedLayer::Handshake),
        "somebody else answered"
    );
    assert!(
        fail(&mut book, FailedLayer::Version),
        "another network answered"
    );
    assert!(
        !fail(&mut book, FailedLayer::Policy),
        "says nothing of the peer"
    );
    for n in 1..=FAILURES_OF_CLAIM_MAX {
        let gone = fail(&mut book, FailedLayer::Timeout);
        assert_eq!(gone, n == FAILURES_OF_CLAIM_MAX);
    }
    book.reached(peer(2), &at(51, 1, 1, 1), &origin, NOW);
    for _ in 0..FAILURES_OF_CLAIM_MAX {
        book.failed(&peer(2), &at(51, 1, 1, 1), FailedLayer::Timeout, NOW);
    }
    assert!(
        book.get(&peer(2)).is_some(),
        "one that has answered gets more patience"
    );
    book.learn(peer(3), &[at(52, 1, 1, 1)], &origin, NOW);
    book.age(NOW.after(Duration::from_hours(31 * 24)));
    assert!(book.get(&peer(3)).is_none(), "a claim ages");
    assert!(
        book.get(&peer(2)).is_some(),
        "a clock that is ahead costs no proven peer"
    );
}

#[test]
fn no_crowd_of_claims_decides_whom_we_dial() {
    let mut book = book();
    let honest = Origin::source("static");
    book.learn(peer(1), &[at(50, 1, 1, 1)], &honest, NOW);
    flood(&mut book, &Origin::source("dns"), 1_000, 256);
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let first = |rng: &mut ChaCha20Rng| book.choose(1, |_| false, NOW, rng)[0].peer;
    let honest = (0..200).filter(|_| first(&mut rng) == peer(1)).count();
    assert!(
        honest > 60,
        "one of 257 peers, but half of the origins: {honest} of 200"
    );
    let eight = book.choose(8, |_| false, NOW, &mut rng);
    assert_eq!(eight.len(), 8);
    let mut twice = ChaCha20Rng::from_seed([4; 32]);
    let mut again = twice.clone();
    assert_eq!(
        book.choose(8, |_| false, NOW, &mut twice),
        book.choose(8, |_| false, NOW, &mut again)
    );
}

#[test]
fn on_a_network_of_this_machine_only_loopback_is_remembered_and_drawn() {
    let mut book = Book::new(NetworkPolicy::LoopbackOnly);
    let origin = Origin::source("static");
    assert!(!book.learn(peer(1), &[at(50, 1, 1, 1)], &origin, NOW));
    book.reached(peer(1), &at(50, 1, 1, 1), &origin, NOW);
    assert!(book.is_empty());
    // All of a devnet share one address: they are not counted as one network.
    for n in 0..200 {
        assert!(n >= 200 || book.learn(peer(n), &[at(127, 0, 0, 1)], &origin, NOW));
    }
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    assert_eq!(book.choose(50, |_| false, NOW, &mut rng).len(), 50);
}

#[test]
fn a_stranger_cannot_point_us_at_our_own_machine() {
    let mut book = book();
    let stranger = Origin::Peer {
        peer: peer(9),
        group: Group::Ip4([9, 9]),
    };
    assert!(!book.learn(peer(1), &[at(127, 0, 0, 1)], &stranger, NOW));
    assert!(book.learn(peer(1), &[at(127, 0, 0, 1)], &Origin::source("static"), NOW));
}

#[test]
fn the_file_reads_back_and_damage_is_told() {
    let mut book = book();
    flood(&mut book, &Origin::source("dns"), 0, 30);
    book.reached(peer(5), &at(50, 1, 1, 1), &Origin::source("dns"), NOW);
    book.failed(&peer(7), &at(20, 7, 1, 1), FailedLayer::Timeout, NOW);
    let bytes = book.to_json();
    let policy = NetworkPolicy::Clearnet;
    assert_eq!(Book::from_json(policy, &bytes, NOW).unwrap(), book);
    let strict = Book::from_json(NetworkPolicy::LoopbackOnly, &bytes, NOW).unwrap();
    assert!(
        strict.is_empty(),
        "the policy of today holds, not that of the file"
    );
    let error = |bytes: &[u8]| Book::from_json(policy, bytes, NOW).unwrap_err().to_string();
    assert!(error(&bytes[..bytes.len() / 2]).contains("damaged"));
    assert!(error(b"{\"format\":2,\"peers\":[]}").contains("format 2"));
    assert!(error(&vec![b' '; BOOK_BYTES_MAX + 1]).contains("bytes"));
    let later = NOW.after(Duration::from_hours(40 * 24));
    let late = Book::from_json(policy, &bytes, later).unwrap();
    assert_eq!(late.len(), 1, "claims are too old, proven peers never");
    assert!(late.get(&peer(5)).is_some());
}

#[derive(Clone, Debug)]
enum Op {
    Learn(u32, u8, u8, u8),
    Reach(u32, u8, u8),
    Fail(u32, u8, u8, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..2_000u32, 1..9u8, any::<u8>(), 0..6u8).prop_map(|(n, a, b, o)| Op::Learn(n, a, b, o)),
        1 => (0..2_000u32, 1..9u8, any::<u8>()).prop_map(|(n, a, b)| Op::Reach(n, a, b)),
        1 => (0..2_000u32, 1..9u8, any::<u8>(), any::<bool>()).prop_map(|(n, a, b, w)| Op::Fail(n, a, b, w)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_bounds_hold(ops in proptest::collection::vec(op(), 1..1_500)) {
        let mut book = book();
        for op in ops {
            match op {
                Op::Learn(n, a, b, o) => {
                    let origin = match o {
                        0 | 1 => Origin::Source(format!("s{o}")),
                        o => Origin::Peer { peer: peer(o.into()), group: Group::Ip4([9, o % 2]) },
                    };
                    book.learn(peer(n), &[at(a, b, 1, 1), at(b, a, 1, 1)], &origin, NOW);
                }
                Op::Reach(n, a, b) => {
                    book.reached(peer(n), &at(a, b, 1, 1), &Origin::source("s0"), NOW);
                }
                Op::Fail(n, a, b, wrong) => {
                    let layer = if wrong { FailedLayer::Handshake } else { FailedLayer::Timeout };
                    book.failed(&peer(n), &at(a, b, 1, 1), layer, NOW);
                }
            }
        }
        prop_assert!(book.len() <= PEERS_MAX);
        prop_assert!(book.iter().filter(|(_, k)| k.tried).count() <= TRIED_MAX);
        let mut claims = BTreeMap::<Group, usize>::new();
        let mut tried = BTreeMap::<Group, usize>::new();
        let mut origins = BTreeMap::<Origin, usize>::new();
        for (_, known) in book.iter() {
            prop_assert!((1..=ADDRESSES_PER_PEER).contains(&known.addresses.len()));
            let groups: std::collections::BTreeSet<_> =
                known.addresses.iter().map(|a| Group::of(&a.address)).filter(|g| g.is_counted()).collect();
            for group in groups {
                *if known.tried { &mut tried } else { &mut claims }.entry(group).or_default() += 1;
            }
            if !known.tried {
                *origins.entry(known.origin.clone()).or_default() += 1;
            }
        }
        prop_assert!(tried.values().all(|n| *n <= GROUP_TRIED_MAX));
        prop_assert!(claims.values().all(|n| *n <= GROUP_MAX + GROUP_TRIED_MAX));
        for (origin, n) in origins {
            let max = match origin { Origin::Source(_) => SOURCE_MAX + TRIED_MAX, Origin::Peer { .. } => ANNOUNCER_MAX + TRIED_MAX };
            prop_assert!(n <= max);
        }
        let read = Book::from_json(NetworkPolicy::Clearnet, &book.to_json(), NOW).unwrap();
        prop_assert!(read.len() <= PEERS_MAX);
    }
}
