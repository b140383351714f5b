//! `owm-node models` as people use it, real processes on a real network: fetching from other nodes without the
//! coordinator, stopping and going on, damage, pins, caps, full disks.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use owm_devnet::{Devnet, Model, api::Api, node::Node, paths, process::POLL};
use owm_e2e::invites::invite_with_peers;
use owm_proto::Sha256;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// For everything that nobody has promised a time for, on a slow machine.
const LIMIT: Duration = Duration::from_mins(3);
/// Slow enough to be stopped on the way: the tiny model takes several seconds.
const SLOW: &str = "128 KiB";

fn command(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(paths::program("owm-node").unwrap());
    command.arg("models").args(arguments);
    command.arg("--config").arg(node.config());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs `owm-node models …` to its end.
async fn models(node: &Node, arguments: &[&str]) -> Output {
    let running = command(node, arguments).output();
    let ended = tokio::time::timeout(LIMIT, running).await;
    ended.expect("it ends in time").unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Checks the exit code and that these words are said.
fn check(output: &Output, code: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

/// The lines of JSON, which are all of its standard output.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

/// The whole of it is one JSON value.
fn value(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(POLL).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, waited).await;
    waited.unwrap_or_else(|_| panic!("waited too long for {what}"));
}

async fn network(nodes: u16) -> Devnet {
    let builder = Devnet::builder().nodes(nodes).model(Model::Tiny);
    let builder = builder.coordinator_setting("p2p", "capability", "2s");
    builder.start().await.unwrap()
}

fn blobs(node: &Node) -> PathBuf {
    node.dir().join("data/models/blobs")
}

/// The largest file on a shelf: weights, of several pieces.
fn weights(node: &Node) -> PathBuf {
    let files = fs::read_dir(blobs(node)).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    files
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

/// A counter of a node's, from its metrics.
async fn metric(node: &Node, name: &str) -> u64 {
    let answer = Api::new(node.health_url()).get("/metrics").await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().unwrap().trim().parse().unwrap()
}

/// Without a daemon: everything comes from peers.
async fn fetches_alone(node: &Node) {
    let fetched = models(node, &["fetch", "--json"]).await;
    check(&fetched, 0, &[]);
    let lines = lines(&fetched);
    let done = lines.last().unwrap();
    assert_eq!(done["done"], true, "{done}");
    assert_eq!(done["version"], "owm-v0.1.0");
    assert_eq!(number(done, "bytes_from_web"), 0, "{done}");
    assert!(number(done, "bytes_from_peers") >= number(done, "bytes"));
    let sources = done["sources"].as_array().unwrap();
    assert!(sources.iter().all(|source| source["peer"].is_string()));
    check(&models(node, &["verify"]).await, 0, &["ok"]);
    // A second time nothing comes, and people read a sentence.
    let again = models(node, &["fetch"]).await;
    check(&again, 0, &["owm-v0.1.0 is here"]);
    assert!(!said(&again).contains("from peers"), "{}", said(&again));
}

/// Damage under a running node: seen by `list` and `verify`, put right by its own swarm.
async fn repairs_through_the_daemon(node: &mut Node) {
    node.spawn().unwrap();
    until("the model to be loaded", async || {
        let status = node.status().await.unwrap_or_default();
        status["status"]["model"]["version"] == "owm-v0.1.0"
    })
    .await;
    let weights = weights(node);
    let whole = fs::read(&weights).unwrap();
    let mut rotten = whole.clone();
    let last = rotten.len() - 1;
    rotten[last] ^= 1;
    fs::write(&weights, &rotten).unwrap();
    let name = weights.file_name().unwrap().to_str().unwrap();
    let listed = value(&models(node, &["list", "--json"]).await);
    let files = listed["versions"][0]["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["sha256"] == name).unwrap();
    assert_eq!(
        (&file["here"], &file["verified"]),
        (&true.into(), &false.into())
    );
    let listed = models(node, &["list"]).await;
    check(
        &listed,
        0,
        &["not verified since it changed", "models verify"],
    );
    check(
        &models(node, &["verify"]).await,
        1,
        &["corrupt", "models fetch"],
    );
    let fetched = models(node, &["fetch", "--json"]).await;
    check(&fetched, 0, &[]);
    let lines = lines(&fetched);
    let done = lines.last().unwrap();
    let damaged = done["damaged"][0].as_str().unwrap();
    assert!(damaged.contains("is damaged (SHA-256"), "{damaged}");
    assert!(
        number(done, "bytes_from_peers") >= whole.len() as u64,
        "{done}"
    );
    assert_eq!(number(done, "bytes_from_web"), 0);
    assert_eq!(metric(node, "owm_node_download_bytes_total").await, 0);
    assert_eq!(fs::read(&weights).unwrap(), whole);
    check(&models(node, &["verify"]).await, 0, &[]);
    node.stop().await.unwrap();
}

/// Starts a slow fetch; it has brought something when this returns.
async fn slow_fetch(node: &Node) -> tokio::process::Child {
    node.set("exchange", "download_max", SLOW).unwrap();
    let mut fetch = command(node, &["fetch", "--json"]);
    let mut fetch = fetch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(fetch.stdout.as_mut().unwrap()).lines();
    let brought = async {
        loop {
            let line = said.next_line().await.unwrap().expect("it goes on");
            let line: Value = serde_json::from_str(&line).unwrap();
            let sources = line["sources"].as_array().into_iter().flatten();
            if sources.map(|source| number(source, "bytes")).sum::<u64>() > 0
                && number(&line, "bytes") > 0
            {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, brought).await.unwrap();
    fetch
}

/// Fetches on at full speed: what had come is not fetched again.
async fn goes_on(node: &Node) {
    node.set("exchange", "download_max", "1 GiB").unwrap();
    let fetched = models(node, &["fetch", "--json"]).await;
    check(&fetched, 0, &[]);
    let lines = lines(&fetched);
    let done = lines.last().unwrap();
    let came = number(done, "bytes_from_peers") + number(done, "bytes_from_web");
    assert!(came < number(done, "bytes"), "it went on: {done}");
    check(&models(node, &["verify"]).await, 0, &[]);
}

/// Stopped by Ctrl-C, and gone on with.
async fn stops_and_goes_on(node: &Node) {
    let fetch = slow_fetch(node).await;
    let pid = Pid::from_raw(fetch.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let ended = tokio::time::timeout(LIMIT, fetch.wait_with_output()).await;
    check(&ended.unwrap().unwrap(), 1, &["it was stopped", "goes on"]);
    let growing = fs::read_dir(blobs(node)).unwrap();
    let growing = growing.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        Path::new(&name)
            .extension()
            .is_some_and(|end| end == "part")
    });
    assert!(growing.count() > 0, "what has come stays");
    goes_on(node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_from_peers_while_the_coordinator_is_dead() {
    let mut net = network(2).await;
    let invite = invite_with_peers(&net, LIMIT).await.unwrap();
    net.coordinator().kill().await.unwrap();
    let node = net.new_node(&invite).await.unwrap();
    fetches_alone(node).await;
    repairs_through_the_daemon(node).await;
    let node = net.new_node(&invite).await.unwrap();
    stops_and_goes_on(node).await;
    // Nobody knows this one, and everybody who could was asked.
    let unknown = models(node, &["fetch", "owm-v9.9.9"]).await;
    check(
        &unknown,
        1,
        &[
            "no peer has told of a version owm-v9.9.9",
            "cannot reach the coordinator",
        ],
    );
    net.coordinator().start().await.unwrap();
    net.stop().await.unwrap();
}

/// A file that no version names, under its SHA-256.
fn stranger(node: &Node, text: &[u8]) -> (String, PathBuf) {
    let sha256 = Sha256::of(text).to_string();
    let path = blobs(node).join(&sha256);
    fs::write(&path, text).unwrap();
    (sha256, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_pins_and_cleaning_do_what_they_say() {
    let mut net = network(1).await;
    let invite = net.invite().to_owned();
    let node = net.new_node(&invite).await.unwrap();
    check(&models(node, &["list"]).await, 0, &["models fetch"]);
    let nothing = models(node, &["pin", "owm-v0.1.0"]).await;
    check(&nothing, 2, &["no version on this node", "models fetch"]);
    node.set("caps", "disk", "10 KiB").unwrap();
    let fetched = models(node, &["fetch"]).await;
    check(&fetched, 1, &["[caps] disk", "raise it by"]);
    let there = fs::read_dir(blobs(node)).unwrap().count();
    assert_eq!(there, 0, "seen before anything comes");
    node.set("caps", "disk", "1 GiB").unwrap();
    check(&models(node, &["fetch"]).await, 0, &["is here"]);

    let wrong = models(node, &["pin", "owm-v9.9.9"]).await;
    check(&wrong, 2, &["owm-v9.9.9", "there is: owm-v0.1.0"]);
    check(&models(node, &["pin", "owm-v0.1.0"]).await, 0, &["stay"]);
    check(&models(node, &["list"]).await, 0, &["pinned"]);
    check(
        &models(node, &["unpin", "owm-v0.1.0"]).await,
        0,
        &["may go"],
    );
    let again = models(node, &["unpin", "owm-v0.1.0"]).await;
    check(&again, 0, &["nothing of owm-v0.1.0 was pinned"]);

    let (pinned, stays) = stranger(node, b"of a friend");
    let (gone, goes) = stranger(node, b"of nobody");
    check(&models(node, &["pin", &pinned]).await, 0, &[]);
    let dry = models(node, &["gc", "--dry-run", "--json"]).await;
    check(&dry, 0, &[&gone]);
    assert_eq!(value(&dry)["files"].as_array().unwrap().len(), 1);
    assert!(goes.exists());
    check(&models(node, &["gc"]).await, 0, &["gone", &gone]);
    assert!(!goes.exists() && stays.exists());
    check(&models(node, &["unpin", &pinned]).await, 0, &[]);
    check(&models(node, &["gc"]).await, 0, &[&pinned]);
    assert!(!stays.exists());
    let newest = models(node, &["list", "--json"]).await;
    let files = &value(&newest)["versions"][0]["files"];
    let files = files.as_array().unwrap();
    assert!(files.iter().all(|file| file["here"] == true), "{files:?}");
    net.stop().await.unwrap();
}

async fn shell(line: &str) {
    let ran = Command::new("sh")
        .args(["-c", line])
        .output()
        .await
        .unwrap();
    assert!(ran.status.success(), "{line}: {}", said(&ran));
}

/// Fills what is left of a disk.
fn fill(path: &Path) {
    let mut filler = fs::File::create(path).unwrap();
    let block = vec![1; 64 << 10];
    while std::io::Write::write_all(&mut filler, &block).is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a small disk: `make test` runs it where it may"]
async fn mounts_a_disk_that_fills_up_during_a_fetch_is_told_and_the_next_one_goes_on() {
    let mut net = network(1).await;
    let invite = net.invite().to_owned();
    let node = net.new_node(&invite).await.unwrap();
    let folder = node.dir().join("data/models");
    fs::create_dir_all(&folder).unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    shell(&format!("mount -t tmpfs -o size=1m tmpfs '{folder}'")).await;
    let refused = models(node, &["fetch"]).await;
    check(&refused, 1, &["not enough disk", "make room", &folder]);
    // Room enough, with what is spared, at first.
    shell(&format!("mount -o remount,size=128m '{folder}'")).await;
    let fetch = slow_fetch(node).await;
    let filler = Path::new(&folder).join("filler");
    fill(&filler);
    let ended = tokio::time::timeout(LIMIT, fetch.wait_with_output()).await;
    check(&ended.unwrap().unwrap(), 1, &["disk", "make room"]);
    fs::remove_file(filler).unwrap();
    goes_on(node).await;
    shell(&format!("umount -l '{folder}'")).await;
    net.stop().await.unwrap();
}
