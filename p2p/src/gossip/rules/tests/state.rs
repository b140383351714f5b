//! Heartbeats and capabilities, message by message.

use owm_proto::limits::{ADDRESSES_MAX, HOLDS_MAX};

use super::*;

#[test]
fn an_honest_heartbeat_is_believed_once() {
    let mut net = Net::new(1);
    let first = net.beat(1, at(0), 5);
    let judged = net.judge(at(0), Topic::Heartbeat(0), &first);
    assert_eq!(judged.verdict, Verdict::Accept);
    assert!(matches!(judged.news, Some(Heard::Heartbeat { body, .. }) if body.running_tasks == 3));
    assert_eq!(net.nodes(at(0)), [key(1).public()]);
    assert_eq!(net.check.count(), 1);
    // Again, earlier, and much later: none of it costs a signature check.
    assert_eq!(net.hear(at(1), &first), ignored(IgnoreReason::Duplicate));
    let earlier = net.beat(1, at(0), 4);
    assert_eq!(net.hear(at(1), &earlier), ignored(IgnoreReason::Stale));
    assert_eq!(net.hear(at(301), &first), ignored(IgnoreReason::Expired));
    assert_eq!(net.check.count(), 1);
    assert!(net.nodes(at(301)).is_empty());
}

#[test]
fn a_capability_tells_what_a_node_has_does_and_holds() {
    let mut net = Net::new(1);
    let body = capability(at(0), 5);
    let said = net.capability(1, &body);
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
    let directory = net.rules.directory();
    let node = &directory.nodes(at(0))[0];
    assert_eq!(
        (node.tier, node.checkpoint_sequence, &node.roles),
        (None, 4, &body.roles)
    );
    assert_eq!(directory.holders(at(0), &Sha256([7; 32])), [node.key]);
    assert!(directory.holders(at(0), &Sha256([8; 32])).is_empty());
    let addresses = directory.addresses(at(0), &node.key);
    assert_eq!(addresses[0].to_string(), "/ip4/192.0.2.7/udp/4001/quic-v1");
    let told = |named: &[PublicKey], count, bytes| {
        directory.capabilities(at(0), named, &node.key, count, bytes)
    };
    assert_eq!(told(&[], 9, 9_999), std::slice::from_ref(&said));
    assert!(told(&[], 9, 99).is_empty());
    assert_eq!(told(&[key(9).public(), node.key], 0, 9_999), [said]);
    let over = at(31 * 60);
    assert!(
        directory.nodes(over).is_empty() && directory.holders(over, &Sha256([7; 32])).is_empty()
    );
}

#[test]
fn changed_bytes_and_other_networks_are_rejected() {
    let mut net = Net::new(1);
    let good = net.beat(1, at(0), 5);
    let body = beat(at(0), 6).encode_to_vec();
    let forged = Envelope::from_parts(
        Purpose::Heartbeat,
        key(1).public(),
        *good.signature(),
        body.clone(),
    );
    let bad = rejected(RejectReason::BadSignature);
    assert_eq!(net.hear(at(0), &forged), bad);
    let elsewhere = NetworkId(Sha256::of(b"another network"));
    let foreign = Envelope::sign(&key(1), Purpose::Heartbeat, &elsewhere, body);
    let judged = net.judge(at(0), Topic::Heartbeat(0), &foreign);
    assert_eq!(judged.verdict, bad);
    let action = crate::peer::Action::BadMessage(RejectReason::BadSignature);
    assert_eq!(judged.action, Some(action));
    assert!(net.nodes(at(0)).is_empty());
    assert_eq!(net.hear(at(0), &good), Verdict::Accept);
}

