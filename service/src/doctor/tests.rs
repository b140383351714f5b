//! Frame: verdict, text, limits.

use std::sync::mpsc;

use super::*;

fn three() -> Vec<Finding> {
    vec![
        Finding::problem("disk", "no room\nat all", "delete something"),
        Finding::ok("config", "good"),
        Finding::warning("backup", "never", "owm-x backup"),
    ]
}

fn report(findings: &[Finding]) -> Report<'_> {
    Report {
        schema: SCHEMA,
        program: "owm-x",
        version: "1",
        config: "x.toml",
        verdict: Verdict::of(findings),
        findings,
    }
}

#[test]
fn the_worst_finding_decides_and_only_broken_fails() {
    let all = three();
    assert_eq!(Verdict::of(&all), Verdict::Broken);
    assert_eq!(Verdict::of(&all[1..]), Verdict::Warnings);
    assert_eq!(Verdict::of(&all[1..2]), Verdict::Healthy);
    assert_eq!(Verdict::of(&[]), Verdict::Healthy);
    assert_eq!(Verdict::Broken.exit(), Exit::Failed);
    assert_eq!(Verdict::Warnings.exit(), Exit::Ok);
}

#[test]
fn problems_come_last_with_their_fix_indented() {
    let findings = three();
    let expected = "\
owm-x 1 doctor, x.toml

✓ ok       config  good
! warning  backup  never
                   fix: owm-x backup
✗ problem  disk    no room
                   at all
                   fix: delete something

broken: 1 problem, 1 warning, 1 ok
";
    assert_eq!(render::text(&report(&findings), None, false), expected);
    assert!(render::text(&report(&findings), None, true).contains("\x1b[31m✗ problem\x1b[0m"));
}

#[test]
fn the_json_schema_stands() {
    let findings = three();
    let json = serde_json::to_value(report(&findings)).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["verdict"], "broken");
    let first = serde_json::json!({
        "area": "disk", "level": "problem", "what": "no room\nat all", "fix": "delete something",
    });
    assert_eq!(json["findings"][0], first);
    assert_eq!(json["findings"][1]["fix"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_check_that_hangs_or_breaks_is_a_finding_and_holds_nobody_up() {
    let (let_go, held) = mpsc::channel::<()>();
    let short = Duration::from_millis(20);
    let found = together(vec![
        Check::blocking("stuck", short, move || {
            let _ = held.recv();
            vec![]
        }),
        Check::blocking("broken", CHECK_TIME, || panic!("on purpose")),
        Check::new("fine", CHECK_TIME, async {
            vec![Finding::ok("fine", "yes")]
        }),
    ])
    .await;
    drop(let_go);
    let areas: Vec<_> = found.iter().map(|f| (f.area, f.level)).collect();
    let expected = [
        ("stuck", Level::Problem),
        ("broken", Level::Problem),
        ("fine", Level::Ok),
    ];
    assert_eq!(areas, expected);
    assert!(found[1].what.contains("on purpose"), "{found:?}");
}

#[test]
fn a_hint_keeps_code_and_cause() {
    let error = RunError::usage(io::Error::other("no invite"));
    let hinted = hint(&error, "owm-node doctor");
    assert_eq!(hinted.code, Exit::Usage);
    let text = hinted.source.to_string();
    assert!(text.starts_with("no invite; ") && text.ends_with("run: owm-node doctor"));
}

#[test]
fn a_path_is_quoted_where_a_shell_needs_it() {
    assert_eq!(shell(Path::new("/a/b.c")), "/a/b.c");
    assert_eq!(shell(Path::new("/a b/it's")), r"'/a b/it'\''s'");
}
