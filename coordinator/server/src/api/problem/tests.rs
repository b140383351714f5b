//! Every problem has its status, and nothing of the inside gets out.

use std::{collections::HashSet, io};

use http::HeaderMap;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::*;

async fn shown(problem: Problem) -> (u16, HeaderMap, Value) {
    let (parts, body) = problem.into_response().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        parts.status.as_u16(),
        parts.headers,
        serde_json::from_slice(&bytes).unwrap(),
    )
}

fn failure(code: &str) -> AnswerFailure {
    AnswerFailure {
        code: code.into(),
        message: "why".into(),
    }
}

#[test]
fn every_cause_has_its_status_and_code() {
    let unavailable = || StoreError::from(sqlx::Error::PoolTimedOut);
    let after = Duration::from_secs(7);
    let table: [(Problem, u16, &str); 12] = [
        (
            AskError::Invalid {
                param: "seed",
                message: "x".into(),
            }
            .into(),
            400,
            "invalid_parameter",
        ),
        (AskError::NoModel.into(), 503, "no_model"),
        (
            AskError::Busy {
                queued: 3,
                retry_after: after,
            }
            .into(),
            429,
            "busy",
        ),
        (
            AskError::NoNodes { retry_after: after }.into(),
            503,
            "no_nodes",
        ),
        (AskError::Store(unavailable()).into(), 503, "unavailable"),
        (unavailable().into(), 503, "unavailable"),
        (StoreError::Vault { what: "x" }.into(), 500, "internal"),
        (Problem::from(&failure("timeout")), 504, "timeout"),
        (
            Problem::from(&failure("input_refused")),
            400,
            "context_length_exceeded",
        ),
        (
            Problem::from(&failure("attempts_exhausted")),
            502,
            "attempts_exhausted",
        ),
        (Problem::from(&failure("cancelled")), 409, "cancelled"),
        (Problem::from(&failure("new one")), 500, "internal"),
    ];
    for (problem, status, code) in table {
        let kind = problem.kind();
        assert_eq!((kind.status().as_u16(), kind.code()), (status, code));
    }
}

#[test]
fn codes_are_distinct() {
    let codes: HashSet<&str> = Kind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(codes.len(), Kind::ALL.len());
}

#[tokio::test]
async fn a_problem_speaks_rfc_9457_and_openai() {
    let (status, headers, body) = shown(Problem::parameter("top_p", "too high")).await;
    assert_eq!(status, 400);
    assert_eq!(headers["content-type"], "application/problem+json");
    let expected = serde_json::json!({
        "type": "/openapi.json#invalid_parameter",
        "title": "A parameter is not allowed",
        "status": 400,
        "detail": "too high",
        "error": {
            "message": "too high",
            "type": "invalid_request_error",
            "code": "invalid_parameter",
            "param": "top_p",
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn who_is_sent_away_is_told_when_to_come_back() {
    let after = Duration::from_millis(1_200);
    let busy = AskError::Busy {
        queued: 9,
        retry_after: after,
    };
    let (_, headers, _) = shown(busy.into()).await;
    assert_eq!(headers["retry-after"], "2");
    assert_eq!(headers["retry-after-ms"], "1200");
    for kind in [
        Kind::NoModel,
        Kind::NoNodes,
        Kind::Unavailable,
        Kind::Overloaded,
    ] {
        let (_, headers, _) = shown(Problem::new(kind, "x")).await;
        assert!(headers.contains_key("retry-after"), "{kind:?}");
    }
    let (_, headers, _) = shown(Problem::new(Kind::MissingKey, "x")).await;
    assert_eq!(headers["www-authenticate"], "Bearer realm=\"owm\"");
}

#[tokio::test]
async fn clients_are_told_not_to_repeat_what_took_its_time_already() {
    for kind in Kind::ALL {
        let (_, headers, _) = shown(Problem::new(*kind, "x")).await;
        let in_vain = matches!(kind, Kind::Cancelled | Kind::AnswerTimeout);
        assert_eq!(headers.contains_key("x-should-retry"), in_vain, "{kind:?}");
    }
}

#[tokio::test]
async fn nothing_of_the_inside_gets_out() {
    let secret = "postgres://owm:hunter2@10.0.0.7";
    let causes = [
        StoreError::Unavailable(sqlx::Error::Io(io::Error::other(secret))),
        StoreError::Refused(sqlx::Error::Protocol(secret.into())),
        StoreError::Constraint {
            constraint: "c".into(),
            message: secret.into(),
        },
    ];
    for cause in causes {
        let (_, _, body) = shown(cause.into()).await;
        assert!(!body.to_string().contains("hunter2"), "{body}");
    }
}
