//! Forged, downgraded, replayed and contradicting checkpoints.

use super::*;

fn sequence(net: &Net) -> Option<u64> {
    net.rules.checkpoint().map(|k| k.checkpoint.sequence)
}

fn hear(net: &mut Net, envelope: &Envelope) -> Verdict {
    net.verdict(at(0), Topic::Checkpoint, envelope)
}

#[test]
fn the_newest_checkpoint_is_kept_and_never_a_lower_one() {
    let mut net = Net::new(1);
    let [third, fifth] = [3, 5].map(|n| net.checkpoint(RELEASE, n, n as u32));
    let judged = net.judge(at(0), Topic::Checkpoint, &third);
    assert_eq!(judged.verdict, Verdict::Accept);
    assert!(
        matches!(judged.news, Some(Heard::Checkpoint(known)) if known.checkpoint.sequence == 3)
    );
    assert_eq!(hear(&mut net, &fifth), Verdict::Accept);
    let checks = net.check.count();
    assert_eq!(hear(&mut net, &fifth), ignored(IgnoreReason::Duplicate));
    assert_eq!(
        hear(&mut net, &third),
        ignored(IgnoreReason::Stale),
        "replayed"
    );
    let lower = net.checkpoint(OTHER_RELEASE, 4, 9);
    assert_eq!(
        hear(&mut net, &lower),
        ignored(IgnoreReason::Stale),
        "downgraded"
    );
    assert_eq!(net.check.count(), checks);
    assert_eq!(sequence(&net), Some(5));
}

#[test]
fn who_is_no_release_key_is_not_heard_and_a_forger_is_blamed() {
    let mut net = Net::new(1);
    for (nobody, n) in [(7, 1), (INSTANCE, 2), (ROOT, 3)] {
        let said = net.checkpoint(nobody, n, 1);
        assert_eq!(hear(&mut net, &said), ignored(IgnoreReason::UnknownSigner));
    }
    assert_eq!(net.check.count(), 0);
    let honest = net.checkpoint(RELEASE, 3, 1);
    let forged = |payload: &[u8]| {
        let (key, signature) = (key(RELEASE).public(), *honest.signature());
        Envelope::from_parts(Purpose::Checkpoint, key, signature, payload.to_vec())
    };
    let higher = net.checkpoint(7, 8, 1);
    let forgery = forged(higher.unverified_payload());
    assert_eq!(
        hear(&mut net, &forgery),
        rejected(RejectReason::BadSignature)
    );
    for (garbage, reason) in [
        (&b"{}"[..], RejectReason::BadSignature),
        (b"", RejectReason::BadSignature),
        (&[b' '; 5_000], RejectReason::Malformed),
    ] {
        assert_eq!(hear(&mut net, &forged(garbage)), rejected(reason));
    }
    assert_eq!(sequence(&net), None);
}

#[test]
fn of_two_checkpoints_under_one_sequence_the_first_stays_and_a_person_is_told() {
    let mut net = Net::new(1);
    let [first, second] = [1, 2].map(|patch| net.checkpoint(RELEASE, 3, patch));
    assert_eq!(hear(&mut net, &first), Verdict::Accept);
    let judged = net.judge(at(0), Topic::Checkpoint, &second);
    assert_eq!(judged.verdict, ignored(IgnoreReason::Equivocation));
    assert_eq!(
        judged.action, None,
        "its forwarder may know nothing of the first"
    );
    assert!(matches!(
        judged.notice,
        Some(Notice::Contradiction(two)) if two.first == Some(first) && two.second == second
    ));
    let checks = net.check.count();
    assert_eq!(hear(&mut net, &second), ignored(IgnoreReason::Equivocation));
    assert_eq!(net.check.count(), checks);
    let kept = &net.rules.checkpoint().unwrap().checkpoint.version;
    assert_eq!(kept.as_str(), "owm-v0.1.1");
    assert_eq!(net.rules.warnings().count(), 1);
    assert!(net.rules.warnings().all(|w| w.contains("release key")));
}

#[test]
fn what_can_be_shown_whole_counts_instead_of_what_a_stolen_key_announced_first() {
    let mut net = Net::new(1);
    let peer = key(PEER).public();
    let [stolen, release] = [1, 2].map(|patch| net.checkpoint(RELEASE, 3, patch));
    let version = |net: &Net| {
        net.rules
            .checkpoint()
            .unwrap()
            .checkpoint
            .version
            .to_string()
    };
    let whole = |net: &mut Net, envelope: &Envelope| {
        let Net { rules, check, .. } = net;
        rules.judge_whole(at(1), &peer, envelope, check)
    };
    assert_eq!(hear(&mut net, &stolen), Verdict::Accept);
    assert_eq!(
        hear(&mut net, &release),
        ignored(IgnoreReason::Equivocation)
    );
    assert_eq!(version(&net), "owm-v0.1.1");
    assert!(whole(&mut net, &release));
    assert_eq!(version(&net), "owm-v0.1.2");
    assert_eq!(hear(&mut net, &release), ignored(IgnoreReason::Duplicate));
    assert_eq!(hear(&mut net, &stolen), ignored(IgnoreReason::Equivocation));
    // A number that nothing stands behind keeps nobody from what is there.
    let hollow = net.checkpoint(RELEASE, 1_000, 4);
    assert_eq!(hear(&mut net, &hollow), Verdict::Accept);
    let next = net.checkpoint(OTHER_RELEASE, 4, 5);
    assert!(whole(&mut net, &next));
    assert_eq!(sequence(&net), Some(1_000));
    // Still only by a release key.
    let forged = net.checkpoint(7, 5, 6);
    assert!(!whole(&mut net, &forged));
}

