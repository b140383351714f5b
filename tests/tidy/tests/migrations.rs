//! Migrations are append-only: databases remember each one's checksum and refuse another text.

use std::{path::Path, process::Command};

/// Commits before this day made the first release's schema and could still change it.
const SETTLED_SINCE: &str = "2026-11-23T00:00:00Z";
const FOLDER: &str = "migrations/sql";

/// Standard output of a git command; `None` where there is no history (an unpacked archive).
fn git(args: &[&str]) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new("git")
        .args(args)
        .current_dir(root)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_committed_migration_is_neither_changed_nor_deleted() {
    if git(&["rev-parse", "--verify", "--quiet", "HEAD"]).is_none() {
        return;
    }
    let since = format!("--since={SETTLED_SINCE}");
    let history = [
        "log",
        &since,
        "--diff-filter=MDRT",
        "--name-status",
        "--format=commit %h",
    ];
    let changed = git(&[&history[..], &["--", FOLDER]].concat()).expect("git log works");
    assert_eq!(
        changed, "",
        "migrations were changed: add a new one instead"
    );
    let tree = [
        "diff",
        "HEAD",
        "--diff-filter=MDRT",
        "--name-status",
        "--",
        FOLDER,
    ];
    let changed = git(&tree).expect("git diff works");
    assert_eq!(
        changed, "",
        "migrations that are committed were changed: add a new one instead"
    );
}

#[test]
fn migrations_are_numbered_without_gaps() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(FOLDER);
    let mut numbers: Vec<usize> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let number = name.split('_').next().unwrap_or_default().to_owned();
            number
                .parse()
                .unwrap_or_else(|_| panic!("{name}: begin with a number, 0001_what.sql"))
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}
