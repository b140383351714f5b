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
