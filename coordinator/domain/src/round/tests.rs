//! Rounds from the first event to the last: stragglers, liars, crashes, candidates that are no good.

use std::{collections::BTreeSet, time::Duration};

use owm_proto::{Permille, PublicKey, Sha256, UnixMillis};
use proptest::prelude::*;

use super::{
    acceptance::{Loss, Verdict},
    deadline::Deadline,
    *,
};

mod candidates;
mod held;
mod rules;

const DEADLINE: Deadline = Deadline {
    min: Duration::from_mins(1),
    max: Duration::from_mins(10),
    quorum: Permille(700),
    grace: Duration::from_secs(20),
};

const PLAN: Plan = Plan {
    round: 4,
    deadline: DEADLINE,
    updates_min: 3,
};

fn key(i: u8) -> PublicKey {
    PublicKey([i; 32])
}

fn hash(i: u8) -> Sha256 {
    Sha256([i; 32])
}

fn second(s: u64) -> UnixMillis {
    UnixMillis(s * 1_000)
}

/// A round of ten, opened at 0.
fn collecting() -> Round {
    let mut round = Round::open(PLAN, UnixMillis(0));
    let participants: Vec<PublicKey> = (0..10).map(key).collect();
    let effects = round
        .on(Event::Drawn {
            participants: participants.clone(),
        })
        .unwrap();
    assert_eq!(effects, [Effect::Lease { participants }]);
    round
}

fn commit(i: u8, s: u64) -> Event {
    Event::Committed {
        node: key(i),
        sha256: hash(i),
        at: second(s),
    }
}

fn bytes(i: u8, s: u64) -> Event {
    Event::Bytes {
        node: key(i),
        sha256: hash(i),
        good: true,
        at: second(s),
    }
}

fn tick(s: u64) -> Event {
    Event::Tick { now: second(s) }
}

fn candidate(attempt: Attempt, checkpoint: u8) -> Candidate {
    Candidate {
        attempt,
        checkpoint: hash(checkpoint),
        delta: hash(91),
        residue_after: hash(92),
    }
}

fn report(i: u8, checkpoint: u8, candidate: u64) -> Event {
    Event::Reported(Report {
        node: key(i),
        owner: hash(i),
        checkpoint: hash(checkpoint),
        candidate: Loss(candidate),
        parent: Loss(1_000_000),
    })
}

fn over(attempt: Attempt) -> Event {
    Event::EvaluationOver {
        attempt,
        recent: vec![Loss(1_000_000)],
    }
}

/// All events of a round in which three of ten drop out, by their effects.
fn whole_round() -> Vec<Event> {
    let mut events = vec![Event::Drawn {
        participants: (0..10).map(key).collect(),
    }];
    for i in 0..7 {
        events.push(commit(i, 100 + u64::from(i)));
        events.push(bytes(i, 101 + u64::from(i)));
    }
    // Median 103 s, deviation 2: closes at 109 s.
    events.extend([tick(108), tick(109)]);
    events.push(Event::Aggregated(candidate(Attempt::First, 80)));
    events.extend([
        report(20, 80, 990_000),
        report(21, 80, 985_000),
        report(22, 80, 1_500_000),
    ]);
    events.extend([over(Attempt::First), Event::Published, Event::Anchored]);
    events
}

#[test]
fn three_of_ten_drop_out_and_the_round_is_published() {
    let mut round = Round::open(PLAN, UnixMillis(0));
    let mut phases = vec![round.phase];
    let mut effects = Vec::new();
    for event in whole_round() {
        effects.extend(round.on(event).unwrap());
        phases.push(round.phase);
    }
    phases.dedup();
    let names: Vec<&str> = phases.iter().map(|phase| phase.as_str()).collect();
    let expected = "open collecting sealed aggregated evaluated published anchored";
    assert_eq!(names.join(" "), expected);
    let updates = (0..7).map(|i| (key(i), hash(i))).collect();
    assert_eq!(
        effects[1],
        Effect::Aggregate {
            attempt: Attempt::First,
            updates,
            reference: false
        }
    );
    assert_eq!(
        effects[2],
        Effect::Evaluate {
            checkpoint: hash(80),
            evaluators: 3
        }
    );
    assert_eq!(effects[3], Effect::Publish(candidate(Attempt::First, 80)));
    assert_eq!(effects.len(), 4);
    let verdict = Verdict::Accepted {
        candidate: Loss(990_000),
        parent: Loss(1_000_000),
    };
    assert_eq!(round.verdicts, [(Attempt::First, verdict)]);
}

