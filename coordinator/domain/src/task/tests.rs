//! The life of a task, rule by rule, then at random.

use std::time::Duration;

use owm_proto::{NodeId, Sha256, UnixMillis};
use proptest::prelude::*;

use super::*;
use crate::check::Fault;

const START: UnixMillis = UnixMillis(1_000_000);

fn node(n: u8) -> NodeId {
    NodeId::from_random([n; 16])
}

fn hash(n: u8) -> Sha256 {
    Sha256([n; 32])
}

fn at(secs: u64) -> UnixMillis {
    START.after(Duration::from_secs(secs))
}

fn task() -> Task {
    Task {
        phase: Phase::Queued,
        epoch: 0,
        attempts: 0,
        max_attempts: 3,
        tried: Vec::new(),
        lease: Duration::from_secs(30),
        deadline_at: at(120),
    }
}

fn leased(n: u8) -> (Task, Attempt) {
    task().lease(node(n), START).unwrap()
}

fn committed(attempt: &Attempt, n: u8, now: UnixMillis) -> Attempt {
    Attempt {
        commit: Some(*attempt.commit(hash(n), now).standing()),
        ..attempt.clone()
    }
}

fn valid(n: u8) -> GivenResult {
    GivenResult {
        hash: hash(n),
        checked: Ok(()),
    }
}

#[test]
fn a_lease_raises_the_epoch_counts_an_attempt_and_remembers_the_node() {
    let (task, attempt) = leased(1);
    assert_eq!(
        (task.epoch, task.attempts, task.tried.as_slice()),
        (1, 1, &[node(1)][..])
    );
    assert_eq!((attempt.epoch, attempt.expires_at), (1, at(30)));
    assert!(matches!(
        task.lease(node(2), START),
        Err(TransitionError::NotQueued { phase: "leased" })
    ));
}

#[test]
fn a_lease_never_outlives_the_tasks_deadline() {
    let (_, attempt) = task().lease(node(1), at(100)).unwrap();
    assert_eq!(attempt.expires_at, at(120));
    assert_eq!(task().lease(node(1), at(120)), Err(TransitionError::Spent));
}

#[test]
fn three_attempts_are_on_three_nodes_and_then_it_fails() {
    let mut task = task();
    for n in 1..=3 {
        if n > 1 {
            let again = task.lease(node(n - 1), at(1));
            assert!(matches!(again, Err(TransitionError::AlreadyTried { .. })));
        }
        let (held, attempt) = task.lease(node(n), at(1)).unwrap();
        let (after, next) = held.lose(&attempt, at(2)).unwrap();
        let expected = if n < 3 {
            Next::Requeued
        } else {
            Next::Failed(FailureCode::AttemptsExhausted)
        };
        assert_eq!(next, expected);
        task = after;
    }
    assert!(task.phase.is_final());
}

#[test]
fn a_commit_is_on_time_while_the_lease_is_live_and_the_first_one_stands() {
    let (_, attempt) = leased(1);
    let CommitDecision::Recorded(commit) = attempt.commit(hash(1), at(30)) else {
        panic!()
    };
    assert!(commit.on_time);
    let CommitDecision::Recorded(late) = attempt.commit(hash(1), UnixMillis(at(30).0 + 1)) else {
        panic!()
    };
    assert!(!late.on_time);
    let lost = attempt.ended(Outcome::Lost, at(5));
    assert!(!lost.commit(hash(1), at(6)).standing().on_time);
    let attempt = committed(&attempt, 1, at(3));
    assert_eq!(
        attempt.commit(hash(1), at(99)),
        CommitDecision::Repeated(Commit {
            at: at(3),
            result: hash(1),
            on_time: true
        })
    );
    assert!(
        matches!(attempt.commit(hash(2), at(4)), CommitDecision::Contradicts(first) if first.result == hash(1))
    );
}

#[test]
fn the_first_valid_result_wins() {
    let (task, attempt) = leased(1);
    let attempt = committed(&attempt, 1, at(3));
    let ResultDecision::First { task, attempt } = decide_result(&task, &attempt, &valid(1), at(4))
    else {
        panic!()
    };
    assert_eq!(
        task.phase,
        Phase::Done {
            winner: node(1),
            epoch: 1
        }
    );
    assert_eq!(
        attempt.ended,
        Some(Ended {
            at: at(4),
            outcome: Outcome::Accepted
        })
    );
    let again = decide_result(&task, &attempt, &valid(1), at(5));
    assert_eq!(
        again,
        ResultDecision::Duplicate {
            outcome: Outcome::Accepted
        }
    );
}

