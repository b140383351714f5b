//! The health port of every daemon: `/livez`, `/readyz`, `/metrics` on a loopback address.
//!
//! A daemon binds it first and keeps [`Running`] until its last work is done. Must stay true: it
//! listens on loopback only, answers while the daemon drains and while others hold connections that say
//! nothing, and never shows anything private.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Gate, GateLimits, GateMetrics},
    metrics::Registry,
};

/// Connections at the same time: a supervisor, a scraper and a person are three.
const CONNECTIONS_MAX: usize = 32;
/// Time for a request's head; also closes idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Media type of what `/metrics` prints.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why there is no health port.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is reachable from outside.
    #[error(
        "the health address {addr} is not loopback: health and metrics are for this machine only; \
         use 127.0.0.1 or [::1] and a proxy or a tunnel for the rest"
    )]
    NotLoopback {
        /// As configured.
        addr: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("cannot listen for health checks on {addr}: is another instance running?")]
    Bind {
        /// As configured.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The named conditions of being ready. Cheap to clone; clones share the conditions.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<String, Result<(), String>>>>,
}

impl Readiness {
    /// Adds a condition, not met yet (`starting`). The same name again gives the same condition.
    pub fn check(&self, name: impl Into<String>) -> Check {
        let check = Check {
            readiness: self.clone(),
            name: name.into(),
        };
        check.not_ready("starting");
        check
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One condition of being ready.
#[derive(Debug, Clone)]
pub struct Check {
    readiness: Readiness,
    name: String,
}

impl Check {
    /// The condition is met.
    pub fn ready(&self) {
        self.readiness.lock().insert(self.name.clone(), Ok(()));
    }

    /// The condition is not met, and why (shown to whoever asks on this machine).
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness
            .lock()
            .insert(self.name.clone(), Err(reason.into()));
    }
}

/// The health port before it listens.
#[derive(Debug, Clone)]
pub struct HealthServer {
    metrics: Registry,
    readiness: Readiness,
    soft: CancellationToken,
}

impl HealthServer {
    /// Shows `metrics` and `readiness`; not ready any more once `soft` is cancelled.
    pub const fn new(metrics: Registry, readiness: Readiness, soft: CancellationToken) -> Self {
        Self {
            metrics,
            readiness,
            soft,
        }
    }

    /// Listens on `addr`, a loopback address (port 0: any free port).
    pub async fn bind(self, addr: SocketAddr) -> Result<Running, HealthError> {
        if !addr.ip().is_loopback() {
            return Err(HealthError::NotLoopback { addr });
        }
        let failed = |source| HealthError::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(self.serve(listener));
        Ok(Running { addr, task })
    }

    async fn serve(self, listener: TcpListener) {
        // All of them are loopback. An answer goes out in one piece, so none counts as in use.
        let limits = GateLimits::new(CONNECTIONS_MAX, CONNECTIONS_MAX);
        let gate = Gate::new("health", limits, GateMetrics::default());
        loop {
            let (stream, pass) = match listener.accept().await {
                Ok((stream, remote)) => match gate.enter(remote.ip()) {
                    Some(pass) => (stream, pass),
                    None => continue,
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a health check, trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let this = self.clone();
            drop(tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let response = this.respond(request.method(), request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                let served = tokio::select! {
                    served = serving => served,
                    () = pass.thrown_out() => return,
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "health check connection broke");
                }
            }));
        }
    }

    fn respond(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return reply(
                StatusCode::METHOD_NOT_ALLOWED,
                "text/plain",
                "only GET\n".to_owned(),
            );
        }
        match path {
            "/livez" => reply(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/readyz" => self.respond_ready(),
            "/metrics" => reply(StatusCode::OK, METRICS_TYPE, self.metrics.encode()),
            _ => {
                let help = "try /livez, /readyz or /metrics\n".to_owned();
                reply(StatusCode::NOT_FOUND, "text/plain", help)
            }
        }
    }

