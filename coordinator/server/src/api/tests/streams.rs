//! Streamed questions: the frames, hanging up, breaking off, and readers that are too slow.

use futures::StreamExt as _;
use owm_coordinator_domain::task::Outcome;
use owm_proto::wire::coordinator as wire;

use super::*;

fn streamed(extra: &Value) -> Request<Body> {
    let mut body = json!({ "query": "What is the capital of France?", "stream": true });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    post("/v1/query", &body)
}

/// The events of a stream: what stands after `data: `, one per frame.
pub(super) fn events(text: &str) -> Vec<String> {
    let frames: Vec<&str> = text.split_terminator("\n\n").collect();
    let data = |frame: &&str| frame.strip_prefix("data: ").map(str::to_owned);
    frames
        .iter()
        .filter(|frame| !frame.starts_with(':'))
        .map(|frame| data(frame).unwrap_or_else(|| panic!("no data frame: {frame:?}")))
        .collect()
}

fn parsed(events: &[String]) -> Vec<Value> {
    events
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_stream_has_a_start_tokens_the_answer_and_an_end(pool: PgPool) {
    let site = site(pool).await;
    let reply = site
        .send(streamed(&json!({ "return_token_ids": true, "seed": 5 })))
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!(reply.header("cache-control"), "no-store");
    let mut events = events(&reply.text());
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events = parsed(&events);
    let (start, rest) = events.split_first().unwrap();
    let (done, tokens) = rest.split_last().unwrap();
    assert_eq!(start["type"], "start");
    assert_eq!(start["seed"], 5);
    assert_eq!(start["sub_model"], "owm-geo");
    assert_eq!(start["model_version"], "owm-v0.0.1");
    assert!(
        tokens.iter().all(|event| event["type"] == "token"),
        "{tokens:?}"
    );
    let text: String = tokens
        .iter()
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    let ids: Vec<u64> = tokens
        .iter()
        .flat_map(|event| event["token_ids"].as_array().unwrap())
        .map(|id| id.as_u64().unwrap())
        .collect();
    assert_eq!((text.as_str(), ids), ("Paris.", vec![1000, 1001, 1002]));
    assert_eq!(done["type"], "done");
    assert_eq!(done["answer"], "Paris.");
    assert_eq!(done["request_id"], start["request_id"]);
    // The same as whoever asks again later gets.
    let path = format!("/v1/requests/{}", done["request_id"].as_str().unwrap());
    let mut stored = site.ok(get(&path)).await;
    stored["type"] = "done".into();
    assert_eq!(stored, *done);
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn token_ids_are_streamed_only_when_asked_for(pool: PgPool) {
    let site = site(pool).await;
    let reply = site.send(streamed(&json!({}))).await;
    assert!(!reply.text().contains("token_ids"), "{}", reply.text());
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_fault_before_the_stream_is_a_plain_problem(pool: PgPool) {
    let site = site(pool).await;
    let reply = site.send(streamed(&json!({ "max_tokens": 0 }))).await;
    assert_eq!(
        reply.problem(),
        (400, "invalid_parameter".into(), Some("max_tokens".into()))
    );
}

/// Reads frames until one contains `what`.
async fn read_until(body: &mut axum::body::BodyDataStream, what: &str) -> String {
    let mut text = String::new();
    while !text.contains(what) {
        let part = body.next().await.expect("the stream ended early").unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    text
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_hangs_up_cancels_the_lease(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let mut node = site
        .app
        .node(1, 1, Script::Stall(vec!["Pa", "ris"], 1))
        .await;
    let mut body = site
        .begin(streamed(&json!({})))
        .await
        .into_body()
        .into_data_stream();
    read_until(&mut body, "\"Pa\"").await;
    drop(body);
    let told = node.told.recv().await.unwrap();
    assert!(
        matches!(told, wire::work_down::Message::Cancel(_)),
        "{told:?}"
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_stream_that_breaks_off_ends_with_an_error_and_not_with_done(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let _node = site
        .app
        .node(1, 1, Script::Stall(vec!["Pa", "ris"], 1))
        .await;
    let mut body = site
        .begin(streamed(&json!({})))
        .await
        .into_body()
        .into_data_stream();
    let begun = events(&read_until(&mut body, "\"Pa\"").await);
    let start: Value = serde_json::from_str(&begun[0]).unwrap();
    site.app
        .abandon(start["request_id"].as_str().unwrap().parse().unwrap())
        .await
        .unwrap();
    let mut rest = String::new();
    while let Some(part) = body.next().await {
        rest.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
    }
    let last = parsed(&events(&rest));
    assert_eq!(last.len(), 1, "{rest}");
    assert_eq!(last[0]["error"]["code"], "cancelled");
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_reader_who_was_cut_off_still_gets_every_word_once(pool: PgPool) {
    let site = site_within(pool, Limits::default()).await;
    let words = vec!["Pa", "ris", "."];
    let first = site.app.node(1, 1, Script::Stall(words.clone(), 1)).await;
    let request = streamed(&json!({ "return_token_ids": true }));
    let mut body = site.begin(request).await.into_body().into_data_stream();
    let mut text = read_until(&mut body, "\"Pa\"").await;
    // What happens to a reader whose events pile up.
    let (task, _) = site.app.answers.followed()[0];
    site.app.answers.forget(task);
    let _second = site.app.node(2, 1, Script::Words(words)).await;
    site.app
        .lease_lose(first.id, task, 1, Outcome::Lost, "test")
        .await
        .unwrap();
    while let Some(part) = body.next().await {
        text.push_str(std::str::from_utf8(&part.unwrap()).unwrap());
    }
    let mut events = events(&text);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let events = parsed(&events);
    let text: String = events
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    assert_eq!(text, "Paris.");
    let tokens = |event: &Value| event["token_ids"].as_array().unwrap().clone();
    let (done, sent) = events.split_last().unwrap();
    let sent: Vec<Value> = sent
        .iter()
        .filter(|e| e["type"] == "token")
        .flat_map(tokens)
        .collect();
    assert_eq!(
        (done["answer"].as_str(), &done["token_ids"]),
        (Some("Paris."), &json!(sent))
    );
}
