//! The machine, step by step, with times made up.

use owm_proto::{Role, TaskId};
use owm_service::rng::Seed;

use super::*;

mod taking;

const SECOND: Duration = Duration::from_secs(1);
const WITHDRAW: Effect = Effect::Withdraw { role: Role::Infer };

fn key(n: u8) -> LeaseKey {
    LeaseKey {
        task: TaskId::from_random([n; 16]),
        epoch: 1,
    }
}

fn session(slots: u32, unacked: Vec<LeaseKey>) -> Session {
    let settings = Settings {
        slots: BTreeMap::from([(Role::Infer, slots)]),
        ping: Some(10 * SECOND),
        drain: 20 * SECOND,
        reconnect: (SECOND, 60 * SECOND),
        register: (30 * SECOND, 300 * SECOND),
    };
    Session::new(settings, Seed::from_u64(1).rng("session"), unacked)
}

fn offer(credits: u32) -> Effect {
    Effect::Offer {
        role: Role::Infer,
        credits,
        sha256: vec!["w".into()],
    }
}

/// A session with a link and weights, at time 0.
fn active(slots: u32) -> Session {
    let mut session = session(slots, vec![]);
    assert_eq!(session.on(Duration::ZERO, Event::Tick), [Effect::Register]);
    let member = Event::Registered(Registration::Active {
        heartbeat: 60 * SECOND,
    });
    assert!(
        session
            .on(Duration::ZERO, member)
            .contains(&Effect::Connect)
    );
    let up = session.on(Duration::ZERO, Event::LinkUp);
    assert_eq!(
        up,
        [Effect::Heartbeat { on_link: true }],
        "no weights, no offer"
    );
    assert_eq!(
        session.on(Duration::ZERO, Event::Weights(vec!["w".into()])),
        [offer(slots)]
    );
    assert_eq!(session.phase(), Phase::Active);
    session
}

fn lease(n: u8) -> Event {
    Event::Lease {
        role: Role::Infer,
        key: key(n),
        time: 30 * SECOND,
    }
}

fn hand_backs(effects: &[Effect]) -> Vec<HandBackReason> {
    let reason = |effect: &Effect| match effect {
        Effect::HandBack { reason, .. } => Some(*reason),
        _ => None,
    };
    effects.iter().filter_map(reason).collect()
}

#[test]
fn every_ended_lease_gives_one_credit_back() {
    let mut session = active(2);
    assert_eq!(session.on(SECOND, lease(1)), [Effect::Run(key(1))]);
    assert_eq!(session.on(SECOND, lease(2)), [Effect::Run(key(2))]);
    let done = session.on(2 * SECOND, Event::Ended(key(1), Ending::Result));
    assert_eq!(done, [Effect::SendResult(key(1)), offer(1)]);
    let refused = Ending::HandBack {
        reason: HandBackReason::CannotDo,
        message: "wrong model".into(),
    };
    let done = session.on(2 * SECOND, Event::Ended(key(2), refused.clone()));
    assert_eq!(hand_backs(&done), [HandBackReason::CannotDo]);
    assert_eq!(done[1], offer(1));
    assert_eq!(
        session.on(2 * SECOND, Event::Ended(key(2), refused)),
        [],
        "a lease ends once"
    );
}

#[test]
fn the_same_lease_twice_runs_once() {
    let mut session = active(2);
    assert_eq!(session.on(SECOND, lease(1)), [Effect::Run(key(1))]);
    assert_eq!(session.on(SECOND, lease(1)), []);
}

#[test]
fn a_newer_attempt_breaks_the_older_one_off() {
    let mut session = active(2);
    session.on(SECOND, lease(1));
    let newer = LeaseKey { epoch: 2, ..key(1) };
    let effects = session.on(
        SECOND,
        Event::Lease {
            role: Role::Infer,
            key: newer,
            time: SECOND,
        },
    );
    assert_eq!(effects, [Effect::Break(key(1)), Effect::Run(newer)]);
}

#[test]
fn a_cancel_without_an_epoch_means_whatever_attempt_runs() {
    let mut session = active(2);
    let third = LeaseKey { epoch: 3, ..key(1) };
    let time = 30 * SECOND;
    session.on(
        SECOND,
        Event::Lease {
            key: third,
            role: Role::Infer,
            time,
        },
    );
    session.on(SECOND, lease(2));
    let other = LeaseKey { epoch: 2, ..key(1) };
    assert_eq!(session.on(SECOND, Event::Cancel(other)), []);
    let any = LeaseKey { epoch: 0, ..key(1) };
    assert_eq!(
        session.on(SECOND, Event::Cancel(any)),
        [Effect::Break(third)]
    );
    assert_eq!(
        session.on(2 * SECOND, Event::Ended(third, Ending::Stopped)),
        [offer(1)]
    );
}

