//! Judgements about the process.

use owm_service::doctor::Level;

use super::*;
use crate::status::Status;

fn status() -> Status {
    Status {
        phase: Phase::Active,
        software_version: crate::VERSION.into(),
        pid: 7,
        started_at_ms: 100_000,
        node_key: "ab".into(),
        network: "net".into(),
        network_id: String::new(),
        coordinator: "c:9000".into(),
        linked: true,
        linked_since_ms: None,
        pong_at_ms: None,
        ping_ms: None,
        clock_offset_ms: None,
        standing: None,
        link_error: None,
        node_id: None,
        tier: Some("t1".into()),
        stake_policy: None,
        node_status: Some("active".into()),
        reasons: vec![],
        model: None,
        model_state: None,
        model_failed: false,
        model_damage: None,
        pause: None,
        slots: 1,
        running: 0,
        unacknowledged: 0,
        open: true,
        member_until_ms: None,
        origins: crate::status::Origins::default(),
        hardware: vec![],
    }
}

fn silent(lock: Option<u32>, code: Option<u8>) -> Finding {
    let last = code.map(|code| LastExit {
        at_ms: 1,
        code,
        reason: "no room".into(),
        running: false,
    });
    silent_after(lock, last)
}

fn silent_after(lock: Option<u32>, last: Option<LastExit>) -> Finding {
    let facts = ProcessFacts {
        answer: None,
        lock,
        last,
        config_at_ms: None,
    };
    judge_silent(&facts, "owm-node start")
}

#[test]
fn a_node_that_does_not_run_is_fine_unless_its_last_end_was_not() {
    assert_eq!(silent(None, None).level, Level::Ok);
    assert_eq!(silent(None, Some(0)).level, Level::Ok);
    let failed = silent(None, Some(1));
    assert_eq!(failed.level, Level::Warning);
    assert!(failed.what.contains("no room"));
    let fenced = silent(None, Some(78));
    assert_eq!(fenced.level, Level::Problem);
    assert!(fenced.what.starts_with("fenced"));
    assert_eq!(silent(Some(9), Some(78)).level, Level::Problem);
    assert!(silent(Some(9), None).what.contains("pid 9"));
    // One whose id the kernel does not name here.
    assert!(!silent(Some(0), None).fix.unwrap().contains("kill"));
}

#[test]
fn a_run_that_ended_without_a_word_is_a_warning_unless_it_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    LastExit::begin(&home, 1);
    let left = || LastExit::load(&home);
    let killed = silent_after(None, left());
    assert_eq!(killed.level, Level::Warning);
    assert!(killed.what.contains("without a word"), "{}", killed.what);
    assert!(killed.fix.unwrap().ends_with("owm-node start"));
    assert!(silent_after(Some(9), left()).what.contains("pid 9"));
}

#[test]
fn a_running_node_is_connected_or_says_why_not() {
    let judge = |change: fn(&mut Status)| {
        let mut status = status();
        change(&mut status);
        judge_running(&status, "owm-node status").level
    };
    assert_eq!(judge(|_| {}), Level::Ok);
    assert_eq!(judge(|s| s.phase = Phase::Draining), Level::Warning);
    let unlinked = judge(|s| (s.linked, s.link_error) = (false, Some("refused".into())));
    assert_eq!(unlinked, Level::Problem);
    let fresh = judge(|s| (s.linked, s.phase) = (false, Phase::Unregistered));
    assert_eq!(fresh, Level::Warning);
}

#[test]
fn a_node_that_takes_no_work_by_order_says_so() {
    let judge = |until_ms: Option<u64>, open| {
        let mut status = status();
        status.open = open;
        status.pause = until_ms.map(|until| Pause {
            since_ms: owm_proto::UnixMillis(1),
            until_ms: (until > 0).then_some(owm_proto::UnixMillis(until)),
        });
        judge_taking(&status, "owm-node resume")
    };
    assert_eq!(judge(None, true), None);
    let endless = judge(Some(0), true).unwrap();
    assert_eq!(endless.level, Level::Warning);
    assert!(endless.fix.unwrap().contains("owm-node resume"));
    let shut = judge(None, false).unwrap();
    assert_eq!((shut.level, shut.area), (Level::Ok, "work"));
    assert_eq!(judge(Some(9), false).unwrap().level, Level::Ok);
}

#[test]
fn what_the_coordinator_wants_is_passed_on() {
    let judge = |change: fn(&mut Status)| {
        let mut status = status();
        change(&mut status);
        judge_admission(&status)
    };
    assert_eq!(judge(|_| {}).unwrap().level, Level::Ok);
    assert_eq!(judge(|s| s.node_status = None), None);
    let pending = judge(|s| s.reasons = vec!["a GPU is needed".into()]).unwrap();
    assert_eq!(pending.level, Level::Problem);
    assert!(pending.what.contains("a GPU is needed"));
    let suspended = judge(|s| s.node_status = Some("suspended".into())).unwrap();
    assert_eq!(suspended.level, Level::Problem);
    let degraded = judge(|s| s.node_status = Some("degraded".into())).unwrap();
    assert_eq!(degraded.level, Level::Warning);
}

#[test]
fn a_change_after_the_start_asks_for_a_restart() {
    let status = status();
    assert_eq!(restart_reasons(&status, Some(100_000), Some("ab")).len(), 0);
    assert_eq!(restart_reasons(&status, Some(200_000), Some("ab")).len(), 1);
    assert_eq!(restart_reasons(&status, None, Some("cd")).len(), 1);
    let mut old = status;
    old.software_version = "0.0.1".into();
    assert_eq!(restart_reasons(&old, None, None).len(), 1);
}

#[test]
fn the_holder_of_a_lock_is_read_from_the_kernels_table() {
    let table = "1: FLOCK  ADVISORY  WRITE 4711 fd:01:123456 0 EOF\n\
                 2: POSIX  ADVISORY  WRITE 12 fd:01:77 0 EOF\n";
    assert_eq!(parse_locks(table, "fd:01:123456"), Some(4711));
    assert_eq!(parse_locks(table, "fd:01:77"), None);
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).unwrap();
    assert_eq!(lock_holder(&folder.path().join("lock")), None);
    let _lock = home.lock().unwrap();
    assert_eq!(
        lock_holder(&folder.path().join("lock")),
        Some(std::process::id())
    );
}
