//! A disk that is really too small: one of 2 MiB, mounted in a mount namespace of its own. The test starts
//! itself again inside.

use std::process::Command;

use super::*;

/// Where the disk is, for the process inside.
const DISK: &str = "OWM_TEST_DISK";

#[test]
#[ignore = "mounts a small disk: `make test` runs it where it may"]
fn mounts_a_file_that_fills_the_disk_is_refused_with_numbers_and_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let set_up = format!(
        "exec unshare -rm sh -c 'mount -t tmpfs -o size=2m tmpfs \"${DISK}\" && exec \"$@\"' sh \"$0\" \"$@\""
    );
    let output = Command::new("sh")
        .args(["-c", &set_up])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "exchange::store::tests::disk::on_a_disk_of_two_mebibytes",
        ])
        .args(["--ignored", "--nocapture"])
        .env(DISK, folder.path())
        .output()
        .unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
#[ignore = "started by the test above, on a disk of its own"]
fn on_a_disk_of_two_mebibytes() {
    let disk = PathBuf::from(std::env::var_os(DISK).expect("set by the test above"));
    let store = store(&disk, None);
    // It is seen before anything is fetched.
    let huge = Sample::new(9 * PIECE, 1);
    let error = store.begin(Arc::clone(&huge.ladder)).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    drop(store.gc().unwrap());
    // Something else may fill it in the middle all the same.
    let sample = Sample::new(6 * PIECE, 2);
    let partial = store.begin(Arc::clone(&sample.ladder)).unwrap();
    sample.fetch(&partial, 0);
    let filler = disk.join("filler");
    fs::write(&filler, vec![1; 5 * PIECE as usize]).unwrap();
    let full = (1..6).find_map(|piece| {
        let at = sample.ladder.range(piece).start;
        let error = partial.write(at, sample.piece(piece)).err();
        if error.is_none() {
            assert!(partial.proved(piece).unwrap());
        }
        error
    });
    let text = full.unwrap().to_string();
    for part in ["the disk is full", "make room", disk.to_str().unwrap()] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    fs::remove_file(filler).unwrap();
    assert!(!sample.fetch_missing(&partial).is_empty());
    let file = partial.finish().unwrap();
    assert_eq!(fs::read(file.path()).unwrap(), sample.bytes);
}
