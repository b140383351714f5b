//! `owm-node train` as a process: how it is stopped.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::LOOK_EVERY;

/// A run whose every step takes seconds, as JSON lines.
fn long_run(folder: &std::path::Path) -> Child {
    let text = folder.join("text");
    std::fs::create_dir(&text).unwrap();
    for name in ["a", "b", "c"] {
        let line = format!("The capital of {name} is a city in {name}.\n");
        std::fs::write(text.join(name), line.repeat(200)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_owm-node"));
    command.args(["--json", "train", "--model", "tiny", "--local"]);
    command.arg(text).arg("--out").arg(folder.join("out"));
    command.args(["--sequence", "64", "--batch", "256", "--steps", "1000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null());
    child.spawn().unwrap()
}

/// Reads events until one of this name.
fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, event: &str) -> Value {
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let found = events.into_iter().find(|value| value["event"] == event);
    found.unwrap_or_else(|| panic!("it ended without {event}"))
}

#[tokio::test]
async fn the_first_ctrl_c_saves_and_the_second_ends_it_at_once() {
    let stopped = tokio::task::spawn_blocking(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut child = long_run(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        wait_for(&mut lines, "step");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let stopped = wait_for(&mut lines, "stopped");
        assert!(stopped["step"].as_u64() >= Some(1), "{stopped}");
        assert_eq!(child.wait().unwrap().code(), Some(1));
        assert!(folder.path().join("out.state").is_file());
        assert!(!folder.path().join("out.lock").exists());
    });
    stopped.await.unwrap();
    let killed = tokio::task::spawn_blocking(|| (0..ATTEMPTS).any(|_| is_killed_in_a_step()));
    assert!(
        killed.await.unwrap(),
        "the second one never ended it at once"
    );
}

/// Runs that may end in good order before the second Ctrl-C is heard, on a machine that does much else.
const ATTEMPTS: u32 = 20;

/// Stops a run twice; whether it died of the second, in the middle of a step.
fn is_killed_in_a_step() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut child = long_run(folder.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, "step");
    // Two that come together count once, so they keep coming.
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        std::thread::sleep(LOOK_EVERY);
    };
    if status.signal() == Some(Signal::SIGKILL as i32) {
        return true;
    }
    assert_eq!(status.code(), Some(1), "{status}");
    false
}
