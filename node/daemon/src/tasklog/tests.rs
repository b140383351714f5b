//! The log across restarts: what is kept, what is deleted, what never changes twice.

use super::*;

fn key(n: u8) -> LeaseKey {
    LeaseKey {
        task: TaskId::from_random([n; 16]),
        epoch: 1,
    }
}

fn accepted(n: u8) -> Accepted {
    Accepted {
        key: key(n),
        task_type: "inference".into(),
        model_version: "owm-v0.1.0".into(),
        input_sha256: Sha256::of(b"in"),
        at: UnixMillis(1_000 + u64::from(n)),
    }
}

fn finished(n: u8, result: &[u8]) -> Finished {
    Finished {
        key: key(n),
        output_sha256: Sha256::of(b"out"),
        prompt_tokens: 5,
        output_tokens: 7,
        exec_ms: 30,
        at: UnixMillis(2_000),
        result: result.to_vec(),
    }
}

const OWED: Booking = Booking::Owed {
    verdict: "accepted",
    reward: Msat(10_000),
};

#[test]
fn a_finished_result_survives_a_restart_until_it_is_booked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.sqlite");
    let log = TaskLog::open(&path).unwrap();
    log.accepted(&accepted(1)).unwrap();
    log.finished(&finished(1, b"the answer")).unwrap();
    drop(log);
    let log = TaskLog::open(&path).unwrap();
    assert_eq!(log.close_interrupted(UnixMillis(3_000)).unwrap(), 0);
    assert_eq!(log.unacked().unwrap(), [key(1)]);
    assert_eq!(
        log.unacked_result(key(1)).unwrap().as_deref(),
        Some(&b"the answer"[..])
    );
    assert!(log.booked(key(1), &OWED, UnixMillis(4_000)).unwrap());
    assert_eq!(log.unacked().unwrap(), []);
    let sums = log.earnings().unwrap();
    assert_eq!(
        (sums.owed_msat, sums.tasks_booked, sums.output_tokens),
        (Msat(10_000), 1, 7)
    );
}

#[test]
fn a_booking_stands_whatever_comes_later() {
    let log = TaskLog::in_memory().unwrap();
    log.accepted(&accepted(1)).unwrap();
    log.finished(&finished(1, b"x")).unwrap();
    assert!(log.booked(key(1), &OWED, UnixMillis(1)).unwrap());
    let later = Booking::Owed {
        verdict: "duplicate",
        reward: Msat(10_000),
    };
    assert!(!log.booked(key(1), &later, UnixMillis(2)).unwrap());
    assert_eq!(log.earnings().unwrap().owed_msat, Msat(10_000));
    assert_eq!(
        log.latest(5).unwrap()[0].verdict.as_deref(),
        Some("accepted")
    );
}

#[test]
fn what_a_report_earns_may_be_told_later_and_more_than_once() {
    let log = TaskLog::in_memory().unwrap();
    log.accepted(&accepted(1)).unwrap();
    log.finished(&finished(1, b"x")).unwrap();
    let owed = |reward| Booking::Owed {
        verdict: "accepted",
        reward: Msat(reward),
    };
    assert!(log.booked(key(1), &owed(0), UnixMillis(1)).unwrap());
    for reward in [15_000, 15_000, 0] {
        assert!(!log.booked(key(1), &owed(reward), UnixMillis(2)).unwrap());
        let sums = log.earnings().unwrap();
        assert_eq!((sums.owed_msat, sums.tasks_booked), (Msat(15_000), 1));
    }
    let lost = Booking::Lost {
        verdict: "rejected",
        reason: String::new(),
    };
    assert!(!log.booked(key(1), &lost, UnixMillis(3)).unwrap());
    assert_eq!(log.earnings().unwrap().owed_msat, Msat(15_000));
}

#[test]
fn what_was_running_when_the_process_died_is_lost() {
    let log = TaskLog::in_memory().unwrap();
    log.accepted(&accepted(1)).unwrap();
    assert_eq!(log.earnings().unwrap().tasks_open, 1);
    assert_eq!(log.close_interrupted(UnixMillis(9)).unwrap(), 1);
    assert_eq!(
        log.latest(1).unwrap()[0].verdict.as_deref(),
        Some("interrupted")
    );
    assert_eq!(log.earnings().unwrap().tasks_lost, 1);
}

#[test]
fn the_answers_text_is_gone_from_the_files_once_booked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.sqlite");
    let log = TaskLog::open(&path).unwrap();
    log.accepted(&accepted(1)).unwrap();
    let secret = b"a sentence that nobody else may read".repeat(50);
    log.finished(&finished(1, &secret)).unwrap();
    let on_disk = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.into_iter().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            bytes.windows(36).any(|window| window == &secret[..36])
        })
    };
    assert!(on_disk());
    log.booked(key(1), &OWED, UnixMillis(1)).unwrap();
    assert!(!on_disk());
}

#[test]
fn a_number_never_falls() {
    let log = TaskLog::in_memory().unwrap();
    assert_eq!(log.number("heartbeat").unwrap(), None);
    log.raise_number("heartbeat", 7).unwrap();
    log.raise_number("heartbeat", 5).unwrap();
    assert_eq!(log.number("heartbeat").unwrap(), Some(7));
}

#[test]
fn a_log_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(
        TaskLog::open(&path),
        Err(TaskLogError::Newer { found: 99, .. })
    ));
}

#[test]
fn a_snapshot_of_an_open_log_holds_what_is_committed_and_nothing_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.sqlite");
    let log = TaskLog::open(&path).unwrap();
    for n in [1, 2] {
        log.accepted(&accepted(n)).unwrap();
        let text = format!("answer number {n}").repeat(20);
        log.finished(&finished(n, text.as_bytes())).unwrap();
    }
    log.booked(key(1), &OWED, UnixMillis(1)).unwrap();
    let copy = folder.path().join("copy.sqlite");
    // The log stays open, as a running daemon's does.
    TaskLog::snapshot(&path, &copy).unwrap();
    let bytes = std::fs::read(&copy).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"answer number 2") && !holds(b"answer number 1"));
    let copied = TaskLog::open(&copy).unwrap();
    assert_eq!(copied.unacked().unwrap(), [key(2)]);
    assert_eq!(copied.earnings().unwrap(), log.earnings().unwrap());
    let none = TaskLog::snapshot(&folder.path().join("none"), &folder.path().join("x"));
    assert!(none.is_err() && !folder.path().join("none").exists());
}

#[test]
fn sequences_that_are_taken_at_the_same_time_are_all_different() {
    let log = TaskLog::in_memory().unwrap();
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let take = |_| {
            let log = &log;
            scope.spawn(move || log.take_sequence("sequence x", UnixMillis(60_000)).unwrap())
        };
        let threads: Vec<_> = (0..8).map(take).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let expected = (60_000..60_008).collect::<std::collections::BTreeSet<u64>>();
    assert_eq!(
        taken.into_iter().collect::<std::collections::BTreeSet<_>>(),
        expected
    );
}

#[test]
fn processes_that_start_at_the_same_time_make_the_tables_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.sqlite");
        let together = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            let open = || {
                together.wait();
                TaskLog::open(&path).map(drop)
            };
            let all = [0; 4].map(|_| scope.spawn(open));
            for one in all {
                one.join().unwrap().unwrap();
            }
        });
    }
}
