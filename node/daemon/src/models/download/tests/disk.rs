//! Disks that are really too small: a mounted one of 4 MiB in a mount namespace of its own, and a limit on
//! the size of files. Both need a process that is set up so; each test starts itself again inside.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::*;

/// Where the disk is, for the process inside.
const DISK: &str = "OWM_TEST_DISK";
/// Bytes that a file may have under the limit: 2,048 blocks of 512.
const LIMIT: u64 = 1 << 20;

/// Runs one of this program's ignored tests below a shell's set-up.
fn inside(set_up: &str, test: &str, disk: &Path) -> Output {
    let own = std::env::current_exe().unwrap();
    let name = format!("models::download::tests::disk::{test}");
    Command::new("sh")
        .args(["-c", set_up])
        .arg(own)
        .args(["--exact", &name, "--ignored", "--nocapture"])
        .env(DISK, disk)
        .output()
        .unwrap()
}

fn check(output: &Output) {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

async fn attempt_on(disk: &Path, plan: Vec<Does>) -> Try {
    let mut attempt = attempt(plan).await;
    attempt.fetcher.shelf = Shelf::new(disk.join("models"), None);
    attempt
}

fn disk() -> PathBuf {
    std::env::var_os(DISK)
        .expect("set by the test that starts this one")
        .into()
}

#[test]
#[ignore = "mounts a small disk: `make test` runs it where it may"]
fn mounts_a_full_disk_is_told_with_numbers_and_the_download_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let set_up = format!(
        "exec unshare -rm sh -c 'mount -t tmpfs -o size=4m tmpfs \"${DISK}\" && exec \"$@\"' sh \"$0\" \"$@\""
    );
    check(&inside(
        &set_up,
        "on_a_disk_of_four_mebibytes",
        folder.path(),
    ));
}

#[tokio::test]
#[ignore = "started by the test above, on a disk of its own"]
async fn on_a_disk_of_four_mebibytes() {
    let disk = disk();
    let mut attempt = attempt_on(&disk, vec![]).await;
    // It is seen before anything is fetched.
    let files = [&attempt.file];
    let keep = [attempt.file.sha256].into();
    let before = attempt.fetcher.shelf.make_room(&files, &keep).unwrap_err();
    assert!(matches!(before, ShelfError::DiskFull { .. }), "{before}");
    // Something else may fill it in the middle all the same.
    attempt.fetcher.shelf = Shelf::without_spare(disk.join("models"));
    let filler = disk.join("filler");
    let progress = |got| {
        if got > 0 && !filler.exists() {
            std::fs::write(&filler, vec![1; 2 << 20]).unwrap();
        }
    };
    let fetched = attempt.fetcher.fetch(&attempt.file, &progress).await;
    let error = fetched.unwrap_err();
    let text = error.to_string();
    let DownloadError::DiskFull {
        got, missing, free, ..
    } = error
    else {
        panic!("{text}")
    };
    assert_eq!(got + missing, attempt.file.size, "{text}");
    assert!(free < missing, "{text}");
    for part in [
        &*missing.to_string(),
        &free.to_string(),
        "make room",
        disk.to_str().unwrap(),
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    attempt.check_nothing_under_the_name();
    assert_eq!(attempt.part_len(), Some(got), "what has come stays");
    let remount = Command::new("mount")
        .args(["-o", "remount,size=8m"])
        .arg(&disk)
        .status();
    assert!(remount.unwrap().success());
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [None, Some(got)]);
}

#[tokio::test]
async fn a_limit_on_file_sizes_is_told_and_the_download_goes_on_without_it() {
    let folder = tempfile::tempdir().unwrap();
    // Without the trap the system ends the process, as it does with an interrupted one.
    let set_up = "trap '' XFSZ; ulimit -f $((1048576 / 512)); exec \"$0\" \"$@\"";
    check(&inside(
        set_up,
        "below_a_limit_of_one_mebibyte",
        folder.path(),
    ));
    let attempt = attempt_on(folder.path(), vec![]).await;
    assert_eq!(attempt.part_len(), Some(LIMIT));
    attempt.fetch().await.unwrap();
    attempt.check_done();
    assert_eq!(*attempt.asked.lock().unwrap(), [Some(LIMIT)]);
}

#[tokio::test]
#[ignore = "started by the test above, below a limit of its own"]
async fn below_a_limit_of_one_mebibyte() {
    let attempt = attempt_on(&disk(), vec![]).await;
    let error = attempt.fetch().await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DownloadError::FileTooLarge { got: LIMIT, .. }),
        "{text}"
    );
    assert!(
        text.contains("ulimit -f") && text.contains("LimitFSIZE"),
        "{text}"
    );
    attempt.check_nothing_under_the_name();
}
