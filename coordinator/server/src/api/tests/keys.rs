//! Who may ask, and who may read what.

use owm_coordinator_store::api_key::api_key_create;
use owm_proto::Sha256;
use uuid::Uuid;

use super::*;

const ALICE: &str = "owm_alice";
const BOB: &str = "owm_bob";

/// An API that is not open, with two keys.
async fn closed(pool: PgPool) -> Site {
    let app = testing::app_with(pool, |config| config.api.open = false).await;
    app.node(1, 2, paris()).await;
    let mut tx = app.store.begin("test").await.unwrap();
    for (n, key) in [(1, ALICE), (2, BOB)] {
        let hash = Sha256::of(key.as_bytes());
        api_key_create(&mut tx, Uuid::from_u128(n), &hash, key, app.now())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let router = router_within(app.app.clone(), Limits::default());
    Site { app, router }
}

fn as_key(request: Request<Body>, key: &str) -> Request<Body> {
    with(request, "authorization", &format!("Bearer {key}"))
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_a_valid_key_nothing_of_users_is_reachable(pool: PgPool) {
    let site = closed(pool).await;
    let id = "req_00000000000000000000000000000000";
    let guarded = || {
        let chat = json!({ "model": "owm", "messages": [{ "role": "user", "content": "x" }] });
        [
            question(),
            post("/v1/chat/completions", &chat),
            get("/v1/models"),
            get("/v1/models/owm-geo"),
            get(&format!("/v1/requests/{id}")),
            get(&format!("/v1/receipts/{id}")),
        ]
    };
    for request in guarded() {
        let reply = site.send(request).await;
        assert_eq!(reply.fault(), (401, "missing_api_key".into()));
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"owm\"");
    }
    for key in ["owm_mallory", "sk-proj-x", "owm_alic", ""] {
        for request in guarded() {
            let reply = site.send(as_key(request, key)).await;
            assert_eq!(reply.fault(), (401, "invalid_api_key".into()), "{key:?}");
        }
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn only_the_key_that_asked_may_read_the_answer(pool: PgPool) {
    let site = closed(pool).await;
    // From anywhere, through any proxy: a key is a key.
    let mut request = with(as_key(question(), ALICE), "x-forwarded-for", "192.0.2.1");
    from_peer(&mut request, "192.0.2.1:5");
    let answer = site.ok(request).await;
    let id = answer["request_id"].as_str().unwrap();
    for path in [format!("/v1/requests/{id}"), format!("/v1/receipts/{id}")] {
        site.ok(as_key(get(&path), ALICE)).await;
        let reply = site.send(as_key(get(&path), BOB)).await;
        assert_eq!(reply.fault(), (404, "not_found".into()));
        let unknown = site
            .send(as_key(get(&path.replace(id, "req_0")), BOB))
            .await;
        assert_eq!(
            unknown.body, reply.body,
            "another's id looks like an unknown one"
        );
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_revoked_key_is_worth_nothing(pool: PgPool) {
    let site = closed(pool.clone()).await;
    site.ok(as_key(get("/v1/models"), ALICE)).await;
    sqlx::query("UPDATE api_keys SET revoked_at = now() WHERE name = $1")
        .bind(ALICE)
        .execute(&pool)
        .await
        .unwrap();
    let reply = site.send(as_key(get("/v1/models"), ALICE)).await;
    assert_eq!(reply.fault(), (401, "invalid_api_key".into()));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_open_api_answers_its_own_machine_only(pool: PgPool) {
    let site = site(pool).await;
    // OpenAI's clients always send some key.
    site.ok(as_key(question(), "sk-whatever")).await;
    let mut stranger = question();
    from_peer(&mut stranger, "192.0.2.1:5");
    let mut unknown = question();
    unknown.extensions_mut().clear();
    for (request, why) in [
        (stranger, "another machine"),
        (unknown, "an unknown peer"),
        (with(question(), "host", "evil.example"), "DNS rebinding"),
        (
            with(question(), "origin", "https://evil.example"),
            "another site's page",
        ),
        (with(question(), "x-forwarded-for", "192.0.2.1"), "a proxy"),
        (with(question(), "forwarded", "for=192.0.2.1"), "a proxy"),
        (with(question(), "via", "1.1 proxy"), "a proxy"),
    ] {
        let reply = site.send(request).await;
        assert_eq!(reply.fault(), (403, "not_local".into()), "{why}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_answer_to_a_key_is_not_readable_without_it_on_an_open_api(pool: PgPool) {
    let site = site(pool).await;
    let mut tx = site.app.store.begin("test").await.unwrap();
    let (id, hash) = (Uuid::from_u128(1), Sha256::of(ALICE.as_bytes()));
    api_key_create(&mut tx, id, &hash, "alice", site.app.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let answer = site.ok(as_key(question(), ALICE)).await;
    let path = format!("/v1/requests/{}", answer["request_id"].as_str().unwrap());
    assert_eq!(
        site.send(get(&path)).await.fault(),
        (404, "not_found".into())
    );
    site.ok(as_key(get(&path), ALICE)).await;
}
