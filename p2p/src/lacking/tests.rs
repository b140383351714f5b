//! Who is asked about, when, and how often in vain.

use owm_proto::{
    UnixMillis,
    gossip::Bootstrap,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use super::*;
use crate::{
    directory::Announced,
    gossip::{
        limits::{Allowances, Limits},
        order::{Head, Said},
    },
};

const LIFE: Duration = Duration::from_mins(30);

fn at(secs: u64) -> Moment {
    Moment {
        wall: UnixMillis(1_800_000_000_000 + secs * 1_000),
        monotonic: Duration::from_secs(secs),
    }
}

fn node(n: u32) -> PublicKey {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    PublicKey(key)
}

fn directory() -> Directory {
    let allowances = Allowances::new(&Bootstrap::before_any(), 1);
    let limits = Limits {
        strangers_max: 4 * NODES_MAX,
        ..Limits::default()
    };
    Directory::new(limits, &allowances)
}

fn said(secs: u64) -> Said {
    let head = Head {
        issued_at_ms: at(secs).wall.0,
        expires_at_ms: at(secs).wall.after(LIFE).0,
        sequence: secs,
    };
    Said::new(head, LIFE, at(secs), b"")
}

fn beat(directory: &mut Directory, secs: u64, node: &PublicKey) {
    let body = HeartbeatBody::default();
    directory.beat(at(secs), (node, node), false, said(secs), &body);
}

fn announce(directory: &mut Directory, secs: u64, node: &PublicKey) {
    let announced = Announced {
        said: said(secs),
        body: CapabilityBody::default(),
        envelope: owm_proto::Envelope::from_parts(
            owm_proto::Purpose::Capability,
            *node,
            [0; 64],
            Vec::new(),
        ),
    };
    directory.announce(at(secs), (node, node), false, announced, None);
}

/// The seconds in which `node` was asked about, of these.
fn asked(lacking: &mut Lacking, directory: &mut Directory, secs: std::ops::Range<u64>) -> Vec<u64> {
    let mut asked = Vec::new();
    for second in secs {
        if second % 60 == 0 {
            beat(directory, second, &node(1));
            lacking.heard(at(second), &node(1), directory);
        }
        if !lacking.due(at(second), directory).is_empty() {
            asked.push(second);
        }
    }
    asked
}

#[test]
fn a_node_that_only_beats_is_asked_about_soon_and_then_less_and_less_often() {
    let (mut lacking, mut directory) = (Lacking::default(), directory());
    let asked = asked(&mut lacking, &mut directory, 60..1_500);
    assert_eq!(asked, [65, 75, 95, 135, 215, 375, 675, 975, 1_275]);
}

#[test]
fn a_node_whose_capability_is_known_or_that_is_silent_is_not_asked_about() {
    let (mut lacking, mut directory) = (Lacking::default(), directory());
    announce(&mut directory, 0, &node(2));
    beat(&mut directory, 0, &node(2));
    lacking.heard(at(0), &node(2), &directory);
    assert!(lacking.is_empty());
    for n in [3, 4] {
        beat(&mut directory, 0, &node(n));
        lacking.heard(at(0), &node(n), &directory);
    }
    announce(&mut directory, 1, &node(3));
    assert_eq!(lacking.due(at(4), &directory), []);
    assert_eq!(lacking.due(at(5), &directory), [node(4)]);
    assert_eq!(lacking.due(at(3_600), &directory), [], "silent");
    assert!(lacking.is_empty());
}

#[test]
fn who_hears_all_shards_asks_in_the_shard_of_the_nodes_it_lacks() {
    const SHARDS: u32 = 4;
    let of = |shard: u32| {
        (0..)
            .map(node)
            .filter(move |key| shard_of(key, SHARDS) == shard)
    };
    // Two connected peers of each shard but the last, and three nodes to ask about of each.
    let peers: Vec<(u32, PublicKey)> = (0..3)
        .flat_map(|shard| of(shard).take(2).map(move |key| (shard, key)))
        .enumerate()
        .map(|(n, (_, key))| (n as u32, key))
        .collect();
    let lacked: Vec<PublicKey> = (0..4).flat_map(|s| of(s).skip(2).take(3)).collect();
    let asked = questions(lacked.clone(), SHARDS, &peers, |n| n - 1);
    assert_eq!(asked.len(), 4);
    for (peer, nodes) in &asked {
        let shard = shard_of(&nodes[0], SHARDS);
        let its = shard_of(&peers[*peer as usize].1, SHARDS);
        assert!(its == shard || shard == 3, "{peer} was asked in {shard}");
        assert_eq!(nodes.len(), 3);
        assert!(nodes.iter().all(|node| shard_of(node, SHARDS) == shard));
    }
    let mut whom: Vec<u32> = asked.iter().map(|(peer, _)| *peer).collect();
    whom.sort_unstable();
    whom.dedup();
    assert_eq!(whom.len(), 4, "nobody twice");
    // A node that is connected is asked itself.
    let asked = questions(vec![peers[3].1, lacked[0]], SHARDS, &peers, |_| 0);
    assert_eq!(asked, [(3, vec![peers[3].1]), (0, vec![lacked[0]])]);
    assert_eq!(questions(lacked, SHARDS, &[] as &[(u32, _)], |_| 0), []);
}

#[test]
fn many_connected_nodes_that_announce_nothing_do_not_keep_us_from_asking_about_others() {
    let peers: Vec<(u32, PublicKey)> = (0..20).map(|n| (n, node(n))).collect();
    let mut lacked: Vec<PublicKey> = peers.iter().map(|(_, key)| *key).collect();
    lacked.push(node(99));
    let asked = questions(lacked, 1, &peers, |_| 0);
    assert_eq!(asked.len(), QUESTIONS_MAX + 1);
    assert!(asked[QUESTIONS_MAX].1.contains(&node(99)));
}

#[test]
fn many_silent_keys_neither_fill_memory_nor_keep_a_new_node_waiting() {
    let (mut lacking, mut directory) = (Lacking::default(), directory());
    for n in 0..2 * NODES_MAX as u32 {
        beat(&mut directory, 0, &node(n));
        lacking.heard(at(0), &node(n), &directory);
        assert!(lacking.len() <= NODES_MAX);
    }
    let mut count = 0;
    for second in 0..100 {
        let due = lacking.due(at(second), &directory);
        assert!(due.len() <= MEET_WANTED_MAX);
        count += due.len();
    }
    assert_eq!(count, 10 * MEET_WANTED_MAX);
    beat(&mut directory, 100, &node(9_999));
    lacking.heard(at(100), &node(9_999), &directory);
    let mut due = Vec::new();
    for second in 100..180 {
        due.extend(lacking.due(at(second), &directory));
    }
    assert!(due.contains(&node(9_999)));
}

#[test]
fn who_was_turned_away_is_asked_about_after_those_that_are_believed() {
    let (mut lacking, mut directory) = (Lacking::default(), directory());
    lacking.turned_away(at(0), &node(1), &directory);
    for n in 10..10 + MEET_WANTED_MAX as u32 {
        beat(&mut directory, 0, &node(n));
        lacking.heard(at(0), &node(n), &directory);
    }
    assert!(!lacking.due(at(5), &directory).contains(&node(1)));
    let again = lacking.due(at(15), &directory);
    assert!(!again.contains(&node(1)) && again.len() == MEET_WANTED_MAX);
    assert_eq!(
        lacking.due(at(25), &directory),
        [node(1)],
        "the others wait"
    );
    announce(&mut directory, 16, &node(1));
    lacking.turned_away(at(17), &node(1), &directory);
    let asked = (17..400).flat_map(|second| lacking.due(at(second), &directory));
    assert!(
        asked.into_iter().all(|asked| asked != node(1)),
        "it is known"
    );
}

#[test]
fn the_turned_away_neither_displace_the_believed_nor_stay_for_ever() {
    let (mut lacking, mut directory) = (Lacking::default(), directory());
    beat(&mut directory, 0, &node(0));
    lacking.heard(at(0), &node(0), &directory);
    for n in 1..2 * NODES_MAX as u32 {
        lacking.turned_away(at(0), &node(n), &directory);
    }
    assert_eq!(lacking.len(), NODES_MAX);
    assert!(lacking.due(at(5), &directory).contains(&node(0)));
    // Who is believed has a place in any case.
    let late = node(3 * NODES_MAX as u32);
    beat(&mut directory, 6, &late);
    lacking.heard(at(6), &late, &directory);
    assert_eq!(lacking.len(), NODES_MAX);
    assert!(lacking.due(at(15), &directory).contains(&late));
    let _ = lacking.due(at(303), &directory);
    assert_eq!(lacking.len(), 1, "the others are silent for five minutes");
}
