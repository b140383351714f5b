//! The real program, as a newcomer uses and misuses it.

use std::{
    path::Path,
    process::{Command, Output},
};

use owm_proto::{Sha256, invite::Invite};
use serde_json::Value;

use super::{Fake, fake::BlobFault, peer::Peer};

/// Runs `owm-node` to its end.
async fn owm_node(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_owm-node"));
    command.args(arguments);
    command.env("OWM_P2P__NETWORK", "loopback_only");
    command.env("OWM_P2P__LISTEN", "[\"/ip4/127.0.0.1/tcp/0\"]");
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn check(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

struct Joined {
    folder: tempfile::TempDir,
    config: String,
}

/// A folder made by `owm-node init`.
async fn join(invite: &Invite) -> (Joined, Output) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = owm_node(&["init", "--dir", dir, "--join", &invite.to_string()]).await;
    let config = folder.path().join("owm.toml").to_str().unwrap().to_owned();
    (Joined { folder, config }, output)
}

impl Joined {
    async fn run(&self, arguments: &[&str]) -> Output {
        owm_node(&[arguments, &["--config", &self.config]].concat()).await
    }

    fn blob(&self, sha256: Sha256) -> std::path::PathBuf {
        let blobs = self.folder.path().join("data/models/blobs");
        blobs.join(sha256.to_string())
    }
}

async fn states(joined: &Joined) -> (Option<i32>, Vec<String>) {
    let output = joined.run(&["models", "verify", "--json"]).await;
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = value["files"].as_array().unwrap();
    let mut states: Vec<String> = files
        .iter()
        .map(|file| file["state"].as_str().unwrap().to_owned())
        .collect();
    states.sort();
    (output.status.code(), states)
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_fetched_verified_and_repaired_without_a_running_node() {
    let fake = Fake::start().await;
    let (joined, output) = join(&fake.invite).await;
    check(&output, 0, &["verified"]);
    check(
        &joined.run(&["models", "verify"]).await,
        0,
        &["no model on this node yet"],
    );
    // A connection that breaks off is gone on with, without being asked.
    fake.spoil_files([BlobFault::Cut]);
    check(
        &joined.run(&["models", "fetch"]).await,
        0,
        &["owm-v0.1.0 is here"],
    );
    assert_eq!(states(&joined).await, (Some(0), vec!["ok".into(); 3]));
    check(
        &joined.run(&["models", "list"]).await,
        0,
        &["owm-v0.1.0", "here"],
    );

    let blob = joined.blob(Fake::weights());
    let length = std::fs::read(&blob).unwrap().len();
    std::fs::write(&blob, vec![7; length]).unwrap();
    std::fs::remove_file(joined.blob(Sha256::of(b"{}"))).unwrap();
    let mut wrong: Vec<String> = ["corrupt", "missing", "ok"].map(String::from).into();
    wrong.sort();
    assert_eq!(states(&joined).await, (Some(1), wrong));
    let output = joined.run(&["models", "verify"]).await;
    let damaged = Sha256::of(&vec![7; length]).to_string();
    check(
        &output,
        1,
        &[
            "corrupt",
            &damaged,
            "tokenizer.json",
            "owm-node models fetch",
        ],
    );
    assert_eq!(
        std::fs::read(&blob).unwrap(),
        vec![7; length],
        "nothing is changed"
    );

    let output = joined.run(&["models", "fetch", "owm-v0.1.0"]).await;
    check(&output, 0, &["model.safetensors on this disk is damaged"]);
    assert_eq!(states(&joined).await, (Some(0), vec!["ok".into(); 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_fetched_without_a_coordinator_that_answers_and_whose_key_was_taken_back() {
    let mut fake = Fake::start().await;
    let peer = Peer::serving(&fake, fake.revoked(), Some(fake.newest()));
    fake.invite.peers = vec![peer.address().await.to_string()];
    let (joined, output) = join(&fake.invite).await;
    check(&output, 0, &["verified"]);
    // It answers, and its key holds no longer.
    fake.delegate(false);
    let calls = fake.calls();
    let output = joined.run(&["models", "fetch"]).await;
    let words = ["owm-v0.1.0 is here", "not delegated", "it is not asked"];
    check(&output, 0, &words);
    assert_eq!(fake.calls(), calls, "nothing else is asked of it");
    assert_eq!(states(&joined).await, (Some(0), vec!["ok".into(); 3]));
    // Nobody else knows of another version.
    let output = joined.run(&["models", "fetch", "owm-v0.3.0"]).await;
    check(
        &output,
        1,
        &["not delegated", "no peer has told", "owm-v0.3.0"],
    );
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_again_and_again_is_given_up_with_both_hashes() {
    let fake = Fake::start().await;
    let (joined, _) = join(&fake.invite).await;
    fake.spoil_files([BlobFault::Lie; 64]);
    // Five attempts with a rising wait between them: no hot loop.
    let output = joined.run(&["models", "fetch"]).await;
    check(&output, 1, &["has SHA-256", "the manifest says"]);
    assert_eq!(fake.files_asked(), 5);
    let blobs = std::fs::read_dir(joined.folder.path().join("data/models/blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "nothing wrong has a name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_given_while_no_node_runs_waits_for_the_next_start() {
    let fake = Fake::start().await;
    let (joined, _) = join(&fake.invite).await;
    let output = joined.run(&["pause", "--for", "2h"]).await;
    check(&output, 0, &["paused for another 2h", "no node runs here"]);
    assert!(joined.folder.path().join("data/paused.json").exists());
    check(&joined.run(&["resume"]).await, 0, &["not paused"]);
    assert!(!joined.folder.path().join("data/paused.json").exists());
    check(
        &joined.run(&["drain"]).await,
        1,
        &["owm-node is not running here"],
    );
    check(
        &joined.run(&["pause", "--for", "soon"]).await,
        2,
        &["--for"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_told_with_file_line_and_what_is_allowed() {
    let fake = Fake::start().await;
    let (joined, _) = join(&fake.invite).await;
    let mut text = std::fs::read_to_string(&joined.config).unwrap();
    let line = text.lines().count() + 2;
    text.push_str("\n[roles]\ninfre = 2\n");
    // The sample has the section already; its keys are comments.
    let text = text
        .replacen("[roles]\n", "", 1)
        .replacen("#infer = 1\n", "", 1);
    std::fs::write(&joined.config, &text).unwrap();
    let line_found = 1 + text.lines().position(|l| l.starts_with("infre")).unwrap();
    assert!(line_found <= line + 1);
    let output = joined.run(&["start"]).await;
    let line = format!("line {line_found}");
    check(
        &output,
        2,
        &[
            &joined.config,
            &line,
            "`infre`",
            "did you mean `infer`",
            "[roles] takes infer",
        ],
    );

    std::fs::write(&joined.config, "[rolls]\n").unwrap();
    let output = joined.run(&["start"]).await;
    check(
        &output,
        2,
        &[
            &joined.config,
            "line 1",
            "`rolls`",
            "sections are node, coordinator",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_is_none_or_damaged_is_told_with_what_to_do() {
    let fake = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("n");
    let init = async |invite: &str| {
        let dir = dir.to_str().unwrap();
        owm_node(&["init", "--dir", dir, "--join", invite]).await
    };
    let whole = fake.invite.to_string();
    let damaged = &whole[..whole.len() - 4];
    check(&init("hello").await, 2, &["owm-coordinator invite"]);
    check(
        &init(damaged).await,
        2,
        &["damaged", "copy the whole line again"],
    );
    let not_made = Path::new(&dir).exists();
    assert!(!not_made, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_to_another_network_is_told_at_joining() {
    let mut fake = Fake::start().await;
    fake.invite.genesis = owm_proto::genesis::NetworkId(Sha256::of(b"another network"));
    let (_, output) = join(&fake.invite).await;
    check(&output, 1, &["ask for an invite to this network"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_port_and_an_unknown_name_are_told_at_joining_by_their_layer() {
    let mut fake = Fake::start().await;
    fake.invite.addresses = vec!["127.0.0.1:1".into(), "nobody.invalid:9000".into()];
    let (joined, output) = join(&fake.invite).await;
    let words = [
        "127.0.0.1:1 fails at tcp",
        "nobody.invalid:9000 fails at name",
    ];
    check(&output, 0, &words);
    let output = joined.run(&["models", "fetch"]).await;
    check(&output, 1, &["cannot reach the coordinator (name)", "DNS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_invite_is_told_to_join() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("owm.toml");
    std::fs::write(&config, "").unwrap();
    let output = owm_node(&["start", "--config", config.to_str().unwrap()]).await;
    check(&output, 2, &["owm-node init --join"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_works_through_any_one_peer_while_the_coordinator_is_away() {
    let mut fake = Fake::start().await;
    let peer = Peer::start(&fake, Some(fake.newest()));
    let address = peer.address().await.to_string();
    // A reserved port that nobody serves.
    fake.invite.addresses = vec!["127.0.0.1:1".into()];
    let dead = address
        .replace("/tcp/", "/udp/")
        .replace("/p2p/", "/quic-v1/p2p/");
    fake.invite.peers = vec![dead, address.clone()];
    let (joined, output) = join(&fake.invite).await;
    let words = [
        "coordinator:   not now",
        "fails at tcp",
        "\"fake\" verified",
        "owm-v0.1.0",
        &address,
    ];
    check(&output, 0, &words);
    let documents = joined.folder.path().join("data/network/documents.pb");
    assert!(documents.exists());
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_can_be_joined_through_every_peer_is_told_with_its_layer() {
    let mut fake = Fake::start().await;
    fake.invite.addresses = vec!["127.0.0.1:1".into()];
    let peer = Peer::start(&fake, None).handle.peer();
    fake.invite.peers = vec![format!("/ip4/127.0.0.1/tcp/1/p2p/{peer}")];
    let (_, output) = join(&fake.invite).await;
    check(
        &output,
        0,
        &[
            "coordinator:   not now",
            "peers:         not now",
            "tcp/quic",
        ],
    );
}
