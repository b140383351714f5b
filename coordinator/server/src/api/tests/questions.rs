//! Questions without streaming, and reading their answers again.

use owm_coordinator_store::request::{DELIVERED_KEPT_FOR, request_purge};
use owm_proto::{Sha256, receipt::SignedReceipt, wire::coordinator as wire};

use super::*;

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_question_is_answered_with_a_receipt_that_verifies(pool: PgPool) {
    let site = site(pool).await;
    let answer = site.ok(question()).await;
    assert_eq!(answer["answer"], "Paris.");
    assert_eq!(answer["sub_models_used"], json!(["owm-geo"]));
    assert_eq!(answer["model_version"], "owm-v0.0.1");
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["prompt_tokens"], 7);
    assert_eq!(answer["output_tokens"], 3);
    assert_eq!(answer["ots_verified"], false);
    assert!(
        answer.get("token_ids").is_none(),
        "nobody asked for token ids"
    );
    let receipt: SignedReceipt = serde_json::from_value(answer["receipt"].clone()).unwrap();
    let verified = receipt
        .verify(&site.app.authority.statements().trust)
        .unwrap()
        .receipt;
    assert_eq!(verified.output_sha256, Sha256::of(b"Paris."));
    assert_eq!(verified.files[0].sha256.to_string(), answer["sha256"]);
    assert_eq!(verified.request_id.reveal(), answer["request_id"]);
    assert_eq!(verified.seed, answer["seed"]);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn every_reading_gives_the_same_bytes_and_the_same_receipt(pool: PgPool) {
    let site = site(pool).await;
    let answer = site.ok(question()).await;
    let id = answer["request_id"].as_str().unwrap();
    let path = format!("/v1/requests/{id}");
    let first = site.send(get(&path)).await;
    let second = site.send(get(&path)).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("cache-control"), "no-store");
    let mut stored = first.json();
    let tokens = stored.as_object_mut().unwrap().remove("token_ids").unwrap();
    assert_eq!(tokens, json!([1000, 1001, 1002]));
    assert_eq!(stored, answer, "what was answered is what is stored");
    let receipt = site.ok(get(&format!("/v1/receipts/{id}"))).await;
    assert_eq!(receipt, answer["receipt"]);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn what_is_asked_for_is_given(pool: PgPool) {
    let site = site(pool).await;
    let body = json!({
        "query": "The capital of France is", "template": "none", "return_token_ids": true,
        "max_tokens": 2, "temperature": 0, "top_p": 0.9, "top_k": 40, "seed": 42, "stop": "\n",
        "sub_model": "owm-code",
    });
    let answer = site.ok(post("/v1/query", &body)).await;
    assert_eq!(answer["answer"], "Paris");
    assert_eq!(answer["token_ids"], json!([1000, 1001]));
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["seed"], 42);
    assert_eq!(answer["sub_models_used"], json!(["owm-code"]));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_answer_that_is_deleted_says_so(pool: PgPool) {
    let site = site(pool).await;
    let answer = site.ok(question()).await;
    let id = answer["request_id"].as_str().unwrap();
    let mut tx = site.app.store.begin("test").await.unwrap();
    let later = site.app.now().after(DELIVERED_KEPT_FOR);
    let purged = request_purge(&mut tx, later, 10).await.unwrap();
    assert_eq!(purged, 1, "giving the answer counted as its delivery");
    tx.commit().await.unwrap();
    for path in ["requests", "receipts"] {
        let reply = site.send(get(&format!("/v1/{path}/{id}"))).await;
        assert_eq!(reply.fault(), (410, "gone".into()), "{path}");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_open_question_is_accepted_and_an_unknown_one_not_found(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let mut node = site.app.node(1, 1, Script::Silence).await;
    let router = site.router.clone();
    let asking = tokio::spawn(router.oneshot(question()));
    let id = open_request(&site).await;
    for path in ["requests", "receipts"] {
        let reply = site.send(get(&format!("/v1/{path}/{id}"))).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()),
            (202, json!({ "status": "open" }))
        );
        for unknown in ["req_00000000000000000000000000000000", "req_1", "x"] {
            let reply = site.send(get(&format!("/v1/{path}/{unknown}"))).await;
            assert_eq!(reply.fault(), (404, "not_found".into()), "{unknown}");
        }
    }
    // Hanging up takes the lease back.
    asking.abort();
    let told = node.told.recv().await.unwrap();
    assert!(
        matches!(told, wire::work_down::Message::Cancel(_)),
        "{told:?}"
    );
    let reply = site.send(get(&format!("/v1/requests/{id}"))).await;
    assert_eq!(reply.fault(), (409, "cancelled".into()));
}

