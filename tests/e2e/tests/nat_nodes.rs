//! The real program behind NAT: two `owm-node` processes, each in a home behind a masquerading router, that join by
//! an invite while no coordinator answers, and find each other. [`nat.rs`](nat.rs) has the same with bare peers and
//! more routers.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use owm_devnet::{
    paths,
    process::{self, POLL, Process, Spawn},
};
use owm_e2e::{
    namespaces::{Home, Internet, Namespace, Nat},
    peers::{Peer, network},
};
use owm_p2p::{Documents, SwarmConfig};
use owm_proto::{NodeKey, invite::Invite};
use serde_json::Value;

/// For AutoNAT's verdict, a reservation, a connection through a relay and a hole: each takes some round trips and
/// the time-outs of dials that get nowhere.
const LIMIT: Duration = Duration::from_mins(4);

/// A peer that everybody can reach, on a machine of its own.
async fn public(
    internet: &Internet,
    host: u8,
    documents: &Documents,
) -> (Peer, Namespace, Ipv4Addr) {
    let (machine, ip) = internet.public(&format!("public{host}"), host).unwrap();
    let config = SwarmConfig {
        listen: vec![
            "/ip4/0.0.0.0/udp/4001/quic-v1".parse().unwrap(),
            "/ip4/0.0.0.0/tcp/4001".parse().unwrap(),
        ],
        external: vec![format!("/ip4/{ip}/udp/4001/quic-v1").parse().unwrap()],
        ..SwarmConfig::default()
    };
    let documents = documents.clone();
    let peer = machine.enter(async move { Peer::start(host, config, documents) });
    (peer.await.unwrap().unwrap(), machine, ip)
}

/// A node in a home.
struct Node {
    folder: PathBuf,
    process: Process,
}

impl Node {
    /// `owm-node init --join`, `owm-node start`: nothing is set but the folder.
    async fn join(home: &Home, folder: PathBuf, invite: String) -> Self {
        let dir = folder.clone();
        let started = home.machine.enter(async move {
            let program = paths::program("owm-node").unwrap();
            let text = dir.to_str().unwrap();
            let args = ["init", "--join", &invite, "--dir", text];
            let joined = process::output("owm-node", &program, &args).await;
            joined.unwrap();
            Spawn::new("a node behind a router", program, dir.join("log"))
                .args(["start", "--config"])
                .arg(dir.join("owm.toml"))
                .env("OWM_HEALTH__LISTEN", "off")
                .start()
                .unwrap()
        });
        Self {
            process: started.await.unwrap(),
            folder,
        }
    }

    /// What it says of the swarm; null while it does not answer.
    async fn swarm(&self) -> Value {
        status(&self.folder).await["swarm"].take()
    }

    async fn key(&self) -> String {
        let status = status(&self.folder).await;
        let key = status["status"]["node_key"].as_str();
        key.unwrap_or("nobody").to_owned()
    }

    /// Waits until what it says of the swarm is as wanted.
    async fn says(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let swarm = self.swarm().await;
            if wanted(&swarm) {
                return swarm;
            }
            self.process.check_running().unwrap();
            assert!(
                start.elapsed() < LIMIT,
                "waited too long for {what}: {swarm:#}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

/// By its socket, which is a file: no network is in the way.
async fn status(folder: &Path) -> Value {
    let config = folder.join("owm.toml");
    let args = ["status", "--json", "--config", config.to_str().unwrap()];
    let program = paths::program("owm-node").unwrap();
    let said = process::output("owm-node", &program, &args).await;
    serde_json::from_str(&said.unwrap_or_default()).unwrap_or_default()
}

fn all(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// It knows that nobody can dial it, and names places on relays and nothing else.
fn is_private(swarm: &Value) -> bool {
    let circuit = |address: &Value| address.as_str().is_some_and(|a| a.contains("/p2p-circuit"));
    let mut external = all(&swarm["external"]).peekable();
    swarm["reachability"] == "private" && external.peek().is_some() && external.all(circuit)
}

/// It is connected with `other` and no relay is between them.
fn is_direct(swarm: &Value, other: &str) -> bool {
    all(&swarm["peers"]).any(|peer| peer["key"] == other && peer["relayed"] == false)
}

fn hears(swarm: &Value, other: &str) -> bool {
    all(&swarm["nodes"]).any(|node| node["key"] == other)
}

#[tokio::test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
async fn netns_two_real_nodes_behind_routers_find_each_other_and_punch_a_hole() {
    let documents = network("homes").unwrap();
    let internet = Internet::new().unwrap();
    let mut machines = Vec::new();
    for host in 1..=3 {
        machines.push(public(&internet, host, &documents).await);
    }
    let known: Vec<_> = machines
        .iter()
        .map(|(peer, _, ip)| peer.at(&format!("/ip4/{ip}/udp/4001/quic-v1")).unwrap())
        .collect();
    for (peer, ..) in &machines {
        let told = peer.handle.add_candidates("static", known.clone());
        told.await.unwrap();
    }
    // The coordinator that it names is not there.
    let invite = Invite {
        genesis: documents.trust().id(),
        instance_key: NodeKey::from_seed(&[2; 32]).public(),
        addresses: vec!["7.7.7.99:9000".to_owned()],
        onion: None,
        peers: known.iter().map(ToString::to_string).collect(),
        web_seed: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let mut homes = Vec::new();
    for (host, name) in [(101, "near"), (102, "far")] {
        let home = internet.home(name, host, Nat::Masquerade).unwrap();
        let node = Node::join(&home, folder.path().join(name), invite.to_string()).await;
        homes.push((node, home));
    }
    let mut keys = Vec::new();
    for (node, _) in &mut homes {
        node.says("`private` and places on relays only", is_private)
            .await;
        keys.push(node.key().await);
    }
    // Nobody tells either where the other is: it announces that itself, and each looks for its shard's peers.
    for ((node, _), other) in homes.iter_mut().zip(keys.iter().rev()) {
        node.says("a direct connection with the other home", |swarm| {
            is_direct(swarm, other) && hears(swarm, other)
        })
        .await;
    }
    for (node, _) in &mut homes {
        let ended = node.process.stop(LIMIT).await.unwrap();
        assert!(ended.success(), "{ended}: {}", node.process.log_tail());
    }
}
