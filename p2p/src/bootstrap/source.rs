//! One way in: something that can be asked for addresses. The release feed and onion directories are further
//! implementations of [`Source`]; what arrives unasked (the coordinator's answer, mDNS) is pushed instead.

use std::{fmt::Debug, sync::Arc};

use futures::{future::BoxFuture, future::join_all};
use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{DNS, Resolver, diagnose};
use crate::{
    NetworkPolicy, P2pError, Unavailable,
    peer::group::{Group, allowed, protocol_of},
};

/// The port that a seed name's peers listen on (spec §4).
pub const SEED_PORT: u16 = 4_001;

/// Addresses taken from one answer of a source.
pub const ADDRESSES_PER_ANSWER: usize = 64;

/// Seed names of one network.
pub const SEEDS_MAX: usize = 16;

/// A way in. Any one is enough.
pub trait Source: Debug + Send + Sync {
    /// Shown in the view: `static`, `dns`, …
    fn name(&self) -> &'static str;

    /// Addresses to try, with `/p2p/<peer>` or without: the handshake tells who it is, and Meet whether it
    /// belongs to our network. Need not watch the time; it is asked again after a pause.
    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Multiaddr>, SourceError>>;
}

/// Why a source has nothing to give: each thing it tried, with its layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct SourceError(pub Vec<Unavailable>);

/// A list that is known beforehand: the operator's own, an invite's peers.
#[derive(Clone, Debug)]
pub struct StaticSource {
    name: &'static str,
    addresses: Vec<Multiaddr>,
}

impl StaticSource {
    /// A list of addresses; `name` is [`STATIC`](super::STATIC) or [`INVITE`](super::INVITE).
    pub fn new(name: &'static str, addresses: Vec<Multiaddr>) -> Self {
        Self { name, addresses }
    }

    /// The same from texts (an invite's `peers`, a config).
    pub fn parse(name: &'static str, texts: &[String]) -> Result<Self, P2pError> {
        let read = |text: &String| {
            text.parse()
                .map_err(|error: libp2p::multiaddr::Error| P2pError::Address {
                    text: text.clone(),
                    reason: error.to_string(),
                })
        };
        let addresses = texts.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self::new(name, addresses))
    }
}

impl Source for StaticSource {
    fn name(&self) -> &'static str {
        self.name
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Multiaddr>, SourceError>> {
        Box::pin(async { Ok(self.addresses.clone()) })
    }
}

/// Seed names: whoever stands under them listens on [`SEED_PORT`], by TCP and QUIC, as with Bitcoin's seeds.
#[derive(Clone, Debug)]
pub struct DnsSource {
    seeds: Vec<String>,
    port: u16,
    policy: NetworkPolicy,
    resolver: Arc<dyn Resolver>,
}

impl DnsSource {
    /// Seeds by name, with the default port.
    pub fn new(seeds: Vec<String>, policy: NetworkPolicy, resolver: Arc<dyn Resolver>) -> Self {
        Self {
            seeds,
            port: SEED_PORT,
            policy,
            resolver,
        }
    }

    /// Another port than [`SEED_PORT`].
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    async fn seed(&self, name: &str) -> Result<Vec<Multiaddr>, Unavailable> {
        let dns = Multiaddr::from(Protocol::Dns(name.into())).with(Protocol::Tcp(self.port));
        if !allowed(self.policy, &dns) {
            return Err(diagnose::forbidden(&dns, self.policy));
        }
        let answer = self.resolver.resolve(name).await;
        let ips = answer.map_err(|error| diagnose::unresolved(name, &error))?;
        let of_ip = |ip| {
            let host = Multiaddr::from(protocol_of(ip));
            let udp = host.clone().with(Protocol::Udp(self.port));
            [
                udp.with(Protocol::QuicV1),
                host.with(Protocol::Tcp(self.port)),
            ]
        };
        let mut addresses: Vec<_> = ips.into_iter().flat_map(of_ip).collect();
        addresses.retain(|a| allowed(self.policy, a) && Group::of(a) != Group::Other);
        if addresses.is_empty() {
            return Err(diagnose::forbidden(&dns, self.policy));
        }
        Ok(addresses)
    }
}

impl Source for DnsSource {
    fn name(&self) -> &'static str {
        DNS
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Multiaddr>, SourceError>> {
        Box::pin(async {
            let seeds = self.seeds.iter().take(SEEDS_MAX);
            let answers = join_all(seeds.map(|name| self.seed(name))).await;
            let (mut found, mut failures) = (Vec::new(), Vec::new());
            for answer in answers {
                match answer {
                    Ok(addresses) => found.push(addresses),
                    Err(failure) => failures.push(failure),
                }
            }
            if found.is_empty() && !failures.is_empty() {
                return Err(SourceError(failures));
            }
            Ok(interleaved(found))
        })
    }
}

/// One of each list in turn, so that no seed fills the answer.
fn interleaved(lists: Vec<Vec<Multiaddr>>) -> Vec<Multiaddr> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut mixed = Vec::new();
    while mixed.len() < ADDRESSES_PER_ANSWER {
        let before = mixed.len();
        mixed.extend(lists.iter_mut().filter_map(Iterator::next));
        if mixed.len() == before {
            break;
        }
    }
    mixed.truncate(ADDRESSES_PER_ANSWER);
    mixed
}