#[test]
fn before_the_documents_are_known_nodes_are_heard_and_checkpoints_are_not() {
    let net = Net::new(1);
    let me = key(ME).public();
    let mut rules = Rules::without_documents(net.id, me, Limits::default(), at(0));
    let peer = key(PEER).public();
    let mut judge = |topic, envelope: &Envelope| {
        let bytes = envelope.to_stored();
        let judged = rules.judge(at(0), &peer, topic, &bytes, &StrictEd25519);
        judged.verdict
    };
    let beat = net.beat(1, at(0), 5);
    assert_eq!(judge(Topic::Heartbeat(0), &beat), Verdict::Accept);
    let body = CapabilityBody {
        membership: Some((&net.membership(1, INSTANCE, at(0))).into()),
        ..capability(at(0), 5)
    };
    let said = net.capability(1, &body);
    assert_eq!(judge(Topic::Capability(0), &said), Verdict::Accept);
    let checkpoint = net.checkpoint(RELEASE, 3, 1);
    let unknown = ignored(IgnoreReason::UnknownSigner);
    assert_eq!(judge(Topic::Checkpoint, &checkpoint), unknown);
    assert_eq!(rules.directory().nodes(at(0))[0].tier, None);
}

#[test]
fn a_revocation_takes_back_what_a_stolen_key_said() {
    let mut net = Net::new(1);
    let honest = net.checkpoint(RELEASE, 3, 1);
    let stolen = net.checkpoint(OTHER_RELEASE, u64::MAX, 2);
    assert_eq!(hear(&mut net, &honest), Verdict::Accept);
    assert_eq!(hear(&mut net, &stolen), Verdict::Accept);
    net.revoke(OTHER_RELEASE, at(0));
    assert_eq!(sequence(&net), Some(3));
    assert_eq!(
        hear(&mut net, &stolen),
        ignored(IgnoreReason::UnknownSigner)
    );
    let next = net.checkpoint(RELEASE, 4, 3);
    assert_eq!(hear(&mut net, &next), Verdict::Accept);
    assert_eq!(sequence(&net), Some(4));
}

#[test]
fn what_a_release_key_signed_in_a_newer_form_is_dropped_and_nobody_is_blamed() {
    let mut net = Net::new(1);
    let known = net.checkpoint(RELEASE, 3, 1);
    let mut more: serde_json::Value = serde_json::from_slice(known.unverified_payload()).unwrap();
    more["mirrors"] = 7.into();
    for payload in [more.to_string().into_bytes(), b"{}".to_vec()] {
        let newer = net.signed(RELEASE, Purpose::Checkpoint, payload);
        let judged = net.judge(at(0), Topic::Checkpoint, &newer);
        assert_eq!(judged.verdict, ignored(IgnoreReason::Unreadable));
        assert_eq!(judged.action, None);
    }
    assert_eq!(hear(&mut net, &known), Verdict::Accept);
}

#[test]
fn what_was_signed_while_delegated_holds_after_the_delegation_has_ended() {
    let net = Net::new(4);
    let ended = UnixMillis(START_MS + 1_000);
    let delegate = |role, n| {
        let delegation = Delegation {
            role,
            key: key(n).public(),
            issued_at_ms: UnixMillis(1),
            expires_at_ms: ended,
        };
        delegation.sign(&key(ROOT), &net.id)
    };
    let delegations = [
        delegate(DelegatedRole::Instance, INSTANCE),
        delegate(DelegatedRole::Release, RELEASE),
    ];
    let judge = |revocations| {
        let documents = documents(net.id, &net.genesis, &delegations, revocations, 4);
        let later = at(7 * 24 * 3_600);
        let mut rules = Rules::new(&documents, key(ME).public(), Limits::default(), later);
        let said = net.checkpoint(RELEASE, 3, 1).to_stored();
        let peer = key(PEER).public();
        let judged = rules.judge(later, &peer, Topic::Checkpoint, &said, &StrictEd25519);
        (rules.topics().shards, judged.verdict)
    };
    assert_eq!(judge(vec![]), (4, Verdict::Accept));
    let revoke = |n| {
        let revocation = Revocation {
            key: key(n).public(),
            revoked_at_ms: ended,
        };
        revocation.sign(&key(ROOT), &net.id)
    };
    let unknown = ignored(IgnoreReason::UnknownSigner);
    assert_eq!(judge(vec![revoke(INSTANCE), revoke(RELEASE)]), (1, unknown));
}