#[test]
fn early_and_late_is_ignored_and_impossible_is_rejected() {
    let mut net = Net::new(1);
    let judge = |net: &mut Net, issued: u64, expires: u64| {
        let body = HeartbeatBody {
            issued_at_ms: START_MS + issued,
            expires_at_ms: START_MS + expires,
            ..beat(at(0), 5)
        };
        let said = net.signed(1, Purpose::Heartbeat, body.encode_to_vec());
        net.hear(at(0), &said)
    };
    let bad_times = rejected(RejectReason::BadTimes);
    assert_eq!(
        judge(&mut net, 121_000, 200_000),
        ignored(IgnoreReason::Future)
    );
    assert_eq!(judge(&mut net, 0, 0), ignored(IgnoreReason::Expired));
    assert_eq!(judge(&mut net, 1_000, 999), bad_times);
    assert_eq!(judge(&mut net, 0, 49 * 3_600_000), bad_times);
    assert_eq!(net.check.count(), 0);
    // Whatever it claims, it is not believed longer than three periods (here: the least of five minutes).
    assert_eq!(judge(&mut net, 0, 47 * 3_600_000), Verdict::Accept);
    assert_eq!(net.nodes(at(299)).len(), 1);
    assert!(net.nodes(at(300)).is_empty());
}

#[test]
fn what_is_no_message_is_rejected() {
    let mut net = Net::new(1);
    let peer = key(PEER).public();
    let check = Counting::default();
    let mut judge =
        |topic, bytes: &[u8]| net.rules.judge(at(0), &peer, topic, bytes, &check).verdict;
    let heartbeat = Topic::Heartbeat(0);
    let huge = vec![0; GOSSIP_MESSAGE_BYTES_MAX + 1];
    assert_eq!(judge(heartbeat, &huge), rejected(RejectReason::Oversize));
    for garbage in [&b""[..], b"\xff\xff", b"hello"] {
        assert_eq!(judge(heartbeat, garbage), rejected(RejectReason::Malformed));
    }
    let net = Net::new(1);
    let said = net.beat(1, at(0), 5).to_stored();
    for wrong in [Topic::Capability(0), Topic::Checkpoint] {
        assert_eq!(judge(wrong, &said), rejected(RejectReason::WrongPurpose));
    }
    let empty = net.signed(1, Purpose::Heartbeat, b"\xff".to_vec());
    let malformed = rejected(RejectReason::Malformed);
    assert_eq!(judge(heartbeat, &empty.to_stored()), malformed);
    assert_eq!(check.count(), 0);
    let no_session = HeartbeatBody {
        session_id: vec![1; 15],
        ..beat(at(0), 5)
    };
    let said = net.signed(1, Purpose::Heartbeat, no_session.encode_to_vec());
    assert_eq!(judge(heartbeat, &said.to_stored()), malformed);
}

#[test]
fn a_node_speaks_on_its_own_shard_only() {
    let mut net = Net::new(4);
    let of_shard = |shard| (1..99).find(|n| shard_of(&key(*n).public(), 4) == shard);
    let (n, lagging) = (of_shard(1).unwrap(), of_shard(2).unwrap());
    let said = net.beat(n, at(0), 5);
    let wrong = rejected(RejectReason::WrongShard);
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(3), &said), wrong);
    // With two shards it would be right: its issuer has not heard yet that there are four.
    let early = net.beat(lagging, at(0), 5);
    let other = ignored(IgnoreReason::OtherShards);
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(0), &early), other);
    // With one; and with more than there are.
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(0), &said), other);
    let finer = shard_of(&key(n).public(), 1 << 10);
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(finer), &said), other);
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(1), &early), wrong);
    assert_eq!(net.verdict(at(0), Topic::Heartbeat(6), &said), wrong);
    assert_eq!(net.check.count(), 0);
    assert_eq!(
        net.verdict(at(0), Topic::Heartbeat(1), &said),
        Verdict::Accept
    );
}

