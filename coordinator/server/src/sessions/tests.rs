//! Seats: what is left of an old connection does not touch the new one.

use owm_proto::NodeStatus;

use super::*;

fn node() -> Node {
    let key = owm_proto::NodeKey::from_seed(&[1; 32]).public();
    Node {
        node_id: NodeId::from_random([1; 16]),
        public_key: key,
        owner: key,
        tier: owm_proto::Tier::T1,
        effective_tier: owm_proto::Tier::T1,
        status: NodeStatus::Active,
        status_reason: String::new(),
        cpu_only: true,
        capabilities: serde_json::json!({}),
        software_version: String::new(),
        stake_bonus: owm_proto::Permille::ONE,
        uptime: owm_proto::Permille::ONE,
        reliability: owm_proto::Permille::ONE,
        tasks_total: 0,
        tasks_succeeded: 0,
        earned: owm_proto::Msat::ZERO,
        registered_at: UnixMillis(0),
        last_heartbeat: None,
        session_epoch: 1,
    }
}

fn open(sessions: &Sessions, run: u8) -> (Seat, mpsc::Receiver<wire::WorkDown>) {
    open_kind(sessions, run, false)
}

fn open_kind(sessions: &Sessions, run: u8, polls: bool) -> (Seat, mpsc::Receiver<wire::WorkDown>) {
    let (down, messages) = mpsc::channel(4);
    let opening = Opening {
        node: node(),
        session: SessionId([run; 16]),
        down: Some(down),
        polls,
        now: UnixMillis(0),
    };
    (sessions.open(opening), messages)
}

fn weights() -> Vec<Sha256> {
    vec![Sha256::of(b"w")]
}

#[test]
fn an_old_reader_does_not_end_the_new_stream_of_the_same_process() {
    let sessions = Sessions::default();
    let (old, _old_messages) = open(&sessions, 1);
    let (new, mut messages) = open(&sessions, 1);
    sessions.offer(new, Role::Infer, 1, weights());
    sessions.offer(old, Role::Infer, 5, weights());
    sessions.lose_stream(old, UnixMillis(1));
    assert!(!sessions.is_current(old) && sessions.is_current(new));
    assert_eq!(sessions.candidates()[0].candidate.credits.infer, 1);
    let task = TaskId::from_random([3; 16]);
    assert!(!sessions.lease(old, task, 1, Role::Infer, wire::Lease::default()));
    assert!(sessions.lease(new, task, 1, Role::Infer, wire::Lease::default()));
    assert!(messages.try_recv().is_ok());
    assert_eq!(sessions.candidates()[0].candidate.credits.infer, 0);
}

#[test]
fn a_newer_process_fences_the_older_one_and_the_same_process_does_not() {
    let sessions = Sessions::default();
    let (_, mut first) = open(&sessions, 1);
    let (_, mut again) = open(&sessions, 1);
    assert!(first.try_recv().is_err(), "the same process comes back");
    let (_, _newer) = open(&sessions, 2);
    let told = again.try_recv().unwrap().message.unwrap();
    assert!(matches!(told, wire::work_down::Message::Fenced(_)));
}

#[test]
fn a_slot_whose_lease_has_ended_counts_until_its_next_offer_is_overdue() {
    let sessions = Sessions::default();
    let (seat, _messages) = open(&sessions, 1);
    sessions.offer(seat, Role::Infer, 1, weights());
    let task = TaskId::from_random([3; 16]);
    sessions.lease(seat, task, 1, Role::Infer, wire::Lease::default());
    assert_eq!(
        sessions.slots_holding(&weights(), UnixMillis(10)),
        1,
        "a busy slot"
    );
    sessions.release(seat.node, task, 1, UnixMillis(10_000));
    assert_eq!(sessions.slots_holding(&weights(), UnixMillis(14_999)), 1);
    assert_eq!(sessions.slots_holding(&weights(), UnixMillis(15_000)), 0);
    sessions.offer(seat, Role::Infer, 1, weights());
    assert_eq!(sessions.slots_holding(&weights(), UnixMillis(15_000)), 1);
}

#[test]
fn a_node_that_withdraws_has_no_slots_until_it_offers_again() {
    let sessions = Sessions::default();
    let (seat, _messages) = open(&sessions, 1);
    sessions.offer(seat, Role::Infer, 2, weights());
    let task = TaskId::from_random([3; 16]);
    assert!(sessions.lease(seat, task, 1, Role::Infer, wire::Lease::default()));
    sessions.withdraw(seat, Role::Infer);
    let slots = |at| sessions.slots_by_node(UnixMillis(at))[&node().node_id];
    assert_eq!(slots(10), 1, "what it works on stays its own");
    sessions.release(node().node_id, task, 1, UnixMillis(20));
    assert_eq!(slots(20), 0, "and no offer is expected after it");
    assert_eq!(sessions.slots_holding(&weights(), UnixMillis(20)), 0);
    sessions.offer(seat, Role::Infer, 0, weights());
    assert_eq!(slots(20), 0, "weights alone are no offer");
    sessions.offer(seat, Role::Infer, 2, weights());
    assert_eq!(slots(20), 2);
}

fn news() -> wire::work_down::Message {
    wire::work_down::Message::NewestVersion("owm-v0.0.2".into())
}

#[test]
fn a_node_that_takes_no_messages_is_cut_off() {
    let sessions = Sessions::default();
    let (seat, mut messages) = open(&sessions, 1);
    sessions.offer(seat, Role::Infer, 1, weights());
    for _ in 0..4 {
        sessions.send(seat.node, news());
    }
    let cut = sessions.cut(seat);
    assert!(!cut.is_cancelled() && sessions.is_current(seat), "it fits");
    sessions.broadcast(&news());
    assert!(cut.is_cancelled() && !sessions.is_current(seat));
    assert!(
        sessions.candidates().is_empty(),
        "no work goes into a full queue"
    );
    assert!(sessions.is_connected(seat.node), "a stream may come back");
    assert!(messages.try_recv().is_ok());
    let task = TaskId::from_random([3; 16]);
    assert!(!sessions.lease(seat, task, 1, Role::Infer, wire::Lease::default()));
    let (again, _messages) = open(&sessions, 1);
    assert!(sessions.is_current(again));
}

#[test]
fn a_poll_session_that_is_cut_off_is_gone_at_once() {
    let sessions = Sessions::default();
    let (seat, _messages) = open_kind(&sessions, 1, true);
    for _ in 0..5 {
        sessions.send(seat.node, news());
    }
    let gone = sessions.remove_gone(|_, _, _| false);
    assert_eq!(gone, [(seat.node, SessionId([1; 16]))]);
    let (_, _messages) = open(&sessions, 1);
    assert_eq!(sessions.remove_gone(|_, _, _| false), []);
}

#[test]
fn a_node_whose_stream_is_dead_keeps_no_credits() {
    let sessions = Sessions::default();
    let (seat, messages) = open(&sessions, 1);
    sessions.offer(seat, Role::Infer, 2, weights());
    drop(messages);
    let task = TaskId::from_random([3; 16]);
    assert!(!sessions.lease(seat, task, 1, Role::Infer, wire::Lease::default()));
    assert!(
        sessions.candidates().is_empty(),
        "nothing more is leased to it"
    );
    assert_eq!(sessions.slots_holding(&weights(), UnixMillis(0)), 0);
}
