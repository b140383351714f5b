//! Folding on a real database.

use owm_proto::{Msat, NodeKey, NodeStatus, Permille, Tier};
use sqlx::PgPool;

use super::*;
use crate::{
    node::{Node, NodeRegistration, node_lookup, node_register, node_set_status},
    replay::{Sequence, sequence_advance},
    session::{SignOfLife, minutes_count, signs_fold},
    tx::Store,
};

/// A full minute.
const NOW: UnixMillis = UnixMillis(1_795_359_480_000);

fn key(n: u32) -> PublicKey {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    NodeKey::from_seed(&seed).public()
}

fn heard(n: u32, sequence: u64, at: UnixMillis) -> Heard {
    Heard {
        node: key(n),
        sequence,
        at,
    }
}

async fn register(tx: &mut Tx, n: u32, status: NodeStatus) -> NodeId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_le_bytes());
    let new = NodeRegistration {
        new_id: NodeId::from_random(id),
        public_key: key(n),
        owner: key(n),
        tier: Tier::T2,
        cpu_only: false,
        status: NodeStatus::Active,
        status_reason: String::new(),
        capabilities: serde_json::json!({}),
        vram_bytes: None,
        ram_bytes: None,
        bandwidth_kbps: None,
        software_version: "test".into(),
        ln_node_uri: String::new(),
        stake_bonus: Permille::ONE,
        membership_expires_at: None,
    };
    let node = node_register(tx, &new, NOW).await.unwrap();
    if status != NodeStatus::Active {
        node_set_status(tx, node.node_id, status, "test", NOW)
            .await
            .unwrap();
    }
    node.node_id
}

async fn fold(store: &Store, heard: &[Heard]) -> Folded {
    let mut tx = store.begin("test").await.unwrap();
    let folded = heartbeats_fold(&mut tx, heard).await.unwrap();
    tx.commit().await.unwrap();
    folded
}

async fn minutes(store: &Store, node: NodeId) -> u64 {
    let mut tx = store.begin("test").await.unwrap();
    minutes_count(&mut tx, node, UnixMillis(0)).await.unwrap()
}

