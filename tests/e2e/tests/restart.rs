//! What outlives a restart or a crash.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::fs;

use owm_devnet::{Devnet, Model};
use serde_json::{Value, json};

fn key_of(answer: &Value) -> &str {
    answer["request_id"].as_str().unwrap()
}

#[tokio::test]
async fn a_network_that_is_stopped_and_started_again_is_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    open_to_postgres(folder.path());
    let start = || {
        Devnet::builder()
            .nodes(1)
            .model(Model::Tiny)
            .data_dir(folder.path().join("net"))
    };
    let net = start().start().await.unwrap();
    let answer = net.api().query("Do you remember this?").await.unwrap();
    let before = identity(&net).await;
    net.stop().await.unwrap();

    let net = start().start().await.unwrap();
    assert_eq!(identity(&net).await, before);
    let path = format!("/v1/requests/{}", key_of(&answer));
    let kept = net.api().get(&path).await.unwrap().ok().unwrap();
    assert_eq!(kept["answer"], answer["answer"]);
    let receipt = net
        .api()
        .get(&format!("/v1/receipts/{}", key_of(&answer)))
        .await
        .unwrap();
    assert_eq!(receipt.ok().unwrap(), answer["receipt"]);
    net.api().query("And this?").await.unwrap();
    net.stop().await.unwrap();
}

/// What makes it the same network: genesis, base URL, model, nodes.
async fn identity(net: &Devnet) -> (Vec<u8>, String, String) {
    let api = net.api();
    let genesis = api.get("/v1/genesis").await.unwrap().body.to_vec();
    let models = api.get("/v1/models").await.unwrap();
    (
        genesis,
        api.base().to_owned(),
        String::from_utf8_lossy(&models.body).into_owned(),
    )
}

/// Postgres's account has to pass through a temporary folder.
fn open_to_postgres(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
}

#[tokio::test]
async fn a_coordinator_that_crashes_comes_back_and_its_node_with_it() {
    let mut net = Devnet::builder()
        .nodes(1)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap();
    let answer = net.api().query("Before the crash").await.unwrap();
    net.coordinator().kill().await.unwrap();
    net.coordinator().start().await.unwrap();
    let path = format!("/v1/requests/{}", key_of(&answer));
    let kept = net.api().get(&path).await.unwrap().ok().unwrap();
    assert_eq!(kept["answer"], answer["answer"]);
    // The node reconnects by itself; until then there is nobody to answer.
    let asked = json!({"query": "After the crash", "max_tokens": 8});
    let start = std::time::Instant::now();
    let after = loop {
        match net.api().query_with(&asked).await {
            Ok(answer) => break answer,
            Err(error) if start.elapsed().as_secs() > 90 => panic!("{error:#}"),
            Err(_) => tokio::time::sleep(owm_devnet::process::POLL).await,
        }
    };
    assert!(after["answer"].is_string());
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_stopped_network_leaves_no_process_and_no_file() {
    let mut net = Devnet::builder()
        .nodes(1)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap();
    let dir = net.dir().to_owned();
    let mut pids = vec![net.postgres().process().pid()];
    pids.extend(net.coordinator().process().map(|process| process.pid()));
    for node in net.nodes() {
        pids.extend(node.process().map(|process| process.pid()));
    }
    assert_eq!(pids.len(), 3);
    net.stop().await.unwrap();
    assert!(!dir.exists());
    for pid in pids {
        assert!(
            !std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} still runs"
        );
    }
}
