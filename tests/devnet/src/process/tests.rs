//! Children that end, hang and are dropped.

use nix::sys::signal::kill;

use super::*;

fn shell(folder: &Path, script: &str) -> Process {
    Spawn::new("the shell", "/bin/sh", folder.join("sh.log"))
        .args(["-c", script])
        .start()
        .unwrap()
}

fn alive(pid: i32) -> bool {
    // A zombie still answers signals; only a live state counts.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with('Z')
    })
}

#[tokio::test]
async fn a_child_that_dies_is_reported_with_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell(
        folder.path(),
        "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; exit 3",
    );
    let error = process
        .wait_until("readiness", Duration::from_secs(20), async || false)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the shell ended with code 3"), "{error}");
    assert!(
        error.contains("line 50") && error.contains("line 31"),
        "{error}"
    );
    assert!(!error.contains("line 30\n"), "{error}");
}

#[tokio::test]
async fn an_earlier_run_s_lines_are_not_shown_as_this_one_s() {
    let folder = tempfile::tempdir().unwrap();
    shell(folder.path(), "echo old").died().await;
    let error = shell(folder.path(), "echo new; exit 1")
        .died()
        .await
        .to_string();
    assert!(error.contains("new") && !error.contains("old"), "{error}");
}

#[tokio::test]
async fn a_child_that_ignores_the_stop_signal_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = shell(
        folder.path(),
        "trap '' TERM; sleep 600 & echo $!; while :; do wait; done",
    );
    let printed = || fs::read_to_string(folder.path().join("sh.log")).unwrap();
    process
        .wait_until("a line", Duration::from_secs(20), async || {
            printed().contains('\n')
        })
        .await
        .unwrap();
    let grandchild: i32 = printed().trim().parse().unwrap();
    let status = process.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    let start = Instant::now();
    while alive(grandchild) && start.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(POLL).await;
    }
    assert!(!alive(grandchild), "the grandchild was left behind");
}

#[tokio::test]
async fn a_dropped_child_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "exec sleep 600");
    let pid = process.pid();
    assert!(kill(Pid::from_raw(pid), None).is_ok());
    drop(process);
    assert!(!alive(pid));
}
