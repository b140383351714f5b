//! What an address says without being dialled: which network it lies in, whether the policy allows it. The
//! book counts by these groups, so that whoever owns one network can't fill it.
//!
//! Must stay true: pure; an address that `allowed` refuses is never dialled, and no name in it is resolved.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use owm_proto::limits::ADDRESS_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::NetworkPolicy;

/// A network that one owner is likely to hold: what is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// This machine.
    Loopback,
    /// A /16.
    Ip4([u8; 2]),
    /// A /32.
    Ip6([u8; 4]),
    /// Onion services: an address costs nothing there, so they are not told apart.
    Onion,
    /// A name, not resolved yet.
    Name,
    /// Nothing of these.
    Other,
}

impl Group {
    /// Of an address; a relayed one lies where its relay lies.
    pub fn of(address: &Multiaddr) -> Self {
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) => Self::of_ip(ip.into()),
            Some(Protocol::Ip6(ip)) => Self::of_ip(ip.into()),
            Some(Protocol::Onion3(_)) => Self::Onion,
            Some(Protocol::Memory(_)) => Self::Loopback,
            Some(
                Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_),
            ) => Self::Name,
            _ => Self::Other,
        }
    }

    /// Of an IP address.
    pub fn of_ip(ip: IpAddr) -> Self {
        match unmapped(ip) {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self::Ip4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::Ip6([a, b, c, d])
            }
        }
    }

    /// Whether peers of this group are counted together: not on loopback, where all of a devnet share one
    /// address, nor among onions, where the number of addresses says nothing.
    pub fn is_counted(self) -> bool {
        !matches!(self, Self::Loopback | Self::Onion)
    }
}

/// Whether `policy` allows dialling `address`, by its form alone: port and host are there, and none of them
/// is a wildcard. A name is allowed where names are; what it resolves to has to be asked again.
pub fn allowed(policy: NetworkPolicy, address: &Multiaddr) -> bool {
    if address.len() > ADDRESS_BYTES_MAX || !has_port(address) {
        return false;
    }
    match (policy, address.iter().next()) {
        (NetworkPolicy::Clearnet, Some(Protocol::Ip4(ip))) => is_host(ip.into()),
        (NetworkPolicy::Clearnet, Some(Protocol::Ip6(ip))) => is_host(ip.into()),
        (NetworkPolicy::Clearnet, Some(first)) => name_of(&first).is_some(),
        (NetworkPolicy::LoopbackOnly, Some(Protocol::Ip4(ip))) => ip.is_loopback(),
        (NetworkPolicy::LoopbackOnly, Some(Protocol::Ip6(ip))) => unmapped(ip.into()).is_loopback(),
        (NetworkPolicy::LoopbackOnly, Some(Protocol::Memory(_)))
        | (NetworkPolicy::OnionOnly, Some(Protocol::Onion3(_))) => true,
        (NetworkPolicy::LoopbackOnly, Some(first)) => name_of(&first) == Some("localhost".into()),
        (_, None) | (NetworkPolicy::OnionOnly, Some(_)) => false,
    }
}

/// The name that has to be resolved before `address` can be dialled; `None`: none (or `/dnsaddr`, whose TXT
/// records are not asked for).
pub fn name(address: &Multiaddr) -> Option<String> {
    address.iter().next().and_then(|first| name_of(&first))
}

/// The peer that `address` leads to (after its relay, if it has one).
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The same address without the peer it leads to.
pub fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if peer_of(&bare).is_some() {
        bare.pop();
    }
    bare
}

fn name_of(protocol: &Protocol<'_>) -> Option<String> {
    match protocol {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some(name.to_string()),
        _ => None,
    }
}

fn has_port(address: &Multiaddr) -> bool {
    let parts: Vec<_> = address.iter().take(3).collect();
    match parts.as_slice() {
        [_, Protocol::Tcp(port), ..] | [_, Protocol::Udp(port), Protocol::QuicV1] => *port != 0,
        [Protocol::Onion3(onion), ..] => onion.port() != 0,
        [Protocol::Memory(port), ..] => *port != 0,
        _ => false,
    }
}

fn is_host(ip: IpAddr) -> bool {
    let ip = unmapped(ip);
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// The multiaddress parts of an IP.
pub(crate) fn protocol_of(ip: IpAddr) -> Protocol<'static> {
    match ip {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(Ipv6Addr::from(ip.octets())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: NetworkPolicy, address: &str) -> bool {
        allowed(policy, &address.parse().unwrap())
    }

    #[test]
    fn each_policy_allows_its_own_addresses_only() {
        use NetworkPolicy::{Clearnet, LoopbackOnly, OnionOnly};
        let onion = format!("/onion3/{}:4001", "a".repeat(56));
        for (address, clearnet, loopback, only_onion) in [
            ("/ip4/203.0.113.7/tcp/4001", true, false, false),
            ("/ip4/203.0.113.7/udp/4001/quic-v1", true, false, false),
            ("/ip4/127.0.0.1/tcp/4001", true, true, false),
            ("/ip6/::1/udp/4001/quic-v1", true, true, false),
            ("/ip6/::ffff:127.0.0.1/tcp/4001", true, true, false),
            ("/ip6/::ffff:203.0.113.7/tcp/4001", true, false, false),
            ("/dns4/seed.example/tcp/4001", true, false, false),
            ("/dns/localhost/tcp/4001", true, true, false),
            (onion.as_str(), false, false, true),
            ("/ip4/0.0.0.0/tcp/4001", false, false, false),
            ("/ip4/224.0.0.1/tcp/4001", false, false, false),
            ("/ip4/203.0.113.7/tcp/0", false, false, false),
            ("/ip4/203.0.113.7/udp/4001", false, false, false),
            ("/ip4/203.0.113.7", false, false, false),
            ("/memory/7", false, true, false),
        ] {
            assert_eq!(check(Clearnet, address), clearnet, "clearnet {address}");
            assert_eq!(check(LoopbackOnly, address), loopback, "loopback {address}");
            assert_eq!(check(OnionOnly, address), only_onion, "onion {address}");
        }
    }

    #[test]
    fn groups_are_what_one_owner_holds() {
        let group = |text: &str| Group::of(&text.parse().unwrap());
        assert_eq!(
            group("/ip4/203.0.113.7/tcp/1"),
            group("/ip4/203.0.9.9/tcp/2")
        );
        assert_ne!(
            group("/ip4/203.0.113.7/tcp/1"),
            group("/ip4/203.1.113.7/tcp/1")
        );
        assert_eq!(group("/ip6/::ffff:203.0.1.1/tcp/1"), Group::Ip4([203, 0]));
        assert_eq!(
            group("/ip6/2001:db8:1::1/tcp/1"),
            group("/ip6/2001:db8:2::1/tcp/1")
        );
        assert_eq!(group("/ip4/127.9.0.1/tcp/1"), Group::Loopback);
        assert!(!Group::Loopback.is_counted());
    }
}
