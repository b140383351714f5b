//! `docs/swarm.md`, "Joining without the coordinator, step by step": its commands, word by word and in one shell, in
//! namespaces of the test's own, so that nothing of the machine changes and nothing outlives the test.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use owm_devnet::paths;
use serde_json::Value;

/// The whole walk on a slow machine; the runner's own limit is five minutes.
const LIMIT: Duration = Duration::from_secs(270);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Between the document's last look and its cleaning up the test looks by itself.
const LOOK: &str = r#"
echo "$OWM_HOME" >"$SEEN/home.new" && mv "$SEEN/home.new" "$SEEN/home"
until [ -e "$SEEN/go" ]; do sleep 0.2; done
"#;

/// The shell blocks below a heading, in order.
fn blocks(document: &str, heading: &str) -> Vec<String> {
    let (_, below) = document.split_once(heading).expect("the heading stands");
    let section = below.split("\n## ").next().unwrap_or_default();
    let pieces = section.split("```sh\n").skip(1);
    let block = |piece: &str| piece.split("```").next().unwrap_or_default().to_owned();
    pieces.map(block).collect()
}

/// The shell that runs them: alone in its namespaces (network, mounts, processes), so that `ip netns` names and
/// cables are its own, and whatever it has started ends with it.
fn shell(script: &Path, programs: &Path, seen: &Path) -> Command {
    let mut shell = Command::new("timeout");
    shell
        .args(["--signal=KILL", &LIMIT.as_secs().to_string()])
        .args(["unshare", "--net", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc", "bash"])
        .arg(script)
        .env("CARGO_TARGET_DIR", programs)
        .env("SEEN", seen)
        .env("TMPDIR", seen)
        .env_remove("OWM_BIN_DIR")
        .stdin(Stdio::null());
    shell
}

/// Ends with the test, however that ends: `timeout` tells `unshare`, which kills all that is inside.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let timeout = Pid::from_raw(self.0.id().cast_signed());
            // It may have ended just now.
            let _ = kill(timeout, Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

/// What a node in the shell's namespaces says: its socket is a file.
fn status(home: &Path, name: &str) -> Value {
    let said = Command::new(paths::program("owm-node").expect("built"))
        .args(["status", "--json", "--config"])
        .arg(home.join(name).join("owm.toml"))
        .output();
    let said = said.expect("a program that runs");
    serde_json::from_slice(&said.stdout).unwrap_or_default()
}

/// Waits until the shell has come as far as a file of this name; what is in it.
fn awaits(shell: &mut Shell, file: &Path) -> String {
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return text;
        }
        if let Some(status) = shell.0.try_wait().expect("a child") {
            panic!("the shell ended: {status}; it said what stands above");
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn key(status: &Value) -> &str {
    status["status"]["node_key"].as_str().unwrap_or("nobody")
}

/// Whether it has the newest checkpoint, as the other has it.
fn is_told(status: &Value, other: &Value) -> bool {
    let newest = |status: &Value| status["swarm"]["newest"]["manifest_sha256"].clone();
    newest(status).is_string() && newest(status) == newest(other)
}

fn knows(status: &Value, other: &str) -> bool {
    let nodes = status["swarm"]["nodes"].as_array();
    nodes.is_some_and(|nodes| nodes.iter().any(|node| node["key"] == other))
}

#[test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
fn netns_newcomers_follow_the_document_from_two_namespaces_without_the_coordinator() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = fs::read_to_string(root.join("docs/swarm.md")).expect("the document");
    let blocks = blocks(&document, "\n## Joining without the coordinator");
    assert!(blocks.len() >= 6, "the document's steps: {blocks:#?}");
    let folder = tempfile::tempdir().expect("a folder");
    let (programs, script) = (folder.path().join("target"), folder.path().join("script"));
    let ours = paths::program("owm-devnet").expect("built");
    fs::create_dir(&programs).expect("a folder");
    let beside = ours.parent().expect("a program lies in a folder");
    std::os::unix::fs::symlink(beside, programs.join("debug")).expect("a link");
    let (last, steps) = blocks.split_last().expect("there are some");
    // Of the test's own: a quiet place for `ip netns` to name things in, and this namespace's loopback.
    let mut all =
        "mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set lo up\n".to_owned();
    all.push_str(&steps.join("\n"));
    all.push_str(LOOK);
    all.push_str(last);
    fs::write(&script, all).expect("a file");
    let mut shell = shell(&script, &programs, folder.path());
    let mut shell = Shell(shell.spawn().expect("a shell"));
    let home = awaits(&mut shell, &folder.path().join("home"));
    let home = Path::new(home.trim());
    let all = || ["alice", "bob", "stays"].map(|name| status(home, name));
    let each_other = |[alice, bob, stays]: &[Value; 3]| {
        let both = |newcomer| knows(newcomer, key(stays)) && is_told(newcomer, stays);
        both(alice) && both(bob) && knows(alice, key(bob)) && knows(bob, key(alice))
    };
    let mut seen = all();
    while !each_other(&seen) {
        let ended = shell.0.try_wait().expect("a child");
        assert!(ended.is_none(), "{ended:?}: time is up; {seen:#?}");
        thread::sleep(LOOK_EVERY);
        seen = all();
    }
    fs::write(folder.path().join("go"), "").expect("a file");
    let ended = shell.0.wait().expect("a child");
    assert!(ended.success(), "cleaning up: {ended}");
    assert!(!home.exists(), "the document's last step removes it");
}
