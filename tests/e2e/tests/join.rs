//! Nodes come and go.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use anyhow::Result;
use owm_devnet::{Devnet, Model, api, node::Node, paths, ports::Port, process::Spawn};
use serde_json::{Value, json};

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap()
}

fn answered_by(answer: &Value) -> String {
    let receipt: Value =
        serde_json::from_str(answer["receipt"]["receipt"].as_str().unwrap()).unwrap();
    receipt["result"]["node"].as_str().unwrap().to_owned()
}

/// A node as a stranger would start it: a fresh folder, two commands, the invite and nothing else.
#[tokio::test]
async fn a_node_started_by_hand_with_only_the_invite_joins_and_answers() {
    let mut net = network(3).await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("my-node");
    let program = paths::program("owm-node").unwrap();
    let invite = net.invite().to_owned();
    let init = ["init", "--dir", &dir.to_string_lossy(), "--join", &invite];
    owm_devnet::process::output("owm-node", &program, &init)
        .await
        .unwrap();
    let health = Port::take(None).unwrap();
    let mut process = Spawn::new("my node", &program, folder.path().join("log"))
        .args([
            "start".as_ref(),
            "--config".as_ref(),
            dir.join("owm.toml").as_os_str(),
        ])
        // Another node has the default health port on a developer's machine.
        .env("OWM_HEALTH__LISTEN", health.address())
        .start()
        .unwrap();
    let url = format!("http://{}", health.address());
    let limit = std::time::Duration::from_mins(2);
    process
        .wait_until("readiness", limit, || api::is_ready(&url))
        .await
        .unwrap();
    let config = dir.join("owm.toml");
    let status = ["status", "--json", "--config", &config.to_string_lossy()];
    let printed = owm_devnet::process::output("owm-node", &program, &status)
        .await
        .unwrap();
    let status: Value = serde_json::from_str(&printed).unwrap();
    let key = find_key(&status).expect("the status names the node's key");

    // Alone in the network, it is the one that answers.
    for node in net.nodes() {
        node.stop().await.unwrap();
    }
    let answer = net.api().query("Hello").await.unwrap();
    assert_eq!(answered_by(&answer), key);
    process
        .stop(std::time::Duration::from_secs(20))
        .await
        .unwrap();
    net.stop().await.unwrap();
}

fn find_key(status: &Value) -> Option<String> {
    match status {
        Value::Object(fields) => match fields.get("node_key").and_then(Value::as_str) {
            Some(key) => Some(key.to_owned()),
            None => fields.values().find_map(find_key),
        },
        _ => None,
    }
}

#[tokio::test]
async fn the_nodes_of_a_network_are_shown_without_addresses() {
    let net = network(2).await;
    let shown = net.api().get("/v1/network/nodes").await.unwrap();
    let text = String::from_utf8_lossy(&shown.body).into_owned();
    assert_eq!(text.matches("\"active\"").count(), 2, "{text}");
    assert!(!text.contains("127.0.0.1"), "{text}");
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_node_s_question_is_answered_by_another() {
    // Half a minute by default, so that a node behind a bad line keeps its work.
    let start = Devnet::builder()
        .nodes(2)
        .coordinator_setting("scheduler", "stream_lost", "1s");
    let mut net = start.start().await.unwrap();
    let api = net.api();
    let asked =
        json!({"query": "Tell me a long story", "max_tokens": 400, "temperature": 0.9, "seed": 3});
    let reference = api.query_with(&asked).await.unwrap();
    let mut streamed = asked.clone();
    streamed["stream"] = json!(true);
    let mut events = api.stream("/v1/query", &streamed).await.unwrap();
    // Something has been delivered.
    let first = events.next().await.unwrap().expect("an answer has events");
    kill_the_busy_node(&mut net).await.unwrap();
    let mut last = first;
    while let Some(event) = events.next().await.unwrap() {
        if event.data != "[DONE]" {
            last = event;
        }
    }
    let answer: Value = serde_json::from_str(&last.data).unwrap();
    assert_eq!(
        answer["answer"], reference["answer"],
        "the successor did not go on where it was"
    );
    net.stop().await.unwrap();
}

/// Kills whichever node works on something; any node if none admits to it any more.
async fn kill_the_busy_node(net: &mut Devnet) -> Result<()> {
    let mut busy = 0;
    for (at, node) in net.nodes().iter().enumerate() {
        if is_busy(node).await? {
            busy = at;
        }
    }
    net.nodes()[busy].kill().await
}

async fn is_busy(node: &Node) -> Result<bool> {
    let status = node.status().await?;
    let running = status
        .pointer("/status/running")
        .or_else(|| status.get("running"));
    Ok(running
        .and_then(Value::as_u64)
        .is_some_and(|running| running > 0))
}
