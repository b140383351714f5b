//! Members, strangers, and who gets a place.

use super::*;
use crate::{
    gossip::limits::STRANGER_CAPABILITY_BYTES_MAX,
    membership::{
        LAPSED_MAX, RENEWAL_TIME,
        Standing::{Lapsed, Member, Stranger},
    },
};

fn with_membership(membership: &Envelope, now: Moment, sequence: u64) -> CapabilityBody {
    CapabilityBody {
        membership: Some(membership.into()),
        ..capability(now, sequence)
    }
}

fn tier(net: &Net, n: u32, now: Moment) -> Option<Tier> {
    let nodes = net.rules.directory().nodes(now);
    let node = nodes.iter().find(|node| node.key == key(n).public());
    node.expect("it is known").tier
}

#[test]
fn a_member_shows_its_statement_and_it_is_checked_once() {
    let mut net = Net::new(1);
    let membership = net.membership(1, INSTANCE, at(0));
    for sequence in 1..=3 {
        let body = with_membership(&membership, at(0), sequence);
        let said = net.capability(1, &body);
        assert_eq!(net.learn(at(0), &said), Verdict::Accept);
        assert_eq!(tier(&net, 1, at(0)), Some(Tier::T2));
    }
    assert_eq!(net.check.count(), 4, "three capabilities, one statement");
    assert_eq!(net.rules.directory().len(), (1, 0));
}

#[test]
fn a_forged_or_borrowed_statement_is_rejected_and_an_unknown_instance_makes_no_member() {
    let mut net = Net::new(1);
    let borrowed = net.membership(2, INSTANCE, at(0));
    let body = with_membership(&borrowed, at(0), 1);
    let said = net.capability(1, &body);
    assert_eq!(net.learn(at(0), &said), rejected(RejectReason::Malformed));
    let honest = net.membership(1, INSTANCE, at(0));
    let forged = Envelope::from_parts(
        Purpose::Membership,
        key(INSTANCE).public(),
        [3; 64],
        honest.unverified_payload().to_vec(),
    );
    let body = with_membership(&forged, at(0), 2);
    let said = net.capability(1, &body);
    assert_eq!(
        net.learn(at(0), &said),
        rejected(RejectReason::BadSignature)
    );
    // Of an instance that we have not heard of: perhaps we are behind.
    let unknown = net.membership(1, 77, at(0));
    let body = with_membership(&unknown, at(0), 3);
    let said = net.capability(1, &body);
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    assert_eq!(tier(&net, 1, at(0)), None);
}

#[test]
fn a_revoked_instance_takes_its_members_with_it() {
    let mut net = Net::new(1);
    let membership = net.membership(1, INSTANCE, at(0));
    let said = net.capability(1, &with_membership(&membership, at(0), 1));
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    net.revoke(INSTANCE, at(0));
    assert_eq!(tier(&net, 1, at(0)), None);
    let again = net.capability(1, &with_membership(&membership, at(0), 2));
    assert_eq!(net.learn(at(0), &again), Verdict::Accept);
    assert_eq!(tier(&net, 1, at(0)), None);
}

#[test]
fn without_a_coordinator_a_membership_lapses_gently() {
    let mut net = Net::new(1);
    let membership = net.membership(1, INSTANCE, at(0));
    let week = 7 * 24 * 3_600;
    let (ended, late) = (at(week), at(week + RENEWAL_TIME.as_secs() + 120));
    let said = net.capability(1, &with_membership(&membership, ended, 1));
    assert_eq!(net.learn(ended, &said), Verdict::Accept);
    let standing =
        |net: &Net, now: Moment| net.rules.directory().standing(&key(1).public(), now.wall);
    assert_eq!(standing(&net, ended), Lapsed(Tier::T2));
    assert_eq!(standing(&net, late), Lapsed(Tier::T2));
    assert_eq!(standing(&net, at(week + LAPSED_MAX.as_secs())), Stranger);
    // Somebody else was renewed a day later: so a coordinator was there, and this node was not renewed.
    let renewed = net.membership(2, INSTANCE, late);
    let said = net.capability(2, &with_membership(&renewed, late, 1));
    assert_eq!(net.learn(late, &said), Verdict::Accept);
    assert_eq!(standing(&net, late), Stranger);
}

#[test]
fn a_statement_dated_ahead_counts_when_its_time_has_come_and_takes_no_lapsed_membership_away() {
    let mut net = Net::new(1);
    let week = 7 * 24 * 3_600;
    let ended = at(week);
    let membership = net.membership(1, INSTANCE, at(0));
    let said = net.capability(1, &with_membership(&membership, ended, 1));
    assert_eq!(net.learn(ended, &said), Verdict::Accept);
    // A month ahead, by a coordinator whose clock is wrong or whose key is stolen.
    let ahead = at(5 * week);
    let early = net.membership(2, INSTANCE, ahead);
    let said = net.capability(2, &with_membership(&early, ended, 1));
    assert_eq!(net.learn(ended, &said), Verdict::Accept, "of a stranger");
    let standing = |net: &Net, n, now: Moment| {
        let directory = net.rules.directory();
        directory.standing(&key(n).public(), now.wall)
    };
    assert_eq!(standing(&net, 2, ended), Stranger);
    assert_eq!(standing(&net, 2, ahead), Member(Tier::T2));
    assert_eq!(
        standing(&net, 1, ended),
        Lapsed(Tier::T2),
        "nobody was there"
    );
    let near = net.membership(3, INSTANCE, at(week + 100));
    let said = net.capability(3, &with_membership(&near, ended, 1));
    assert_eq!(net.learn(ended, &said), Verdict::Accept);
    assert_eq!(
        standing(&net, 3, ended),
        Member(Tier::T2),
        "as far as clocks may differ"
    );
}

