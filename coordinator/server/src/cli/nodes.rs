//! `owm-coordinator node list` and `node show`: each fact of a node with where it comes from. Read from the
//! database, so that it works beside a running coordinator and without one.

use std::{collections::HashMap, fmt::Write as _};

use owm_coordinator_store::{
    Store,
    gossip::{Sighting, sightings},
    node::{Node, node_list},
};
use owm_proto::{NodeId, UnixMillis};
use owm_service::{RunError, config::HumanDuration};
use serde_json::{Value, json};

use super::commands::{LIST_MAX, find, print};

/// Nodes of one question about how they were heard.
const SIGHTINGS_MAX: usize = 1_000;

/// Something known of a node.
struct Fact {
    name: &'static str,
    value: Value,
    /// `coordinator` (decided here), `registration`, `stream`, `poll` or `gossip`.
    source: &'static str,
    /// When it was heard.
    at: Option<UnixMillis>,
}

pub(super) async fn list(store: &Store, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let mut tx = store.begin("node.list").await?;
    let nodes = node_list(&mut tx, None, LIST_MAX).await?;
    let mut seen: HashMap<NodeId, Sighting> = HashMap::new();
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.node_id).collect();
    for some in ids.chunks(SIGHTINGS_MAX) {
        seen.extend(sightings(&mut tx, some).await?);
    }
    let nodes: Vec<(Node, Sighting)> = nodes
        .into_iter()
        .map(|node| {
            let seen = seen.remove(&node.node_id).unwrap_or_default();
            (node, seen)
        })
        .collect();
    let values: Vec<Value> = nodes
        .iter()
        .map(|(node, seen)| node_json(node, seen))
        .collect();
    print(json, &json!(values), &table(&nodes, now))
}

pub(super) async fn show(
    store: &Store,
    name: &str,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let node = find(store, name).await?;
    let mut tx = store.begin("node.show").await?;
    let mut seen = sightings(&mut tx, &[node.node_id]).await?;
    let seen = seen.remove(&node.node_id).unwrap_or_default();
    print(json, &node_json(&node, &seen), &sheet(&node, &seen, now))
}

/// By which way the last heartbeat came.
fn heartbeat_source(node: &Node, seen: &Sighting) -> &'static str {
    if node.last_heartbeat.is_some() && seen.heartbeat_heard_at == node.last_heartbeat {
        return "gossip";
    }
    session_source(seen)
}

fn session_source(seen: &Sighting) -> &'static str {
    match seen.session_kind.as_deref() {
        Some("poll") => "poll",
        _ => "stream",
    }
}

