//! Federated rounds over a whole network: nodes train on real text, what they hand in becomes a version that all of them
//! fetch, and the archive gives the same bytes again.
//!
//! The corpus is one Cargo package of this workspace's own Cargo.lock: Cargo's cache has it wherever this was built, so that
//! nothing is fetched.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use owm_devnet::{Devnet, Model, node::Node, process::POLL};
use serde_json::{Value, json};

/// Minutes of work for a machine that does three other things.
const DONE_WITHIN: Duration = Duration::from_mins(10);

/// A round small enough for a test; the tiny model learns from it all the same.
const SMALL: [&str; 34] = [
    "--sub-model",
    "owm-code",
    "--corpus",
    "owm-code",
    "--shard",
    "semver",
    "--nodes",
    "3",
    "--steps",
    "6",
    "--batch",
    "2",
    "--window",
    "32",
    "--bytes",
    "12000",
    "--tokens",
    "9000",
    "--learning-rate",
    "0.002",
    "--gather",
    "2m",
    "--min",
    "1s",
    "--max",
    "5m",
    "--grace",
    "1m",
    "--evaluators",
    "3",
    "--evaluation-time",
    "5m",
    "--quorum",
    "1000",
];

/// Three nodes that train and measure, a fourth that only answers, and one cache of corpora.
async fn network() -> (Devnet, tempfile::TempDir) {
    let texts = tempfile::tempdir().unwrap();
    let mut net = Devnet::builder()
        .nodes(4)
        .model(Model::Tiny)
        .start()
        .await
        .unwrap();
    let cache = texts.path().join("cache").display().to_string();
    for node in &mut net.nodes()[..3] {
        node.stop().await.unwrap();
        node.set("roles", "evaluate", 1).unwrap();
        node.set("roles", "train", 1).unwrap();
        node.set("text", "cache", cache.clone()).unwrap();
        node.start().await.unwrap();
    }
    (net, texts)
}

async fn command(net: &Devnet, args: &[&str]) -> Result<Value> {
    let printed = net.coordinator_ref().command(args).await?;
    Ok(serde_json::from_str(&printed)?)
}

async fn start(net: &Devnet, more: &[&str]) -> Result<String> {
    let whole = [&["round", "start", "--json"], &SMALL[..], more].concat();
    let started = command(net, &whole).await?;
    Ok(started["round"].to_string())
}

/// The same round with another value of one option.
async fn start_with(net: &Devnet, option: &str, value: &str) -> Result<String> {
    let mut whole = [&["round", "start", "--json"], &SMALL[..]].concat();
    let at = whole.iter().position(|arg| *arg == option);
    whole[at.context("no such option")? + 1] = value;
    let started = command(net, &whole).await?;
    Ok(started["round"].to_string())
}

async fn show(net: &Devnet, round: &str) -> Result<Value> {
    command(net, &["round", "show", round, "--json"]).await
}

