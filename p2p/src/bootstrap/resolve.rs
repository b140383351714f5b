//! Names to addresses, through a resolver that is passed in: this crate may not resolve names by itself.

use std::{fmt::Debug, io, net::IpAddr};

use futures::future::BoxFuture;
use libp2p::{Multiaddr, multiaddr::Protocol};

use super::diagnose;
use crate::{
    NetworkPolicy, Unavailable,
    peer::group::{allowed, name, protocol_of},
};

/// Addresses of one name that are tried: as many as a seed usually answers.
pub const ADDRESSES_PER_NAME: usize = 32;

/// Resolves names. The daemons pass one over their dialler; a Tor-only swarm has none.
pub trait Resolver: Debug + Send + Sync {
    /// All A and AAAA addresses of `name`.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Resolves nothing: for swarms whose policy has no names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let error = io::Error::new(
            io::ErrorKind::Unsupported,
            "this swarm resolves no names; give the address as /ip4/… or /ip6/…",
        );
        Box::pin(async { Err(error) })
    }
}

/// The addresses to dial for `address`: itself, or with its name replaced by what it resolves to. All of them
/// are allowed by `policy`.
pub async fn resolved(
    address: &Multiaddr,
    policy: NetworkPolicy,
    resolver: &dyn Resolver,
) -> Result<Vec<Multiaddr>, Unavailable> {
    if !allowed(policy, address) {
        return Err(diagnose::forbidden(address, policy));
    }
    let Some(name) = name(address) else {
        return Ok(vec![address.clone()]);
    };
    let answer = resolver.resolve(&name).await;
    let ips = answer.map_err(|error| diagnose::unresolved(&name, &error))?;
    let family = |ip: &IpAddr| match address.iter().next() {
        Some(Protocol::Dns4(_)) => ip.is_ipv4(),
        Some(Protocol::Dns6(_)) => ip.is_ipv6(),
        _ => true,
    };
    let mut found: Vec<Multiaddr> = Vec::new();
    for ip in ips.into_iter().filter(family).take(ADDRESSES_PER_NAME) {
        let with_ip = address.replace(0, |_| Some(protocol_of(ip)));
        let with_ip = with_ip.expect("an address with a name has a first part");
        if !found.contains(&with_ip) {
            found.push(with_ip);
        }
    }
    if found.is_empty() {
        let none = io::Error::new(io::ErrorKind::NotFound, "it has no address of this family");
        return Err(diagnose::unresolved(&name, &none));
    }
    found.retain(|a| allowed(policy, a));
    if found.is_empty() {
        return Err(diagnose::forbidden(address, policy));
    }
    Ok(found)
}