impl Fact {
    fn new(
        source: &'static str,
        at: Option<UnixMillis>,
        (name, value): (&'static str, Value),
    ) -> Self {
        Self {
            name,
            value,
            source,
            at,
        }
    }
}

fn facts(node: &Node, seen: &Sighting) -> Vec<Fact> {
    let decided = [
        ("status", json!(node.status)),
        ("status_reason", json!(node.status_reason)),
        ("effective_tier", json!(node.effective_tier)),
        ("uptime_permille", json!(node.uptime.0)),
        ("reliability_permille", json!(node.reliability.0)),
    ]
    .map(|fact| Fact::new("coordinator", None, fact));
    let registered = [
        ("tier", json!(node.tier)),
        ("software_version", json!(node.software_version)),
    ]
    .map(|fact| Fact::new("registration", None, fact));
    let mut facts: Vec<Fact> = decided.into_iter().chain(registered).collect();
    if let Some(at) = node.last_heartbeat {
        let source = heartbeat_source(node, seen);
        facts.push(Fact::new(source, Some(at), ("last_heartbeat", json!(at))));
    }
    if let Some(at) = seen.session_seen_at {
        let session = ("session", json!(seen.session_kind));
        facts.push(Fact::new(session_source(seen), Some(at), session));
    }
    facts.extend(gossiped(seen));
    facts
}

/// What the node says by gossip.
fn gossiped(seen: &Sighting) -> Vec<Fact> {
    let heartbeat = |at| Fact::new("gossip", Some(at), ("heartbeat", json!(at)));
    let mut facts: Vec<Fact> = seen.heartbeat_heard_at.map(heartbeat).into_iter().collect();
    if let Some((says, at)) = &seen.announced {
        let said = [
            ("software_version", json!(says.software_version)),
            ("roles", json!(says.roles)),
            ("addresses", json!(says.addresses)),
            ("holds_files", json!(says.holds)),
            ("checkpoint_sequence", json!(says.checkpoint_sequence)),
            ("relay", json!(says.relay)),
        ];
        facts.extend(said.map(|fact| Fact::new("gossip", Some(*at), fact)));
    }
    facts
}

fn node_json(node: &Node, seen: &Sighting) -> Value {
    let facts: Vec<Value> = facts(node, seen)
        .iter()
        .map(|f| json!({"fact": f.name, "value": f.value, "source": f.source, "at_ms": f.at}))
        .collect();
    json!({
        "node_id": node.node_id, "public_key": node.public_key, "owner": node.owner,
        "tier": node.tier, "effective_tier": node.effective_tier, "status": node.status,
        "status_reason": node.status_reason, "cpu_only": node.cpu_only,
        "uptime_permille": node.uptime.0, "reliability_permille": node.reliability.0,
        "tasks_total": node.tasks_total, "tasks_succeeded": node.tasks_succeeded,
        "owed_msat": node.earned.0, "software_version": node.software_version,
        "registered_at_ms": node.registered_at, "last_heartbeat_ms": node.last_heartbeat,
        "last_heartbeat_source": node.last_heartbeat.map(|_| heartbeat_source(node, seen)),
        "capabilities": node.capabilities, "facts": facts,
    })
}

fn ago(at: UnixMillis, now: UnixMillis) -> String {
    format!("{} ago", HumanDuration::from_secs(now.since(at).as_secs()))
}

fn table(nodes: &[(Node, Sighting)], now: UnixMillis) -> String {
    let mut text = format!(
        "{:<10} {:<4} {:<10} {:<20} {:<28} {:>6} {:>7} {:>12}  reason",
        "node", "tier", "status", "last heartbeat", "says by gossip", "uptime", "tasks", "owed"
    );
    for (node, seen) in nodes {
        let heartbeat = node.last_heartbeat.map_or_else(
            || "never".to_owned(),
            |at| format!("{}, {}", ago(at, now), heartbeat_source(node, seen)),
        );
        let said = seen.announced.as_ref().map_or_else(
            || "nothing yet".to_owned(),
            |(says, at)| {
                let (holds, checkpoint) = (says.holds, says.checkpoint_sequence);
                format!("{holds} files, checkpoint {checkpoint}, {}", ago(*at, now))
            },
        );
        let _ = write!(
            text,
            "\n{:<10} {:<4} {:<10} {heartbeat:<20} {said:<28} {:>5}% {:>7} {:>12}  {}",
            node.public_key.short(),
            node.effective_tier.as_str(),
            node.status.as_str(),
            node.uptime.0 / 10,
            node.tasks_total,
            node.earned.to_string(),
            node.status_reason
        );
    }
    text
}

fn sheet(node: &Node, seen: &Sighting, now: UnixMillis) -> String {
    let mut text = format!("node {}\nid   {}\n", node.public_key, node.node_id);
    let _ = write!(text, "{:<22} {:<34} source", "fact", "value");
    for fact in facts(node, seen) {
        let value = match &fact.value {
            Value::String(word) => word.clone(),
            Value::Array(all) => {
                let words: Vec<String> = all
                    .iter()
                    .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                    .collect();
                words.join(" ")
            }
            Value::Number(_) if fact.at.is_some() && fact.name.ends_with("heartbeat") => {
                fact.at.map(|at| ago(at, now)).unwrap_or_default()
            }
            other => other.to_string(),
        };
        let when = fact.at.map(|at| format!(", {}", ago(at, now)));
        let _ = write!(
            text,
            "\n{:<22} {value:<34} {}{}",
            fact.name,
            fact.source,
            when.unwrap_or_default()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use owm_coordinator_store::gossip::Announcement;
    use owm_proto::{Msat, NodeKey, NodeStatus, Permille, Tier};

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

    fn node(last_heartbeat: u64) -> Node {
        let key = NodeKey::from_seed(&[1; 32]).public();
        Node {
            node_id: NodeId::from_random([1; 16]),
            public_key: key,
            owner: key,
            tier: Tier::T1,
            effective_tier: Tier::T1,
            status: NodeStatus::Active,
            status_reason: String::new(),
            cpu_only: true,
            capabilities: json!({}),
            software_version: "0.1.0".into(),
            stake_bonus: Permille::ONE,
            uptime: Permille::ONE,
            reliability: Permille::ONE,
            tasks_total: 0,
            tasks_succeeded: 0,
            earned: Msat(0),
            registered_at: UnixMillis(NOW.0 - 60_000),
            last_heartbeat: Some(UnixMillis(NOW.0 - last_heartbeat * 1_000)),
            session_epoch: 1,
        }
    }

    #[test]
    fn each_fact_says_where_it_comes_from() {
        let by_gossip = UnixMillis(NOW.0 - 5_000);
        let seen = Sighting {
            session_kind: Some("stream".into()),
            session_seen_at: Some(UnixMillis(NOW.0 - 40_000)),
            heartbeat_heard_at: Some(by_gossip),
            announced: Some((
                Announcement {
                    software_version: "0.2.0".into(),
                    roles: vec!["infer".into()],
                    addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
                    holds: 3,
                    checkpoint_sequence: 7,
                    relay: false,
                },
                by_gossip,
            )),
        };
        let source =
            |node: &Node, seen: &Sighting| node_json(node, seen)["last_heartbeat_source"].clone();
        assert_eq!(source(&node(5), &seen), "gossip");
        assert_eq!(source(&node(4), &seen), "stream", "heard by stream since");
        let later = Sighting {
            heartbeat_heard_at: Some(UnixMillis(NOW.0 + 1)),
            ..seen.clone()
        };
        let duplicate = source(&node(5), &later);
        assert_eq!(duplicate, "stream", "gossip brought nothing new");
        let never = Node {
            last_heartbeat: None,
            ..node(5)
        };
        assert_eq!(source(&never, &Sighting::default()), Value::Null);
        let shown = sheet(&node(5), &seen, NOW);
        for line in [
            ["software_version", "0.1.0", "registration"],
            ["software_version", "0.2.0", "gossip, 5s ago"],
            ["last_heartbeat", "5s ago", "gossip"],
            ["session", "stream", "stream, 40s ago"],
            ["status", "active", "coordinator"],
            ["addresses", "/ip4/192.0.2.1/tcp/4001", "gossip"],
        ] {
            let found = shown
                .lines()
                .any(|l| line.iter().all(|part| l.contains(part)));
            assert!(found, "{line:?} in\n{shown}");
        }
        let list = table(&[(node(5), seen)], NOW);
        assert!(
            list.contains("5s ago, gossip") && list.contains("3 files, checkpoint 7"),
            "{list}"
        );
    }
}
