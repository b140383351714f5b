//! A node backed up while it runs, restored on an empty folder.

use std::{collections::BTreeSet, fs, path::Path, time::Instant};

use owm_devnet::{
    Devnet, api, paths,
    process::{POLL, Spawn},
};
use serde_json::{Value, json};

use super::{
    Ear, LIMIT, ask_until_answered, names, network, owed, parsed, run_node, text, wait_ready,
};

/// What a node's data folder may hold beyond what a backup holds.
const NOT_KEPT: [&str; 6] = [
    "lock",
    "control.sock",
    "last-exit.json",
    "tasks.sqlite-wal",
    "tasks.sqlite-shm",
    "last-backup.json",
];

#[tokio::test]
async fn a_node_restored_on_an_empty_folder_is_the_same_node_with_its_unacknowledged_work() {
    let mut net = network(1).await;
    let folder = tempfile::tempdir().unwrap();
    let api = net.api();
    api.query("Something to have earned").await.unwrap();

    // The coordinator dies in the middle of an answer; the node finishes it and keeps it.
    let asked = json!({"query": "A long story", "max_tokens": 300, "seed": 5, "stream": true});
    let mut events = api.stream("/v1/query", &asked).await.unwrap();
    let start = parsed(&events.next().await.unwrap().unwrap().data);
    let id = start["request_id"].as_str().unwrap().to_owned();
    // Something of it has been shown: the lease is live and the node at work.
    events.next().await.unwrap().unwrap();
    net.coordinator().kill().await.unwrap();
    drop(events);
    wait_for_unacknowledged(&net).await;

    let before = net.nodes_ref()[0].status().await.unwrap();
    let backup = folder.path().join("node.tar");
    let args = ["backup", "--json", "--to", text(&backup)];
    let made = parsed(&net.nodes_ref()[0].command(&args).await.unwrap());
    assert_eq!(made["manifest"]["key"], before["status"]["node_key"]);
    check_nothing_is_forgotten(&made, &net.nodes_ref()[0].dir().join("data"));
    let health_url = net.nodes_ref()[0].health_url();
    net.nodes()[0].kill().await.unwrap();

    let new = folder.path().join("new");
    run_node(&["restore", "--from", text(&backup), "--dir", text(&new)])
        .await
        .unwrap();
    assert_eq!(names(folder.path()), ["new", "node.tar"]);
    let config = new.join("owm.toml");
    run_node(&["config", "check", "--config", text(&config)])
        .await
        .unwrap();
    let ear = Ear::new(folder.path());
    let program = paths::program("owm-node").unwrap();
    let mut process = Spawn::new(
        "the restored node",
        program,
        net.logs().join("restored.log"),
    )
    .args(["start", "--config", text(&config)])
    .env("NOTIFY_SOCKET", &ear.1)
    .start()
    .unwrap();
    net.coordinator().start().await.unwrap();
    wait_ready(&mut process, &health_url).await;

    let status = parsed(
        &run_node(&["status", "--json", "--config", text(&config)])
            .await
            .unwrap(),
    );
    assert_eq!(status["status"]["node_key"], before["status"]["node_key"]);
    assert_eq!(status["status"]["node_id"], before["status"]["node_id"]);
    // What it had finished is handed in and answered, once.
    let answer = wait_for_answer(&api, &id).await;
    assert!(!answer["answer"].as_str().unwrap().is_empty());
    let nodes = api.get("/v1/network/nodes").await.unwrap().ok().unwrap();
    let known = nodes["nodes"].as_array().or(nodes.as_array()).unwrap();
    assert_eq!(known.len(), 1, "{nodes:#}");
    // It keeps what it has earned, and earns more.
    let owed_msat = async || {
        let printed = run_node(&["earnings", "--json", "--config", text(&config)])
            .await
            .unwrap();
        parsed(&printed)["owed_msat"].as_u64().unwrap()
    };
    let earned = before["earnings"]["owed_msat"].as_u64().unwrap();
    assert!(earned > 0 && owed_msat().await > earned);
    ask_until_answered(&api, "And now?").await;
    process.stop(LIMIT).await.unwrap();
    let heard = ear.heard();
    let (ready, stopping) = (heard.find("READY=1"), heard.find("STOPPING=1"));
    assert!(ready.is_some() && ready < stopping, "{heard}");
    assert_eq!(owed_msat().await, owed(net.postgres().url()));
    net.stop().await.unwrap();
}

async fn wait_for_unacknowledged(net: &Devnet) {
    let start = Instant::now();
    loop {
        let status = net.nodes_ref()[0].status().await.unwrap();
        if status["status"]["unacknowledged"] == 1 {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{status:#}");
        tokio::time::sleep(POLL).await;
    }
}

async fn wait_for_answer(api: &api::Api, id: &str) -> Value {
    let start = Instant::now();
    loop {
        let found = api
            .get(&format!("/v1/requests/{id}"))
            .await
            .unwrap()
            .json()
            .unwrap();
        if found["answer"].is_string() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "{found:#}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whoever gives the node another file decides whether a backup holds it (`owm-node`'s `backup.rs`).
fn check_nothing_is_forgotten(made: &Value, data: &Path) {
    let kept: BTreeSet<String> = made["manifest"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|member| member["name"].as_str()?.strip_prefix("data/"))
        .map(str::to_owned)
        .collect();
    assert!(
        kept.contains("tasks.sqlite") && kept.contains("node.pem"),
        "{kept:?}"
    );
    let mut forgotten = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(data)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let fetched_again = name.starts_with("models/") && name != "models/newest.pb";
            if path.is_dir() {
                folders.push(path);
            } else if !fetched_again && !kept.contains(&name) && !NOT_KEPT.contains(&name.as_str())
            {
                forgotten.push(name);
            }
        }
    }
    assert!(
        forgotten.is_empty(),
        "neither kept nor named as not kept: {forgotten:?}"
    );
}