#[test]
fn an_older_epoch_wins_if_it_was_committed_while_live_and_the_newer_is_then_late() {
    let (task, first) = leased(1);
    let first = committed(&first, 1, at(3));
    let (task, next) = task.lose(&first, at(5)).unwrap();
    let first = first.ended(Outcome::Lost, at(5));
    assert_eq!(next, Next::Requeued);
    let (task, second) = task.lease(node(2), at(6)).unwrap();
    let second = committed(&second, 2, at(8));

    let ResultDecision::First { task, attempt } = decide_result(&task, &first, &valid(1), at(9))
    else {
        panic!()
    };
    assert_eq!(
        task.phase,
        Phase::Done {
            winner: node(1),
            epoch: 1
        }
    );
    assert_eq!(
        attempt.ended,
        Some(Ended {
            at: at(5),
            outcome: Outcome::Accepted
        }),
        "the lease's end stays"
    );

    let ResultDecision::Late { attempt } = decide_result(&task, &second, &valid(2), at(10)) else {
        panic!()
    };
    assert_eq!(attempt.ended.unwrap().outcome, Outcome::Late);
    let again = decide_result(&task, &attempt, &valid(2), at(11));
    assert_eq!(
        again,
        ResultDecision::Duplicate {
            outcome: Outcome::Late
        }
    );
}

#[test]
fn results_without_a_standing_on_time_commit_are_refused_and_change_nothing() {
    let (task, attempt) = leased(1);
    let after = committed(&attempt, 1, at(31));
    let other = committed(&attempt, 2, at(3));
    let cases = [
        (&attempt, RejectReason::NotCommitted),
        (&after, RejectReason::LeaseWasOver),
        (&other, RejectReason::NotWhatWasCommitted),
    ];
    for (attempt, reason) in cases {
        let decision = decide_result(&task, attempt, &valid(1), at(32));
        assert_eq!(
            decision,
            ResultDecision::Rejected {
                reason,
                ended: None
            }
        );
    }
}

#[test]
fn an_invalid_result_ends_the_lease_and_the_next_node_gets_the_task() {
    let (task, attempt) = leased(1);
    let attempt = committed(&attempt, 1, at(3));
    let bad = GivenResult {
        hash: hash(1),
        checked: Err(Fault::OutputHash),
    };
    let ResultDecision::Rejected { reason, ended } = decide_result(&task, &attempt, &bad, at(4))
    else {
        panic!()
    };
    assert_eq!(reason, RejectReason::Invalid(Fault::OutputHash));
    let (attempt, then) = ended.unwrap();
    assert_eq!(attempt.ended.unwrap().outcome, Outcome::Rejected);
    let (task, next) = then.unwrap();
    assert_eq!((task.phase, next), (Phase::Queued, Next::Requeued));
    let repaired = decide_result(&task, &attempt, &valid(2), at(5));
    assert_eq!(
        repaired,
        ResultDecision::Rejected {
            reason: RejectReason::SecondResult,
            ended: None
        }
    );
}

#[test]
fn an_invalid_result_of_an_old_lease_does_not_disturb_the_new_one() {
    let (task, first) = leased(1);
    let first = committed(&first, 1, at(3));
    let (task, _) = task.lose(&first, at(5)).unwrap();
    let first = first.ended(Outcome::Lost, at(5));
    let (task, _) = task.lease(node(2), at(6)).unwrap();
    let bad = GivenResult {
        hash: hash(1),
        checked: Err(Fault::OutputHash),
    };
    let ResultDecision::Rejected {
        ended: Some((_, then)),
        ..
    } = decide_result(&task, &first, &bad, at(7))
    else {
        panic!()
    };
    assert_eq!(then, None);
}

#[test]
fn an_on_time_result_for_a_task_that_failed_is_late_because_users_are_answered_once() {
    let (task, attempt) = leased(1);
    let attempt = committed(&attempt, 1, at(3));
    let ended = [
        Task {
            phase: Phase::Failed {
                code: FailureCode::Timeout,
            },
            ..task.clone()
        },
        task.cancel().unwrap(),
    ];
    for task in ended {
        assert!(matches!(
            decide_result(&task, &attempt, &valid(1), at(4)),
            ResultDecision::Late { .. }
        ));
        assert_eq!(task.cancel(), None);
    }
}

