//! A small HTTP/1.1 client over the dialer: no redirects, no cookies, no proxy, bounded bodies.
//!
//! Used for blobs, the public API and other services' HTTP. Must stay true: every connection comes
//! from the [`Dialer`]; `https` is verified against the built-in web roots.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, uri::Scheme};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::{BoxedIo, CONNECT_TIMEOUT_DEFAULT, DialError, Dialer};
use crate::report::{self, Chain};

/// Idle connections kept per host.
const IDLE_PER_HOST_MAX: usize = 8;
/// How long an idle connection is kept; servers commonly close after 60 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time until the response's head has arrived, unless the caller sets another.
const HEAD_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Time limits of an [`HttpClient`].
#[derive(Debug, Clone, Copy)]
pub struct HttpOptions {
    /// For name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the call until the response's head is there, connecting included. Bodies have no limit
    /// of their own: whoever reads one watches its progress.
    pub head_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            head_timeout: HEAD_TIMEOUT_DEFAULT,
        }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is none, or neither `http` nor `https`.
    #[error("`{url}` is no http(s) URL with a host: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A request could not be put together (a bad header).
    #[error("cannot make the request to {url}")]
    Request {
        /// The target.
        url: String,
        /// What is wrong.
        source: http::Error,
    },
    /// No connection, or it broke before the head arrived. [`HttpError::dial_error`] tells which.
    #[error("{method} {url} failed: {}", Chain(source))]
    Exchange {
        /// The method.
        method: Method,
        /// The target.
        url: String,
        /// What went wrong, a [`DialError`] among the causes if there was no connection.
        source: hyper_util::client::legacy::Error,
    },
    /// The head did not arrive in time.
    #[error("{method} {url}: no answer within {} ms", after.as_millis())]
    Timeout {
        /// The method.
        method: Method,
        /// The target.
        url: String,
        /// The time given.
        after: Duration,
    },
    /// The body broke off or exceeded the caller's limit.
    #[error("cannot read the body of {url} (at most {limit} bytes are taken)")]
    Body {
        /// The target.
        url: String,
        /// The caller's limit.
        limit: usize,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HttpError {
    /// Why there was no connection, if that was it.
    pub fn dial_error(&self) -> Option<&DialError> {
        match self {
            Self::Exchange { source, .. } => report::find(source),
            _ => None,
        }
    }
}

/// An HTTP/1.1 client. Cheap to clone; clones share idle connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnect, Full<Bytes>>,
    head_timeout: Duration,
}

impl HttpClient {
    pub(super) fn new(dialer: Dialer, options: HttpOptions) -> Self {
        let connect = HttpConnect {
            dialer,
            timeout: options.connect_timeout,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build(connect);
        Self {
            client,
            head_timeout: options.head_timeout,
        }
    }

    /// `GET url` with `headers`; the response as it is, whatever its status.
    pub async fn get(
        &self,
        url: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// `POST url` with `headers` and `body`; the response as it is, whatever its status.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send(Method::POST, url, headers, body.into()).await
    }

    /// Any request; the response's head within the head timeout, redirects not followed.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let uri = parse_url(url)?;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(uri)
            .body(Full::new(body))
            .map_err(|source| HttpError::Request {
                url: url.to_owned(),
                source,
            })?;
        *request.headers_mut() = headers;
        let after = self.head_timeout;
        match tokio::time::timeout(after, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(HttpError::Exchange {
                method,
                url: url.to_owned(),
                source,
            }),
            Err(_) => Err(HttpError::Timeout {
                method,
                url: url.to_owned(),
                after,
            }),
        }
    }

    /// The body of a response of `url` (named in errors), at most `limit` bytes.
    pub async fn read_body(
        url: &str,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes, HttpError> {
        let body = Limited::new(response.into_body(), limit).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|source| HttpError::Body {
                url: url.to_owned(),
                limit,
                source,
            })
    }
}

fn parse_url(url: &str) -> Result<Uri, HttpError> {
    let wrong = |reason: String| HttpError::Url {
        url: url.to_owned(),
        reason,
    };
    let uri: Uri = url
        .parse()
        .map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(wrong("the scheme must be http or https".to_owned()));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(wrong("it names no host".to_owned()));
    }
    Ok(uri)
}

/// hyper's connector: the dialer, then TLS for `https`.
#[derive(Debug, Clone)]
struct HttpConnect {
    dialer: Dialer,
    timeout: Duration,
}

/// The stream as hyper wants it.
type HttpIo = TokioIo<HttpStream>;

#[derive(Debug)]
struct HttpStream(BoxedIo);

impl Connection for HttpStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl tokio::io::AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl tower_service::Service<Uri> for HttpConnect {
    type Response = HttpIo;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpIo, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let https = uri.scheme() == Some(&Scheme::HTTPS);
            // `parse_url` let only URIs with a host through.
            let host = uri
                .host()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
            let io = this.dialer.dial(&host, port, this.timeout).await?;
            let io = if https {
                web_tls(io, &host, port, this.timeout).await?
            } else {
                io
            };
            Ok(TokioIo::new(HttpStream(io)))
        })
    }
}

async fn web_tls(
    io: BoxedIo,
    host: &str,
    port: u16,
    timeout: Duration,
) -> Result<BoxedIo, DialError> {
    let failed = |source| DialError::Tls {
        host: host.to_owned(),
        port,
        source,
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let handshake = TlsConnector::from(web_config()).connect(name, io);
    let timed_out = |_| DialError::Timeout {
        host: host.to_owned(),
        port,
        after: timeout,
        stage: "the TLS handshake",
    };
    let stream = tokio::time::timeout(timeout, handshake)
        .await
        .map_err(timed_out)?;
    Ok(Box::new(stream.map_err(failed)?))
}

/// TLS towards the web: the built-in roots, made once.
fn web_config() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let roots: rustls::RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    });
    Arc::clone(config)
}
