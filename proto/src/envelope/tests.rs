//! Envelope rules: what verifies, what does not, and why.

use super::*;

fn network(n: u8) -> NetworkId {
    NetworkId(Sha256([n; 32]))
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

#[test]
fn an_honest_envelope_verifies() {
    let envelope = Envelope::sign(&key(1), Purpose::Commit, &network(1), b"hello".to_vec());
    let signer = key(1).public();
    let verified = envelope
        .verify(Purpose::Commit, &network(1), SignerRule::Exactly(&signer))
        .unwrap();
    assert_eq!(verified.payload, b"hello");
}

#[test]
fn every_changed_part_is_noticed() {
    let good = Envelope::sign(&key(1), Purpose::Commit, &network(1), b"hello".to_vec());
    let check = |e: &Envelope, n: u8| {
        e.verify(Purpose::Commit, &network(n), SignerRule::Anyone)
            .err()
    };
    assert_eq!(check(&good, 1), None);
    assert_eq!(
        check(&good, 2),
        Some(EnvelopeError::BadSignature),
        "another network"
    );
    let mut bad = good.clone();
    bad.payload[0] ^= 1;
    assert_eq!(
        check(&bad, 1),
        Some(EnvelopeError::BadSignature),
        "changed payload"
    );
    let mut bad = good.clone();
    bad.key = key(2).public();
    assert_eq!(
        check(&bad, 1),
        Some(EnvelopeError::BadSignature),
        "another key"
    );
    let mut bad = good.clone();
    bad.purpose = Purpose::Result.as_str().into();
    assert!(matches!(
        check(&bad, 1),
        Some(EnvelopeError::WrongPurpose { .. })
    ));
    let error = bad
        .verify(Purpose::Result, &network(1), SignerRule::Anyone)
        .err();
    assert_eq!(
        error,
        Some(EnvelopeError::BadSignature),
        "the purpose is signed"
    );
}

#[test]
fn a_stranger_may_not_sign() {
    let envelope = Envelope::sign(&key(2), Purpose::Commit, &network(1), vec![]);
    let wanted = key(1).public();
    let error = envelope
        .verify(Purpose::Commit, &network(1), SignerRule::Exactly(&wanted))
        .unwrap_err();
    assert!(matches!(error, EnvelopeError::WrongSigner { .. }));
}

#[test]
fn a_small_order_key_signs_nothing() {
    // The neutral element: plain (non-strict) verification accepts R = neutral, s = 0 for it.
    let mut neutral = [0_u8; 32];
    neutral[0] = 1;
    let mut signature = [0_u8; 64];
    signature[0] = 1;
    let forged = Envelope::from_parts(Purpose::Commit, PublicKey(neutral), signature, vec![7]);
    let error = forged
        .verify(Purpose::Commit, &network(1), SignerRule::Anyone)
        .unwrap_err();
    assert_eq!(error, EnvelopeError::BadSignature);
}

#[test]
fn an_oversize_payload_is_refused_before_any_arithmetic() {
    let huge = vec![0; ENVELOPE_PAYLOAD_BYTES_MAX + 1];
    let envelope = Envelope::sign(&key(1), Purpose::Commit, &network(1), huge);
    let error = envelope
        .verify(Purpose::Commit, &network(1), SignerRule::Anyone)
        .unwrap_err();
    assert!(matches!(error, EnvelopeError::Oversize { .. }));
}

#[test]
fn times_are_checked_with_a_little_patience() {
    let now = UnixMillis(1_000_000);
    assert!(check_time(now, now.after(Duration::from_secs(1)), now).is_ok());
    assert!(
        check_time(
            now.after(Duration::from_secs(119)),
            UnixMillis(u64::MAX),
            now
        )
        .is_ok()
    );
    assert!(
        check_time(
            now.after(Duration::from_secs(121)),
            UnixMillis(u64::MAX),
            now
        )
        .is_err()
    );
    assert!(check_time(UnixMillis(0), now, now).is_err());
}

#[test]
fn every_purpose_reads_back_and_has_the_agreed_form() {
    for purpose in Purpose::ALL {
        let text = purpose.as_str();
        assert_eq!(text.parse(), Ok(*purpose));
        assert!(text.starts_with("owm/") && text.ends_with("/v1") && text.is_ascii());
    }
}