    fn respond_ready(&self) -> Response<Full<Bytes>> {
        let mut checks = self.readiness.lock().clone();
        if self.soft.is_cancelled() {
            checks.insert("shutdown".to_owned(), Err("shutting down".to_owned()));
        }
        let ready = checks.values().all(Result::is_ok);
        let checks: serde_json::Map<_, _> = checks
            .into_iter()
            .map(|(name, state)| {
                let value = match state {
                    Ok(()) => json!({ "ready": true }),
                    Err(reason) => json!({ "ready": false, "reason": reason }),
                };
                (name, value)
            })
            .collect();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let body = json!({ "ready": ready, "checks": checks });
        reply(status, "application/json", format!("{body}\n"))
    }
}

fn reply(status: StatusCode, media_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(media_type),
    );
    response
}

/// A listening health port; it closes when this is dropped.
#[derive(Debug)]
pub struct Running {
    /// The address bound, with its real port.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialer::{Dialer, HttpClient, NetworkPolicy};

    async fn get(running: &Running, path: &str) -> (u16, String) {
        let client = Dialer::new(NetworkPolicy::LoopbackOnly).http();
        let url = format!("http://{}{path}", running.addr);
        let response = client.get(&url, http::HeaderMap::new()).await.unwrap();
        let status = response.status().as_u16();
        let body = HttpClient::read_body(&url, response, 64 * 1024)
            .await
            .unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn start() -> (Running, Readiness, Registry, CancellationToken) {
        let (metrics, readiness) = (Registry::new(), Readiness::default());
        let soft = CancellationToken::new();
        let server = HealthServer::new(metrics.clone(), readiness.clone(), soft.clone());
        let running = server.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        (running, readiness, metrics, soft)
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let (running, readiness, _, soft) = start().await;
        assert_eq!(get(&running, "/readyz").await.0, 200);
        let database = readiness.check("database");
        let (status, body) = get(&running, "/readyz").await;
        assert_eq!(status, 503);
        let starting =
            json!({"ready": false, "checks": {"database": {"ready": false, "reason": "starting"}}});
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            starting
        );
        database.ready();
        assert_eq!(get(&running, "/readyz").await.0, 200);
        assert!(readiness.is_ready());
        soft.cancel();
        let (status, body) = get(&running, "/readyz").await;
        assert!(
            status == 503 && body.contains("shutting down"),
            "{status} {body}"
        );
        assert_eq!(get(&running, "/livez").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn metrics_are_shown_and_other_paths_are_not_found() {
        let (running, _, metrics, _) = start().await;
        metrics
            .scope("test")
            .gauge("things", "Things there are")
            .set(4);
        let (status, body) = get(&running, "/metrics").await;
        assert!(
            status == 200 && body.contains("owm_test_things 4\n"),
            "{body}"
        );
        assert_eq!(get(&running, "/").await.0, 404);
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_nobody_out() {
        let (running, ..) = start().await;
        let dialer = Dialer::new(NetworkPolicy::LoopbackOnly);
        let mut silent = vec![];
        for _ in 0..2 * CONNECTIONS_MAX {
            let (host, port) = (running.addr.ip().to_string(), running.addr.port());
            let dialled = dialer.dial(&host, port, Duration::from_secs(10)).await;
            silent.push(dialled.unwrap());
        }
        assert_eq!(get(&running, "/livez").await.0, 200);
        drop(silent);
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_refused() {
        let server = HealthServer::new(
            Registry::new(),
            Readiness::default(),
            CancellationToken::new(),
        );
        for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9090"] {
            let error = server
                .clone()
                .bind(addr.parse().unwrap())
                .await
                .unwrap_err();
            assert!(matches!(error, HealthError::NotLoopback { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (running, ..) = start().await;
        let server = HealthServer::new(
            Registry::new(),
            Readiness::default(),
            CancellationToken::new(),
        );
        let error = server.bind(running.addr).await.unwrap_err();
        assert!(
            error.to_string().contains(&running.addr.to_string()),
            "{error}"
        );
    }
}