async fn lookup(store: &Store, node: NodeId) -> Node {
    let mut tx = store.begin("test").await.unwrap();
    node_lookup(&mut tx, node).await.unwrap().unwrap()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_batch_counts_each_heartbeat_once_however_often_it_is_folded(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let one = register(&mut tx, 1, NodeStatus::Active).await;
    let two = register(&mut tx, 2, NodeStatus::Active).await;
    tx.commit().await.unwrap();
    let batch = [heard(1, 10, NOW), heard(2, 20, NOW), heard(3, 30, NOW)];
    let folded = fold(&store, &batch).await;
    assert_eq!((folded.fresh, folded.of_nodes), (2, 2), "3 is a stranger");
    // Another coordinator hears the same heartbeats a minute later.
    let later = NOW.after(std::time::Duration::from_mins(1));
    let again = batch.map(|h| Heard { at: later, ..h });
    assert_eq!(fold(&store, &again).await.fresh, 0);
    // A replayed older one does not count either.
    assert_eq!(fold(&store, &[heard(1, 9, later)]).await.fresh, 0);
    assert_eq!(
        (minutes(&store, one).await, minutes(&store, two).await),
        (1, 1)
    );
    assert_eq!(lookup(&store, one).await.last_heartbeat, Some(NOW));
    assert_eq!(fold(&store, &[heard(1, 11, later)]).await.fresh, 1);
    assert_eq!(minutes(&store, one).await, 2);
    assert_eq!(lookup(&store, one).await.last_heartbeat, Some(later));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn minutes_of_an_outage_are_all_counted_from_one_batch(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let one = register(&mut tx, 1, NodeStatus::Active).await;
    tx.commit().await.unwrap();
    let at = |minute: u64| NOW.after(std::time::Duration::from_mins(minute));
    let batch: Vec<Heard> = (0..5).map(|n| heard(1, 100 + n, at(n))).collect();
    assert_eq!(fold(&store, &batch).await.fresh, 5);
    assert_eq!(minutes(&store, one).await, 5);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn minutes_of_an_outage_count_though_the_stream_was_written_first(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let one = register(&mut tx, 1, NodeStatus::Active).await;
    let two = register(&mut tx, 2, NodeStatus::Suspended).await;
    let at = |minute: u64| NOW.after(std::time::Duration::from_mins(minute));
    // Before the fold's first tick after the outage, a heartbeat comes by the stream.
    for n in [1, 2] {
        sequence_advance(&mut tx, &key(n), Purpose::Heartbeat, 105, at(5))
            .await
            .unwrap();
    }
    let sign = SignOfLife {
        node: one,
        at: at(5),
        fresh: true,
    };
    signs_fold(&mut tx, &[sign]).await.unwrap();
    tx.commit().await.unwrap();
    let batch: Vec<Heard> = [1, 2]
        .into_iter()
        .flat_map(|node| (0..5).map(move |n| heard(node, 100 + n, at(n))))
        .collect();
    // A second coordinator, which heard the same, adds nothing.
    for _ in 0..2 {
        assert_eq!(fold(&store, &batch).await.fresh, 0);
        assert_eq!(minutes(&store, one).await, 6);
        assert_eq!(minutes(&store, two).await, 0, "suspended");
    }
    assert_eq!(lookup(&store, one).await.last_heartbeat, Some(at(5)));
    // What is heard after the newest is a replay, or the newest itself by another way.
    fold(&store, &[heard(1, 104, at(6)), heard(1, 105, at(7))]).await;
    assert_eq!(minutes(&store, one).await, 6);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn strangers_are_not_written(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    assert_eq!(fold(&store, &[heard(1, 1, NOW)]).await, Folded::default());
    let mut tx = store.begin("test").await.unwrap();
    assert_eq!(
        announcements_fold(&mut tx, &[announced(1, 1)])
            .await
            .unwrap(),
        0
    );
    tx.commit().await.unwrap();
    for table in [
        "nodes",
        "envelope_sequences",
        "node_minutes",
        "node_announcements",
    ] {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let count: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.unwrap();
        assert_eq!(count, 0, "{table}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn gossip_changes_no_status_and_no_session(pool: PgPool) {
    let store = Store::from_pool(pool.clone());
    let statuses = [
        NodeStatus::Pending,
        NodeStatus::Active,
        NodeStatus::Degraded,
        NodeStatus::Suspended,
    ];
    let mut nodes = vec![];
    let mut tx = store.begin("test").await.unwrap();
    for (n, status) in (1..).zip(statuses) {
        nodes.push(register(&mut tx, n, status).await);
    }
    tx.commit().await.unwrap();
    let before = futures_lookup(&store, &nodes).await;
    let batch: Vec<Heard> = (1..=4).map(|n| heard(n, 7, NOW)).collect();
    let folded = fold(&store, &batch).await;
    assert_eq!(
        (folded.fresh, folded.of_nodes),
        (3, 4),
        "the suspended one's minute does not count"
    );
    let mut tx = store.begin("test").await.unwrap();
    let all: Vec<Announced> = (1..=4).map(|n| announced(n, 7)).collect();
    assert_eq!(announcements_fold(&mut tx, &all).await.unwrap(), 4);
    tx.commit().await.unwrap();
    let after = futures_lookup(&store, &nodes).await;
    for (before, after) in before.into_iter().zip(after) {
        let expected = Node {
            last_heartbeat: after.last_heartbeat,
            ..before
        };
        assert_eq!(after, expected, "nothing but the last heartbeat");
        assert_eq!(after.earned, Msat(0));
    }
    let sessions: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM nodes WHERE session_seen_at IS NOT NULL OR session_id IS NOT NULL",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(sessions, 0);
}

async fn futures_lookup(store: &Store, nodes: &[NodeId]) -> Vec<Node> {
    let mut all = vec![];
    for node in nodes {
        all.push(lookup(store, *node).await);
    }
    all
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_heartbeat_by_stream_and_by_gossip_is_one(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let one = register(&mut tx, 1, NodeStatus::Active).await;
    let advanced = sequence_advance(&mut tx, &key(1), Purpose::Heartbeat, 50, NOW).await;
    assert_eq!(advanced.unwrap(), Sequence::New);
    signs_fold(
        &mut tx,
        &[SignOfLife {
            node: one,
            at: NOW,
            fresh: true,
        }],
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    // The same by gossip, after the minute has changed.
    let later = NOW.after(std::time::Duration::from_mins(1));
    assert_eq!(fold(&store, &[heard(1, 50, later)]).await.fresh, 0);
    assert_eq!(minutes(&store, one).await, 1);
    // Gossip first: the stream's is the duplicate.
    assert_eq!(fold(&store, &[heard(1, 51, later)]).await.fresh, 1);
    let mut tx = store.begin("test").await.unwrap();
    let twin = sequence_advance(&mut tx, &key(1), Purpose::Heartbeat, 51, later).await;
    assert_eq!(twin.unwrap(), Sequence::Duplicate);
    let sign = SignOfLife {
        node: one,
        at: later.after(std::time::Duration::from_mins(1)),
        fresh: false,
    };
    signs_fold(&mut tx, &[sign]).await.unwrap();
    assert_eq!(minutes_count(&mut tx, one, UnixMillis(0)).await.unwrap(), 2);
    // It was heard by gossip both times, and that is shown.
    let seen = sightings(&mut tx, &[one]).await.unwrap();
    assert_eq!(seen[&one].heartbeat_heard_at, Some(later));
    assert_eq!(
        seen[&one].session_seen_at,
        Some(sign.at),
        "the session lives"
    );
}

fn announced(n: u32, sequence: u64) -> Announced {
    Announced {
        node: key(n),
        sequence,
        at: NOW.after(std::time::Duration::from_secs(sequence)),
        says: Announcement {
            software_version: format!("0.{sequence}.0"),
            roles: vec!["infer".into()],
            addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
            holds: 3,
            checkpoint_sequence: sequence,
            relay: true,
        },
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_newest_announcement_is_kept_whatever_the_order(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let one = register(&mut tx, 1, NodeStatus::Active).await;
    for (sequence, news) in [(5, 1), (4, 0), (5, 0), (6, 1)] {
        let all = [announced(1, sequence)];
        assert_eq!(announcements_fold(&mut tx, &all).await.unwrap(), news);
    }
    let expected = announced(1, 6);
    let seen = sightings(&mut tx, &[one]).await.unwrap();
    assert_eq!(
        seen[&one].announced,
        Some((expected.says.clone(), expected.at))
    );
    assert_eq!(seen[&one].heartbeat_heard_at, None);
    let found = reachable(&mut tx, NOW, 3).await.unwrap();
    assert_eq!(found, [(key(1), expected.says.addresses)]);
    let late = expected.at.after(std::time::Duration::from_secs(1));
    assert_eq!(reachable(&mut tx, late, 3).await.unwrap(), []);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn thousands_go_in_one_statement_and_two_coordinators_double_nothing(pool: PgPool) {
    const NODES: u32 = 3_000;
    let store = Store::from_pool(pool.clone());
    let mut tx = store.begin("test").await.unwrap();
    let keys: Vec<String> = (0..NODES).map(|n| key(n).to_string()).collect();
    let insert = "INSERT INTO nodes (node_id, public_key, owner_key, status)
         SELECT gen_random_uuid(), k, k, 'active' FROM unnest($1::text[]) AS k";
    let done = sqlx::query(insert)
        .bind(&keys)
        .execute(&mut *tx.inner)
        .await;
    assert_eq!(done.unwrap().rows_affected(), u64::from(NODES));
    tx.commit().await.unwrap();
    let batch: Vec<Heard> = (0..NODES).map(|n| heard(n, 9, NOW)).collect();
    let mut backwards: Vec<Heard> = batch.clone();
    backwards.reverse();
    let later = NOW.after(std::time::Duration::from_mins(1));
    for heard in &mut backwards {
        heard.at = later;
    }
    let (one, two) = tokio::join!(fold(&store, &batch), fold(&store, &backwards));
    assert_eq!(one.fresh + two.fresh, u64::from(NODES), "{one:?} {two:?}");
    let minutes: i64 = sqlx::query_scalar("SELECT count(*) FROM node_minutes")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(minutes, i64::from(NODES));
}
