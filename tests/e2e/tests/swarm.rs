//! The swarm of a whole network: nodes that join while the coordinator is dead, ways in of which one is left,
//! a peer that floods, a laptop that slept.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![expect(clippy::print_stdout, reason = "the measured times are a result")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use owm_devnet::{Devnet, Model, node::Node, ports::Port, process::POLL};
use owm_e2e::{flood, invites::invite_with_peers};
use owm_proto::invite::Invite;
use owm_service::clock::{Clock as _, SystemClock};
use serde_json::Value;

/// Nodes of the network that loses its coordinator.
const NODES: u16 = 8;
/// Within so long a newcomer knows the others and the newest checkpoint (issue 4): held with `OWM_TEST_LONG=1`,
/// on a machine that does nothing else.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// For everything that nobody has promised a time for, on a slow machine.
const LIMIT: Duration = Duration::from_mins(2);

async fn network(nodes: u16) -> Devnet {
    Devnet::builder()
        .nodes(nodes)
        .model(Model::Tiny)
        .coordinator_setting("scheduler", "heartbeat", "1s")
        .coordinator_setting("p2p", "capability", "2s")
        .start()
        .await
        .unwrap()
}

/// Waits until `condition` holds; how long it took.
async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < limit, "waited too long for {what}");
        tokio::time::sleep(POLL).await;
    }
    start.elapsed()
}

/// What a node says of the swarm; null while it does not answer.
async fn swarm(node: &Node) -> Value {
    node.status()
        .await
        .map_or(Value::Null, |mut status| status["swarm"].take())
}

async fn key(node: &Node) -> String {
    let status = node.status().await.unwrap();
    status["status"]["node_key"].as_str().unwrap().to_owned()
}

async fn keys(net: &Devnet) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for node in net.nodes_ref() {
        keys.insert(key(node).await);
    }
    keys
}

/// Keys of the nodes that `swarm` tells of.
fn heard(swarm: &Value) -> BTreeSet<String> {
    let nodes = swarm["nodes"].as_array().into_iter().flatten();
    let keys = nodes.filter_map(|node| node["key"].as_str());
    keys.map(str::to_owned).collect()
}

/// Waits until every node knows all `keys` and a checkpoint.
async fn all_know(net: &Devnet, keys: &BTreeSet<String>) {
    for node in net.nodes_ref() {
        until("the nodes to know each other", LIMIT, async || {
            let swarm = swarm(node).await;
            heard(&swarm).is_superset(keys) && swarm["newest"]["sequence"].is_u64()
        })
        .await;
    }
}

/// Waits until every node has the announcements of all `keys`: only what announced itself is introduced to
/// newcomers, and a heartbeat may come long before.
async fn all_introduced(net: &Devnet, keys: &BTreeSet<String>) {
    for node in net.nodes_ref() {
        until("the nodes' announcements", LIMIT, async || {
            let swarm = swarm(node).await;
            let nodes = swarm["nodes"].as_array().into_iter().flatten();
            let announced = nodes.filter(|node| node["software_version"] != "");
            let announced: BTreeSet<_> = announced
                .filter_map(|node| node["key"].as_str().map(str::to_owned))
                .collect();
            announced.is_superset(keys)
        })
        .await;
    }
}

/// What the coordinator's `node list` says.
async fn node_list(net: &Devnet) -> Vec<Value> {
    let said = net
        .coordinator_ref()
        .command(&["--json", "node", "list"])
        .await;
    let said = serde_json::from_str(&said.unwrap_or_default());
    said.unwrap_or_default()
}

/// Nodes that the coordinator has heard by gossip after `since_ms`.
fn heard_by_gossip(list: &[Value], since_ms: u64) -> BTreeSet<String> {
    let lately = |fact: &Value| {
        fact["source"] == "gossip" && fact["at_ms"].as_u64().is_some_and(|at| at >= since_ms)
    };
    let heard = list.iter().filter(|node| {
        node["facts"]
            .as_array()
            .is_some_and(|facts| facts.iter().any(lately))
    });
    let keys = heard.filter_map(|node| node["public_key"].as_str());
    keys.map(str::to_owned).collect()
}

