//! What an operator does to a running node: pause, drain, look after its model files.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{fs, time::Duration};

use owm_devnet::{
    Devnet, Model, api, paths,
    ports::Port,
    process::{POLL, Spawn},
};
use serde_json::{Value, json};

/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_mins(2);

async fn network(nodes: u16) -> Devnet {
    let start = Devnet::builder().nodes(nodes).model(Model::Tiny);
    start.start().await.unwrap()
}

fn question(tokens: u32) -> Value {
    json!({"query": "Tell me a story", "max_tokens": tokens, "temperature": 0.9, "seed": 3})
}

/// Waits until the coordinator shows so many slots of the node with this key.
async fn until_slots(net: &Devnet, key: &str, slots: u64) {
    let waiting = async {
        loop {
            let path = format!("/v1/nodes/{key}/status");
            let shown = net.api().get(&path).await.unwrap().ok().unwrap();
            if shown["slots"].as_u64() == Some(slots) {
                assert_eq!(shown["connected"], true, "{shown:#}");
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    waited.unwrap_or_else(|_| panic!("the coordinator never showed {slots} slots"));
}

async fn key(net: &mut Devnet, at: usize) -> String {
    let status = net.nodes()[at].status().await.unwrap();
    status["status"]["node_key"].as_str().unwrap().to_owned()
}

fn answered_by(answer: &Value) -> String {
    let receipt: Value =
        serde_json::from_str(answer["receipt"]["receipt"].as_str().unwrap()).unwrap();
    receipt["result"]["node"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_paused_node_gets_no_questions_also_after_a_restart_until_it_is_resumed() {
    let mut net = network(2).await;
    let [paused, other] = [key(&mut net, 0).await, key(&mut net, 1).await];
    until_slots(&net, &paused, 1).await;
    net.nodes()[0]
        .command(&["pause", "--for", "2h"])
        .await
        .unwrap();
    until_slots(&net, &paused, 0).await;
    for _ in 0..3 {
        let answer = net.api().query_with(&question(8)).await.unwrap();
        assert_eq!(answered_by(&answer), other);
    }
    net.nodes()[0].stop().await.unwrap();
    net.nodes()[0].start().await.unwrap();
    until_slots(&net, &paused, 0).await;
    let shown = net.nodes()[0].command(&["status"]).await.unwrap();
    assert!(shown.contains("paused for another"), "{shown}");
    net.nodes()[1].stop().await.unwrap();
    net.nodes()[0].command(&["resume"]).await.unwrap();
    until_slots(&net, &paused, 1).await;
    let answer = net.api().query_with(&question(8)).await.unwrap();
    assert_eq!(answered_by(&answer), paused);
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_drained_node_answers_what_it_has_and_ends_well() {
    let mut net = network(1).await;
    // Started again so that it is found at work, however fast the machine is.
    net.nodes()[0].stop().await.unwrap();
    let health = Port::take(None).unwrap();
    let program = paths::program("owm-node").unwrap();
    let mut process = Spawn::new("node1", &program, net.logs().join("slow.log"))
        .args(["start", "--config"])
        .arg(net.nodes()[0].config())
        .env("OWM_HEALTH__LISTEN", health.address())
        .env("OWM_FAILPOINT", "node.result.before_log=delay:3s")
        .start()
        .unwrap();
    let url = format!("http://{}", health.address());
    let ready = async || api::is_ready(&url).await;
    let waiting = process.wait_until("readiness", LIMIT, ready);
    waiting.await.unwrap();
    let api = net.api();
    let asking = tokio::spawn(async move { api.query_with(&question(400)).await });
    let busy = async { while net.nodes()[0].status().await.unwrap()["status"]["running"] != 1 {} };
    tokio::time::timeout(LIMIT, busy).await.unwrap();
    let said = net.nodes()[0].command(&["drain", "--json"]).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said, json!({"drained": true, "results_left": 0}));
    let answer = asking.await.unwrap().unwrap();
    assert!(answer["answer"].is_string());
    let died = format!("{:#}", process.died().await);
    assert!(died.contains("ended with code 0"), "{died}");
    net.stop().await.unwrap();
}

#[tokio::test]
async fn model_files_that_rot_are_found_by_hand_and_at_the_next_start() {
    let mut net = network(1).await;
    let node = &mut net.nodes()[0];
    node.command(&["models", "verify"]).await.unwrap();
    // Beside the running node: everything is here.
    let said = node.command(&["models", "fetch"]).await.unwrap();
    assert!(said.contains("owm-v0.1.0 is here"), "{said}");
    let blobs = node.dir().join("data/models/blobs");
    let files: Vec<_> = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    let mut ladders = 0;
    for file in &files {
        let whole = fs::read(file).unwrap();
        let mut rotten = whole.clone();
        let middle = rotten.len() / 2;
        rotten[middle] ^= 1;
        fs::write(file, &rotten).unwrap();
        let error = node.command(&["models", "verify"]).await.unwrap_err();
        let said = format!("{error:#}");
        if said.contains(&format!("rm {}", file.display())) {
            // A ladder: needed for sharing, not for answering.
            fs::remove_file(file).unwrap();
            node.command(&["models", "verify"]).await.unwrap();
            ladders += 1;
            continue;
        }
        assert!(said.contains("owm-node models fetch"), "{said}");
        node.stop().await.unwrap();
        node.start().await.unwrap();
        let status = node.status().await.unwrap();
        let told = status["status"]["model_damage"].as_str().unwrap();
        assert!(told.contains("SHA-256"), "{told}");
        assert_eq!(fs::read(file).unwrap(), whole);
        node.command(&["models", "verify"]).await.unwrap();
    }
    assert!(ladders <= 1, "only the weights have more than one piece");
    net.api().query_with(&question(4)).await.unwrap();
    net.stop().await.unwrap();
}
