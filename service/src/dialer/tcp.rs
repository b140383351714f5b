//! The plain way out: the system's resolver and TCP, under a [`NetworkPolicy`].
//!
//! Called by [`super::Dialer`] only. Must stay true: under `LoopbackOnly` nothing but `localhost` is
//! resolved and nothing but loopback is connected to; `.onion` is refused before resolution.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::net::TcpStream;

use super::{BoxedIo, Connector, DialError, NetworkPolicy};

/// Addresses of one name that are tried at most: more is a misconfigured or hostile zone.
const ADDRESSES_MAX: usize = 8;
/// Time for one address while others remain, so that one dead address does not eat the whole time.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Resolves with the system and connects over TCP.
#[derive(Debug, Clone, Copy)]
pub struct TcpConnector {
    policy: NetworkPolicy,
}

impl TcpConnector {
    /// A connector under `policy`.
    pub const fn new(policy: NetworkPolicy) -> Self {
        Self { policy }
    }

    /// The addresses of a name (or of an address: itself), nothing connected to yet. For those who tell a
    /// name that hangs from a connection that does; it watches no time.
    pub async fn resolve(self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let forbidden = |rule| DialError::Policy {
            host: host.to_owned(),
            port,
            rule,
        };
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if name.rsplit('.').next() == Some("onion") {
            return Err(forbidden("onion names need Tor, and this process has none"));
        }
        let loopback_only = self.policy == NetworkPolicy::LoopbackOnly;
        if let Ok(ip) = host.parse::<IpAddr>() {
            if loopback_only && !ip.to_canonical().is_loopback() {
                return Err(forbidden("only loopback addresses are allowed"));
            }
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if loopback_only && name != "localhost" {
            return Err(forbidden(
                "only loopback addresses and `localhost` are allowed",
            ));
        }
        let failed = |source| DialError::Name {
            host: host.to_owned(),
            port,
            source,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the dialer is where names are resolved"
        )]
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(failed)?;
        let addrs: Vec<_> = found
            .filter(|addr| !loopback_only || addr.ip().is_loopback())
            .take(ADDRESSES_MAX)
            .collect();
        if addrs.is_empty() {
            return Err(failed(io::Error::other("the name has no usable address")));
        }
        Ok(addrs)
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<BoxedIo, DialError>> {
        async move {
            let addrs = self.resolve(host, port).await?;
            let last = addrs.len() - 1;
            for (index, addr) in addrs.into_iter().enumerate() {
                match connect_addr(addr, index < last).await {
                    Ok(stream) => return Ok(Box::new(stream) as BoxedIo),
                    Err(source) if index == last => {
                        return Err(DialError::Tcp {
                            host: host.to_owned(),
                            port,
                            addr,
                            source,
                        });
                    }
                    Err(_) => {}
                }
            }
            unreachable!("resolve returns at least one address and the last one returns")
        }
        .boxed()
    }
}

async fn connect_addr(addr: SocketAddr, others_remain: bool) -> io::Result<TcpStream> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the dialer is where TCP connections are made"
    )]
    let connecting = TcpStream::connect(addr);
    let stream = if others_remain {
        tokio::time::timeout(ADDRESS_TIMEOUT, connecting)
            .await
            .map_err(io::Error::from)??
    } else {
        connecting.await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
