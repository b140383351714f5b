//! A client for the public API, as a stranger would write one.
//!
//! Tests and `up` use it; it knows nothing of the coordinator's types, so that a change of the API
//! shows. Bodies are bounded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use owm_service::dialer::{Dialer, HttpClient, HttpOptions, NetworkPolicy};
use serde_json::{Value, json};

use crate::process::POLL;

/// The largest answer read, in bytes (weights are not fetched here).
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A slow machine thinks for a while.
const ANSWER_LIMIT: Duration = Duration::from_mins(3);
/// A ready node's offer reaches the coordinator long before.
const OFFER_LIMIT: Duration = Duration::from_mins(1);
/// Probes are answered at once or not at all.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The public API of one network.
#[derive(Debug, Clone)]
pub struct Api {
    http: HttpClient,
    base: String,
    key: Option<String>,
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!(
                "status {}, and no JSON: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            )
        })
    }

    /// The body as JSON of a success.
    pub fn ok(&self) -> Result<Value> {
        if !self.status.is_success() {
            bail!(
                "status {}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            );
        }
        self.json()
    }
}

impl Api {
    /// The API at `base` (`http://127.0.0.1:8080`).
    pub fn new(base: impl Into<String>) -> Self {
        let options = HttpOptions {
            head_timeout: ANSWER_LIMIT,
            ..Default::default()
        };
        let http = Dialer::new(NetworkPolicy::LoopbackOnly).http_with(options);
        Self {
            http,
            base: base.into(),
            key: None,
        }
    }

    /// The same API, calls with an API key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// `http://127.0.0.1:8080`
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET of a path (`/v1/models`).
    pub async fn get(&self, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self.http.get(&url, self.headers()?).await?;
        read(&url, response).await
    }

    /// POST of JSON to a path.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let response = self
            .http
            .post(&url, self.headers()?, body.to_string())
            .await?;
        read(&url, response).await
    }

    /// POST of JSON to a path that answers with server-sent events.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Events> {
        let url = format!("{}{path}", self.base);
        let response = self
            .http
            .post(&url, self.headers()?, body.to_string())
            .await?;
        if !response.status().is_success() {
            let answer = read(&url, response).await?;
            bail!(
                "status {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        Ok(Events {
            body: response.into_body(),
            buffer: BytesMut::new(),
        })
    }

    /// `POST /v1/query` of a question, defaults otherwise.
    pub async fn query(&self, question: &str) -> Result<Value> {
        self.query_with(&json!({ "query": question })).await
    }

    /// `POST /v1/query` of a whole body; an answer or an error. Told to come again because no node is
    /// connected, it does for a while: a node is ready before its offer has arrived.
    pub async fn query_with(&self, body: &Value) -> Result<Value> {
        let start = Instant::now();
        loop {
            let answer = self.post("/v1/query", body).await?;
            let again = answer.status == StatusCode::SERVICE_UNAVAILABLE
                && answer.json()?["error"]["code"] == "no_nodes";
            if !again || start.elapsed() > OFFER_LIMIT {
                return answer.ok();
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(key) = &self.key {
            let value = format!("Bearer {key}")
                .parse()
                .context("the API key is no header value")?;
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

async fn read(url: &str, response: http::Response<Incoming>) -> Result<Answer> {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = HttpClient::read_body(url, response, BODY_BYTES_MAX).await?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// Server-sent events as they arrive.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

/// One event; comments are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field; `message` without one.
    pub name: String,
    /// The `data:` lines, joined.
    pub data: String,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(Some(event));
            }
            if self.buffer.len() > BODY_BYTES_MAX {
                bail!("an event is longer than {BODY_BYTES_MAX} bytes");
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.context("the stream broke off")?;
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => bail!("the stream ended within an event"),
            }
        }
    }

    /// All that is left.
    pub async fn all(mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// Cuts the first whole event off `buffer`.
fn take_event(buffer: &mut BytesMut) -> Option<Event> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = buffer.split_to(end + 2);
        let text = String::from_utf8_lossy(&block);
        let field = |line: &str, name: &str| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(value.strip_prefix(' ').unwrap_or(value).to_owned())
        };
        let name = text.lines().find_map(|line| field(line, "event"));
        let data: Vec<String> = text
            .lines()
            .filter_map(|line| field(line, "data"))
            .collect();
        // A block of comments only is a keep-alive.
        if name.is_some() || !data.is_empty() {
            let name = name.unwrap_or_else(|| "message".to_owned());
            return Some(Event {
                name,
                data: data.join("\n"),
            });
        }
    }
}

/// Whether the daemon with this health URL (`http://127.0.0.1:9090`) is ready: it says so, and names
/// the conditions that it has met. A daemon that names none has not begun to look yet.
pub async fn is_ready(health_url: &str) -> bool {
    let options = HttpOptions {
        connect_timeout: PROBE_LIMIT,
        head_timeout: PROBE_LIMIT,
    };
    let http = Dialer::new(NetworkPolicy::LoopbackOnly).http_with(options);
    let url = format!("{health_url}/readyz");
    let Ok(response) = http.get(&url, HeaderMap::new()).await else {
        return false;
    };
    let answer = read(&url, response).await.and_then(|answer| answer.ok());
    answer.is_ok_and(|said| {
        let conditions = said["checks"].as_object().map_or(0, serde_json::Map::len);
        said["ready"] == true && conditions > 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_where_they_end_and_comments_are_passed_over() {
        let mut buffer = BytesMut::from(
            ": wait\n\ndata: {\"a\":1}\n\nevent: done\ndata:x\ndata: y\n\ndata: [DO",
        );
        let event = |name: &str, data: &str| Event {
            name: name.to_owned(),
            data: data.to_owned(),
        };
        assert_eq!(take_event(&mut buffer), Some(event("message", "{\"a\":1}")));
        assert_eq!(take_event(&mut buffer), Some(event("done", "x\ny")));
        assert_eq!(take_event(&mut buffer), None);
        buffer.extend_from_slice(b"NE]\n\n");
        assert_eq!(take_event(&mut buffer), Some(event("message", "[DONE]")));
        assert!(buffer.is_empty());
    }
}
