//! Who is counted as what, on a real database. Tasks are covered by the page's own tests.

use std::time::Duration;

use owm_proto::{NodeKey, SessionId};
use sqlx::PgPool;

use super::*;
use crate::{
    node::{NodeRegistration, node_register, node_set_status},
    session::{SessionKind, session_open},
    tx::Store,
};

const NOW: UnixMillis = UnixMillis(1_795_359_487_000);
const DAY: Duration = Duration::from_hours(24);
const LIVE: Duration = Duration::from_mins(3);

fn key(n: u8) -> PublicKey {
    NodeKey::from_seed(&[n; 32]).public()
}

async fn register(tx: &mut Tx, n: u8, at: UnixMillis) -> NodeId {
    let new = NodeRegistration {
        new_id: NodeId::from_random([n; 16]),
        public_key: key(n),
        owner: key(n),
        tier: Tier::T1,
        cpu_only: true,
        status: NodeStatus::Active,
        status_reason: String::new(),
        capabilities: serde_json::json!({ "backend": "burn-flex/f32" }),
        vram_bytes: None,
        ram_bytes: None,
        bandwidth_kbps: None,
        software_version: "test".into(),
        ln_node_uri: String::new(),
        stake_bonus: Permille::ONE,
        membership_expires_at: None,
    };
    node_register(tx, &new, at).await.unwrap().node_id
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn nodes_are_told_apart_by_when_and_where_they_were_heard_of(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let (ours, other) = (key(100), key(101));
    register(&mut tx, 1, NOW.before(2 * DAY)).await;
    let mut open = async |n: u8, instance: &PublicKey, seen_at: UnixMillis| {
        let node = register(&mut tx, n, NOW.before(2 * DAY)).await;
        let session = SessionId([n; 16]);
        let kind = SessionKind::Stream;
        session_open(&mut tx, node, session, seen_at, kind, instance, seen_at)
            .await
            .unwrap();
        node
    };
    let here = open(2, &ours, NOW).await;
    let there = open(3, &other, NOW.before(LIVE)).await;
    let lost = open(4, &other, NOW.before(2 * LIVE)).await;
    let suspended = open(5, &other, NOW).await;
    node_set_status(&mut tx, suspended, NodeStatus::Suspended, "spam", NOW)
        .await
        .unwrap();
    let (since, live) = (NOW.before(DAY), NOW.before(LIVE));
    let listed = glance_nodes(&mut tx, since, live, &ours, 10).await.unwrap();
    let seen: Vec<(NodeId, bool)> = listed.iter().map(|n| (n.node_id, n.elsewhere)).collect();
    assert_eq!(
        seen,
        [
            (here, false),
            (there, true),
            (lost, false),
            (suspended, true)
        ]
    );
    assert_eq!(listed[1].heard_at, NOW.before(LIVE));
    assert_eq!(listed[0].backend, "burn-flex/f32");
    let census = glance_census(&mut tx, since, live, &ours).await.unwrap();
    let expected = Census {
        heard: 4,
        active: 3,
        active_elsewhere: 1,
        away: 1,
    };
    assert_eq!(census, expected);
    let two = glance_nodes(&mut tx, since, live, &ours, 2).await.unwrap();
    assert_eq!(two.len(), 2);
}