/// A newcomer joins with `invite` while the coordinator is dead; its key.
async fn joins_without_a_coordinator(net: &mut Devnet, invite: &str) -> String {
    let others = keys(net).await;
    let newest = swarm(&net.nodes_ref()[0]).await["newest"].clone();
    // `init --join` asks peers too, so its time counts.
    let begun = Instant::now();
    let node = net.new_node(invite).await.unwrap();
    node.spawn().unwrap();
    until("a newcomer to know the swarm", LIMIT, async || {
        let swarm = swarm(node).await;
        heard(&swarm).is_superset(&others)
            && swarm["newest"]["sequence"] == newest["sequence"]
            && swarm["newest"]["manifest_sha256"] == newest["manifest_sha256"]
    })
    .await;
    let took = begun.elapsed();
    if std::env::var_os("OWM_TEST_LONG").is_some() {
        assert!(took < JOIN_LIMIT, "it took {took:?}");
    }
    println!(
        "node {} knew the {} others and the newest checkpoint after {:.1} s",
        others.len() + 1,
        others.len(),
        took.as_secs_f64()
    );
    let newcomer = key(node).await;
    // And they know it.
    let all = &others | &BTreeSet::from([newcomer.clone()]);
    all_know(net, &all).await;
    newcomer
}

/// The coordinator comes back, hears all nodes by gossip, and takes in `newcomer`, which works.
async fn learns_again(net: &mut Devnet, newcomer: &str) {
    let since_ms = SystemClock::new().now_ms();
    net.coordinator().start().await.unwrap();
    let all = keys(net).await;
    let took = until("the coordinator to hear everybody", LIMIT, async || {
        heard_by_gossip(&node_list(net).await, since_ms).is_superset(&all)
    })
    .await;
    println!(
        "the coordinator heard all {} nodes by gossip {:.1} s after its start",
        all.len(),
        took.as_secs_f64()
    );
    until("the newcomer to be active", LIMIT, async || {
        let list = node_list(net).await;
        let active = |node: &&Value| node["status"] == "active";
        list.iter()
            .filter(active)
            .any(|node| node["public_key"] == newcomer)
    })
    .await;
    let api = net.api();
    let answered = async || api.query("Who is there?").await.is_ok();
    until("an answer", LIMIT, answered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ninth_node_joins_while_the_coordinator_is_dead() {
    let mut net = network(NODES).await;
    let eight = keys(&net).await;
    all_know(&net, &eight).await;
    all_introduced(&net, &eight).await;
    let invite = invite_with_peers(&net, LIMIT).await.unwrap();
    net.coordinator().kill().await.unwrap();
    let ninth = joins_without_a_coordinator(&mut net, &invite).await;
    learns_again(&mut net, &ninth).await;
    // In good order too.
    net.coordinator().stop().await.unwrap();
    let tenth = joins_without_a_coordinator(&mut net, &invite).await;
    learns_again(&mut net, &tenth).await;
    net.stop().await.unwrap();
}

/// An address on a port that nobody listens on, as long as the port is held.
fn dead_peer(port: &Port, seed: u8) -> String {
    let nobody = owm_p2p::peer::peer_id(&owm_proto::NodeKey::from_seed(&[seed; 32]).public());
    format!(
        "/ip4/127.0.0.1/tcp/{}/p2p/{}",
        port.number(),
        nobody.unwrap()
    )
}

/// What the source named `name` has brought.
fn source<'a>(swarm: &'a Value, name: &str) -> Option<&'a Value> {
    let sources = swarm["sources"].as_array()?;
    sources.iter().find(|source| source["name"] == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_living_way_in_is_enough_and_the_dead_ones_are_told() {
    let mut net = network(2).await;
    let two = keys(&net).await;
    all_know(&net, &two).await;
    all_introduced(&net, &two).await;
    let alive = swarm(&net.nodes_ref()[0]).await["listening"][0]
        .as_str()
        .unwrap()
        .to_owned();
    net.coordinator().kill().await.unwrap();
    let ports = [Port::take(None).unwrap(), Port::take(None).unwrap()];
    let mut invite: Invite = net.invite().parse().unwrap();
    invite.peers.push(dead_peer(&ports[0], 91));
    let node = net.new_node(&invite.to_string()).await.unwrap();
    node.set("p2p", "dns", vec!["nobody.invalid".to_owned()])
        .unwrap();
    let peers = vec![dead_peer(&ports[1], 92), alive];
    node.set("p2p", "peers", peers).unwrap();
    node.spawn().unwrap();
    let knows = async |node: &Node| {
        let swarm = swarm(node).await;
        heard(&swarm).is_superset(&two) && swarm["newest"]["sequence"].is_u64()
    };
    let took = until("the newcomer to know the swarm", LIMIT, async || {
        knows(node).await
    })
    .await;
    println!(
        "in through one of five ways after {:.1} s",
        took.as_secs_f64()
    );
    // Who failed, and on which layer, stands in its status (a devnet resolves no names but its own).
    for (name, layer) in [
        ("invite", "transport"),
        ("static", "transport"),
        ("dns", "policy"),
    ] {
        until("the failures to be told", LIMIT, async || {
            let swarm = swarm(node).await;
            let failures = source(&swarm, name).map(|source| source["failures"].clone());
            let failures = failures.as_ref().and_then(Value::as_array);
            failures.is_some_and(|all| all.iter().any(|failure| failure["layer"] == layer))
        })
        .await;
    }
    // Next time it remembers, and needs none of them.
    node.stop().await.unwrap();
    node.set("p2p", "peers", Vec::<String>::new()).unwrap();
    node.spawn().unwrap();
    until("the remembered peers to be enough", LIMIT, async || {
        let swarm = swarm(node).await;
        let remembered = source(&swarm, "remembered").and_then(|source| source["reached"].as_u64());
        heard(&swarm).is_superset(&two) && remembered > Some(0)
    })
    .await;
    net.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laptop_that_slept_comes_back_by_itself() {
    let mut net = network(3).await;
    let all = keys(&net).await;
    all_know(&net, &all).await;
    let sleeper = key(&net.nodes_ref()[2]).await;
    let heard_at = async |node: &Node| {
        let swarm = swarm(node).await;
        let nodes = swarm["nodes"].as_array().cloned().unwrap_or_default();
        let node = nodes.into_iter().find(|node| node["key"] == *sleeper);
        node.and_then(|node| node["heard_at_ms"].as_u64())
            .unwrap_or(0)
    };
    net.nodes()[2].process().unwrap().signal(Signal::SIGSTOP);
    let asleep_ms = SystemClock::new().now_ms();
    // It has slept through several heartbeats: the others' clocks show it.
    until("the sleeper to miss heartbeats", LIMIT, async || {
        let now_ms = SystemClock::new().now_ms();
        now_ms > asleep_ms + 8_000 && heard_at(&net.nodes_ref()[0]).await < now_ms - 6_000
    })
    .await;
    let awake_ms = SystemClock::new().now_ms();
    net.nodes()[2].process().unwrap().signal(Signal::SIGCONT);
    let took = until("the sleeper to be heard", LIMIT, async || {
        heard_at(&net.nodes_ref()[0]).await >= awake_ms
    })
    .await;
    println!("heard {:.1} s after it woke", took.as_secs_f64());
    until("the sleeper to hear the others", LIMIT, async || {
        let swarm = swarm(&net.nodes_ref()[2]).await;
        let nodes = swarm["nodes"].as_array().cloned().unwrap_or_default();
        let fresh = |node: &&Value| node["heard_at_ms"].as_u64() >= Some(awake_ms);
        nodes.iter().filter(fresh).count() == all.len()
            && swarm["warnings"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    // Nobody holds its sleep against it for long.
    until("all to be in good standing", LIMIT, async || {
        let first = swarm(&net.nodes_ref()[0]).await;
        let peers = first["peers"].as_array().cloned().unwrap_or_default();
        peers.len() >= all.len() - 1 && peers.iter().all(|p| p["score"].as_f64() >= Some(-10.0))
    })
    .await;
    net.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_wrong_clock_is_told_so_and_joins_once_it_is_right() {
    let mut net = network(2).await;
    let two = keys(&net).await;
    all_know(&net, &two).await;
    net.nodes()[1].stop().await.unwrap();
    net.nodes()[1].set_environment(&[("OWM_CLOCK_OFFSET_MS", "7200000")]);
    net.nodes()[1].spawn().unwrap();
    until("the node to say that a clock is wrong", LIMIT, async || {
        let swarm = swarm(&net.nodes_ref()[1]).await;
        swarm.to_string().contains("clock")
    })
    .await;
    net.nodes()[1].kill().await.unwrap();
    net.nodes()[1].set_environment(&[]);
    let since_ms = SystemClock::new().now_ms();
    net.nodes()[1].spawn().unwrap();
    until("the node to be heard again", LIMIT, async || {
        let swarm = swarm(&net.nodes_ref()[0]).await;
        let nodes = swarm["nodes"].as_array().cloned().unwrap_or_default();
        let fresh = |node: &&Value| node["heard_at_ms"].as_u64() >= Some(since_ms);
        nodes.iter().filter(fresh).count() == two.len()
    })
    .await;
    net.stop().await.unwrap();
}

/// Names under which each liar comes, one after the other.
const LIVES: u8 = 5;
/// Liars at the same time.
const LIARS: u8 = 4;
/// Pieces of nonsense from each name.
const NONSENSE: usize = 5_000;

/// Lets liars shout at `target` until they have used up their names; messages told, and how often one was cut
/// off.
async fn lies(target: String, invite: &str) -> (usize, usize) {
    let network = invite.parse::<Invite>().unwrap().genesis;
    let mut liars = tokio::task::JoinSet::new();
    for liar in 0..LIARS {
        let target: libp2p::Multiaddr = target.parse().unwrap();
        liars.spawn(async move {
            let (mut messages, mut cut_off) = (0, 0);
            for life in 0..LIVES {
                let mut seed = [0x66; 32];
                (seed[0], seed[1]) = (liar, life);
                // One that can't get in any more has told nothing.
                let told = flood::shout(seed, target.clone(), network, NONSENSE).await;
                let told = told.unwrap_or_default();
                messages += told.messages;
                cut_off += usize::from(told.cut_off);
            }
            (messages, cut_off)
        });
    }
    let mut all = (0, 0);
    while let Some(told) = liars.join_next().await {
        let (messages, cut_off) = told.unwrap();
        all = (all.0 + messages, all.1 + cut_off);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_that_flood_a_node_stop_neither_answers_nor_heartbeats() {
    let net = network(3).await;
    let all = keys(&net).await;
    all_know(&net, &all).await;
    let listening = swarm(&net.nodes_ref()[0]).await["listening"].clone();
    let mut tcp = listening
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str);
    let target = tcp
        .find(|address| address.contains("/tcp/"))
        .unwrap()
        .to_owned();
    let invite = net.invite().to_owned();
    let flood = tokio::spawn(async move { lies(target, &invite).await });
    let api = net.api();
    for _ in 0..5 {
        api.query("Is anybody there?").await.unwrap();
    }
    let (messages, cut_off) = flood.await.unwrap();
    println!("{messages} lies told, {cut_off} times cut off");
    assert!(messages > NONSENSE && cut_off > 0);
    let since_ms = SystemClock::new().now_ms();
    for node in net.nodes_ref() {
        until("everybody's heartbeat after the flood", LIMIT, async || {
            let nodes = swarm(node).await["nodes"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let fresh = nodes
                .iter()
                .filter(|node| node["heard_at_ms"].as_u64() >= Some(since_ms));
            fresh.count() == all.len()
        })
        .await;
    }
    api.query("And now?").await.unwrap();
    net.stop().await.unwrap();
}