#[test]
fn two_messages_under_one_sequence_prove_a_fault_once() {
    let mut net = Net::new(1);
    let first = net.beat(1, at(0), 5);
    let other = |running_tasks| {
        let body = HeartbeatBody {
            running_tasks,
            ..beat(at(0), 5)
        };
        Envelope::sign(&key(1), Purpose::Heartbeat, &net.id, body.encode_to_vec())
    };
    let (second, third) = (other(8), other(9));
    let garbled = Envelope::from_parts(
        Purpose::Heartbeat,
        key(1).public(),
        [0; 64],
        second.unverified_payload().to_vec(),
    );
    assert_eq!(net.hear(at(0), &first), Verdict::Accept);
    // Who makes a contradiction up proves nothing but its own fault.
    assert_eq!(
        net.hear(at(1), &garbled),
        rejected(RejectReason::BadSignature)
    );
    let judged = net.judge(at(1), Topic::Heartbeat(0), &second);
    assert_eq!(judged.verdict, ignored(IgnoreReason::Equivocation));
    assert_eq!(judged.action, None, "the forwarder is not to blame");
    let Some(Notice::Contradiction(two)) = judged.notice else {
        panic!("no proof");
    };
    assert_eq!((two.first, two.second), (Some(first), second));
    assert_eq!(net.check.count(), 3);
    let judged = net.judge(at(1), Topic::Heartbeat(0), &third);
    assert_eq!(judged.verdict, ignored(IgnoreReason::Equivocation));
    assert!(judged.notice.is_none());
    assert_eq!(net.check.count(), 3, "seen already: no more checks");
    assert_eq!(net.rules.directory().nodes(at(1))[0].running_tasks, 3);
}

#[test]
fn a_key_gets_its_allowance_and_nobody_else_can_use_it_up() {
    let mut net = Net::new(1);
    for sequence in 0..3 {
        let said = net.beat(1, at(0), sequence);
        assert_eq!(net.hear(at(0), &said), Verdict::Accept);
    }
    let checks = net.check.count();
    let many = net.beat(1, at(0), 7);
    assert_eq!(net.hear(at(0), &many), ignored(IgnoreReason::TooManyOfKey));
    assert_eq!(net.check.count(), checks);
    assert_eq!(net.hear(at(51), &many), Verdict::Accept);
    // Forged in another's name: the forger is blamed, the other may still speak.
    for sequence in 10..14 {
        let body = beat(at(51), sequence).encode_to_vec();
        let forged = Envelope::from_parts(Purpose::Heartbeat, key(2).public(), [7; 64], body);
        assert_eq!(
            net.hear(at(51), &forged),
            rejected(RejectReason::BadSignature)
        );
    }
    let honest = net.beat(2, at(51), 9);
    assert_eq!(net.hear(at(51), &honest), Verdict::Accept);
}

type Change = fn(&mut CapabilityBody);

#[test]
fn every_list_and_text_of_a_capability_is_bounded() {
    let mut net = Net::new(1);
    let changes: [(&str, Change); 13] = [
        ("session", |b| b.session_id.push(1)),
        ("long version", |b| b.software_version = "x".repeat(65)),
        ("version moves the cursor", |b| {
            b.software_version = "\x1b[2J".into();
        }),
        ("roles", |b| b.roles = vec!["infer".into(); 9]),
        ("role", |b| b.roles = vec!["\n".into()]),
        ("holds", |b| b.holds = vec![vec![1; 32]; HOLDS_MAX + 1]),
        ("hash", |b| b.holds = vec![vec![1; 31]]),
        ("addresses", |b| {
            b.addresses = vec![b.addresses[0].clone(); ADDRESSES_MAX + 1];
        }),
        ("address", |b| b.addresses = vec![vec![0xff, 0xff]]),
        ("empty address", |b| b.addresses = vec![vec![]]),
        ("named address", |b| {
            let peer = crate::peer::peer_id(&key(1).public()).unwrap();
            b.addresses = vec![
                format!("/ip4/192.0.2.7/tcp/1/p2p/{peer}")
                    .parse::<libp2p::Multiaddr>()
                    .unwrap()
                    .to_vec(),
            ];
        }),
        ("gpus", |b| {
            b.capabilities.get_or_insert_default().gpus = vec!["a".into(); 65];
        }),
        ("backend", |b| {
            b.capabilities.get_or_insert_default().backend = "\t".into();
        }),
    ];
    for (what, change) in changes {
        let mut body = capability(at(0), 5);
        change(&mut body);
        let said = net.capability(1, &body);
        assert_eq!(
            net.learn(at(0), &said),
            rejected(RejectReason::Malformed),
            "{what}"
        );
    }
    let said = net.capability(1, &capability(at(0), 5));
    assert_eq!(net.learn(at(0), &said), Verdict::Accept);
}

