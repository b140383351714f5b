//! Failpoints: the plan's grammar, and a child process that is killed.

use std::{os::unix::process::ExitStatusExt, process::Command, time::Duration};

use super::*;

crate::failpoints! {
    /// Before.
    pub(crate) const BEFORE = "service.test.before";
    pub(crate) const AFTER = "service.test.after";
}

fn action_of(plan: &Plan, name: &str) -> Option<Action> {
    plan.decide(name).and_then(|hit| hit.action)
}

#[test]
fn a_plan_says_what_each_name_does_on_which_hit() {
    let plan = Plan::parse("a=kill9; b=panic;c=err;x=delay:200ms;o=off;y=kill9@3;").unwrap();
    assert_eq!(action_of(&plan, "a"), Some(Action::Kill9));
    assert_eq!(action_of(&plan, "b"), Some(Action::Panic));
    assert_eq!(action_of(&plan, "c"), Some(Action::Err));
    assert_eq!(
        action_of(&plan, "x"),
        Some(Action::Delay(Duration::from_millis(200)))
    );
    assert_eq!(action_of(&plan, "o"), Some(Action::Off));
    assert_eq!(plan.decide("unconfigured"), None);
    let hits: Vec<_> = (0..4).map(|_| action_of(&plan, "y")).collect();
    assert_eq!(hits, [None, None, Some(Action::Kill9), None]);
}

#[test]
fn a_plan_with_a_mistake_is_refused_whole() {
    let error = |spec: &str| Plan::parse(spec).unwrap_err().to_string();
    assert!(error("a=kill9;b").contains("`b` is not `name=action`"));
    assert!(error("=kill9").contains("not `name=action`"));
    assert!(error("a=explode").contains("`explode` is no action"));
    assert!(error("a=delay:fast").contains("no action"));
    assert!(error("a=delay:20m").contains("no action"));
    assert!(error("a=err@0").contains("`@0`"));
    assert!(error("a=err@x").contains("`@x`"));
    assert!(error("a=err;a=panic").contains("twice"));
    assert!(Plan::parse("").unwrap().is_empty());
}

#[test]
fn declared_names_are_enumerable() {
    register(FAILPOINTS);
    register(FAILPOINTS);
    let known = known();
    assert!(known.contains(&BEFORE) && known.contains(&AFTER));
    assert_eq!(known.iter().filter(|name| **name == BEFORE).count(), 1);
}

/// Not a test of its own: the body that the tests below run in a child process.
#[test]
#[ignore = "run in a child process by the tests of this file"]
fn child() {
    let outcome = check(BEFORE).and_then(|()| check(BEFORE));
    hit(AFTER);
    assert!(outcome.is_ok(), "{outcome:?}");
}

fn run_child(spec: &str) -> (std::process::ExitStatus, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "failpoint::tests::child",
            "--ignored",
            "--nocapture",
        ])
        .env(FAILPOINT_ENV, spec)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status, text.into_owned())
}

#[test]
fn kill9_kills_the_process_on_its_hit() {
    let (status, _) = run_child("service.test.before=kill9@2");
    assert_eq!(status.signal(), Some(9));
    let (status, _) = run_child("service.test.before=kill9@3");
    assert_eq!((status.signal(), status.code()), (None, Some(0)));
}

#[test]
fn err_and_panic_act_where_they_are_configured() {
    let (status, text) = run_child("service.test.before=err");
    assert!(!status.success() && text.contains("Injected"), "{text}");
    let (status, text) = run_child("service.test.after=panic");
    assert!(
        !status.success() && text.contains("failpoint `service.test.after` panics"),
        "{text}"
    );
    let (status, text) = run_child("service.test.after=err;service.test.before=delay:1ms");
    assert!(status.success(), "{text}");
}
