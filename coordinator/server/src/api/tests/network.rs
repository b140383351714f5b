//! What anyone may know, without a key.

use data_encoding::HEXLOWER;
use owm_proto::{Envelope, Purpose, Sha256, SignerRule, genesis::TrustRoot};

use super::*;

fn signature(text: &Value) -> [u8; 64] {
    HEXLOWER
        .decode(text.as_str().unwrap().as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

fn envelope(purpose: Purpose, payload: &Value, document: &Value) -> Envelope {
    assert_eq!(document["purpose"], purpose.as_str());
    let key = document["key"].as_str().unwrap().parse().unwrap();
    let payload = payload.as_str().unwrap().as_bytes().to_vec();
    Envelope::from_parts(purpose, key, signature(&document["signature"]), payload)
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_documents_of_the_network_prove_each_other(pool: PgPool) {
    let site = site(pool).await;
    let body = site.ok(get("/v1/genesis")).await;
    let genesis = body["genesis"].as_str().unwrap().as_bytes();
    assert_eq!(body["network_id"], Sha256::of(genesis).to_string());
    let delegations: Vec<Envelope> = body["delegations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| envelope(Purpose::Delegation, &d["payload"], d))
        .collect();
    let trust = TrustRoot::from_documents(None, genesis, &delegations, &[]).unwrap();
    let version = site.ok(get("/v1/model/versions/owm-v0.0.1")).await;
    let manifest = envelope(Purpose::Manifest, &version["manifest"], &version);
    let keys = trust.keys_ever(owm_proto::genesis::DelegatedRole::Release);
    let rule = SignerRule::OneOf(&keys);
    let verified = manifest
        .verify(Purpose::Manifest, &trust.id(), rule)
        .unwrap();
    assert_eq!(
        version["manifest_sha256"],
        Sha256::of(verified.payload).to_string()
    );
    assert_eq!(version["network_id"], body["network_id"]);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn versions_are_listed_with_what_has_to_be_said_of_them(pool: PgPool) {
    let site = site(pool).await;
    let list = site.ok(get("/v1/model/versions")).await;
    let version = &list["versions"][0];
    assert_eq!(version["version"], "owm-v0.0.1");
    assert_eq!(version["is_current"], true);
    assert_eq!(version["ots_verified"], false);
    assert_eq!(version["btc_block"], Value::Null);
    let manifest = &site.app.current_model().await.unwrap().unwrap().manifest;
    assert_eq!(version["note"], manifest.note);
    let answer = site.ok(question()).await;
    assert_eq!(
        version["sub_models"][1]["weights"][0]["sha256"],
        answer["sha256"]
    );
    for unknown in ["owm-v9.9.9", "latest", "owm-v0.0.1%00"] {
        let reply = site
            .send(get(&format!("/v1/model/versions/{unknown}")))
            .await;
        assert_eq!(reply.fault(), (404, "not_found".into()), "{unknown}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn the_figures_follow_what_happens(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let stats = site.ok(get("/v1/network/stats")).await;
    assert_eq!(stats["verdict"], "waiting");
    assert_eq!(stats["nodes"]["connected"], 0);
    site.app.node(1, 1, paris()).await;
    let answer = site.ok(question()).await;
    // Figures are a second old at most.
    let fresh = || async { site.ok(get("/v1/network/stats")).await["tasks"]["done"] == 1 };
    site.app.until(fresh).await;
    let stats = site.ok(get("/v1/network/stats")).await;
    assert_eq!(stats["verdict"], "ready");
    assert_eq!(stats["nodes"]["active"], 1);
    assert_eq!(stats["nodes"]["connected"], 1);
    assert_eq!(stats["output_tokens"], 3);
    assert_eq!(stats["stake_policy"], "not required");
    assert_eq!(stats["model"]["version"], answer["model_version"]);
    assert_eq!(stats["model"]["sha256"], answer["sha256"]);
    assert!(stats["owed_msat"].as_u64().unwrap() > 0, "{stats}");
    let nodes = site.ok(get("/v1/network/nodes")).await;
    assert_eq!(nodes["nodes"][0]["owed_msat"], stats["owed_msat"]);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn nodes_come_in_pages_and_by_both_names(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let first = site.app.node(1, 1, paris()).await;
    for n in 2..=3 {
        site.app.register(n).await;
    }
    let page = site.ok(get("/v1/network/nodes?limit=2")).await;
    assert_eq!(page["nodes"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap();
    let last = site
        .ok(get(&format!("/v1/network/nodes?limit=2&after={next}")))
        .await;
    assert_eq!(last["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(last["next"], Value::Null);
    let all = site.ok(get("/v1/network/nodes")).await;
    let whole = [
        page["nodes"].as_array().unwrap().as_slice(),
        last["nodes"].as_array().unwrap(),
    ];
    assert_eq!(*all["nodes"].as_array().unwrap(), whole.concat());
    let (id, key) = (first.id.to_string(), first.key.public().to_string());
    let by_id = site.ok(get(&format!("/v1/nodes/{id}/status"))).await;
    let by_key = site.ok(get(&format!("/v1/nodes/{key}/status"))).await;
    assert_eq!(by_id, by_key);
    assert_eq!(
        (&by_id["node_id"], &by_id["public_key"]),
        (&json!(id), &json!(key))
    );
    assert_eq!(
        (&by_id["connected"], &by_id["slots"]),
        (&json!(true), &json!(1))
    );
    for unknown in [
        "ff".repeat(32),
        "00000000-0000-4000-8000-000000000000".into(),
        "x".into(),
    ] {
        let reply = site.send(get(&format!("/v1/nodes/{unknown}/status"))).await;
        assert_eq!(reply.fault(), (404, "not_found".into()), "{unknown}");
    }
    for query in ["limit=0", "limit=501", "limit=x", "after=x", "page=2"] {
        let reply = site.send(get(&format!("/v1/network/nodes?{query}"))).await;
        assert_eq!(reply.fault(), (400, "invalid_parameter".into()), "{query}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_node_is_shown_without_address_hardware_or_wallet(pool: PgPool) {
    let site = site(pool).await;
    let nodes = site.ok(get("/v1/network/nodes")).await;
    let shown: Vec<&str> = nodes["nodes"][0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let allowed = [
        "connected",
        "cpu_only",
        "earned_msat",
        "effective_tier",
        "last_gossip_ms",
        "last_heartbeat_ms",
        "node_id",
        "owed_msat",
        "owner",
        "public_key",
        "registered_at_ms",
        "reliability_permille",
        "slots",
        "software_version",
        "status",
        "tasks_succeeded",
        "tasks_total",
        "tier",
        "uptime_permille",
    ];
    assert_eq!(shown, allowed);
}
