//! Starting the peer where it can listen: an address that is taken, or that this machine has not, is left out
//! and told, so that the rest goes on.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    pin::Pin,
    sync::Arc,
};

use owm_p2p::{
    Clock, Documents, Handle, Multiaddr, News, P2pError, SwarmConfig, multiaddr::Protocol,
    news::NewestCheckpoint,
};
use owm_proto::{NodeKey, genesis::NetworkId};
use owm_service::rng::Seed;
use rand::RngCore as _;
use tokio::sync::mpsc;

/// What the peer starts with.
pub(super) struct Start<'a> {
    pub(super) config: SwarmConfig,
    pub(super) key: &'a NodeKey,
    pub(super) network: NetworkId,
    pub(super) documents: Option<Documents>,
    pub(super) newest: Option<NewestCheckpoint>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: Seed,
}

/// The started peer.
pub(super) struct Running {
    pub(super) handle: Handle,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) service: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where it does not listen, and why.
    pub(super) problems: Vec<String>,
}

/// Starts it with as many of the addresses as possible.
pub(super) fn start(start: Start<'_>) -> Result<Running, P2pError> {
    let (mut config, mut problems) = (start.config, Vec::new());
    config.listen.retain(|address| match probe(address) {
        Probe::Free => true,
        // Not worth a word: most machines without IPv6 have the default settings.
        Probe::NoIpv6 => false,
        Probe::Taken(error) => {
            problems.push(taken(address, &error.to_string()));
            false
        }
    });
    loop {
        let mut seed = [0; 32];
        start.seed.rng("peer").fill_bytes(&mut seed);
        let outcome = owm_p2p::start(owm_p2p::Start {
            config: config.clone(),
            key: start.key,
            network: start.network,
            documents: start.documents.clone(),
            newest: start.newest.clone(),
            clock: Arc::clone(&start.clock),
            seed,
        });
        match outcome {
            Ok((handle, news, service)) => {
                return Ok(Running {
                    handle,
                    news,
                    service: Box::pin(service),
                    problems,
                });
            }
            Err(P2pError::Listen { address, reason }) if config.listen.contains(&address) => {
                problems.push(taken(&address, &reason));
                config.listen.retain(|other| *other != address);
            }
            Err(error) => return Err(error),
        }
    }
}

fn taken(address: &Multiaddr, why: &str) -> String {
    format!(
        "the swarm does not listen on {address} ({why}); is the port taken by another program? Peers reach \
         this node on its other addresses or through relays only; change [p2p] listen"
    )
}

enum Probe {
    Free,
    NoIpv6,
    Taken(io::Error),
}

/// Whether the address can be bound. Without this, a second process of the same user would share the first
/// one's TCP port (`SO_REUSEPORT`), and each would get some of the other's connections.
fn probe(address: &Multiaddr) -> Probe {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::from(ip),
        // Not ours to judge.
        _ => return Probe::Free,
    };
    let bound = match parts.next() {
        Some(Protocol::Tcp(port)) if ip.is_ipv4() => {
            TcpListener::bind(SocketAddr::new(ip, port)).map(drop)
        }
        Some(Protocol::Udp(port)) if ip.is_ipv4() => {
            UdpSocket::bind(SocketAddr::new(ip, port)).map(drop)
        }
        // `[::]` takes the port of IPv4 too, unless told otherwise; only whether there is IPv6 is looked at.
        _ if ip.is_ipv6() => {
            let ip = if ip.is_unspecified() {
                IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
            } else {
                ip
            };
            let bound = UdpSocket::bind(SocketAddr::new(ip, 0));
            return bound.map_or(Probe::NoIpv6, |_| Probe::Free);
        }
        _ => return Probe::Free,
    };
    bound.map_or_else(Probe::Taken, |()| Probe::Free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_program_has_is_seen() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let check = |text: String| probe(&text.parse().unwrap());
        assert!(matches!(
            check(format!("/ip4/127.0.0.1/tcp/{port}")),
            Probe::Taken(_)
        ));
        drop(holder);
        assert!(matches!(
            check(format!("/ip4/127.0.0.1/tcp/{port}")),
            Probe::Free
        ));
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let quic = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
        assert!(matches!(check(quic), Probe::Taken(_)));
        let any = check("/ip4/127.0.0.1/tcp/0".to_owned());
        assert!(matches!(any, Probe::Free));
    }
}
