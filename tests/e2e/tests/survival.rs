//! Life without the coordinator: a newcomer gets the newest model from other nodes and answers, and what was
//! finished meanwhile is handed in afterwards, once.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![expect(clippy::print_stdout, reason = "the measured times are a result")]

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use owm_devnet::{
    Devnet, Model,
    api::{Api, Events},
    node::Node,
    process::POLL,
};
use owm_e2e::invites::invite_with_peers;
use owm_proto::Sha256;
use serde_json::{Value, json};

/// Nodes of the network that loses its coordinator.
const NODES: u16 = 8;
/// For everything that nobody has promised a time for, on a slow machine.
const LIMIT: Duration = Duration::from_mins(3);
/// Keeps a node at its answer until the coordinator is dead.
const SLOWLY: (&str, &str) = ("OWM_FAILPOINT", "node.result.before_log=delay:10s");

/// Waits until `condition` holds; how long it took.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < LIMIT, "waited too long for {what}");
        tokio::time::sleep(POLL).await;
    }
    start.elapsed()
}

async fn status(node: &Node) -> Value {
    node.status().await.unwrap_or_default()
}

fn number(status: &Value, pointer: &str) -> u64 {
    status
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

fn texts(value: &Value) -> BTreeSet<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

/// Waits until every node has announced to every other that it holds all the files.
async fn all_hold(net: &Devnet, files: &BTreeSet<String>) {
    for node in net.nodes_ref() {
        until("everybody to announce the files", async || {
            let status = status(node).await;
            let nodes = status["swarm"]["nodes"].as_array().into_iter().flatten();
            let holding = nodes.filter(|node| node["holds"].as_u64() >= Some(files.len() as u64));
            holding.count() == usize::from(NODES)
        })
        .await;
    }
}

/// SHA-256s of the files of the newest version, by `models list`.
async fn files(node: &Node) -> BTreeSet<String> {
    let listed = node.command(&["models", "list", "--json"]).await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let files = listed["versions"][0]["files"].as_array().cloned().unwrap();
    let names = files
        .iter()
        .map(|file| file["sha256"].as_str().unwrap().to_owned());
    names.collect()
}

/// Asks something that a node works on while the coordinator dies; the request's id, and the stream, which stays
/// open: its asker is still there.
async fn leave_a_question(api: &Api) -> (String, Events) {
    let body = json!({"query": "Who is there?", "max_tokens": 24, "stream": true});
    let mut events = api.stream("/v1/query", &body).await.unwrap();
    loop {
        let event = events.next().await.unwrap().unwrap();
        let said: Value = serde_json::from_str(&event.data).unwrap_or_default();
        if said["type"] == "start" {
            return (said["request_id"].as_str().unwrap().to_owned(), events);
        }
    }
}

/// What all nodes say together under `pointer` of their status.
async fn sum(net: &Devnet, pointer: &str) -> u64 {
    let mut sum = 0;
    for node in net.nodes_ref() {
        sum += number(&status(node).await, pointer);
    }
    sum
}

/// A counter of a node's, from its metrics.
async fn metric(node: &Node, name: &str) -> u64 {
    let answer = Api::new(node.health_url()).get("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let value = lines.next().unwrap_or_else(|| panic!("{name} in\n{text}"));
    value.trim().parse().unwrap()
}

/// A ninth node joins, gets the newest model from the others alone, and answers.
async fn newcomer_answers(net: &mut Devnet, invite: &str, expected: &BTreeSet<String>) {
    let version = status(&net.nodes_ref()[0]).await["status"]["model"].clone();
    let begun = Instant::now();
    let node = net.new_node(invite).await.unwrap();
    node.spawn().unwrap();
    until("the newcomer to load the model", async || {
        status(node).await["status"]["model"]["sha256"] == version["sha256"]
    })
    .await;
    println!(
        "the ninth node had the model of the others loaded after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let mut size = 0;
    for sha256 in expected {
        let blob = node.dir().join("data/models/blobs").join(sha256);
        let bytes = fs::read(&blob).unwrap();
        assert_eq!(Sha256::of(&bytes).to_string(), *sha256);
        size += bytes.len() as u64;
    }
    assert_eq!(metric(node, "owm_node_download_bytes_total").await, 0);
    assert!(metric(node, "owm_node_peer_download_bytes_total").await >= size);
    let asked = ["ask", "--json", "--max-tokens", "8", "Who is there?"];
    for by in ["the running node", "this command"] {
        let answer = node.command(&asked).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["by"], by);
        assert!(
            answer["answer"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        assert_eq!(answer["model_version"], version["version"]);
        assert_eq!(texts(&answer["model_sha256"]), texts(&version["sha256"]));
        if by == "the running node" {
            node.stop().await.unwrap();
        }
    }
    // It is not ready before the coordinator has taken it in.
    node.spawn().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ninth_node_answers_while_the_coordinator_is_dead_and_what_was_finished_is_booked_once() {
    let mut net = Devnet::builder()
        .nodes(NODES)
        .model(Model::Tiny)
        .coordinator_setting("scheduler", "heartbeat", "1s")
        .coordinator_setting("p2p", "capability", "2s")
        .start()
        .await
        .unwrap();
    for node in net.nodes() {
        node.stop().await.unwrap();
        node.set_environment(&[SLOWLY]);
        node.start().await.unwrap();
    }
    let files = files(&net.nodes_ref()[0]).await;
    all_hold(&net, &files).await;
    let invite = invite_with_peers(&net, LIMIT).await.unwrap();
    let api = net.api();
    let (request, _asker) = leave_a_question(&api).await;
    until("a node to work on it", async || {
        sum(&net, "/status/running").await > 0
    })
    .await;
    net.coordinator().kill().await.unwrap();
    // Somebody finishes it, and keeps it.
    until("the result", async || {
        sum(&net, "/status/unacknowledged").await > 0
    })
    .await;
    newcomer_answers(&mut net, &invite, &files).await;
    net.coordinator().start().await.unwrap();
    until("the answer", async || {
        let answer = api.get(&format!("/v1/requests/{request}")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    until("every result to be acknowledged", async || {
        sum(&net, "/status/unacknowledged").await == 0
    })
    .await;
    let twice = "SELECT count(*) FROM (SELECT task_id FROM task_attempts WHERE outcome = 'accepted'
        GROUP BY task_id HAVING count(*) > 1) AS doubled";
    let unbooked = "SELECT count(*) FROM tasks t WHERE t.phase = 'done' AND
        (SELECT count(*) FROM ledger_events e WHERE e.task_id = t.task_id AND e.kind = 'reward') <> 1";
    for sql in [twice, unbooked] {
        assert_eq!(net.postgres().query(sql).await.unwrap(), "0", "{sql}");
    }
    let done = "SELECT count(*) > 0 FROM tasks WHERE phase = 'done'";
    assert_eq!(net.postgres().query(done).await.unwrap(), "t");
    net.stop().await.unwrap();
}
