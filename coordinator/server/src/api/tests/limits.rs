//! Every limit, crossed.

use std::{io, time::Duration};

use axum::middleware;
use owm_proto::limits::{
    OUTPUT_TOKENS_MAX, PROMPT_BYTES_MAX, STOP_STRING_BYTES_MAX, STOP_STRINGS_MAX,
};

use super::{super::limit::Rate, *};

fn ask(extra: &Value) -> Request<Body> {
    let mut body = json!({ "query": "x" });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    post("/v1/query", &body)
}

/// Nothing but the limit under test holds a question back.
fn generous() -> Limits {
    Limits {
        questions: Rate {
            burst: 1_000,
            per_second: 1_000,
        },
        ..Limits::default()
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn parameters_are_taken_up_to_their_limits_and_refused_beyond(pool: PgPool) {
    let site = site_within(pool, generous()).await;
    site.app.node(1, 4, paris()).await;
    let long = |n: usize| "x".repeat(n);
    for (param, within, beyond) in [
        (
            "query",
            json!(long(PROMPT_BYTES_MAX)),
            json!(long(PROMPT_BYTES_MAX + 1)),
        ),
        ("query", json!("x"), json!("")),
        ("max_tokens", json!(1), json!(0)),
        (
            "max_tokens",
            json!(OUTPUT_TOKENS_MAX),
            json!(OUTPUT_TOKENS_MAX + 1),
        ),
        ("temperature", json!(2), json!(2.01)),
        ("temperature", json!(0), json!(-0.01)),
        ("top_p", json!(1), json!(1.01)),
        ("top_p", json!(0.01), json!(0)),
        (
            "stop",
            json!(vec!["x"; STOP_STRINGS_MAX]),
            json!(vec!["x"; STOP_STRINGS_MAX + 1]),
        ),
        (
            "stop",
            json!(long(STOP_STRING_BYTES_MAX)),
            json!(long(STOP_STRING_BYTES_MAX + 1)),
        ),
        ("stop", json!("x"), json!("")),
        ("sub_model", json!("owm-code"), json!("owm-poetry")),
        ("sub_model", json!("owm-geo"), json!("owm-router")),
    ] {
        site.ok(ask(&json!({ param: within }))).await;
        let reply = site.send(ask(&json!({ param: beyond }))).await;
        let expected = (400, "invalid_parameter".to_owned(), Some(param.to_owned()));
        assert_eq!(reply.problem(), expected, "{}", reply.text());
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn bodies_are_json_of_the_right_shape_and_size(pool: PgPool) {
    let site = site(pool).await;
    let reply = site.send(ask(&json!({ "tempratur": 1 }))).await;
    assert_eq!(
        reply.problem(),
        (400, "invalid_body".into(), Some("tempratur".into()))
    );
    let mut broken = question();
    *broken.body_mut() = Body::from("{\"query\": ");
    let reply = site.send(broken).await;
    assert_eq!(reply.problem(), (400, "invalid_body".into(), None));
    assert!(reply.text().contains("line 1 column"), "{}", reply.text());
    let reply = site
        .send(with(question(), "content-type", "text/plain"))
        .await;
    assert_eq!(reply.fault(), (415, "unsupported_media_type".into()));
    let mut huge = question();
    *huge.body_mut() = Body::from(vec![b' '; super::super::BODY_BYTES_MAX + 1]);
    assert_eq!(
        site.send(huge).await.fault(),
        (413, "body_too_large".into())
    );
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_body_that_drips_is_given_up(pool: PgPool) {
    let limits = Limits {
        body_timeout: Duration::from_millis(1),
        ..Limits::default()
    };
    let site = site_within(pool, limits).await;
    let mut slow = question();
    let endless = futures::stream::pending::<Result<Bytes, io::Error>>();
    *slow.body_mut() = Body::from_stream(endless);
    assert_eq!(site.send(slow).await.fault(), (408, "body_timeout".into()));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn large_headers_are_refused(pool: PgPool) {
    let site = site(pool).await;
    let max = super::super::HEADER_BYTES_MAX;
    site.ok(with(get("/v1/genesis"), "cookie", &"x".repeat(max / 2)))
        .await;
    let reply = site
        .send(with(get("/v1/genesis"), "cookie", &"x".repeat(max)))
        .await;
    assert_eq!(reply.fault(), (431, "headers_too_large".into()));
    let reply = site
        .send(get(&format!("/v1/genesis?{}", "x".repeat(max))))
        .await;
    assert_eq!(reply.fault(), (431, "headers_too_large".into()));
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_stream_counts_as_a_request_until_it_ends(pool: PgPool) {
    let site = site_within(
        pool,
        Limits {
            requests: 1,
            ..Limits::default()
        },
    )
    .await;
    let _node = site
        .app
        .node(1, 1, Script::Stall(vec!["Pa", "ris"], 1))
        .await;
    let streaming = site.begin(ask(&json!({ "stream": true }))).await;
    assert_eq!(streaming.status(), 200);
    let reply = site.send(get("/v1/genesis")).await;
    assert_eq!(reply.fault(), (503, "overloaded".into()));
    assert_eq!(reply.header("retry-after"), "1");
    drop(streaming);
    site.ok(get("/v1/genesis")).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn who_asks_too_fast_is_told_to_wait_and_others_are_not(pool: PgPool) {
    // One question in 1 000 s is none in this test's time.
    let rate = Rate {
        burst: 2,
        per_second: 0,
    };
    let site = site_within(
        pool,
        Limits {
            questions: rate,
            ..Limits::default()
        },
    )
    .await;
    site.app.node(1, 2, paris()).await;
    for left in ["1", "0"] {
        let reply = site.send(question()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "2");
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), left);
    }
    let reply = site.send(question()).await;
    assert_eq!(reply.fault(), (429, "rate_limit_exceeded".into()));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_ne!(reply.header("retry-after"), "(absent)");
    assert_ne!(reply.header("retry-after-ms"), "(absent)");
    assert!(
        reply.header("ratelimit").starts_with("\"questions\";r=0;"),
        "{:?}",
        reply.headers
    );
    let mut other = question();
    from_peer(&mut other, "127.0.0.2:5");
    site.ok(other).await;
    site.ok(get("/v1/models")).await;
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn every_response_has_a_log_id_and_security_headers(pool: PgPool) {
    let site = site(pool).await;
    let mut seen = std::collections::HashSet::new();
    for request in [
        question(),
        get("/nowhere"),
        get("/"),
        get("/v1/query"),
        get("/v1/models"),
    ] {
        let reply = site.send(request).await;
        let id = reply.header("x-request-id").to_owned();
        assert!(
            id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
        assert!(!reply.text().contains(&id), "a log id is no capability");
        assert!(seen.insert(id), "every response has another");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(
            reply
                .header("content-security-policy")
                .contains("default-src 'none'")
        );
    }
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn unknown_paths_and_methods_are_problems_too(pool: PgPool) {
    let site = site(pool).await;
    assert_eq!(
        site.send(get("/v1/nowhere")).await.fault(),
        (404, "not_found".into())
    );
    let reply = site.send(get("/v1/query")).await;
    assert_eq!(reply.fault(), (405, "method_not_allowed".into()));
    assert_eq!(reply.header("allow"), "POST");
    let reply = site.send(request(&Method::DELETE, "/v1/models")).await;
    assert_eq!(reply.fault(), (405, "method_not_allowed".into()));
}

async fn boom() -> &'static str {
    panic!("hunter2")
}

#[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
async fn a_panic_is_a_500_without_internals(pool: PgPool) {
    let app = testing::app(pool).await;
    let api = super::super::Api::new(app.app.clone(), Limits::default());
    let router = Router::new().route("/", axum::routing::delete(boom)).layer(
        middleware::from_fn_with_state(api, super::super::guard::guard),
    );
    let site = Site { app, router };
    let reply = site.send(request(&Method::DELETE, "/")).await;
    assert_eq!(reply.fault(), (500, "internal".into()));
    assert!(!reply.text().contains("hunter2"));
}