#[test]
fn a_cancelled_task_says_nothing_and_frees_its_slot() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    assert_eq!(
        session.on(SECOND, Event::Cancel(key(1))),
        [Effect::Break(key(1))]
    );
    assert_eq!(session.on(SECOND, Event::Cancel(key(1))), []);
    assert_eq!(
        session.on(2 * SECOND, Event::Ended(key(1), Ending::Stopped)),
        [offer(1)]
    );
}

#[test]
fn a_lease_out_of_time_is_handed_back_but_an_outage_extends_it() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    session.on(10 * SECOND, Event::LinkLost { unknown: false });
    assert!(
        !session
            .on(50 * SECOND, Event::Tick)
            .contains(&Effect::Break(key(1)))
    );
    let up = session.on(50 * SECOND, Event::LinkUp);
    assert!(up.contains(&Effect::ResendChunks(key(1))), "{up:?}");
    assert!(
        !session
            .on(70 * SECOND, Event::Tick)
            .contains(&Effect::Break(key(1)))
    );
    assert!(
        session
            .on(71 * SECOND, Event::Tick)
            .contains(&Effect::Break(key(1)))
    );
    let ended = session.on(72 * SECOND, Event::Ended(key(1), Ending::Stopped));
    assert_eq!(hand_backs(&ended), [HandBackReason::Failed]);
}

#[test]
fn three_unanswered_pings_mean_a_new_connection() {
    let mut session = active(1);
    for (n, at) in [(1, 10), (2, 20), (3, 30)] {
        assert!(
            session
                .on(at * SECOND, Event::Tick)
                .contains(&Effect::Ping(n))
        );
    }
    let lost = session.on(40 * SECOND, Event::Tick);
    assert!(lost.contains(&Effect::Disconnect), "{lost:?}");
    assert_eq!(session.phase(), Phase::Registered);
    let back = session.on(42 * SECOND, Event::Tick);
    assert!(back.contains(&Effect::Connect), "{back:?}");
}

#[test]
fn answered_pings_keep_the_connection() {
    let mut session = active(1);
    for n in 1..50 {
        let effects = session.on(n as u32 * 10 * SECOND, Event::Tick);
        assert!(effects.contains(&Effect::Ping(n)), "{effects:?}");
        session.on(n as u32 * 10 * SECOND, Event::Pong(n));
    }
}

#[test]
fn results_left_over_are_handed_in_once_there_is_a_link_until_acknowledged() {
    let mut session = session(1, vec![key(7)]);
    session.on(Duration::ZERO, Event::Tick);
    let member = Event::Registered(Registration::Active {
        heartbeat: 60 * SECOND,
    });
    assert!(
        !session
            .on(Duration::ZERO, member)
            .contains(&Effect::Submit(key(7)))
    );
    assert!(
        session
            .on(SECOND, Event::LinkUp)
            .contains(&Effect::Submit(key(7)))
    );
    assert!(
        !session
            .on(SECOND, Event::Tick)
            .contains(&Effect::Submit(key(7))),
        "under way"
    );
    session.on(2 * SECOND, Event::SubmitFailed(key(7)));
    assert!(
        session
            .on(100 * SECOND, Event::Tick)
            .contains(&Effect::Submit(key(7)))
    );
    session.on(101 * SECOND, Event::Ack(key(7)));
    assert_eq!(session.unacked_count(), 0);
}

#[test]
fn a_result_whose_acknowledgement_got_lost_is_handed_in_by_a_call() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    session.on(2 * SECOND, Event::Ended(key(1), Ending::Result));
    session.on(3 * SECOND, Event::LinkLost { unknown: false });
    assert!(
        session
            .on(9 * SECOND, Event::LinkUp)
            .contains(&Effect::Submit(key(1)))
    );
}

#[test]
fn a_draining_node_takes_nothing_finishes_and_ends() {
    let mut session = active(2);
    session.on(SECOND, lease(1));
    assert_eq!(session.on(2 * SECOND, Event::Stop), [WITHDRAW]);
    assert_eq!(session.phase(), Phase::Draining);
    assert_eq!(
        hand_backs(&session.on(3 * SECOND, lease(2))),
        [HandBackReason::ShuttingDown]
    );
    let done = session.on(4 * SECOND, Event::Ended(key(1), Ending::Result));
    assert_eq!(done, [Effect::SendResult(key(1))]);
    assert_eq!(
        session.on(5 * SECOND, Event::Ack(key(1))),
        [Effect::End(Over::Stopped)]
    );
    assert_eq!(session.on(6 * SECOND, lease(3)), []);
}

#[test]
fn what_does_not_finish_while_draining_is_handed_back() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    session.on(2 * SECOND, Event::Stop);
    assert!(
        session
            .on(22 * SECOND, Event::Tick)
            .contains(&Effect::Break(key(1)))
    );
    let ended = session.on(23 * SECOND, Event::Ended(key(1), Ending::Stopped));
    assert_eq!(hand_backs(&ended), [HandBackReason::ShuttingDown]);
    assert_eq!(ended[1], Effect::End(Over::Stopped));
}