/// The id of the one question that waits, once it is at the node.
async fn open_request(site: &Site) -> String {
    site.app
        .until(|| async { !site.app.answers.followed().is_empty() })
        .await;
    let running = || async {
        let mut tx = site.app.store.begin("test").await.unwrap();
        let stats = owm_coordinator_store::stats::stats_network(&mut tx)
            .await
            .unwrap();
        stats.tasks_running == 1
    };
    site.app.until(running).await;
    site.app.answers.followed()[0].1.reveal()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_prompt_that_the_model_cannot_take_is_a_400_for_every_reader(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let script = Script::Refuse(wire::HandBackReason::InputRefused, "9000 tokens, 2048 fit");
    site.app.node(1, 1, script).await;
    let reply = site.send(question()).await;
    assert_eq!(reply.fault(), (400, "context_length_exceeded".into()));
    assert!(reply.text().contains("2048 fit"), "{}", reply.text());
    let id = reply.json()["request_id"].as_str().unwrap().to_owned();
    let again = site.send(get(&format!("/v1/requests/{id}"))).await;
    assert_eq!(again.fault(), (400, "context_length_exceeded".into()));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_a_model_the_asker_is_told_when_to_come_back(pool: PgPool) {
    let site = site_within(pool.clone(), Limits::default()).await;
    sqlx::query("UPDATE model_versions SET is_current = FALSE")
        .execute(&pool)
        .await
        .unwrap();
    for path in ["/v1/query", "/v1/chat/completions"] {
        let body = match path {
            "/v1/query" => json!({ "query": "x" }),
            _ => json!({ "model": "owm", "messages": [{ "role": "user", "content": "x" }] }),
        };
        let reply = site.send(post(path, &body)).await;
        assert_eq!(reply.fault(), (503, "no_model".into()), "{path}");
        assert_ne!(reply.header("retry-after"), "(absent)");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_nodes_the_asker_is_told_when_to_come_back(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let reply = site.send(question()).await;
    assert_eq!(reply.fault(), (503, "no_nodes".into()));
    assert_eq!(reply.header("retry-after"), "15");
    assert_eq!(reply.header("retry-after-ms"), "15000");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn when_everybody_is_busy_the_asker_is_told_when_to_come_back(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let _node = site.app.node(1, 1, Script::Silence).await;
    let mut waiting = vec![];
    let filled = loop {
        let question = crate::ask::Question {
            api_key: None,
            sub_model: None,
            prompt: crate::ask::QuestionPrompt::Raw("x".into()),
            max_tokens: 1,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: None,
            stop: vec![],
            stream: false,
        };
        match site.app.ask(question).await {
            Ok(asked) => waiting.push(asked),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100, "the queue has no end");
    };
    assert!(
        matches!(filled, crate::ask::AskError::Busy { .. }),
        "{filled}"
    );
    let reply = site.send(question()).await;
    assert_eq!(reply.fault(), (429, "busy".into()));
    assert_eq!(reply.header("retry-after"), "5");
    assert_eq!(reply.header("retry-after-ms"), "5000");
    assert_eq!(reply.header("ratelimit-policy"), "\"questions\";q=20;w=4");
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "19");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn an_absent_database_is_a_503_without_internals(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    site.app.store.close().await;
    for request in [
        question(),
        get("/v1/network/stats"),
        get("/v1/network/nodes"),
    ] {
        let reply = site.send(request).await;
        assert_eq!(reply.fault(), (503, "unavailable".into()));
        assert_eq!(reply.header("retry-after"), "5");
        assert!(
            !reply.text().to_lowercase().contains("pool"),
            "{}",
            reply.text()
        );
    }
}
