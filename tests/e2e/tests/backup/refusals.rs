//! Backups that are not what they seem, and folders that are not empty: nothing is written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{names, refused, run_coordinator, run_node, text};

/// A node's folder and its backup, made without any network: a coordinator that does not run invites.
async fn lonely_backup(folder: &Path) -> PathBuf {
    let (net, home) = (folder.join("net"), folder.join("node"));
    let init = [
        "init",
        "--dir",
        text(&net),
        "--name",
        "t",
        "--chain",
        "regtest",
    ];
    run_coordinator(&init).await.unwrap();
    let config = net.join("coordinator.toml");
    let invite = run_coordinator(&["invite", "--config", text(&config)])
        .await
        .unwrap();
    let invite = invite.lines().next().unwrap().trim();
    run_node(&["init", "--join", invite, "--dir", text(&home)])
        .await
        .unwrap();
    let backup = folder.join("node.tar");
    let config = home.join("owm.toml");
    run_node(&["backup", "--to", text(&backup), "--config", text(&config)])
        .await
        .unwrap();
    backup
}

#[tokio::test]
async fn damaged_truncated_foreign_and_newer_backups_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let backup = lonely_backup(folder.path()).await;
    let target = folder.path().join("target");
    let bad = folder.path().join("bad.tar");
    let bytes = fs::read(&backup).unwrap();
    let restore = async || {
        refused(run_node(&[
            "restore",
            "--from",
            text(&bad),
            "--dir",
            text(&target),
        ]))
        .await
    };
    let before = names(folder.path());

    let mut damaged = bytes.clone();
    let at = damaged
        .windows(27)
        .position(|w| w == b"-----BEGIN PRIVATE KEY-----")
        .unwrap();
    damaged[at + 40] ^= 1;
    fs::write(&bad, &damaged).unwrap();
    assert!(
        restore()
            .await
            .contains("is damaged: data/node.pem has another SHA-256")
    );
    fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    assert!(restore().await.contains("is cut off"));
    fs::write(&bad, b"no backup at all".repeat(100)).unwrap();
    assert!(restore().await.contains("is no OWM backup"));
    fs::write(&bad, newer(&bytes)).unwrap();
    let error = restore().await;
    assert!(
        error.contains("in format 2") && error.contains("or newer"),
        "{error}"
    );
    fs::remove_file(&bad).unwrap();
    assert_eq!(names(folder.path()), before);

    // The other program's.
    let args = ["restore", "--check", "--from", text(&backup)];
    let other = refused(run_coordinator(&args)).await;
    assert!(other.contains("is a backup of owm-node"));
    assert_eq!(names(folder.path()), before);

    // And a folder with something in it.
    fs::create_dir(&target).unwrap();
    fs::write(target.join("owm.toml"), "precious").unwrap();
    let args = ["restore", "--from", text(&backup), "--dir", text(&target)];
    assert!(refused(run_node(&args)).await.contains("is not empty"));
    assert_eq!(fs::read(target.join("owm.toml")).unwrap(), b"precious");
    // A backup overwrites nothing either.
    let config = folder.path().join("node/owm.toml");
    let again = ["backup", "--to", text(&backup), "--config", text(&config)];
    assert!(refused(run_node(&again)).await.contains("is there already"));
    assert_eq!(fs::read(&backup).unwrap(), bytes);
}

/// The same backup with another format number in its manifest, its tar header put right.
fn newer(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let format = b"\"format\": 1";
    let at = bytes
        .windows(format.len())
        .position(|w| w == format)
        .unwrap();
    bytes[at + format.len() - 1] = b'2';
    bytes
}
