//! `GET /`, `GET /events`, `GET /static/…`: the network at a glance, for people. Needs no key, like all
//! that anyone may know; where it comes from and what it may show is in `crate::page`.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use askama::Template as _;
use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures::stream;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

use super::{
    Api,
    guard::no_such_path,
    problem::{Kind, Problem},
    root::{self, Pointer},
};
use crate::page::{
    assets::ASSETS,
    view::{Shell, for_viewer},
};

/// Scripts and style from here only, and none in the page itself; nothing may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

/// Something goes out at least this often, so that proxies see that the line is alive, and the page,
/// which takes one that is silent for much longer for dead (`static/page.js`).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A viewer who finds no place tries again after this.
const NO_PLACE_WAIT: Duration = Duration::from_secs(30);

/// Characters of a host that is worth showing.
const HOST_CHARS_MAX: usize = 255;

/// A hashed path's file never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// What the page needs beside itself; no part of the API.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/events", get(get_events))
        .route("/static/{hash}/{name}", get(get_asset))
}

/// The network at a glance, for people; for programs where to read on.
#[utoipa::path(
    get, path = "/", tag = "network",
    responses(
        (status = 200, description = "A page; with `Accept: application/json` where to read on",
            content((String = "text/html"), (Pointer = "application/json"))),
        (status = 503, description = "The same page while the database is away", body = String,
            content_type = "text/html"),
    )
)]
pub(super) async fn get_page(State(api): State<Api>, headers: HeaderMap) -> Response {
    if wants_json(&headers) {
        let mut response = Json(root::pointer()).into_response();
        vary(response.headers_mut());
        return response;
    }
    let page = api.app.page.current(&api.app).await;
    let assets = &*ASSETS;
    let statements = api.app.authority.statements();
    let shell = Shell {
        title: &page.title,
        network: &statements.trust.genesis().name,
        live: &for_viewer(&page.html, &base_url(&api, &headers)),
        style: &assets.style,
        icon: &assets.icon,
        scripts: &assets.scripts(),
    };
    let html = shell.render().expect("writing into a string does not fail");
    let status = if page.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, html);
    let policy = HeaderValue::from_static(POLICY);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    if !page.ok {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    vary(headers);
    response
}

fn vary(headers: &mut HeaderMap) {
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
}

/// Programs that say so get JSON; browsers and `curl` get the page.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_some_and(|a| a.contains("application/json") && !a.contains("text/html"))
}

/// The base URL as this viewer reaches it, for commands to paste: from the Host it asked for, if that is
/// nothing but a host, else the configured one.
fn base_url(api: &Api, headers: &HeaderMap) -> String {
    let configured = api.app.config.invite.web_seed.trim_end_matches('/');
    let plain = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        (1..=HOST_CHARS_MAX).contains(&host.len()) && host.bytes().all(allowed)
    };
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let Some(host) = host.filter(plain) else {
        return configured.to_owned();
    };
    let secure = headers
        .get("x-forwarded-proto")
        .is_some_and(|proto| proto == "https");
    let known = configured.strip_prefix("https://") == Some(host);
    let scheme = if secure || known { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// What the page holds, at once and whenever it has changed, as server-sent events without names.
async fn get_events(
    State(api): State<Api>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map(|ConnectInfo(peer)| peer.ip());
    let Some(viewer) = api.app.page.viewer(peer) else {
        let detail = "too many look at this page live; it can be reloaded all the same";
        return Err(Problem::new(Kind::Overloaded, detail).retry_after(NO_PLACE_WAIT));
    };
    let base = base_url(&api, &headers);
    let events = stream::unfold((viewer, api.app, base), async |(mut viewer, app, base)| {
        let html = viewer.next(&app).await?;
        let event = Event::default().data(for_viewer(&html, &base));
        Some((Ok::<_, Infallible>(event), (viewer, app, base)))
    });
    let alive = Event::default().comment("nothing new").event("alive");
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).event(alive);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold the news back.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    Ok(response)
}

async fn get_asset(uri: Uri) -> Response {
    let Some(asset) = ASSETS.find(uri.path()) else {
        return no_such_path().await.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.media),
        (header::CACHE_CONTROL, FOR_EVER),
    ];
    (headers, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_json_gets_json() {
        let json = |accept: &'static str| {
            let value = HeaderValue::from_static(accept);
            wants_json(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        assert!(json("application/json"));
        assert!(!json("*/*"));
        assert!(!json(
            "text/html,application/xhtml+xml,application/json;q=0.9"
        ));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
