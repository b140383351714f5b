//! What holds for any bytes and any order.

use proptest::prelude::*;

use super::*;

fn topic() -> impl Strategy<Value = Topic> {
    prop_oneof![
        Just(Topic::Checkpoint),
        (0_u32..5).prop_map(Topic::Heartbeat),
        (0_u32..5).prop_map(Topic::Capability),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that nobody signed is ever believed, and nothing panics.
    #[test]
    fn arbitrary_bytes_are_never_believed(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        topic in topic(),
    ) {
        let mut net = Net::new(4);
        let peer = key(PEER).public();
        let judged = net.rules.judge(at(0), &peer, topic, &bytes, &StrictEd25519);
        prop_assert!(!matches!(judged.verdict, Verdict::Accept));
    }

    /// Nor what somebody signed, with anything as its payload, unless it is in order; never a panic.
    #[test]
    fn signed_garbage_changes_nothing(
        payload in proptest::collection::vec(any::<u8>(), 0..400),
        topic in topic(),
    ) {
        let mut net = Net::new(1);
        let purpose = match topic {
            Topic::Checkpoint => Purpose::Checkpoint,
            Topic::Heartbeat(_) => Purpose::Heartbeat,
            Topic::Capability(_) => Purpose::Capability,
        };
        let said = net.signed(RELEASE, purpose, payload);
        let verdict = net.verdict(at(0), topic, &said);
        prop_assert!(verdict != Verdict::Accept);
        prop_assert!(net.rules.directory().is_empty() && net.rules.checkpoint().is_none());
    }

    /// In whatever order and however often messages come, the highest sequence is what is known, and each
    /// message is believed at most once.
    #[test]
    fn order_and_repetition_do_not_matter(order in proptest::collection::vec(0_u64..4, 1..40)) {
        let mut net = Net::new(1);
        let messages = [0, 1, 2, 3].map(|n| net.checkpoint(RELEASE, n + 1, n as u32));
        let mut accepted = [0; 4];
        for n in &order {
            let verdict = net.verdict(at(0), Topic::Checkpoint, &messages[*n as usize]);
            accepted[*n as usize] += u32::from(verdict == Verdict::Accept);
        }
        let newest = net.rules.checkpoint().map(|k| k.checkpoint.sequence);
        prop_assert_eq!(newest, order.iter().max().map(|n| n + 1));
        prop_assert!(accepted.iter().all(|n| *n <= 1));
    }

    /// The same for a node's state, as far as its allowance goes.
    #[test]
    fn a_nodes_state_never_goes_back(order in proptest::collection::vec(0_u64..6, 1..40)) {
        let mut net = Net::new(1);
        let mut newest = None;
        for (step, n) in order.into_iter().enumerate() {
            let now = at(step as u64);
            let said = net.beat(1, at(0), n);
            if net.hear(now, &said) == Verdict::Accept {
                prop_assert!(newest < Some(n));
                newest = Some(n);
            }
            let known = net.rules.directory().known(&key(1).public());
            let sequence = known.and_then(|k| k.said(StateKind::Heartbeat)).map(|s| s.sequence);
            prop_assert_eq!(sequence, newest);
        }
    }
}