#[test]
fn strangers_say_less_than_members() {
    let mut net = Net::new(1);
    let files = vec![vec![5; 32]; STRANGER_CAPABILITY_BYTES_MAX / 32];
    let long = CapabilityBody {
        holds: files.clone(),
        ..capability(at(0), 1)
    };
    let said = net.capability(1, &long);
    assert_eq!(net.learn(at(0), &said), ignored(IgnoreReason::Full));
    let membership = net.membership(1, INSTANCE, at(0));
    let member = CapabilityBody {
        holds: files,
        ..with_membership(&membership, at(0), 1)
    };
    let said = net.capability(1, &member);
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    let beats = |net: &mut Net, n| {
        let said: Vec<_> = (0..20).map(|s| net.beat(n, at(0), s)).collect();
        let accepted = said
            .iter()
            .filter(|s| net.hear(at(0), s) == Verdict::Accept);
        accepted.count()
    };
    assert_eq!((beats(&mut net, 1), beats(&mut net, 2)), (6, 3));
}

#[test]
fn whose_heartbeat_finds_no_room_is_named_so_that_it_can_be_asked_about() {
    let limits = Limits {
        strangers_max: 1,
        ..Limits::default()
    };
    let mut net = Net::with(1, limits);
    let topic = Topic::Heartbeat(0);
    let judge = |net: &mut Net, n, sequence| {
        let said = net.beat(n, at(0), sequence);
        net.judge(at(0), topic, &said).turned_away
    };
    assert_eq!(judge(&mut net, 1, 1), None);
    assert_eq!(judge(&mut net, 2, 1), Some(key(2).public()));
    let membership = net.membership(2, INSTANCE, at(0));
    let said = net.capability(2, &with_membership(&membership, at(0), 1));
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    assert_eq!(judge(&mut net, 2, 2), None, "a member has a place");
    assert_eq!(
        judge(&mut net, 1, 1),
        None,
        "a duplicate is not turned away"
    );
}

#[test]
fn no_stranger_takes_a_living_ones_place_and_members_find_room() {
    let limits = Limits {
        members_max: 3,
        strangers_max: 2,
        ..Limits::default()
    };
    let mut net = Net::with(1, limits);
    let (full, accepted) = (ignored(IgnoreReason::Full), Verdict::Accept);
    for (n, expected) in [(1, accepted), (2, accepted), (3, full)] {
        let said = net.beat(n, at(0), 1);
        assert_eq!(net.hear(at(0), &said), expected);
    }
    assert_eq!(net.check.count(), 2, "no check for who has no place");
    for (n, expected) in [(11, accepted), (12, accepted), (13, accepted), (14, full)] {
        let membership = net.membership(n, INSTANCE, at(0));
        let said = net.capability(n, &with_membership(&membership, at(0), 1));
        assert_eq!(net.learn(at(0), &said), expected);
    }
    assert_eq!(net.rules.directory().len(), (3, 2));
    // The first two have been silent for their life: their places are free.
    for n in [3, 4] {
        let said = net.beat(n, at(301), 1);
        assert_eq!(net.hear(at(301), &said), Verdict::Accept);
    }
    assert_eq!(net.rules.directory().len(), (3, 2));
    net.rules.tick(at(4 * 3_600));
    assert!(net.rules.directory().is_empty());
    assert_eq!(net.rules.directory().bytes(), 0);
}

#[test]
fn a_members_bytes_displace_strangers_and_the_sum_stays_bounded() {
    let limits = Limits {
        capability_bytes_max: 4_000,
        ..Limits::default()
    };
    let mut net = Net::with(1, limits);
    let large = |n: u32, body: CapabilityBody| CapabilityBody {
        holds: vec![vec![n as u8; 32]; 50],
        ..body
    };
    for (n, expected) in [(1, true), (2, true), (3, false)] {
        let said = net.capability(n, &large(n, capability(at(0), 1)));
        assert_eq!(net.learn(at(0), &said) == Verdict::Accept, expected, "{n}");
    }
    let membership = net.membership(9, INSTANCE, at(0));
    let said = net.capability(9, &large(9, with_membership(&membership, at(0), 1)));
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    let directory = net.rules.directory();
    assert_eq!(directory.len(), (1, 1));
    assert!(directory.bytes() <= 4_000);
}
