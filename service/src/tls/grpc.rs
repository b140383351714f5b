//! tonic over this TLS: the server side's connect info and the client side's channel.
//!
//! Behind the feature `grpc`. Must stay true: a channel connects through the [`Dialer`] and accepts
//! only the pinned key; [`connect_failure`] names the layer that failed; limits of a server are set by
//! whoever builds it.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, server::Connected};

use super::{Identity, PeerKey, PinMismatch, TlsIo, client_config};
use crate::{
    dialer::{BoxedIo, CONNECT_TIMEOUT_DEFAULT, DialError, Dialer, Layer, split_host_port},
    report::{self, Chain},
};

/// The name put into the handshake's configuration; it is not sent (no SNI) and not checked.
const UNUSED_NAME: &str = "owm.invalid";

/// How `rustls::Error::AlertReceived` begins; a test fails if rustls changes it.
const TLS_ALERT_TEXT: &str = "received fatal alert";

impl Connected for TlsIo {
    type ConnectInfo = PeerKey;

    fn connect_info(&self) -> PeerKey {
        self.peer_key()
    }
}

/// The target of a channel is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{target}` is not host:port (IPv6 addresses in brackets)")]
pub struct TargetError {
    /// As given.
    pub target: String,
}

/// Tunables of [`grpc_channel`].
#[derive(Debug, Clone, Copy)]
pub struct GrpcOptions {
    /// For name and TCP, and again for TLS.
    pub connect_timeout: Duration,
    /// HTTP/2 pings, also on an idle connection. gRPC servers punish pings more often than every
    /// 5 min without data.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection counts as dead.
    pub keepalive_timeout: Duration,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            keepalive_interval: Duration::from_mins(5),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// A channel to `target` (`host:port`) that shows `identity` and accepts only the server holding
/// `pinned`. It connects at the first call and again after the connection is lost; nothing happens
/// here yet. Errors of a call come as `tonic::Status`: see [`connect_failure`].
pub fn grpc_channel(
    dialer: &Dialer,
    target: &str,
    identity: &Identity,
    pinned: [u8; 32],
) -> Result<Channel, TargetError> {
    grpc_channel_with(dialer, target, identity, pinned, GrpcOptions::default())
}

/// As [`grpc_channel`], with other time limits.
pub fn grpc_channel_with(
    dialer: &Dialer,
    target: &str,
    identity: &Identity,
    pinned: [u8; 32],
    options: GrpcOptions,
) -> Result<Channel, TargetError> {
    let wrong = || TargetError {
        target: target.to_owned(),
    };
    let (host, port) = split_host_port(target).ok_or_else(wrong)?;
    let endpoint = Endpoint::from_shared(format!("http://{target}"))
        .map_err(|_| wrong())?
        .http2_keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(PinnedConnect {
        dialer: dialer.clone(),
        tls: client_config(identity, pinned),
        host: host.to_owned(),
        port,
        timeout: options.connect_timeout,
    }))
}

/// On which layer a call failed, and a line that says what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectFailure {
    /// The layer.
    pub layer: Layer,
    /// The error with its causes.
    pub message: String,
}

/// Finds the layer in the error of a call or a channel: [`Layer::Http2`] when the connection stood
/// and TLS was not what broke it. `None` when the server answered: its status is no connection's fault.
pub fn connect_failure(error: &(dyn Error + 'static)) -> Option<ConnectFailure> {
    if error.downcast_ref::<tonic::Status>().is_some() && error.source().is_none() {
        return None;
    }
    if let Some(dial) = report::find::<DialError>(error) {
        return Some(ConnectFailure {
            layer: dial.layer(),
            message: Chain(dial).to_string(),
        });
    }
    // In TLS 1.3 a server's refusal of the client's certificate arrives after the client's handshake;
    // h2 keeps only kind and text of an I/O error, so rustls's text is all there is to go by.
    if let Some(io) = report::find::<std::io::Error>(error)
        && io.kind() == std::io::ErrorKind::InvalidData
        && io.to_string().starts_with(TLS_ALERT_TEXT)
    {
        let message = format!("TLS: the server refused this process's certificate or key ({io})");
        return Some(ConnectFailure {
            layer: Layer::Tls,
            message,
        });
    }
    Some(ConnectFailure {
        layer: Layer::Http2,
        message: format!("HTTP/2: {}", Chain(error)),
    })
}

/// tonic's connector; the URI it is called with is the one target.
#[derive(Debug, Clone)]
struct PinnedConnect {
    dialer: Dialer,
    tls: Arc<ClientConfig>,
    host: String,
    port: u16,
    timeout: Duration,
}

impl PinnedConnect {
    async fn connect(self) -> Result<TlsStream<BoxedIo>, DialError> {
        let io = self
            .dialer
            .dial(&self.host, self.port, self.timeout)
            .await?;
        let name = ServerName::try_from(UNUSED_NAME).expect("a constant DNS name");
        let handshake = TlsConnector::from(self.tls).connect(name, io);
        let (host, port) = (self.host, self.port);
        match tokio::time::timeout(self.timeout, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(match pin_mismatch(&source) {
                Some(PinMismatch { expected, found }) => DialError::Pin {
                    host,
                    port,
                    expected: expected.to_string(),
                    found: found.to_string(),
                },
                None => DialError::Tls { host, port, source },
            }),
            Err(_) => Err(DialError::Timeout {
                host,
                port,
                after: self.timeout,
                stage: "the TLS handshake",
            }),
        }
    }
}

fn pin_mismatch(error: &std::io::Error) -> Option<PinMismatch> {
    match report::find::<rustls::Error>(error)? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<PinMismatch>().cloned()
        }
        _ => None,
    }
}

impl tower_service::Service<Uri> for PinnedConnect {
    type Response = TokioIo<TlsStream<BoxedIo>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect().await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests;
