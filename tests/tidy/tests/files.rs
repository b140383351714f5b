//! How files open, how long they may be, and what must not stand in them.

use std::{fs, path::PathBuf, process::Command};

/// Lines that a file may have, tests and generated code aside.
const LINES_MAX: usize = 500;
/// Files that are longer, with the day by which they are to be split and the reason.
const LONGER: &[(&str, &str, &str)] = &[];
/// Written by programs.
const GENERATED: &[&str] = &["proto/src/gen/"];
/// What only one machine or one registry has. In two parts, so that this file passes.
const FORBIDDEN: &[(&str, &str)] = &[
    ("/work/", "main"),
    ("/work/", "shared"),
    ("/ro", "ot/."),
    ("/fa", "rm/"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("deb.debian", ".org"),
    ("npmjs", ".org"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Tracked and new files, without what git ignores; paths from the root.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("paths are Unicode");
    // A file that was deleted but not committed is still listed.
    let listed = text
        .split('\0')
        .filter(|path| !path.is_empty() && root().join(path).is_file());
    listed.map(str::to_owned).collect()
}

fn rust_files() -> Vec<String> {
    let rust = |path: &String| {
        std::path::Path::new(path)
            .extension()
            .is_some_and(|extension| extension == "rs")
    };
    let found: Vec<String> = files().into_iter().filter(rust).collect();
    assert!(found.len() > 50, "only {} Rust files found", found.len());
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn is_generated(path: &str) -> bool {
    GENERATED.iter().any(|folder| path.starts_with(folder))
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| !is_generated(path))
        .filter(|path| {
            let text = read(path);
            let first = text
                .lines()
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            !first.starts_with("//! ") && !first.starts_with("#![doc")
        })
        .collect();
    assert!(
        silent.is_empty(),
        "begin with `//!`, what it holds and who calls it: {silent:#?}"
    );
}

#[test]
fn no_file_is_too_long() {
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    let long: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| !is_generated(path))
        // The crates in tests/ are code like any other, but for their own tests.
        .filter(|path| !is_test(path.strip_prefix("tests/").unwrap_or(path)))
        .filter(|path| !LONGER.iter().any(|(listed, ..)| listed == path))
        .map(|path| (read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "longer than {LINES_MAX} lines, split them: {long:#?}"
    );
    for (path, ..) in LONGER {
        let lines = read(path).lines().count();
        assert!(
            lines > LINES_MAX,
            "{path} has {lines} lines now: take it off the list"
        );
    }
}

#[test]
fn modules_are_files_beside_their_folder() {
    let old: Vec<String> = rust_files()
        .into_iter()
        .filter(|path| path.ends_with("/mod.rs"))
        .collect();
    assert!(old.is_empty(), "use foo.rs beside foo/: {old:#?}");
}

#[test]
fn no_file_names_a_machine_s_path_or_a_registry_s_host() {
    let mut found = Vec::new();
    for path in files() {
        // Made by cargo, with its registry's name in each entry.
        if path.ends_with("Cargo.lock") {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for (start, end) in FORBIDDEN {
                if line.contains(&format!("{start}{end}")) {
                    found.push(format!("{path}:{}: {start}{end}", number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