#[test]
fn an_expired_lease_is_requeued_but_an_on_time_commit_has_its_grace() {
    let (task, attempt) = leased(1);
    assert_eq!(task.expire(&attempt, at(30)), Ok(None));
    let (after, next) = task.expire(&attempt, at(31)).unwrap().unwrap();
    assert_eq!((after.phase, next), (Phase::Queued, Next::Requeued));
    let attempt = committed(&attempt, 1, at(29));
    assert_eq!(task.expire(&attempt, at(31)), Ok(None));
    assert!(task.expire(&attempt, at(41)).unwrap().is_some());
    assert!(
        after.expire(&attempt, at(99)).is_err(),
        "only the live lease expires"
    );
}

#[test]
fn running_out_of_time_is_a_timeout_however_it_comes() {
    let (task, attempt) = leased(1);
    let last = Task {
        attempts: 3,
        ..task.clone()
    };
    let (_, next) = last.expire(&attempt, at(31)).unwrap().unwrap();
    assert_eq!(next, Next::Failed(FailureCode::Timeout));
    let (_, next) = task.lose(&attempt, at(120)).unwrap();
    assert_eq!(next, Next::Failed(FailureCode::Timeout));
    let queued = self::task();
    assert_eq!(queued.time_out(at(119)), None);
    assert_eq!(queued.time_out(at(120)).unwrap().1, FailureCode::Timeout);
    assert_eq!(
        task.time_out(at(120)),
        None,
        "a leased task ends with its lease"
    );
}

#[test]
fn hand_backs_before_any_work_are_no_attempt() {
    let (task, attempt) = leased(1);
    let back = |reason| task.hand_back(&attempt, reason, at(2)).unwrap();
    let (cannot, next) = back(HandBackReason::CannotDo);
    assert_eq!(
        (cannot.attempts, cannot.tried.len(), next),
        (0, 1, Next::Requeued)
    );
    let (stops, _) = back(HandBackReason::ShuttingDown);
    assert_eq!((stops.attempts, stops.tried.len()), (0, 0));
    assert!(
        stops.lease(node(1), at(3)).is_ok(),
        "it may have it again once it is back"
    );
    let (failed, _) = back(HandBackReason::Failed);
    assert_eq!((failed.attempts, failed.tried.len()), (1, 1));
    let (refused, next) = back(HandBackReason::InputRefused);
    assert_eq!(next, Next::Failed(FailureCode::InputRefused));
    assert!(refused.phase.is_final());
}

#[test]
fn a_task_does_not_wander_for_ever() {
    let mut task = task();
    for _ in 0..LEASES_MAX {
        let (held, attempt) = task.lease(node(1), at(1)).unwrap();
        task = held
            .hand_back(&attempt, HandBackReason::ShuttingDown, at(1))
            .unwrap()
            .0;
    }
    assert_eq!(
        task.phase,
        Phase::Failed {
            code: FailureCode::AttemptsExhausted
        }
    );
}

#[test]
fn an_outage_extends_every_live_lease_by_its_length() {
    assert_eq!(Outage::ending(at(10), at(14)), None, "a pause is no outage");
    let outage = Outage::ending(at(10), at(70)).unwrap();
    let (task, attempt) = leased(1);
    let task = task.extended(&outage);
    assert_eq!(
        task.phase,
        Phase::Leased {
            node: node(1),
            expires_at: at(90)
        }
    );
    assert_eq!(task.deadline_at, at(180));
    let moved = attempt.extended(&outage);
    assert_eq!(moved.expires_at, at(90));
    assert!(
        moved.commit(hash(1), at(71)).standing().on_time,
        "finished while we were away"
    );
    assert_eq!(
        attempt
            .ended(Outcome::Lost, at(9))
            .extended(&outage)
            .expires_at,
        at(30)
    );
    let over = Attempt {
        expires_at: at(9),
        ..attempt
    };
    assert_eq!(
        over.extended(&outage).expires_at,
        at(9),
        "what was over before stays over"
    );
}

