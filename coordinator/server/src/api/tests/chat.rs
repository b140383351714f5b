//! The endpoints of OpenAI's clients.

use owm_proto::receipt::SignedReceipt;

use super::*;

fn chat(extra: &Value) -> Request<Body> {
    let messages = json!([{ "role": "user", "content": "What is the capital of France?" }]);
    let mut body = json!({ "model": "owm-geo", "messages": messages });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    post("/v1/chat/completions", &body)
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_completion_has_openais_shape_and_our_receipt(pool: PgPool) {
    let site = site(pool).await;
    let reply = site
        .send(chat(&json!({ "user": "ignored", "temperature": 0 })))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "owm-geo");
    let message = json!({ "role": "assistant", "content": "Paris.", "refusal": null });
    let choice =
        json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": "stop" });
    assert_eq!(answer["choices"], json!([choice]));
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10 });
    assert_eq!(answer["usage"], usage);
    let receipt: SignedReceipt = serde_json::from_value(answer["owm"]["receipt"].clone()).unwrap();
    receipt
        .verify(&site.app.authority.statements().trust)
        .unwrap();
    // The capability is in the body's extension only.
    let id = answer["owm"]["request_id"].as_str().unwrap();
    let secret = id.strip_prefix("req_").unwrap();
    assert!(!answer["id"].as_str().unwrap().contains(secret));
    let headers = format!("{:?}", reply.headers);
    assert!(!headers.contains(secret), "{headers}");
    let stored = site.ok(get(&format!("/v1/requests/{id}"))).await;
    assert_eq!(stored["answer"], "Paris.");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_streamed_completion_has_openais_chunks(pool: PgPool) {
    let site = site(pool).await;
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let reply = site.send(chat(&options)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut events = super::streams::events(&reply.text());
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events
        .iter()
        .map(|e| serde_json::from_str(e).unwrap())
        .collect();
    assert!(
        chunks
            .iter()
            .all(|c| c["object"] == "chat.completion.chunk"),
        "{chunks:?}"
    );
    assert!(
        chunks.iter().all(|c| c["id"] == chunks[0]["id"]),
        "{chunks:?}"
    );
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    let delta = |chunk: &Value| {
        chunk["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    let text: String = chunks.iter().filter_map(delta).collect();
    assert_eq!(text, "Paris.");
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 10);
    assert!(rest.iter().all(|c| c["usage"].is_null()), "{rest:?}");
    let last = rest.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert!(last["owm"]["receipt"]["signature"].is_string(), "{last}");
    assert!(
        rest[..rest.len() - 1]
            .iter()
            .all(|c| c["choices"][0]["finish_reason"].is_null())
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn without_being_asked_no_usage_chunk_comes(pool: PgPool) {
    let site = site(pool).await;
    let reply = site.send(chat(&json!({ "stream": true }))).await;
    assert!(!reply.text().contains("\"usage\""), "{}", reply.text());
    assert!(
        reply.text().ends_with("data: [DONE]\n\n"),
        "{}",
        reply.text()
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_model_is_a_sub_model_the_version_or_the_network(pool: PgPool) {
    let site = site(pool).await;
    for (name, answers) in [
        ("owm-code", "owm-code"),
        ("owm-v0.0.1", "owm-geo"),
        ("owm", "owm-geo"),
    ] {
        let answer = site.ok(chat(&json!({ "model": name }))).await;
        assert_eq!(answer["model"], answers, "{name}");
    }
    for name in ["gpt-4o", "owm-v9.9.9", "owm-router", ""] {
        let reply = site.send(chat(&json!({ "model": name }))).await;
        assert_eq!(
            reply.problem(),
            (404, "model_not_found".into(), Some("model".into()))
        );
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn faults_name_openais_parameters(pool: PgPool) {
    let site = site(pool).await;
    let turn = json!({ "role": "user", "content": "x" });
    let too_many = vec![turn.clone(); owm_proto::limits::CHAT_MESSAGES_MAX + 1];
    for (extra, code, param) in [
        (json!({ "messages": [] }), "invalid_parameter", "messages"),
        (
            json!({ "messages": too_many }),
            "invalid_parameter",
            "messages",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "" }] }),
            "invalid_parameter",
            "messages",
        ),
        (
            json!({ "max_tokens": 0 }),
            "invalid_parameter",
            "max_tokens",
        ),
        (
            json!({ "max_completion_tokens": 4097 }),
            "invalid_parameter",
            "max_completion_tokens",
        ),
        (
            json!({ "temperature": 2.1 }),
            "invalid_parameter",
            "temperature",
        ),
        (json!({ "tools": [{}] }), "unsupported_parameter", "tools"),
        (json!({ "n": 2 }), "unsupported_parameter", "n"),
        (json!({ "temprature": 1 }), "invalid_body", "temprature"),
    ] {
        let reply = site.send(chat(&extra)).await;
        assert_eq!(
            reply.problem(),
            (400, code.into(), Some(param.into())),
            "{}",
            reply.text()
        );
    }
    let exactly = vec![turn; owm_proto::limits::CHAT_MESSAGES_MAX];
    site.ok(chat(&json!({ "messages": exactly }))).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn models_are_listed_and_shown(pool: PgPool) {
    let site = site(pool).await;
    let list = site.ok(get("/v1/models")).await;
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["owm-code", "owm-geo"]);
    let model = site.ok(get("/v1/models/owm-geo")).await;
    assert_eq!(model, list["data"][1]);
    assert_eq!(model["owm"]["model_version"], "owm-v0.0.1");
    let reply = site.send(get("/v1/models/gpt-4o")).await;
    assert_eq!(reply.fault(), (404, "model_not_found".into()));
}
