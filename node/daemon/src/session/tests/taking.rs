//! Pausing and draining, step by step.

use super::*;

const HOUR: Duration = Duration::from_hours(1);

fn drain() -> Event {
    Event::Drain { within: HOUR }
}

#[test]
fn a_paused_node_takes_its_slots_back_and_finishes_what_runs() {
    let mut session = active(2);
    session.on(SECOND, lease(1));
    assert_eq!(session.on(2 * SECOND, Event::Pause(true)), [WITHDRAW]);
    assert_eq!(session.phase(), Phase::Active, "it stays connected");
    assert_eq!(session.on(2 * SECOND, Event::Pause(true)), [], "said once");
    let done = session.on(3 * SECOND, Event::Ended(key(1), Ending::Result));
    assert_eq!(done, [Effect::SendResult(key(1))], "and nothing is offered");
    session.on(3 * SECOND, Event::Ack(key(1)));
    assert_eq!(
        session.on(4 * SECOND, Event::Pause(false)),
        [offer(2)],
        "all slots again"
    );
}

#[test]
fn a_lease_that_crossed_the_pause_is_no_attempt_and_the_others_get_it() {
    let mut session = active(1);
    session.on(SECOND, Event::Pause(true));
    let back = session.on(SECOND, lease(1));
    assert_eq!(hand_backs(&back), [HandBackReason::ShuttingDown]);
    assert_eq!(session.on(2 * SECOND, Event::Pause(false)), [offer(1)]);
}

#[test]
fn a_node_that_is_paused_before_it_is_connected_offers_nothing() {
    let mut session = session(1, vec![]);
    assert_eq!(
        session.on(Duration::ZERO, Event::Pause(true)),
        [Effect::Register]
    );
    let member = Event::Registered(Registration::Active {
        heartbeat: 60 * SECOND,
    });
    session.on(Duration::ZERO, member);
    session.on(Duration::ZERO, Event::LinkUp);
    let effects = session.on(Duration::ZERO, Event::Weights(vec!["w".into()]));
    assert_eq!(effects, [offer(0)], "its weights are told, no slot is");
    assert_eq!(session.on(SECOND, Event::Pause(false)), [offer(1)]);
}

#[test]
fn a_pause_outlives_a_reconnect() {
    let mut session = active(1);
    session.on(SECOND, Event::Pause(true));
    session.on(2 * SECOND, Event::LinkLost { unknown: false });
    assert!(
        session
            .on(20 * SECOND, Event::Tick)
            .contains(&Effect::Connect)
    );
    let up = session.on(21 * SECOND, Event::LinkUp);
    assert_eq!(up, [Effect::Heartbeat { on_link: true }]);
}

#[test]
fn pausing_outside_the_hours_says_nothing_twice() {
    let mut session = active(1);
    assert_eq!(session.on(SECOND, Event::Open(false)), [WITHDRAW]);
    assert_eq!(session.on(SECOND, Event::Pause(true)), []);
    assert_eq!(session.on(SECOND, Event::Open(true)), [], "still paused");
    assert_eq!(session.on(SECOND, Event::Pause(false)), [offer(1)]);
}

#[test]
fn a_drained_node_finishes_hands_in_and_ends() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    assert_eq!(session.on(2 * SECOND, drain()), [WITHDRAW]);
    assert_eq!(session.phase(), Phase::Draining);
    let long_after = session.on(25 * SECOND, Event::Tick);
    assert!(
        !long_after.contains(&Effect::Break(key(1))),
        "a drain has more time than a stop: {long_after:?}"
    );
    session.on(26 * SECOND, Event::Ended(key(1), Ending::Result));
    assert_eq!(session.phase(), Phase::Draining, "not acknowledged yet");
    assert_eq!(
        session.on(27 * SECOND, Event::Ack(key(1))),
        [Effect::End(Over::Stopped)]
    );
}

#[test]
fn a_draining_node_connects_again_to_hand_in_what_a_stopping_one_leaves_for_later() {
    let with_a_result = || {
        let mut session = active(1);
        session.on(SECOND, lease(1));
        session.on(2 * SECOND, Event::LinkLost { unknown: true });
        session.on(2 * SECOND, Event::Ended(key(1), Ending::Result));
        session
    };
    let mut stopping = with_a_result();
    let stop = stopping.on(2 * SECOND, Event::Stop);
    assert_eq!(stop, [Effect::End(Over::Stopped)]);
    let mut draining = with_a_result();
    assert_eq!(draining.on(2 * SECOND, drain()), []);
    let effects = draining.on(20 * SECOND, Event::Tick);
    assert!(effects.contains(&Effect::Register), "{effects:?}");
    let member = Event::Registered(Registration::Active {
        heartbeat: 60 * SECOND,
    });
    let effects = draining.on(20 * SECOND, member);
    assert!(effects.contains(&Effect::Connect), "{effects:?}");
    let effects = draining.on(21 * SECOND, Event::LinkUp);
    assert!(effects.contains(&Effect::Submit(key(1))), "{effects:?}");
    assert_eq!(
        draining.on(22 * SECOND, Event::Ack(key(1))),
        [Effect::End(Over::Stopped)]
    );
}

#[test]
fn a_stop_ends_a_drain_sooner_and_a_drain_does_not_slow_a_stop() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    session.on(SECOND, drain());
    session.on(2 * SECOND, Event::Stop);
    session.on(3 * SECOND, drain());
    let effects = session.on(22 * SECOND, Event::Tick);
    assert!(effects.contains(&Effect::Break(key(1))), "{effects:?}");
}

#[test]
fn a_drain_without_end_ends_when_its_time_is_over() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    session.on(SECOND, Event::Ended(key(1), Ending::Result));
    session.on(SECOND, Event::LinkLost { unknown: false });
    session.on(SECOND, drain());
    let effects = session.on(SECOND + HOUR, Event::Tick);
    assert!(
        !effects.contains(&Effect::End(Over::Stopped)),
        "{effects:?}"
    );
    let effects = session.on(SECOND + HOUR + FLUSH_TIME, Event::Tick);
    assert!(effects.contains(&Effect::End(Over::Stopped)), "{effects:?}");
}