#[test]
fn outside_the_hours_nothing_is_offered_or_taken() {
    let mut session = active(1);
    let closed = session.on(SECOND, Event::Open(false));
    assert_eq!(closed, [WITHDRAW], "the coordinator need not try");
    assert_eq!(
        hand_backs(&session.on(SECOND, lease(1))),
        [HandBackReason::CannotDo]
    );
    assert_eq!(session.on(2 * SECOND, Event::Open(true)), [offer(1)]);
}

#[test]
fn new_weights_are_told_even_when_no_slot_is_free() {
    let mut session = active(1);
    let effects = session.on(SECOND, Event::Weights(vec!["new".into()]));
    assert_eq!(
        effects,
        [Effect::Offer {
            role: Role::Infer,
            credits: 0,
            sha256: vec!["new".into()]
        }]
    );
}

#[test]
fn a_fenced_node_breaks_everything_off_and_ends() {
    let mut session = active(1);
    session.on(SECOND, lease(1));
    let effects = session.on(SECOND, Event::Fenced("newer session".into()));
    let over = Effect::End(Over::Fenced("newer session".into()));
    assert_eq!(effects, [Effect::Break(key(1)), over]);
    assert_eq!(session.phase(), Phase::Over);
}

#[test]
fn a_pending_node_asks_again_later_and_a_refused_one_never() {
    let mut session = session(1, vec![]);
    session.on(Duration::ZERO, Event::Tick);
    assert_eq!(
        session.on(SECOND, Event::Registered(Registration::Pending)),
        []
    );
    assert_eq!(session.on(10 * SECOND, Event::Tick), []);
    assert_eq!(session.on(32 * SECOND, Event::Tick), [Effect::Register]);
    let refused = Registration::Refused {
        reason: "banned".into(),
    };
    let effects = session.on(33 * SECOND, Event::Registered(refused));
    assert_eq!(effects, [Effect::End(Over::Refused("banned".into()))]);
}

#[test]
fn a_coordinator_that_forgot_the_node_is_told_again() {
    let mut session = active(1);
    session.on(SECOND, Event::LinkLost { unknown: true });
    assert_eq!(session.phase(), Phase::Unregistered);
    assert!(
        session
            .on(20 * SECOND, Event::Tick)
            .contains(&Effect::Register)
    );
}

#[test]
fn heartbeats_go_by_a_call_while_there_is_no_link() {
    let mut session = active(1);
    session.on(SECOND, Event::LinkLost { unknown: false });
    let effects = session.on(61 * SECOND, Event::Tick);
    assert!(effects.contains(&Effect::Connect), "{effects:?}");
    let effects = session.on(62 * SECOND, Event::LinkLost { unknown: false });
    assert_eq!(effects, [Effect::Heartbeat { on_link: false }]);
}

#[test]
fn each_role_has_its_own_slots() {
    let mut session = active(1);
    session.settings.slots.insert(Role::Evaluate, 1);
    let evaluate = |n| Event::Lease {
        key: key(n),
        role: Role::Evaluate,
        time: 30 * SECOND,
    };
    let offered = |effects: &[Effect]| -> Vec<(Role, u32)> {
        let offer = |effect: &Effect| match effect {
            Effect::Offer { role, credits, .. } => Some((*role, *credits)),
            _ => None,
        };
        effects.iter().filter_map(offer).collect()
    };
    assert_eq!(
        offered(&session.on(SECOND, Event::Tick)),
        [(Role::Evaluate, 1)]
    );
    assert_eq!(session.on(SECOND, evaluate(1)), [Effect::Run(key(1))]);
    assert_eq!(session.on(SECOND, lease(2)), [Effect::Run(key(2))]);
    let full = session.on(SECOND, evaluate(3));
    assert_eq!(hand_backs(&full), [HandBackReason::CannotDo]);
    let done = session.on(SECOND, Event::Ended(key(1), Ending::Result));
    assert_eq!(offered(&done), [(Role::Evaluate, 1)]);
    let paused = session.on(SECOND, Event::Pause(true));
    assert_eq!(
        paused,
        [
            WITHDRAW,
            Effect::Withdraw {
                role: Role::Evaluate
            }
        ]
    );
}

#[test]
fn a_node_without_a_model_measures_all_the_same() {
    let mut session = session(1, vec![]);
    session.settings.slots.insert(Role::Evaluate, 2);
    session.on(Duration::ZERO, Event::Tick);
    let member = Registration::Active {
        heartbeat: 60 * SECOND,
    };
    session.on(Duration::ZERO, Event::Registered(member));
    let up = session.on(Duration::ZERO, Event::LinkUp);
    let offer = Effect::Offer {
        role: Role::Evaluate,
        credits: 2,
        sha256: vec![],
    };
    assert_eq!(up, [Effect::Heartbeat { on_link: true }, offer]);
}
