//! What `make up` starts, by the command itself: a real `owm-devnet up`, its words, and what the nodes that it has
//! started then say of the swarm.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use owm_devnet::{
    paths,
    process::{self, POLL, Process, Spawn},
};
use serde_json::Value;

/// For everything on a slow machine.
const LIMIT: Duration = Duration::from_mins(2);

/// The rest of the line that the network is described with under this name.
fn told<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = said.lines().map(str::trim_start);
    let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    rest.map(str::trim_start)
}

async fn said(up: &mut Process, what: &str) -> String {
    let log = up.log().to_owned();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    up.wait_until(what, LIMIT, async || text().contains(what))
        .await
        .unwrap();
    text()
}

/// What a node of the network in `dir` says of the swarm.
async fn swarm(dir: &Path, node: &str) -> Value {
    let config = dir.join("nodes").join(node).join("owm.toml");
    let args = ["status", "--json", "--config", config.to_str().unwrap()];
    let program = paths::program("owm-node").unwrap();
    let said = process::output("owm-node", &program, &args).await;
    let said = serde_json::from_str::<Value>(&said.unwrap_or_default());
    said.map_or(Value::Null, |mut status| status["swarm"].take())
}

#[tokio::test]
async fn the_network_of_make_up_is_one_swarm_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("network");
    let program = paths::program("owm-devnet").unwrap();
    let mut up = Spawn::new("owm-devnet", program, folder.path().join("up.log"))
        .args(["up", "--nodes", "2", "--model", "tiny", "--dir"])
        .arg(&dir)
        // Ctrl-C.
        .signals(Signal::SIGINT, Signal::SIGINT)
        .start()
        .unwrap();
    let banner = said(&mut up, "Ctrl-C stops everything").await;
    let line = told(&banner, "swarm").unwrap_or_else(|| panic!("no swarm line in\n{banner}"));
    assert!(line.starts_with("coordinator 127.0.0.1:"), "{line}");
    for node in ["node1 127.0.0.1:", "node2 127.0.0.1:"] {
        assert!(line.contains(node), "{line}");
    }
    assert_eq!(line.matches(" peer").count(), 2, "each takes part: {line}");
    // Within moments all three are connected, and the nodes know what the coordinator has published.
    for node in ["node1", "node2"] {
        let start = Instant::now();
        loop {
            let swarm = swarm(&dir, node).await;
            let peers = swarm["peers_connected"].as_u64();
            if peers >= Some(2) && swarm["newest"]["sequence"].is_u64() {
                break;
            }
            assert!(start.elapsed() < LIMIT, "{node}: {swarm:#}");
            tokio::time::sleep(POLL).await;
        }
    }
    let ended = up.stop(LIMIT).await.unwrap();
    assert!(ended.success(), "{ended}: {}", up.log_tail());
}
