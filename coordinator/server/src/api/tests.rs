//! The API over HTTP, against a whole coordinator on Postgres with scripted nodes.

mod blobs;
mod chat;
mod hangups;
mod keys;
mod limits;
mod network;
mod openapi;
mod page;
mod questions;
mod streams;

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt as _;

use super::{Limits, router_within};
use crate::app::testing::{self, Script, TestApp};

/// A coordinator with its API.
struct Site {
    app: TestApp,
    router: Router,
}

/// A response that has been read to its end.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// An open API on this machine, with one node that says "Paris." in three words.
async fn site(pool: PgPool) -> Site {
    let site = site_within(pool, Limits::default()).await;
    site.app.node(1, 2, paris()).await;
    site
}

/// The same without a node, and with other limits.
async fn site_within(pool: PgPool, limits: Limits) -> Site {
    let app = testing::app(pool).await;
    let router = router_within(app.app.clone(), limits);
    Site { app, router }
}

fn paris() -> Script {
    Script::Words(vec!["Pa", "ris", "."])
}

/// A request from a program on this machine.
fn request(method: &Method, path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse().unwrap();
    request
        .headers_mut()
        .insert(header::HOST, "localhost:8080".parse().unwrap());
    from_peer(&mut request, "127.0.0.1:40000");
    request
}

fn from_peer(request: &mut Request<Body>, peer: &str) {
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
}

fn get(path: &str) -> Request<Body> {
    request(&Method::GET, path)
}

fn post(path: &str, body: &Value) -> Request<Body> {
    let mut request = request(&Method::POST, path);
    *request.body_mut() = Body::from(body.to_string());
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    request
}

fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request
        .headers_mut()
        .insert(HeaderName::from_static(name), value.parse().unwrap());
    request
}

fn question() -> Request<Body> {
    post(
        "/v1/query",
        &json!({ "query": "What is the capital of France?" }),
    )
}

impl Site {
    /// The response, its body unread.
    async fn begin(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let (parts, body) = self.begin(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// The JSON of a response that has to be a 200.
    async fn ok(&self, request: Request<Body>) -> Value {
        let reply = self.send(request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON: {}", self.text()))
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("(absent)", |value| value.to_str().unwrap())
    }

    /// Status, code and parameter of a problem that has to be one in both worlds.
    fn problem(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{body}"
        );
        assert_eq!(body["status"], self.status.as_u16(), "{body}");
        assert_eq!(body["detail"], body["error"]["message"], "{body}");
        let code = body["error"]["code"].as_str().unwrap().to_owned();
        let param = body["error"]["param"].as_str().map(str::to_owned);
        (self.status.as_u16(), code, param)
    }

    /// The same where no parameter is at fault.
    fn fault(&self) -> (u16, String) {
        let (status, code, _) = self.problem();
        (status, code)
    }
}
