//! Bodies that are no JSON, too much of it, or too slow; and the place that the refusal names.

use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Sample {
    query: String,
    max_tokens: Option<u32>,
    #[serde(default)]
    list: Vec<Inner>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Inner {
    role: String,
}

fn refusal(body: &str) -> (Kind, Value, String) {
    let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
    let error = serde_json::to_value(problem.error_member()).unwrap();
    (
        problem.kind(),
        error["param"].clone(),
        error["message"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn a_refusal_names_the_field_and_the_place() {
    for (body, param, said) in [
        (
            r#"{"query": "x", "tempratur": 1}"#,
            json!("tempratur"),
            "unknown field `tempratur`",
        ),
        (
            r#"{"max_tokens": 1}"#,
            json!("query"),
            "missing field `query`",
        ),
        (
            r#"{"query": "x", "max_tokens": "many"}"#,
            json!("max_tokens"),
            "invalid type",
        ),
        (
            r#"{"query": "x", "max_tokens": -1}"#,
            json!("max_tokens"),
            "invalid value",
        ),
        (r#"{"query": 1}"#, json!("query"), "invalid type"),
        (
            r#"{"query": "x", "list": [{"role": 1}]}"#,
            json!("list[0].role"),
            "invalid type",
        ),
        ("{\n \"query\": \"x\",\n}", Value::Null, "line 3"),
        ("[]", Value::Null, "invalid"),
        (r#"{"query": "x"} trailing"#, Value::Null, "trailing"),
        ("", Value::Null, "empty"),
    ] {
        let (kind, got, message) = refusal(body);
        assert_eq!(kind, Kind::InvalidBody, "{body}");
        assert_eq!(got, param, "{body}: {message}");
        assert!(message.contains(said), "{body}: {message}");
        assert!(
            !message.contains("target type"),
            "no Rust in messages: {message}"
        );
    }
}

#[test]
fn only_json_is_json() {
    let is = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
        is_json(&headers)
    };
    assert!(is("application/json"));
    assert!(is("Application/JSON; charset=utf-8"));
    assert!(is("application/vnd.owm+json"));
    assert!(!is("text/plain"));
    assert!(!is("application/x-www-form-urlencoded"));
    assert!(!is("application/jsonp"));
    assert!(!is_json(&HeaderMap::new()));
}

#[tokio::test]
async fn a_body_one_byte_over_the_limit_is_refused() {
    let minute = Duration::from_mins(1);
    assert_eq!(read(Body::from("12345"), 5, minute).await.unwrap(), "12345");
    let problem = read(Body::from("123456"), 5, minute).await.unwrap_err();
    assert_eq!(problem.kind(), Kind::BodyTooLarge);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let endless = stream::pending::<Result<Bytes, std::io::Error>>();
    let body = Body::from_stream(endless);
    let problem = read(body, 5, Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(problem.kind(), Kind::BodyTimeout);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_senders_fault() {
    let broken = stream::iter([Ok("12".to_owned()), Err(std::io::Error::other("reset"))]);
    let problem = read(Body::from_stream(broken), 5, Duration::from_mins(1))
        .await
        .unwrap_err();
    assert_eq!(problem.kind(), Kind::InvalidBody);
}
