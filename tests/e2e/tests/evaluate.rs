//! Nodes measure a candidate: a released version over a public corpus, weights that no manifest names, each node's
//! own folder. Reports of one backend agree in every bit, and each is owed for once.
//!
//! The public corpus is one Cargo package of this workspace's own Cargo.lock: Cargo's cache has it wherever this was
//! built, so that nothing is fetched.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use owm_devnet::{Devnet, Model, process::POLL};
use serde_json::{Value, json};

/// Minutes of work for a machine that does three other things.
const DONE_WITHIN: Duration = Duration::from_mins(8);

/// A tenth is held out, and nodes tell nothing of fewer than 32.
const OWN_DOCUMENTS: usize = 600;

/// A word of the private folders.
const CANARY: &str = "kanarienvogel-lokal-51c0";

/// Three nodes that measure, each with a folder of its own, and one cache of corpora.
async fn network() -> (Devnet, tempfile::TempDir) {
    let texts = tempfile::tempdir().unwrap();
    let mut net = Devnet::builder()
        .nodes(3)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap();
    let cache = texts.path().join("cache").display().to_string();
    for node in net.nodes() {
        let folder = texts.path().join(node.name());
        fs::create_dir(&folder).unwrap();
        for n in 0..OWN_DOCUMENTS {
            let text = format!("{CANARY} note {n} of {}\n", node.name()).repeat(20);
            fs::write(folder.join(format!("{n}.txt")), text).unwrap();
        }
        node.stop().await.unwrap();
        node.set("roles", "evaluate", 1).unwrap();
        node.set("text", "folder", folder.display().to_string())
            .unwrap();
        node.set("text", "cache", cache.clone()).unwrap();
        node.start().await.unwrap();
    }
    (net, texts)
}

/// Asks for an evaluation and waits until nothing of it is open.
async fn evaluate(net: &Devnet, ask: &[&str]) -> Result<Value> {
    let bounds = ["--bytes", "12000", "--tokens", "9000", "--window", "32"];
    evaluate_within(net, ask, &bounds).await
}

async fn evaluate_within(net: &Devnet, ask: &[&str], bounds: &[&str]) -> Result<Value> {
    let coordinator = net.coordinator_ref();
    let whole = [&["task", "evaluate", "--json"], ask, bounds].concat();
    let asked: Value = serde_json::from_str(&coordinator.command(&whole).await?)?;
    let id = asked["evaluation_id"].as_str().context("no id")?.to_owned();
    let waited = async {
        loop {
            let shown = coordinator
                .command(&["task", "show", &id, "--json"])
                .await?;
            let shown: Value = serde_json::from_str(&shown)?;
            if !shown["settled_at_ms"].is_null() {
                return Ok(shown);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DONE_WITHIN, waited)
        .await
        .with_context(|| format!("evaluation {id} is not done"))?
}

fn column<'a>(shown: &'a Value, name: &str) -> Vec<&'a Value> {
    let tasks = shown["tasks"].as_array().unwrap();
    tasks.iter().map(|task| &task[name]).collect()
}

/// All tasks are done, by three owners, and none is flagged.
fn assert_three_reports(shown: &Value) {
    assert_eq!(shown["reported"], 3, "{shown:#}");
    assert_eq!(shown["owners"], 3, "{shown:#}");
    assert_eq!(column(shown, "phase"), [&json!("done"); 3], "{shown:#}");
    assert_eq!(column(shown, "flag"), [&Value::Null; 3], "{shown:#}");
    let mut nodes = column(shown, "node");
    nodes.sort_by_key(ToString::to_string);
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "each another node: {shown:#}");
}

fn all_equal(shown: &Value, name: &str) -> bool {
    let values = column(shown, name);
    values
        .iter()
        .all(|value| !value.is_null() && *value == values[0])
}