fn chunk(epoch: u64, from: u32, tokens: &[u32]) -> GivenChunk<'_> {
    GivenChunk {
        node: node(1),
        epoch,
        from,
        tokens,
        text: "x",
    }
}

#[test]
fn chunks_are_contiguous_and_fenced_by_the_epoch() {
    use ChunkDecision::{Append, Refused, Repeated};
    let (task, _) = leased(1);
    let delivered = Delivered {
        tokens: &[7, 8],
        text_bytes: 2,
    };
    let decide = |given: GivenChunk<'_>| decide_chunk(&task, &delivered, 5, &given);
    let cases = [
        (chunk(1, 2, &[9, 10]), Append { to: 4 }),
        (chunk(1, 2, &[9, 10, 11]), Append { to: 5 }),
        (
            chunk(1, 2, &[9, 10, 11, 12]),
            Refused(ChunkFault::TooLong { max: 5 }),
        ),
        (chunk(1, 0, &[7, 8]), Repeated),
        (chunk(1, 1, &[8]), Repeated),
        (
            chunk(1, 1, &[9]),
            Refused(ChunkFault::Contradicts { at: 1 }),
        ),
        (
            chunk(1, 1, &[8, 9]),
            Refused(ChunkFault::Contradicts { at: 2 }),
        ),
        (
            chunk(1, 3, &[9]),
            Refused(ChunkFault::Gap {
                from: 3,
                delivered: 2,
            }),
        ),
        (
            chunk(1, u32::MAX, &[9]),
            Refused(ChunkFault::Gap {
                from: u32::MAX,
                delivered: 2,
            }),
        ),
        (chunk(1, 2, &[]), Refused(ChunkFault::Empty)),
        (
            chunk(0, 2, &[9]),
            Refused(ChunkFault::Fenced {
                given: 0,
                live: Some(1),
            }),
        ),
        (
            chunk(2, 2, &[9]),
            Refused(ChunkFault::Fenced {
                given: 2,
                live: Some(1),
            }),
        ),
    ];
    for (given, decision) in cases {
        assert_eq!(decide(given), decision, "{given:?}");
    }
    let thief = GivenChunk {
        node: node(2),
        ..chunk(1, 2, &[9])
    };
    assert_eq!(
        decide(thief),
        Refused(ChunkFault::Fenced {
            given: 1,
            live: None
        })
    );
    let queued = self::task();
    assert!(matches!(
        decide_chunk(&queued, &delivered, 5, &chunk(0, 2, &[9])),
        Refused(ChunkFault::Fenced { .. })
    ));
}

#[test]
fn names_in_the_database_read_back() {
    for outcome in Outcome::ALL {
        assert_eq!(outcome.as_str().parse(), Ok(*outcome));
    }
    assert!("lost in space".parse::<FailureCode>().is_err());
    assert_eq!(
        HandBackReason::from_wire(4),
        Some(HandBackReason::InputRefused)
    );
    assert_eq!(
        (HandBackReason::from_wire(0), HandBackReason::from_wire(99)),
        (None, None)
    );
}

/// Whatever happens in whatever order, what must stay true stays true.
#[derive(Clone, Debug)]
enum Step {
    Lease(u8),
    Commit(usize, u8),
    Result(usize, u8, bool),
    Expire,
    Lose,
    HandBack(usize),
    TimeOut,
    Outage(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u8).prop_map(Step::Lease),
        4 => (0..4_usize, 0..3_u8).prop_map(|(a, h)| Step::Commit(a, h)),
        4 => (0..4_usize, 0..3_u8, any::<bool>()).prop_map(|(a, h, ok)| Step::Result(a, h, ok)),
        1 => Just(Step::Expire),
        1 => Just(Step::Lose),
        1 => (0..HandBackReason::ALL.len()).prop_map(Step::HandBack),
        1 => Just(Step::TimeOut),
        1 => (5..40_u64).prop_map(Step::Outage),
        3 => (0..20_u64).prop_map(Step::Wait),
    ]
}

/// A task with all its attempts, driven as the store drives them.
struct World {
    now: UnixMillis,
    task: Task,
    attempts: Vec<Attempt>,
    winners: usize,
}

