//! Every outbound connection of every daemon: name resolution, TCP, and the policy over both.
//!
//! Nothing else may connect or resolve names (clippy bans it): when a daemon has to go through Tor,
//! that is another [`Connector`] here and no change anywhere else. Must stay true: an error names the
//! layer that failed and the target; a `.onion` name never reaches a resolver.

mod http;
mod tcp;

use std::{fmt::Debug, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
pub use http::{HttpClient, HttpError, HttpOptions};
pub use tcp::TcpConnector;
use tokio::io::{AsyncRead, AsyncWrite};

/// Time for one connection (name, TCP) where the caller has no opinion.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream whose making nobody needs to know.
pub type BoxedIo = Box<dyn Io>;

impl Debug for dyn Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Io")
    }
}

/// Where a process may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Anywhere, over TCP, names through the system's resolver.
    #[default]
    Clearnet,
    /// Loopback addresses and `localhost` only; no other name is even resolved (devnet, tests).
    LoopbackOnly,
}

/// Makes connections: the seam where Tor comes in.
///
/// An implementation resolves the name itself, so that a name can travel through a proxy unresolved.
/// It need not watch the time; the [`Dialer`] does.
pub trait Connector: Debug + Send + Sync {
    /// Connects to `host` (a name or an address, IPv6 without brackets) and `port`.
    fn connect<'a>(&'a self, host: &'a str, port: u16)
    -> BoxFuture<'a, Result<BoxedIo, DialError>>;
}

/// The layer on which a connection failed; callers decide by it what to tell and whether to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The network policy forbids it.
    Policy,
    /// The name could not be resolved.
    Name,
    /// TCP could not connect.
    Tcp,
    /// TLS failed, a wrong key included.
    Tls,
    /// HTTP/2 failed, or what is spoken above it.
    Http2,
    /// Time ran out.
    Timeout,
}

impl Layer {
    /// A stable word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Name => "name",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::Timeout => "timeout",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The policy forbids this target.
    #[error("{host}:{port}: the network policy forbids it: {rule}")]
    Policy {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// The rule that was broken.
        rule: &'static str,
    },
    /// The name has no address.
    #[error("{host}:{port}: cannot resolve the name (is it spelled right? does DNS work?)")]
    Name {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address accepted the connection; the last refusal is the source.
    #[error("{host}:{port}: TCP cannot connect to {addr}")]
    Tcp {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// The address tried last.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS failed on the open connection.
    #[error("{host}:{port}: TLS handshake failed")]
    Tls {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// What TLS said.
        source: io::Error,
    },
    /// The server showed another key than the pinned one.
    #[error(
        "{host}:{port}: TLS: the server's key is {found}, but {expected} is pinned: either this is \
         another server or it changed its key; get the key from its operator, never from the server"
    )]
    Pin {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// The pinned Ed25519 key, hex.
        expected: String,
        /// The key shown, hex.
        found: String,
    },
    /// Time ran out.
    #[error("{host}:{port}: no connection within {} ms (waiting for {stage})", after.as_millis())]
    Timeout {
        /// Target host.
        host: String,
        /// Target port.
        port: u16,
        /// The time given.
        after: Duration,
        /// What it was waiting for.
        stage: &'static str,
    },
}

impl DialError {
    /// The layer that failed.
    pub const fn layer(&self) -> Layer {
        match self {
            Self::Policy { .. } => Layer::Policy,
            Self::Name { .. } => Layer::Name,
            Self::Tcp { .. } => Layer::Tcp,
            Self::Tls { .. } | Self::Pin { .. } => Layer::Tls,
            Self::Timeout { .. } => Layer::Timeout,
        }
    }
}

/// Makes all outbound connections of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    connector: Arc<dyn Connector>,
}

impl Dialer {
    /// A dialer over the system's TCP under `policy`.
    pub fn new(policy: NetworkPolicy) -> Self {
        Self::with_connector(Arc::new(TcpConnector::new(policy)))
    }

    /// A dialer over another way to connect (Tor; a fake in tests).
    pub fn with_connector(connector: Arc<dyn Connector>) -> Self {
        Self { connector }
    }

    /// Connects to `host:port` within `timeout`. `host` is a name, an IPv4 or an IPv6 address with or
    /// without brackets.
    pub async fn dial(
        &self,
        host: &str,
        port: u16,
        timeout: Duration,
    ) -> Result<BoxedIo, DialError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        match tokio::time::timeout(timeout, self.connector.connect(bare, port)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::Timeout {
                host: host.to_owned(),
                port,
                after: timeout,
                stage: "name resolution and TCP",
            }),
        }
    }

    /// An HTTP/1.1 client whose connections this dialer makes.
    pub fn http(&self) -> HttpClient {
        HttpClient::new(self.clone(), HttpOptions::default())
    }

    /// As [`Self::http`], with other time limits.
    pub fn http_with(&self, options: HttpOptions) -> HttpClient {
        HttpClient::new(self.clone(), options)
    }
}

/// Splits `host:port` (`[v6]:port`); brackets are kept off.
pub fn split_host_port(target: &str) -> Option<(&str, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests;