#[test]
fn a_round_done_again_from_its_events_is_the_same_and_every_event_may_come_twice() {
    let run = |twice: bool| {
        let mut round = Round::open(PLAN, UnixMillis(0));
        let mut effects = Vec::new();
        for event in whole_round() {
            effects.extend(round.on(event.clone()).unwrap());
            if twice {
                assert_eq!(round.on(event.clone()), Ok(Vec::new()), "{event:?}");
            }
            // A crash: the row is read again.
            round = serde_json::from_str(&serde_json::to_string(&round).unwrap()).unwrap();
        }
        (round, effects)
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn after_a_crash_the_work_of_the_phase_is_known_again() {
    let mut round = Round::open(PLAN, UnixMillis(0));
    for event in whole_round() {
        let before = round.phase;
        let effects = round.on(event).unwrap();
        if round.phase != before && !effects.is_empty() {
            assert_eq!(round.pending(), effects);
        }
    }
    assert_eq!(round.pending(), []);
}

#[test]
fn a_late_commit_is_refused_and_its_bytes_too() {
    let mut round = collecting();
    for i in 0..7 {
        round.on(commit(i, 100)).unwrap();
    }
    // All at 100 s: no deviation.
    let refused = round.on(commit(7, 101));
    assert_eq!(
        refused,
        Err(Refused::Late {
            closed: second(100),
            at: second(101)
        })
    );
    assert_eq!(round.on(bytes(7, 101)), Err(Refused::Uncommitted));
    for i in 0..6 {
        round.on(bytes(i, 110)).unwrap();
    }
    assert_eq!(
        round.on(tick(119)),
        Ok(Vec::new()),
        "the seventh's bytes may still come"
    );
    assert_eq!(round.phase, Phase::Collecting);
    let refused = round.on(bytes(6, 121));
    assert_eq!(
        refused,
        Err(Refused::Late {
            closed: second(120),
            at: second(121)
        })
    );
    round.on(tick(121)).unwrap();
    assert_eq!(round.phase, Phase::Sealed);
    assert_eq!(
        round.on(commit(9, 122)),
        Err(Refused::Late {
            closed: second(100),
            at: second(122)
        })
    );
}

#[test]
fn a_stranger_is_refused() {
    let mut round = collecting();
    assert_eq!(round.on(commit(77, 1)), Err(Refused::NotAsked));
    assert_eq!(round.on(bytes(77, 1)), Err(Refused::NotAsked));
}

#[test]
fn two_hashes_of_one_node_are_a_fault_at_any_time_and_void_it_only_before_the_end() {
    let other = |s| Event::Committed {
        node: key(2),
        sha256: hash(200),
        at: second(s),
    };
    let fault = Fault::Equivocation {
        first: hash(2),
        second: hash(200),
    };
    let signal = vec![Effect::Signal {
        node: key(2),
        fault,
    }];
    let mut round = collecting();
    round.on(commit(2, 10)).unwrap();
    assert_eq!(round.on(other(11)), Ok(signal.clone()));
    assert_eq!(round.parts[&key(2)], Part::Void { at: second(10) });
    assert_eq!(round.on(other(11)), Ok(vec![]), "told once");
    let mut round = Round::open(PLAN, UnixMillis(0));
    for event in whole_round() {
        round.on(event).unwrap();
        if round.phase == Phase::Sealed {
            let before = round.clone();
            assert_eq!(round.on(other(130)), Ok(signal.clone()));
            assert_eq!(round.on(other(131)), Ok(vec![]), "told once");
            assert_eq!((round.phase, &round.parts), (before.phase, &before.parts));
        }
    }
}

#[test]
fn a_fault_of_one_gives_the_others_no_more_time() {
    let mut round = collecting();
    let nodes: Vec<PublicKey> = round.parts.keys().copied().collect();
    let quorum = PLAN.deadline.quorum_of(nodes.len());
    for (n, node) in nodes.iter().take(quorum).enumerate() {
        let committed = Event::Committed {
            node: *node,
            sha256: hash(n as u8 + 1),
            at: second(10 + n as u64),
        };
        round.on(committed).unwrap();
    }
    let closes = round.closes_at();
    assert!(
        closes < UnixMillis(0).after(PLAN.deadline.max),
        "a quorum is in"
    );
    let second_hash = Event::Committed {
        node: nodes[0],
        sha256: hash(200),
        at: second(30),
    };
    round.on(second_hash).unwrap();
    assert_eq!(round.closes_at(), closes);
}

#[test]
fn bytes_that_are_no_update_are_a_fault_of_who_has_signed_them() {
    let mut round = collecting();
    round.on(commit(3, 10)).unwrap();
    let bad = Event::Bytes {
        node: key(3),
        sha256: hash(3),
        good: false,
        at: second(12),
    };
    let fault = Fault::Structure { sha256: hash(3) };
    assert_eq!(
        round.on(bad),
        Ok(vec![Effect::Signal {
            node: key(3),
            fault
        }])
    );
    assert_eq!(round.parts[&key(3)], Part::Void { at: second(10) });
    // Bytes with another hash are nobody's: no fault.
    round.on(commit(4, 10)).unwrap();
    let others = Event::Bytes {
        node: key(4),
        sha256: hash(9),
        good: false,
        at: second(12),
    };
    assert_eq!(round.on(others), Err(Refused::Uncommitted));
}

#[test]
fn a_round_with_all_updates_ends_at_once_and_one_with_too_few_at_the_latest_time() {
    let mut round = collecting();
    for i in 0..10 {
        round.on(commit(i, 5 + u64::from(i))).unwrap();
    }
    for i in 0..9 {
        assert_eq!(round.on(bytes(i, 16)), Ok(Vec::new()));
    }
    assert!(matches!(
        round.on(bytes(9, 17)).unwrap()[..],
        [Effect::Aggregate { .. }]
    ));
    let mut round = collecting();
    for i in 0..3 {
        round.on(commit(i, 5)).unwrap();
        round.on(bytes(i, 6)).unwrap();
    }
    let few = round.on(tick(600)).unwrap();
    assert!(matches!(
        few[..],
        [Effect::Aggregate {
            reference: true,
            ..
        }]
    ));
    let mut round = collecting();
    for i in 0..2 {
        round.on(commit(i, 5)).unwrap();
        round.on(bytes(i, 6)).unwrap();
    }
    round.on(tick(599)).unwrap();
    assert_eq!(round.phase, Phase::Collecting);
    let reason = AbandonReason::TooFewUpdates;
    assert_eq!(round.on(tick(600)), Ok(vec![Effect::Abandon { reason }]));
    assert_eq!(round.abandoned, Some(reason));
    let mut round = Round::open(PLAN, UnixMillis(0));
    let reason = AbandonReason::NoParticipants;
    let none = Event::Drawn {
        participants: Vec::new(),
    };
    assert_eq!(round.on(none), Ok(vec![Effect::Abandon { reason }]));
}

fn any_event() -> impl Strategy<Value = Event> {
    let node = || (0..6_u8).prop_map(key);
    let sha256 = || (0..6_u8).prop_map(hash);
    let at = || (0..700_u64).prop_map(second);
    let attempt = || prop_oneof![Just(Attempt::First), Just(Attempt::Fallback)];
    prop_oneof![
        1 => Just(Event::Drawn { participants: (0..5).map(key).collect() }),
        6 => (0..5_u8, at()).prop_map(|(i, at)| Event::Committed { node: key(i), sha256: hash(i), at }),
        6 => (0..5_u8, at()).prop_map(|(i, at)| Event::Bytes { node: key(i), sha256: hash(i), good: true, at }),
        1 => (node(), sha256(), at()).prop_map(|(node, sha256, at)| Event::Committed { node, sha256, at }),
        1 => (node(), sha256(), any::<bool>(), at())
            .prop_map(|(node, sha256, good, at)| Event::Bytes { node, sha256, good, at }),
        3 => at().prop_map(|now| Event::Tick { now }),
        2 => (attempt(), 0..3_u8).prop_map(|(attempt, i)| Event::Aggregated(candidate(attempt, i))),
        1 => attempt().prop_map(|attempt| Event::NotAggregated { attempt }),
        2 => (0..4_u8, 0..3_u8, 990_000..1_020_000_u64).prop_map(|(i, c, loss)| report(i, c, loss)),
        2 => attempt().prop_map(over),
        1 => Just(Event::Published),
        1 => Just(Event::Anchored),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_a_round_goes_forward_and_ends_once(events in proptest::collection::vec(any_event(), 0..80)) {
        let mut round = Round::open(PLAN, UnixMillis(0));
        round.on(Event::Drawn { participants: (0..5).map(key).collect() }).unwrap();
        let (mut published, mut abandoned) = (0, 0);
        let mut kept = Vec::new();
        for event in events {
            let before = round.clone();
            match round.on(event.clone()) {
                Err(_) => prop_assert_eq!(&round, &before),
                Ok(effects) => {
                    kept.push(event);
                    for effect in &effects {
                        match effect {
                            Effect::Publish(candidate) => {
                                published += 1;
                                prop_assert_eq!(round.candidate, Some(*candidate));
                            }
                            Effect::Abandon { .. } => abandoned += 1,
                            Effect::Aggregate { updates, .. } => {
                                let nodes: BTreeSet<_> = updates.iter().map(|(node, _)| *node).collect();
                                prop_assert_eq!(nodes.len(), updates.len());
                                prop_assert!(updates.is_sorted() && updates.len() >= 3);
                            }
                            _ => {}
                        }
                    }
                }
            }
            if before.phase == Phase::Abandoned {
                prop_assert_eq!(round.phase, Phase::Abandoned);
            }
        }
        prop_assert!(published <= 1 && abandoned <= 1 && published + abandoned <= 1);
        // What was kept gives the same round again.
        let mut again = Round::open(PLAN, UnixMillis(0));
        again.on(Event::Drawn { participants: (0..5).map(key).collect() }).unwrap();
        for event in kept {
            again.on(event).unwrap();
        }
        prop_assert_eq!(again, round);
    }
}
