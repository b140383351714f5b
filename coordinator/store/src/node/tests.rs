//! Registration on a real database.

use owm_proto::NodeKey;
use sqlx::PgPool;

use super::*;
use crate::tx::Store;

fn registration(n: u8) -> NodeRegistration {
    let key = NodeKey::from_seed(&[n; 32]).public();
    NodeRegistration {
        new_id: NodeId::from_random([n; 16]),
        public_key: key,
        owner: key,
        tier: Tier::T1,
        cpu_only: true,
        status: NodeStatus::Active,
        status_reason: String::new(),
        capabilities: serde_json::json!({}),
        vram_bytes: None,
        ram_bytes: Some(16_000_000_000),
        bandwidth_kbps: None,
        software_version: "test".into(),
        ln_node_uri: String::new(),
        stake_bonus: Permille::ONE,
        membership_expires_at: None,
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_node_that_comes_back_keeps_its_id(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let first = node_register(&mut tx, &registration(1), UnixMillis(1_000))
        .await
        .unwrap();
    let again = NodeRegistration {
        new_id: NodeId::from_random([9; 16]),
        ..registration(1)
    };
    let second = node_register(&mut tx, &again, UnixMillis(2_000))
        .await
        .unwrap();
    assert_eq!(first.node_id, second.node_id);
    assert_eq!(second.registered_at, UnixMillis(1_000));
    assert_eq!(node_list(&mut tx, None, 10).await.unwrap().len(), 1);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_suspended_node_does_not_register_itself_free(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    let node = node_register(&mut tx, &registration(1), UnixMillis(1_000))
        .await
        .unwrap();
    node_set_status(
        &mut tx,
        node.node_id,
        NodeStatus::Suspended,
        "spam",
        UnixMillis(2),
    )
    .await
    .unwrap();
    let back = node_register(&mut tx, &registration(1), UnixMillis(3_000))
        .await
        .unwrap();
    assert_eq!(
        (back.status, back.status_reason.as_str()),
        (NodeStatus::Suspended, "spam")
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn nodes_are_listed_in_pages(pool: PgPool) {
    let store = Store::from_pool(pool);
    let mut tx = store.begin("test").await.unwrap();
    for n in 1..=5 {
        node_register(&mut tx, &registration(n), UnixMillis(1_000))
            .await
            .unwrap();
    }
    let first = node_list(&mut tx, None, 3).await.unwrap();
    let rest = node_list(&mut tx, Some(first[2].node_id), 3).await.unwrap();
    assert_eq!((first.len(), rest.len()), (3, 2));
}
