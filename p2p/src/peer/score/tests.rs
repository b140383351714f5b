//! Prices, fading, and who is cut off for how long.

use super::*;
use crate::peer::ban::{FIRST_BAN, LONGEST_BAN};

fn at(secs: u64) -> Moment {
    Moment {
        monotonic: Duration::from_secs(secs),
        ..Moment::default()
    }
}

const PEER: PublicKey = PublicKey([7; 32]);

#[test]
fn a_score_halves_in_ten_minutes_and_is_forgotten_at_last() {
    let mut scores = Scores::default();
    let bad = Action::BadMessage(RejectReason::BadSignature);
    assert_eq!(scores.note(at(0), &PEER, bad), Consequence::Score(-10.0));
    assert!((scores.score(at(600), &PEER) + 5.0).abs() < 1e-9);
    scores.tick(at(600));
    assert_eq!(scores.len(), 1);
    scores.tick(at(6_000));
    assert!(scores.is_empty());
}

#[test]
fn who_goes_on_is_cut_off_longer_each_time() {
    let mut scores = Scores::default();
    let mut now = 0;
    let mut lengths = Vec::new();
    while lengths.len() < 10 {
        let bad = Action::BadMessage(RejectReason::Malformed);
        if let Consequence::CutOff(length) = scores.note(at(now), &PEER, bad) {
            assert!(scores.bans.is_banned(at(now), &PEER));
            now += length.as_secs();
            assert!(!scores.bans.is_banned(at(now), &PEER));
            lengths.push(length);
        }
    }
    assert_eq!(lengths[..2], [FIRST_BAN, FIRST_BAN * 2]);
    assert_eq!(lengths.last(), Some(&LONGEST_BAN));
    scores.tick(at(now + 25 * 3_600));
    assert!(scores.bans.is_empty());
}

#[test]
fn nine_faults_an_hour_cut_nobody_off() {
    let mut scores = Scores::default();
    for n in 0..100 {
        let bad = Action::BadMessage(RejectReason::BadSignature);
        let then = scores.note(at(n * 400), &PEER, bad);
        assert!(matches!(then, Consequence::Score(_)), "{n}");
    }
}

#[test]
fn the_tables_stay_small_whatever_keys_come() {
    let mut scores = Scores::default();
    for n in 0..20_000_u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        for _ in 0..6 {
            scores.note(at(0), &PublicKey(key), Action::BadMeet);
        }
    }
    assert!(scores.len() <= SCORED_MAX && scores.bans.len() <= BANNED_MAX);
}