#[test]
fn what_we_say_ourselves_goes_through_the_same_door() {
    let mut net = Net::new(4);
    let own = net.beat(ME, at(0), 5);
    let shard = shard_of(&key(ME).public(), 4);
    let (topic, judged) = net.rules.accept_own(at(0), own.clone(), &StrictEd25519);
    assert_eq!(
        (topic, judged.verdict),
        (Topic::Heartbeat(shard), Verdict::Accept)
    );
    let (_, judged) = net.rules.accept_own(at(0), own.clone(), &StrictEd25519);
    assert_eq!(judged.verdict, ignored(IgnoreReason::Duplicate));
    let (_, judged) = net
        .rules
        .accept_own(at(0), net.beat(1, at(0), 5), &StrictEd25519);
    assert_eq!(judged.verdict, rejected(RejectReason::BadSignature));
    let old = net.beat(ME, at(0), 6);
    let (_, judged) = net.rules.accept_own(at(600), old, &StrictEd25519);
    assert_eq!(judged.verdict, ignored(IgnoreReason::Expired));
    assert_eq!(net.hear(at(0), &own), ignored(IgnoreReason::Duplicate));
}

#[test]
fn our_key_in_another_process_is_noticed() {
    let mut net = Net::new(1);
    // Of a former life: nothing is said of it.
    let before = net.beat(ME, at(0), 4);
    assert_eq!(net.hear(at(0), &before), ignored(IgnoreReason::Stale));
    let own = net.beat(ME, at(0), 5);
    let (_, judged) = net.rules.accept_own(at(0), own, &StrictEd25519);
    assert_eq!(judged.verdict, Verdict::Accept);
    let elsewhere = net.beat(ME, at(60), 6);
    let judged = net.judge(at(60), Topic::Heartbeat(0), &elsewhere);
    assert!(matches!(
        judged.notice,
        Some(Notice::OwnKeyElsewhere { sequence: 6 })
    ));
    assert!(net.rules.warnings().any(|w| w.contains("this node's key")));
}

#[test]
fn what_a_peer_tells_of_others_is_judged_by_the_same_rules() {
    let mut net = Net::new(4);
    let peer = key(PEER).public();
    let mut tell = |envelope: &Envelope| {
        let judged = net
            .rules
            .judge_told(at(0), &peer, envelope.clone(), &StrictEd25519);
        judged.verdict
    };
    let other = Net::new(4);
    for n in 1..20 {
        assert_eq!(
            tell(&other.capability(n, &capability(at(0), 5))),
            Verdict::Accept
        );
    }
    let forged = Envelope::from_parts(
        Purpose::Capability,
        key(30).public(),
        [1; 64],
        capability(at(0), 5).encode_to_vec(),
    );
    assert_eq!(tell(&forged), rejected(RejectReason::BadSignature));
    let heartbeat = other.beat(31, at(0), 5);
    assert_eq!(tell(&heartbeat), rejected(RejectReason::WrongPurpose));
    assert_eq!(tell(&other.checkpoint(RELEASE, 3, 1)), Verdict::Accept);
    assert_eq!(net.nodes(at(0)).len(), 19);
}
