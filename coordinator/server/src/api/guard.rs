//! What happens to every request before and after its handler: bounds on headers and on requests in
//! work, a log id, security headers, one log line, and a panic that becomes a 500.

use std::panic::AssertUnwindSafe;

use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::BodyExt as _;
use rand::Rng as _;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::{
    Api,
    problem::{Kind, Problem},
};

/// The middleware around everything.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let log_id = format!("{:016x}", api.app.request_rng().random::<u64>());
    let span = tracing::info_span!("http", log_id);
    let begun = tokio::time::Instant::now();
    let (method, route) = (request.method().clone(), route_of(request.uri().path()));
    let mut response = admitted(&api, request, next).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let ms = begun.elapsed().as_millis() as u64;
    api.app.metrics.called(route, status, begun.elapsed());
    // Never the path: it may hold a request id.
    span.in_scope(|| tracing::debug!(%method, route, status, ms, "request served"));
    finish(response.headers_mut(), &log_id);
    response
}

async fn admitted(api: &Api, request: Request, next: Next) -> Response {
    let max = api.limits.header_bytes;
    if header_bytes(request.headers(), request.uri()) > max {
        let detail = format!("the target and headers together have more than {max} bytes");
        return Problem::new(Kind::HeadersTooLarge, detail).into_response();
    }
    let Ok(permit) = api.permits.clone().try_acquire_owned() else {
        let max = api.limits.requests;
        let detail = format!("{max} requests are in work already; try again in a second");
        return Problem::new(Kind::Overloaded, detail).into_response();
    };
    let served = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let response = served.unwrap_or_else(|_| {
        // The panic's own message went to the panic hook.
        tracing::error!("a handler panicked");
        Problem::internal().into_response()
    });
    hold(response, permit)
}

/// A streamed answer counts until its last byte, so the permit goes with the body.
fn hold(mut response: Response, permit: OwnedSemaphorePermit) -> Response {
    // The wrapped body does not know its length any more.
    if let Some(length) = response
        .body()
        .size_hint()
        .exact()
        .filter(|length| *length > 0)
    {
        let headers = response.headers_mut();
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(HeaderValue::from(length));
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &permit;
            frame
        }))
    })
}

fn header_bytes(headers: &HeaderMap, uri: &Uri) -> usize {
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    let fields: usize = headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len() + 4)
        .sum();
    target + fields
}

/// The part of a path that may be logged: never an id.
fn route_of(path: &str) -> &'static str {
    const ROUTES: &[&str] = &[
        "/v1/query",
        "/v1/chat",
        "/v1/models",
        "/v1/requests",
        "/v1/receipts",
        "/v1/model",
        "/v1/genesis",
        "/v1/network",
        "/v1/nodes",
        "/v1/blobs",
        "/openapi.json",
        "/events",
        "/static",
    ];
    let is = |route: &&&str| {
        path.strip_prefix(**route)
            .is_some_and(|r| r.is_empty() || r.starts_with('/'))
    };
    ROUTES.iter().find(is).map_or("other", |route| *route)
}

fn finish(headers: &mut HeaderMap, log_id: &str) {
    let id = HeaderValue::from_str(log_id).expect("hex digits");
    headers.insert(HeaderName::from_static("x-request-id"), id);
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // The page has a policy of its own.
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(policy);
    // Answers are nobody's to keep; what may be kept (published files) says so itself.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

/// No such path.
pub(super) async fn no_such_path() -> Problem {
    Problem::new(
        Kind::NotFound,
        "this API has no such path; /openapi.json lists all of them",
    )
}

/// No such method on this path.
pub(super) async fn no_such_method(method: Method) -> Problem {
    let detail = format!("this path does not take {method}; /openapi.json says what it takes");
    Problem::new(Kind::MethodNotAllowed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_request_id_is_logged_without_it() {
        let id = "req_00112233445566778899aabbccddeeff";
        assert_eq!(route_of(&format!("/v1/requests/{id}")), "/v1/requests");
        assert_eq!(route_of(&format!("/{id}")), "other");
        assert_eq!(route_of(&format!("/v1/requests{id}")), "other");
        assert_eq!(route_of("/v1/models/owm-geo"), "/v1/models");
        assert_eq!(route_of("/v1/model/versions"), "/v1/model");
    }
}
