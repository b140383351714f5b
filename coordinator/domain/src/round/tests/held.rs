//! Time that a round does not count: an outage moves its end, once; too few to begin with end it at once.

use std::time::Duration;

use super::{PLAN, bytes, collecting, commit, key, second, tick};
use crate::round::{AbandonReason, Effect, Event, Phase, Round};

fn held(from: u64, to: u64) -> Event {
    Event::Held {
        from: second(from),
        to: second(to),
    }
}

#[test]
fn an_outage_moves_the_end_and_no_straggler_is_late_because_of_it() {
    let mut round = collecting();
    for i in 0..7 {
        round.on(commit(i, 100 + u64::from(i))).unwrap();
        round.on(bytes(i, 101 + u64::from(i))).unwrap();
    }
    // It would have closed at 109 s, while nobody could take anything.
    let outage = held(108, 400);
    round.on(outage.clone()).unwrap();
    assert_eq!(round.closes_at(), second(401));
    assert_eq!(round.ends_at(), second(600 + 292));
    round.on(tick(400)).unwrap();
    assert_eq!(round.phase, Phase::Collecting);
    round.on(commit(7, 400)).unwrap();
    // Told of again, or by a second coordinator that saw a part of it: counted once.
    assert_eq!(round.on(outage), Ok(vec![]));
    round.on(held(200, 390)).unwrap();
    round.on(held(390, 402)).unwrap();
    assert_eq!(round.held, Duration::from_secs(294));
    round.on(bytes(7, 401)).unwrap();
    round.on(tick(403)).unwrap();
    assert_eq!(round.phase, Phase::Collecting);
    round.on(tick(404)).unwrap();
    assert_eq!(round.phase, Phase::Sealed);
    assert_eq!(round.on(held(405, 500)), Ok(vec![]));
    assert_eq!(round.held, Duration::from_secs(294), "its deadline is over");
}

#[test]
fn what_was_before_the_round_does_not_move_its_end() {
    let mut round = Round::open(PLAN, second(50));
    round.on(held(10, 40)).unwrap();
    assert_eq!(round.held, Duration::ZERO);
    round.on(held(10, 60)).unwrap();
    assert_eq!(round.held, Duration::from_secs(10));
    assert_eq!(round.ends_at(), second(50 + 600 + 10));
}

#[test]
fn a_record_of_before_holds_is_read() {
    let mut record = serde_json::to_value(collecting()).unwrap();
    for new in ["held", "held_until"] {
        record.as_object_mut().unwrap().remove(new).unwrap();
    }
    let round: Round = serde_json::from_value(record).unwrap();
    assert_eq!(round, collecting());
}

#[test]
fn fewer_than_updates_are_needed_train_for_nothing_and_are_not_asked() {
    let mut round = Round::open(PLAN, second(0));
    let drawn = Event::Drawn {
        participants: vec![key(1), key(2)],
    };
    let reason = AbandonReason::NoParticipants;
    assert_eq!(
        round.on(drawn.clone()),
        Ok(vec![Effect::Abandon { reason }])
    );
    assert_eq!(round.on(drawn), Ok(vec![]), "the same once more");
}
