//! Nodes that die, double or go by a wrong clock: what the asker sees and what the operator is told.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use owm_devnet::{
    Devnet, Model,
    api::Api,
    node::Node,
    paths,
    ports::Port,
    process::{POLL, Spawn},
};
use serde_json::{Value, json};

/// Many chunks.
const TOKENS: u32 = 400;
/// Keeps a node in the middle of its answer long enough to be found there, however fast the machine is.
const SLOWLY: (&str, &str) = (
    "OWM_FAILPOINT",
    "node.chunk.sent=delay:300ms;node.result.before_log=delay:3s",
);
/// Far above what anything here takes.
const LIMIT: Duration = Duration::from_mins(2);

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        // Half a minute by default, so that a node behind a bad line keeps its work.
        .coordinator_setting("scheduler", "stream_lost", "1s")
        .start()
        .await
        .unwrap()
}

fn question() -> Value {
    json!({
        "query": "Tell me a long story", "max_tokens": TOKENS, "temperature": 0.9, "seed": 3,
        "return_token_ids": true,
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer} is missing in {value:#}"))
}

fn inner(receipt: &Value) -> Value {
    serde_json::from_str(text(receipt, "/receipt")).unwrap()
}

/// Keys of the nodes in the receipt's segments, in order.
fn nodes_of(receipt: &Value) -> Vec<String> {
    inner(receipt)["segments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|segment| text(segment, "/node").to_owned())
        .collect()
}

async fn running(node: &Node) -> u64 {
    let status = node.status().await.unwrap_or_default();
    status
        .pointer("/status/running")
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

/// Starts all nodes again, slower.
async fn slowed(net: &mut Devnet) -> Vec<ByHand> {
    let mut slow = Vec::new();
    for node in net.nodes() {
        node.stop().await.unwrap();
        let health = Port::take(None).unwrap();
        let mut by_hand = start_by_hand(node.dir(), &health, SLOWLY);
        by_hand.ready(&health).await;
        slow.push(by_hand);
    }
    slow
}

/// Waits until a node works on something; its place.
async fn busy_node(net: &mut Devnet) -> usize {
    let looking = async {
        loop {
            for (at, node) in net.nodes().iter().enumerate() {
                if running(node).await > 0 {
                    return at;
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, looking).await.unwrap()
}

/// The answer is the one an undisturbed network gives, is kept under its id, and its receipt verifies.
async fn check_answer(net: &mut Devnet, answer: &Value, reference: &Value, survivor: usize) {
    assert_eq!(answer["token_ids"], reference["token_ids"]);
    assert_eq!(answer["answer"], reference["answer"]);
    let api = net.api();
    let id = text(answer, "/request_id");
    let kept = api.get(&format!("/v1/requests/{id}")).await.unwrap();
    assert_eq!(kept.ok().unwrap()["answer"], answer["answer"]);
    let receipt = api.get(&format!("/v1/receipts/{id}")).await.unwrap();
    assert_eq!(receipt.ok().unwrap(), answer["receipt"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("receipt.json");
    fs::write(&file, &receipt.body).unwrap();
    let file = file.to_string_lossy().into_owned();
    let said = text(answer, "/answer").to_owned();
    let verify = ["verify-receipt", &file, "--answer", &said];
    net.nodes()[survivor].command(&verify).await.unwrap();
}

#[tokio::test]
async fn a_stream_whose_node_is_killed_goes_on_and_its_receipt_shows_both() {
    let mut net = network(2).await;
    let api = net.api();
    let reference = api.query_with(&question()).await.unwrap();
    let mut slow = slowed(&mut net).await;
    let mut asked = question();
    asked["stream"] = json!(true);
    let mut events = api.stream("/v1/query", &asked).await.unwrap();
    let mut seen = String::new();
    let mut last = Value::Null;
    let mut killed = None;
    while let Some(event) = events.next().await.unwrap() {
        if event.data == "[DONE]" {
            continue;
        }
        last = serde_json::from_str(&event.data).unwrap();
        if let Some(piece) = last.get("text").and_then(Value::as_str) {
            seen.push_str(piece);
            if killed.is_none() {
                // The first chunk has been seen: whoever works on it dies.
                let at = busy_node(&mut net).await;
                slow[at].process.kill().await.unwrap();
                killed = Some(at);
            }
        }
    }
    let killed = killed.expect("the answer came in chunks");
    assert_eq!(seen, text(&last, "/answer"), "one answer, without a seam");
    let both = nodes_of(&last["receipt"]);
    assert_eq!(both.len(), 2, "{both:?}");
    assert_ne!(both[0], both[1]);
    let survivor = 1 - killed;
    let status = net.nodes()[survivor].status().await.unwrap();
    assert_eq!(text(&status, "/status/node_key"), both[1]);
    check_answer(&mut net, &last, &reference, survivor).await;
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_whole_answer_whose_node_is_killed_comes_from_another() {
    let mut net = network(2).await;
    let reference = net.api().query_with(&question()).await.unwrap();
    let mut slow = slowed(&mut net).await;
    let asking = ask(net.api());
    let killed = busy_node(&mut net).await;
    slow[killed].process.kill().await.unwrap();
    let answer = asking.await.unwrap();
    let survivor = 1 - killed;
    let status = net.nodes()[survivor].status().await.unwrap();
    let key = text(&status, "/status/node_key").to_owned();
    assert_eq!(nodes_of(&answer["receipt"]), [key]);
    check_answer(&mut net, &answer, &reference, survivor).await;
    net.stop().await.unwrap();
}

fn ask(api: Api) -> tokio::task::JoinHandle<Value> {
    tokio::spawn(async move { api.query_with(&question()).await.unwrap() })
}

/// All plain files below a folder: what `cp -r` of a stopped node would copy.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

struct ByHand {
    process: owm_devnet::process::Process,
    log: PathBuf,
}

impl ByHand {
    async fn ready(&mut self, health: &Port) {
        let url = format!("http://{}", health.address());
        let ready = async || owm_devnet::api::is_ready(&url).await;
        let waiting = self.process.wait_until("readiness", LIMIT, ready);
        waiting.await.unwrap();
    }
}

/// Starts a node from a folder, with one variable more.
fn start_by_hand(folder: &Path, health: &Port, variable: (&str, &str)) -> ByHand {
    let program = paths::program("owm-node").unwrap();
    let log = folder.join("by-hand.log");
    let config = folder.join("owm.toml");
    let process = Spawn::new("a node by hand", &program, &log)
        .args(["start".as_ref(), "--config".as_ref(), config.as_os_str()])
        .env("OWM_HEALTH__LISTEN", health.address())
        .env(variable.0, variable.1)
        .start()
        .unwrap();
    ByHand { process, log }
}

#[tokio::test]
async fn a_second_process_with_the_same_key_ends_the_first_for_good() {
    let mut net = network(1).await;
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("copy");
    // As people do it: a folder that is written to while it is copied is none.
    net.nodes()[0].stop().await.unwrap();
    copy(net.nodes()[0].dir(), &copied);
    net.nodes()[0].start().await.unwrap();
    let health = Port::take(None).unwrap();
    let mut second = start_by_hand(&copied, &health, ("OWM_LOG", "info"));
    let first = net.nodes()[0].process().unwrap();
    let died = tokio::time::timeout(LIMIT, first.died()).await.unwrap();
    let said = format!("{died:#}");
    assert!(said.contains("ended with code 78"), "{said}");
    let why = "another process runs with this node's key";
    let advice = "give this one a key of its own (owm-node init --dir)";
    assert!(said.contains(why) && said.contains(advice), "{said}");
    // The newer one works.
    second.ready(&health).await;
    let asked = json!({"query": "Who answers?", "max_tokens": 4});
    net.api().query_with(&asked).await.unwrap();
    second.process.stop(LIMIT).await.unwrap();
    net.stop().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_told_by_how_much_and_how_to_set_it() {
    let mut net = network(1).await;
    net.nodes()[0].stop().await.unwrap();
    let dir = net.nodes()[0].dir().to_owned();
    let health = Port::take(None).unwrap();
    let hour = 3_600_000;
    for (offset, side) in [(hour, "ahead of"), (-hour, "behind")] {
        let offset = offset.to_string();
        let mut node = start_by_hand(&dir, &health, ("OWM_CLOCK_OFFSET_MS", &offset));
        let told = || {
            let log = fs::read_to_string(&node.log).unwrap_or_default();
            let off = log.lines().filter(|line| line.contains(side));
            off.into_iter().any(|line| {
                let minutes = ["60 min", "59 min"].iter().any(|m| line.contains(m));
                minutes && line.contains("timedatectl set-ntp true")
            })
        };
        // A node whose clock is behind the network's beginning ends with it; one that is ahead tries on.
        let waiting = async {
            while !told() {
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, waiting).await;
        let log = fs::read_to_string(&node.log).unwrap();
        assert!(waited.is_ok(), "{side}: {log}");
        node.process.stop(LIMIT).await.unwrap();
        fs::remove_file(&node.log).unwrap();
    }
    net.stop().await.unwrap();
}