/// Waits until the round is over.
async fn over(net: &Devnet, round: &str) -> Result<Value> {
    let start = Instant::now();
    loop {
        let shown = show(net, round).await?;
        let phase = shown["phase"].as_str().context("no phase")?;
        if matches!(phase, "published" | "abandoned") {
            return Ok(shown);
        }
        ensure!(start.elapsed() < DONE_WITHIN, "not over: {shown:#}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until every node serves the version and holds its bytes.
async fn everywhere(net: &Devnet, shown: &Value) -> Result<()> {
    let (version, checkpoint) = (&shown["version"], shown["checkpoint"].as_str().unwrap());
    for node in net.nodes_ref() {
        let start = Instant::now();
        loop {
            let status = node.status().await?;
            if status.pointer("/status/model/version") == Some(version) {
                break;
            }
            ensure!(start.elapsed() < DONE_WITHIN, "{} {status:#}", node.name());
            tokio::time::sleep(POLL).await;
        }
        let held = blobs(node).join(checkpoint);
        ensure!(held.exists(), "{} does not hold {checkpoint}", node.name());
    }
    Ok(())
}

fn blobs(node: &Node) -> PathBuf {
    node.dir().join("data").join("models").join("blobs")
}

/// Who has measured the candidate holds it; the one who has not made it from its parent.
fn took_the_delta(net: &Devnet, shown: &Value) {
    let delta = shown["delta"].as_str().unwrap();
    let held = net.nodes_ref().iter().map(|node| blobs(node).join(delta));
    let held: Vec<bool> = held.map(|path| path.exists()).collect();
    assert_eq!(held, [false, false, false, true]);
}

fn column<'a>(shown: &'a Value, name: &str) -> Vec<&'a Value> {
    let parts = shown["parts"].as_array().unwrap();
    parts.iter().map(|part| &part[name]).collect()
}

#[tokio::test]
async fn three_honest_nodes_make_a_version_that_all_fetch_and_a_replay_gives_the_same_bytes() {
    let (net, _texts) = network().await;
    let round = start(&net, &[]).await.unwrap();
    let second = start(&net, &[]).await;
    assert!(second.is_err(), "one round of a sub-model at a time");
    let shown = over(&net, &round).await.unwrap();
    assert_eq!(shown["phase"], "published", "{shown:#}");
    assert_eq!(column(&shown, "state"), [&json!("counts"); 3], "{shown:#}");
    let weights: f64 = column(&shown, "weight")
        .iter()
        .filter_map(|w| w.as_f64())
        .sum();
    assert!((weights - 1.0).abs() < 1e-9, "{shown:#}");
    assert_eq!(
        shown["reduced_protection"], true,
        "three are few: {shown:#}"
    );
    let verdict = &shown["verdicts"][0][1];
    assert_eq!(verdict["verdict"], "accepted", "{shown:#}");
    assert!(
        verdict["candidate"].as_u64() < verdict["parent"].as_u64(),
        "it has learnt: {shown:#}"
    );
    assert_eq!(shown["reports"].as_array().map(Vec::len), Some(3));
    everywhere(&net, &shown).await.unwrap();
    took_the_delta(&net, &shown);

    // The other sub-model, which shares the parent's file, keeps it.
    let versions = net.api().get("/v1/model/versions").await.unwrap();
    let versions = versions.json().unwrap().to_string();
    for file in [&shown["checkpoint"], &shown["parent"]] {
        assert!(versions.contains(file.as_str().unwrap()), "{versions}");
    }
    let again = command(&net, &["round", "replay", &round, "--json"])
        .await
        .unwrap();
    assert_eq!(again["identical"], true, "{again:#}");

    // A changed update is found out.
    let update = column(&shown, "update")[0].as_str().unwrap();
    let folder = net.coordinator_ref().dir().join("rounds").join(&round);
    let path = folder.join(format!("{update}.owmu"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let spoiled = command(&net, &["round", "replay", &round, "--json"]).await;
    assert!(spoiled.is_err(), "{spoiled:?}");

    // The next round begins where this one ended, with what its delta did not carry.
    let next = start(&net, &[]).await.unwrap();
    let next = over(&net, &next).await.unwrap();
    assert_eq!(next["phase"], "published", "{next:#}");
    assert_eq!(next["residue_before"], shown["residue_after"]);
    assert_eq!(next["parent"], shown["checkpoint"]);
    // What users ask is answered all the same.
    let answer = json!({"query": "And now?", "max_tokens": 4, "temperature": 0});
    net.api().query_with(&answer).await.unwrap();
    net.stop().await.unwrap();
}

/// Starts the coordinator so that it kills itself at each of these, in whichever process comes there.
async fn arm(net: &mut Devnet, points: &[&str]) -> Result<()> {
    let armed: Vec<String> = points
        .iter()
        .map(|point| format!("coordinator.round.{point}=kill9@1"))
        .collect();
    let coordinator = net.coordinator();
    coordinator.stop().await?;
    coordinator.set_environment(&[("OWM_FAILPOINT", &armed.join(";"))]);
    coordinator.start().await
}

/// Waits until the coordinator has killed itself there.
async fn dies_at(net: &mut Devnet, point: &str) -> Result<()> {
    let start = Instant::now();
    let coordinator = net.coordinator();
    loop {
        let process = coordinator.process().context("it does not run")?;
        if process.exit_status()?.is_some() {
            let log = process.log_tail();
            ensure!(log.contains(&format!("coordinator.round.{point}")), "{log}");
            // What is gone can be started again.
            return coordinator.kill().await;
        }
        ensure!(start.elapsed() < DONE_WITHIN, "{point} is never reached");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn a_coordinator_killed_in_every_phase_publishes_the_round_all_the_same() {
    let (mut net, _texts) = network().await;
    let phases = [
        "collecting",
        "sealed",
        "aggregated",
        "evaluated",
        "published",
    ];
    arm(&mut net, &phases).await.unwrap();
    let round = start(&net, &[]).await.unwrap();
    for phase in phases {
        dies_at(&mut net, phase).await.unwrap();
        let on_record = show(&net, &round).await.unwrap();
        assert_eq!(on_record["phase"], phase, "{on_record:#}");
        net.coordinator().spawn().unwrap();
    }
    net.coordinator().ready().await.unwrap();
    let shown = over(&net, &round).await.unwrap();
    everywhere(&net, &shown).await.unwrap();
    let again = command(&net, &["round", "replay", &round, "--json"])
        .await
        .unwrap();
    assert_eq!(again["identical"], true, "{again:#}");

    // Before a commit nothing has happened, and with it everything: the next process does the same again.
    let mut checkpoints = Vec::new();
    for point in ["before_commit", "placed"] {
        arm(&mut net, &[point]).await.unwrap();
        let round = start(&net, &[]).await.unwrap();
        dies_at(&mut net, point).await.unwrap();
        let before = show(&net, &round).await.unwrap();
        let expected = if point == "placed" { "sealed" } else { "open" };
        assert_eq!(before["phase"], expected, "{before:#}");
        net.coordinator().set_environment(&[]);
        net.coordinator().start().await.unwrap();
        let shown = over(&net, &round).await.unwrap();
        assert_eq!(shown["phase"], "published", "{shown:#}");
        checkpoints.push(shown["checkpoint"].clone());
    }
    assert_ne!(checkpoints[0], checkpoints[1]);
    net.stop().await.unwrap();
}

/// Every trainer has heard that its part of the abandoned round did not count; of its newest one it has heard nothing yet.
fn hear_of_former_parts(net: &Devnet, shown: &Value) {
    let updates = column(shown, "update");
    let logs = fs::read_dir(net.logs()).unwrap();
    let said = logs.map(|log| {
        let log = fs::read_to_string(log.unwrap().path()).unwrap_or_default();
        log.matches("did not count and comes back").count()
    });
    assert_eq!(said.sum::<usize>(), 3, "once by each of the three");
    for node in &net.nodes_ref()[..3] {
        let folder = node.dir().join("data").join("residues");
        let paths = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_book = |path: &PathBuf| path.to_string_lossy().ends_with(".book.json");
        let books: Vec<PathBuf> = paths.filter(is_book).collect();
        assert_eq!(books.len(), 1, "one training: {books:?}");
        let book: Value = serde_json::from_slice(&fs::read(&books[0]).unwrap()).unwrap();
        assert_eq!(book["returned"], json!([]), "absorbed: {book:#}");
        let open = book["open"].as_array().unwrap();
        assert!(open.len() == 1 && updates.contains(&&open[0]), "{book:#}");
    }
}

#[tokio::test]
async fn what_the_parts_of_an_abandoned_round_carried_goes_into_the_next() {
    let (net, _texts) = network().await;
    // Nobody has the time to measure its candidate.
    let lost = start_with(&net, "--evaluation-time", "1ms").await.unwrap();
    let lost = over(&net, &lost).await.unwrap();
    assert_eq!(lost["phase"], "abandoned", "{lost:#}");
    let updates = column(&lost, "update");
    assert!(updates.iter().all(|sha256| sha256.is_string()), "{lost:#}");
    let next = start(&net, &[]).await.unwrap();
    let next = over(&net, &next).await.unwrap();
    assert_eq!(next["phase"], "published", "{next:#}");
    hear_of_former_parts(&net, &next);
    net.stop().await.unwrap();
}
