//! Who calls: an API key, or, where the operator has opened the API on a devnet, a program on this
//! machine. Extractors for handlers; the rules of the open API are a pure function here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, Uri, header, request::Parts};
use owm_coordinator_store::api_key::api_key_lookup;
use owm_proto::Sha256;
use uuid::Uuid;

use super::{
    Api,
    limit::{Standing, Who},
    problem::{Kind, Problem},
};

/// What every key starts with, so that scanners for leaked secrets find it.
const KEY_PREFIX: &str = "owm_";

/// Characters of a key: ours have far fewer.
const KEY_CHARS_MAX: usize = 200;

/// Someone who may ask questions and read their own answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// The key; `None` on an open API.
    pub(super) api_key: Option<Uuid>,
    who: Who,
}

/// A caller whose question has been counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    standing: Standing,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let peer = ConnectInfo::<SocketAddr>::from_request_parts(parts, api).await;
        let peer = peer.ok().map(|ConnectInfo(peer)| peer);
        let given = key_of(&parts.headers);
        if let Some(key) = given.filter(|key| is_plausible(key)) {
            let mut tx = api.app.store.single("api.authenticate").await?;
            if let Some(id) = api_key_lookup(&mut tx, &Sha256::of(key.as_bytes())).await? {
                return Ok(Self {
                    api_key: Some(id),
                    who: Who::Key(id),
                });
            }
        }
        if api.app.config.api.open {
            // OpenAI's clients always send some key; one that is unknown is as good as none.
            if let Some(reason) = open_refusal(peer, &parts.headers, &parts.uri) {
                return Err(Problem::new(Kind::NotLocal, reason));
            }
            let address = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.ip());
            return Ok(Self {
                api_key: None,
                who: Who::net(address),
            });
        }
        Err(match given {
            Some(_) => Problem::new(
                Kind::WrongKey,
                "this API key is unknown or revoked; ask the operator of this coordinator for one",
            ),
            None => Problem::new(
                Kind::MissingKey,
                "send the header `Authorization: Bearer owm_…` with an API key of this coordinator",
            ),
        })
    }
}

impl FromRequestParts<Api> for Asker {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, api).await;
        let caller = caller.map_err(Problem::into_response)?;
        let standing = api.questions.take(caller.who, api.app.now());
        let asker = Self { caller, standing };
        let Some(wait) = standing.wait else {
            return Ok(asker);
        };
        let detail = format!(
            "too many questions; the next one is taken in {} ms",
            wait.as_millis()
        );
        let problem = Problem::new(Kind::TooManyQuestions, detail).retry_after(wait);
        Err(asker.respond(Err(problem)))
    }
}

impl Asker {
    /// The response with the asker's standing in its headers.
    pub(super) fn respond(&self, result: Result<Response, Problem>) -> Response {
        let mut response = result.unwrap_or_else(Problem::into_response);
        self.standing.write(response.headers_mut());
        response
    }
}

/// The token of `Authorization: Bearer …`.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_plausible(key: &str) -> bool {
    key.starts_with(KEY_PREFIX) && key.len() <= KEY_CHARS_MAX
}

/// Why an open API does not answer this request: it was not made by a program on this machine, or a
/// web page made it (DNS rebinding, cross-site requests).
fn open_refusal(peer: Option<SocketAddr>, headers: &HeaderMap, uri: &Uri) -> Option<&'static str> {
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Some(
            "this API is open (`api.open = true`), so it answers requests from its own machine only; \
             turn `api.open` off and use API keys to serve others",
        );
    }
    let forwarded = |name: &str| {
        matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded")
    };
    if headers.keys().any(|name| forwarded(name.as_str())) {
        return Some(
            "this API is open (`api.open = true`) and the request was forwarded by a proxy; turn \
             `api.open` off and use API keys to serve others",
        );
    }
    let mut hosts = headers.get_all(header::HOST).iter().peekable();
    let named = hosts.peek().is_some() || uri.authority().is_some();
    let local = hosts.all(|host| host.to_str().is_ok_and(is_loopback_host))
        && uri
            .authority()
            .is_none_or(|host| is_loopback_host(host.as_str()));
    if !(named && local) {
        return Some("this API is open: its Host has to be localhost or a loopback address");
    }
    let is_local = |origin: &str| {
        origin
            .split_once("://")
            .is_some_and(|(_, host)| is_loopback_host(host))
    };
    if !headers
        .get_all(header::ORIGIN)
        .iter()
        .all(|o| o.to_str().is_ok_and(is_local))
    {
        return Some("this API is open: web pages from elsewhere may not use it (Origin)");
    }
    None
}

/// Whether `host[:port]` can only mean this machine.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(v6, _)| v6),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn refused(peer: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        open_refusal(
            Some(peer.parse().unwrap()),
            &map,
            &Uri::from_static("/v1/query"),
        )
        .is_some()
    }

    #[test]
    fn programs_on_this_machine_may_use_an_open_api() {
        for (peer, host) in [
            ("127.0.0.1:5", "127.0.0.1:8080"),
            ("127.0.0.1:5", "localhost:8080"),
            ("[::1]:5", "[::1]:8080"),
            ("[::ffff:127.0.0.1]:5", "LocalHost."),
            ("127.0.0.1:5", "owm.localhost"),
        ] {
            assert!(!refused(peer, &[("host", host)]), "{peer} {host}");
            let origin = ("origin", "http://localhost:3000");
            assert!(!refused(peer, &[("host", host), origin]), "{peer} {host}");
        }
    }

    #[test]
    fn an_open_api_refuses_strangers_proxies_and_web_pages() {
        let host = ("host", "localhost");
        assert!(refused("192.0.2.1:5", &[host]), "another machine");
        assert!(refused("[2001:db8::1]:5", &[host]), "another machine");
        for name in [
            "forwarded",
            "via",
            "x-real-ip",
            "x-forwarded-for",
            "x-forwarded-host",
        ] {
            assert!(refused("127.0.0.1:5", &[host, (name, "1.1")]), "{name}");
        }
        for name in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
        ] {
            assert!(refused("127.0.0.1:5", &[("host", name)]), "{name}");
        }
        assert!(refused("127.0.0.1:5", &[]), "no host");
        assert!(
            refused("127.0.0.1:5", &[host, ("host", "evil.example")]),
            "two hosts"
        );
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost.evil.example",
            "localhost",
        ] {
            assert!(
                refused("127.0.0.1:5", &[host, ("origin", origin)]),
                "{origin}"
            );
        }
        let map = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        assert!(
            open_refusal(None, &map, &Uri::from_static("/")).is_some(),
            "an unknown peer"
        );
        let peer = Some("127.0.0.1:5".parse().unwrap());
        let elsewhere = Uri::from_static("http://evil.example/v1/query");
        assert!(
            open_refusal(peer, &map, &elsewhere).is_some(),
            "an absolute target"
        );
    }

    #[test]
    fn only_bearer_tokens_are_keys() {
        let key = |value| {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            key_of(&headers).map(str::to_owned)
        };
        assert_eq!(key("bearer owm_x").as_deref(), Some("owm_x"));
        assert_eq!(key("Basic owm_x"), None);
        assert_eq!(key("owm_x"), None);
        assert!(!is_plausible("sk-proj"));
        assert!(!is_plausible(&format!("owm_{}", "x".repeat(KEY_CHARS_MAX))));
    }
}
