//! A hundred thousand hostile messages: tables stay flat, honest traffic goes on, the sender is cut off.

use super::*;
use crate::peer::{Action, Consequence, Scores};

const MANY: u32 = 100_000;

/// Lets `peer` send hostile messages, one a millisecond, and an honest one by another peer now and then.
/// Gives the number of signature checks, and whether and when the hostile peer was cut off.
fn attack(net: &mut Net, hostile: impl Fn(u32) -> Vec<u8>) -> (u32, Option<u32>) {
    let (enemy, friend) = (key(666).public(), key(PEER).public());
    let (check, mut scores, mut cut_off) = (Counting::default(), Scores::default(), None);
    for n in 0..MANY {
        let now = Moment {
            wall: UnixMillis(START_MS + u64::from(n)),
            monotonic: Duration::from_millis(1_000_000 + u64::from(n)),
        };
        let judged = net
            .rules
            .judge(now, &enemy, Topic::Heartbeat(0), &hostile(n), &check);
        assert_ne!(judged.verdict, Verdict::Accept);
        if let Some(action) = judged.action
            && let Consequence::CutOff(_) = scores.note(now, &enemy, action)
        {
            // A real swarm would disconnect now; here the flood goes on.
            cut_off = cut_off.or(Some(n));
        }
        if n % 10_000 == 5_000 {
            let honest = net.beat(100 + n / 10_000, now, 5).to_stored();
            let topic = Topic::Heartbeat(0);
            let judged = net
                .rules
                .judge(now, &friend, topic, &honest, &StrictEd25519);
            assert_eq!(judged.verdict, Verdict::Accept);
        }
    }
    (check.count(), cut_off)
}

#[test]
fn repeating_one_message_costs_the_sender_its_connection_and_us_nothing() {
    let mut net = Net::new(1);
    let honest = net.beat(1, at(0), 5);
    assert_eq!(net.hear(at(0), &honest), Verdict::Accept);
    let repeated = honest.to_stored();
    let (checks, cut_off) = attack(&mut net, |_| repeated.clone());
    assert_eq!(checks, 0);
    assert!(cut_off.is_some());
    assert_eq!(net.rules.directory().len(), (0, 11));
}

#[test]
fn forging_in_many_names_is_cut_off_after_some_ten() {
    let mut net = Net::new(1);
    let forged = |n: u32| {
        let body = beat(at(0), 5).encode_to_vec();
        let mut name = [0; 32];
        name[..4].copy_from_slice(&n.to_be_bytes());
        let envelope = Envelope::from_parts(Purpose::Heartbeat, PublicKey(name), [5; 64], body);
        envelope.to_stored()
    };
    let (checks, cut_off) = attack(&mut net, forged);
    assert!(cut_off.is_some_and(|n| n <= 10), "{cut_off:?}");
    assert!(
        checks < 20_000,
        "{checks}: the allowance bounds what a flood costs"
    );
    assert_eq!(net.rules.directory().len(), (0, 10));
}

#[test]
fn garbage_is_cut_off_after_some_ten() {
    let mut net = Net::new(1);
    let (checks, cut_off) = attack(&mut net, |n| n.to_be_bytes().to_vec());
    assert_eq!(checks, 0);
    assert!(cut_off.is_some_and(|n| n <= 10), "{cut_off:?}");
}

#[test]
fn a_hundred_thousand_new_keys_fill_the_strangers_places_and_no_more() {
    let mut net = Net::new(1);
    let membership = net.membership(1, INSTANCE, at(0));
    let member = CapabilityBody {
        membership: Some((&membership).into()),
        ..capability(at(0), 1)
    };
    let said = net.capability(1, &member);
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    let (enemy, topic) = (key(666).public(), Topic::Heartbeat(0));
    let body = beat(at(0), 5).encode_to_vec();
    let mut accepted = 0;
    for n in 0..MANY {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&n.to_be_bytes());
        let sybil =
            Envelope::from_parts(Purpose::Heartbeat, PublicKey(name), [5; 64], body.clone());
        let bytes = sybil.to_stored();
        let judged = net.rules.judge(at(1), &enemy, topic, &bytes, &Trusting);
        accepted += usize::from(judged.verdict == Verdict::Accept);
    }
    // Half of the strangers' places; the rest is left for those whom others tell of, each by its own name.
    let half = Limits::default().strangers_max / 2;
    assert_eq!(net.rules.directory().len(), (1, half));
    assert_eq!(accepted, half);
    let stranger = net.beat(3, at(2), 5);
    assert_eq!(
        net.hear(at(2), &stranger),
        Verdict::Accept,
        "by another peer"
    );
    // The member is heard as before, and a new one finds its place.
    let said = net.beat(1, at(2), 5);
    assert_eq!(net.hear(at(2), &said), Verdict::Accept);
    let membership = net.membership(2, INSTANCE, at(2));
    let other = CapabilityBody {
        membership: Some((&membership).into()),
        ..capability(at(2), 1)
    };
    let said = net.capability(2, &other);
    assert_eq!(net.learn(at(2), &said), Verdict::Accept);
}

#[test]
fn many_peers_leave_small_tables() {
    let mut net = Net::new(1);
    for n in 0..20_000_u32 {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&n.to_be_bytes());
        let topic = Topic::Heartbeat(0);
        let judged = net
            .rules
            .judge(at(0), &PublicKey(name), topic, b"x", &Trusting);
        let malformed = Action::BadMessage(RejectReason::Malformed);
        assert_eq!(judged.action, Some(malformed));
    }
    assert!(net.rules.peers.len() <= net.rules.limits.peers_max);
}

#[test]
fn strangers_capabilities_beyond_the_topics_allowance_cost_no_signature_check() {
    let mut net = Net::new(1);
    let (enemy, topic) = (key(666).public(), Topic::Capability(0));
    let body = capability(at(0), 1).encode_to_vec();
    let check = Counting::default();
    let max = Limits::default().strangers_max as u32;
    let other = key(667).public();
    for n in 0..3 * max {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&n.to_be_bytes());
        let enemy = if n < max / 2 { enemy } else { other };
        let check: &dyn SignatureCheck = if n < max { &Trusting } else { &check };
        let sybil =
            Envelope::from_parts(Purpose::Capability, PublicKey(name), [5; 64], body.clone());
        let judged = net
            .rules
            .judge(at(1), &enemy, topic, &sybil.to_stored(), check);
        assert_eq!(judged.verdict == Verdict::Accept, n < max);
    }
    assert_eq!(net.rules.directory().len().1, max as usize);
    assert_eq!(check.count(), 0, "no room: nothing is checked");
}

#[test]
fn a_peers_allowance_is_bounded_whatever_the_number_of_shards() {
    let parameters = Bootstrap::before_any();
    let of = |shards| Allowances::new(&parameters, shards).of_peer(true).period;
    assert!(of(2_048) >= Duration::from_millis(1));
    assert!(of(1) >= of(2_048));
}