impl World {
    fn end_live(&mut self, outcome: Outcome) {
        let now = self.now;
        for attempt in self
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.ended.is_none())
        {
            *attempt = attempt.ended(outcome, now);
        }
    }

    fn settle(&mut self, change: Option<(Task, Next)>, outcome: Outcome) {
        if let Some((task, _)) = change {
            self.task = task;
            self.end_live(outcome);
        }
    }

    fn take(&mut self, step: &Step) {
        let live = self
            .attempts
            .last()
            .cloned()
            .filter(|last| self.task.is_live(last));
        match *step {
            Step::Lease(n) => {
                if let Ok((task, attempt)) = self.task.lease(node(n), self.now) {
                    self.task = task;
                    self.attempts.push(attempt);
                }
            }
            Step::Commit(index, n) => {
                if let Some(attempt) = self.attempts.get_mut(index) {
                    attempt.commit = Some(*attempt.commit(hash(n), self.now).standing());
                }
            }
            Step::Result(index, n, ok) => self.result(index, n, ok),
            Step::Expire => {
                if let Some(live) = live {
                    let change = self.task.expire(&live, self.now).unwrap();
                    self.settle(change, Outcome::Expired);
                }
            }
            Step::Lose => {
                if let Some(live) = live {
                    let change = self.task.lose(&live, self.now).unwrap();
                    self.settle(Some(change), Outcome::Lost);
                }
            }
            Step::HandBack(reason) => {
                if let Some(live) = live {
                    let reason = HandBackReason::ALL[reason];
                    let change = self.task.hand_back(&live, reason, self.now).unwrap();
                    self.settle(Some(change), Outcome::HandedBack);
                }
            }
            Step::TimeOut => {
                if let Some((task, _)) = self.task.time_out(self.now) {
                    self.task = task;
                }
            }
            Step::Outage(secs) => {
                let from = self.now;
                self.now = self.now.after(Duration::from_secs(secs));
                let outage = Outage::ending(from, self.now).unwrap();
                self.task = self.task.extended(&outage);
                for attempt in &mut self.attempts {
                    *attempt = attempt.extended(&outage);
                }
            }
            Step::Wait(secs) => self.now = self.now.after(Duration::from_secs(secs)),
        }
    }

    fn result(&mut self, index: usize, n: u8, ok: bool) {
        let Some(attempt) = self.attempts.get(index).cloned() else {
            return;
        };
        let checked = if ok { Ok(()) } else { Err(Fault::OutputHash) };
        match decide_result(
            &self.task,
            &attempt,
            &GivenResult {
                hash: hash(n),
                checked,
            },
            self.now,
        ) {
            ResultDecision::First { task, attempt } => {
                self.task = task;
                self.attempts[index] = attempt;
                self.end_live(Outcome::Cancelled);
                self.winners += 1;
            }
            ResultDecision::Late { attempt } => self.attempts[index] = attempt,
            ResultDecision::Rejected {
                ended: Some((attempt, change)),
                ..
            } => {
                self.attempts[index] = attempt;
                self.settle(change, Outcome::Rejected);
            }
            ResultDecision::Duplicate { .. } | ResultDecision::Rejected { ended: None, .. } => {}
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_events_gives_two_winners_or_revives_a_task(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World { now: START, task: task(), attempts: Vec::new(), winners: 0 };
        for step in &steps {
            let before = world.task.phase;
            world.take(step);
            prop_assert!(!before.is_final() || world.task.phase == before, "{before:?} was final");
            prop_assert!(world.winners <= 1);
            prop_assert!(world.task.attempts <= 3);
            let tried: std::collections::HashSet<_> = world.task.tried.iter().collect();
            prop_assert_eq!(tried.len(), world.task.tried.len());
            let live = world.attempts.iter().filter(|attempt| attempt.ended.is_none()).count();
            prop_assert_eq!(live, usize::from(matches!(world.task.phase, Phase::Leased { .. })));
            if let Phase::Leased { expires_at, .. } = world.task.phase {
                prop_assert_eq!(world.attempts.last().unwrap().expires_at, expires_at);
            }
            if let Phase::Done { winner, epoch } = world.task.phase {
                let won = world.attempts.iter().find(|attempt| attempt.epoch == epoch).unwrap();
                prop_assert_eq!(won.node, winner);
                prop_assert!(won.commit.is_some_and(|commit| commit.on_time));
            }
        }
    }
}
