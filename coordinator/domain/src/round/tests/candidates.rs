//! From the candidate on: reports, verdicts, the fall-back, an operator who stops it.

use owm_proto::UnixMillis;

use super::{PLAN, candidate, hash, over, report, whole_round};
use crate::round::{AbandonReason, Attempt, Effect, Event, Phase, Refused, Round};

/// Up to a candidate.
fn aggregated() -> Round {
    let mut round = Round::open(PLAN, UnixMillis(0));
    for event in whole_round()
        .into_iter()
        .take_while(|event| !matches!(event, Event::Reported(_)))
    {
        round.on(event).unwrap();
    }
    assert_eq!(round.phase, Phase::Aggregated);
    round
}

#[test]
fn a_candidate_that_is_worse_gives_way_to_multi_krum_and_then_the_round_is_abandoned() {
    let mut round = aggregated();
    round.on(report(20, 80, 1_005_001)).unwrap();
    let again = round.on(over(Attempt::First)).unwrap();
    assert!(matches!(
        again[..],
        [Effect::Aggregate {
            attempt: Attempt::Fallback,
            ..
        }]
    ));
    assert_eq!(
        round.on(over(Attempt::First)),
        Ok(Vec::new()),
        "the same once more"
    );
    let late = Event::Aggregated(candidate(Attempt::First, 80));
    assert_eq!(round.on(late), Ok(Vec::new()));
    assert_eq!(round.phase, Phase::Sealed);
    round
        .on(Event::Aggregated(candidate(Attempt::Fallback, 81)))
        .unwrap();
    assert_eq!(round.on(report(20, 80, 1)), Err(Refused::OtherCandidate));
    round.on(report(20, 81, 2_000_000)).unwrap();
    let reason = AbandonReason::NotAccepted;
    assert_eq!(
        round.on(over(Attempt::Fallback)),
        Ok(vec![Effect::Abandon { reason }])
    );
    assert_eq!(round.verdicts.len(), 2);
    assert_eq!(
        round.on(Event::Published),
        Err(Refused::Phase(Phase::Abandoned))
    );
}

#[test]
fn no_candidate_and_no_measurement_end_a_round() {
    let mut round = aggregated();
    let reason = AbandonReason::NotMeasured;
    assert_eq!(
        round.on(over(Attempt::First)),
        Ok(vec![Effect::Abandon { reason }])
    );
    let mut round = aggregated();
    round.on(report(20, 80, 9_000_000)).unwrap();
    round.on(over(Attempt::First)).unwrap();
    round
        .on(Event::NotAggregated {
            attempt: Attempt::First,
        })
        .unwrap();
    assert_eq!(round.phase, Phase::Sealed, "that attempt is over");
    round
        .on(Event::NotAggregated {
            attempt: Attempt::Fallback,
        })
        .unwrap();
    assert_eq!(round.abandoned, Some(AbandonReason::NoCandidate));
}

#[test]
fn one_owner_reports_once() {
    let mut round = aggregated();
    round.on(report(20, 80, 1_000)).unwrap();
    let Event::Reported(mut second) = report(21, 80, 1_000) else {
        unreachable!()
    };
    second.owner = hash(20);
    assert_eq!(
        round.on(Event::Reported(second)),
        Err(Refused::SecondReport)
    );
    round.on(report(22, 80, 1_000)).unwrap();
    assert!(!round.is_measured());
    round.on(report(23, 80, 1_000)).unwrap();
    assert!(round.is_measured());
}

#[test]
fn an_operator_stops_a_round_only_before_it_is_out() {
    let mut round = aggregated();
    let reason = AbandonReason::ByOperator;
    assert_eq!(
        round.on(Event::Stopped),
        Ok(vec![Effect::Abandon { reason }])
    );
    assert_eq!(round.on(Event::Stopped), Ok(Vec::new()));
    let mut round = Round::open(PLAN, UnixMillis(0));
    for event in whole_round() {
        round.on(event).unwrap();
    }
    assert_eq!(
        round.on(Event::Stopped),
        Err(Refused::Phase(Phase::Anchored))
    );
}