#[tokio::test]
async fn three_owners_agree_in_every_bit_on_a_public_corpus_and_are_owed_once() {
    let (mut net, texts) = network().await;
    let public = [
        "--sub-model",
        "owm-code",
        "--corpus",
        "owm-code",
        "--shard",
        "semver",
    ];
    let shown = evaluate(&net, &public).await.unwrap();
    assert_three_reports(&shown);
    for same in [
        "loss",
        "bits_per_byte",
        "tokens",
        "bytes",
        "tokens_sha256",
        "backend",
    ] {
        assert!(all_equal(&shown, same), "{same}: {shown:#}");
    }
    assert_eq!(
        column(&shown, "report")[0]["finding"]["held_out"]["loss"]
            .as_str()
            .map(str::len),
        Some(16)
    );
    assert_eq!(
        shown["loss"],
        *column(&shown, "loss")[0],
        "the median of equals"
    );
    let loss = shown["loss"].as_f64().unwrap();
    assert!(loss.is_finite() && loss > 0.0, "{loss}");
    let served = net
        .api()
        .get("/v1/model/versions")
        .await
        .unwrap()
        .json()
        .unwrap();
    let candidate = shown["candidate"][0].as_str().unwrap();
    assert!(
        served.to_string().contains(candidate),
        "the released weights"
    );
    booked_once(&mut net, &shown).await.unwrap();

    // Other weights, which no manifest names: fetched by their hash, measured, and not served.
    let weights = net.coordinator_ref().dir().join("blobs").join(candidate);
    let mut bytes = fs::read(weights).unwrap();
    let at = bytes.len() - 2_000;
    for value in &mut bytes[at..] {
        *value &= 0x3f;
    }
    let file = texts.path().join("candidate.safetensors");
    fs::write(&file, &bytes).unwrap();
    let file = file.display().to_string();
    let seed = shown["seed"].to_string();
    let other = [&public[..], &["--file", &file, "--seed", &seed]].concat();
    let other = evaluate(&net, &other).await.unwrap();
    assert_three_reports(&other);
    assert!(all_equal(&other, "loss"), "{other:#}");
    assert_ne!(other["candidate"], shown["candidate"]);
    assert_eq!(
        column(&other, "tokens_sha256"),
        column(&shown, "tokens_sha256")
    );
    assert_ne!(other["loss"], shown["loss"], "other weights, another loss");
    let versions = net.api().get("/v1/model/versions").await.unwrap();
    let versions = versions.json().unwrap().to_string();
    assert!(!versions.contains(other["candidate"][0].as_str().unwrap()));

    own_texts(&net).await;

    // A reference update: trained on the other side of the same text, its bytes handed in after its commit.
    let steps = ["--reference", "2", "--batch", "2", "--nodes", "1"];
    let update = evaluate(&net, &[&public[..], &steps].concat())
        .await
        .unwrap();
    assert_eq!(update["reported"], 1, "{update:#}");
    let sha256 = column(&update, "update_sha256")[0].as_str().unwrap();
    let spool = net.coordinator_ref().dir().join("spool");
    let bytes = fs::read(spool.join(format!("{sha256}.owmu"))).unwrap();
    assert_eq!(json!(bytes.len()), *column(&update, "update_bytes")[0]);
    assert_eq!(&bytes[..4], b"OWMU");

    // What users ask is answered all the same.
    let answer = json!({"query": "And now?", "max_tokens": 4, "temperature": 0});
    net.api().query_with(&answer).await.unwrap();
    net.stop().await.unwrap();
}

/// Of each node's own text round figures come back, each over another text; bounds that leave few documents give none.
async fn own_texts(net: &Devnet) {
    let ask = ["--sub-model", "owm-geo", "--local"];
    let wide = ["--bytes", "70000", "--tokens", "70000", "--window", "32"];
    let local = evaluate_within(net, &ask, &wide).await.unwrap();
    assert_three_reports(&local);
    let mut hashes = column(&local, "tokens_sha256");
    hashes.sort_by_key(ToString::to_string);
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "{local:#}");
    for (figure, step) in [("tokens", 1_024), ("documents", 32)] {
        let is_round = |value: &&Value| value.as_u64().is_some_and(|n| n > 0 && n % step == 0);
        assert!(column(&local, figure).iter().all(is_round), "{local:#}");
    }
    for loss in column(&local, "loss") {
        let parts = loss.as_f64().unwrap() * 1_000.0;
        assert!((parts - parts.round()).abs() < 1e-6, "{local:#}");
    }
    assert!(!local.to_string().contains(CANARY));

    let narrow = ["--documents", "31", "--nodes", "1", "--deadline", "20s"];
    let refused = evaluate(net, &[&ask[..], &narrow].concat()).await.unwrap();
    assert_eq!(refused["reported"], 0, "{refused:#}");
    let says_why = |path: std::path::PathBuf| {
        let log = fs::read_to_string(path).unwrap_or_default();
        log.contains("task handed back") && log.contains("32 held-out documents")
    };
    let mut logs = fs::read_dir(net.logs()).unwrap();
    assert!(logs.any(|log| says_why(log.unwrap().path())), "{refused:#}");
}

/// Each report is owed the same, in the coordinator's books and in the node's own.
async fn booked_once(net: &mut Devnet, shown: &Value) -> Result<()> {
    assert!(all_equal(shown, "owed_msat"), "{shown:#}");
    let owed = column(shown, "owed_msat")[0];
    assert!(owed.as_u64().is_some_and(|owed| owed > 0), "{shown:#}");
    let nodes = net
        .coordinator_ref()
        .command(&["node", "list", "--json"])
        .await?;
    let nodes: Value = serde_json::from_str(&nodes)?;
    for node in nodes.as_array().context("no list")? {
        assert_eq!(node["owed_msat"], *owed, "{node:#}");
        assert_eq!(node["tasks_succeeded"], 1, "{node:#}");
    }
    for node in net.nodes() {
        let start = std::time::Instant::now();
        loop {
            let status = node.status().await?;
            if status.pointer("/earnings/owed_msat") == Some(owed) {
                break;
            }
            anyhow::ensure!(start.elapsed() < DONE_WITHIN, "{status:#}");
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_node_cannot_measure_is_handed_back_with_the_reason_and_ends_at_the_deadline() {
    let (net, _texts) = network().await;
    let unknown = [
        "--sub-model",
        "owm-geo",
        "--corpus",
        "owm-sci",
        "--nodes",
        "1",
    ];
    let shown = evaluate(&net, &[&unknown[..], &["--deadline", "20s"]].concat())
        .await
        .unwrap();
    assert_eq!(shown["reported"], 0, "{shown:#}");
    let trouble = column(&shown, "trouble")[0].as_str().unwrap().to_owned();
    assert!(!trouble.is_empty(), "{shown:#}");
    assert_eq!(column(&shown, "owed_msat"), [&json!(0)]);
    net.stop().await.unwrap();
}
