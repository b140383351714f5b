//! What an address says without being dialled: which network it lies in, whether the policy allows it. The
//! book counts by these groups, so that whoever owns one network can't fill it.
//!
//! Must stay true: pure; an address that `allowed` refuses is never dialled, and no name in it is resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// Whether it lies in a network of a house or a provider, that many have under the same addresses.
    pub fn is_private(self) -> bool {
        match self {
            Self::Ip4([a, b]) => is_private(Ipv4Addr::new(a, b, 0, 1).into()),
            Self::Ip6([a, ..]) => a & 0xfe == 0xfc,
            Self::Loopback | Self::Onion | Self::Name | Self::Other => false,
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
    if address.len() > ADDRESS_BYTES_MAX || !has_port(address) || !has_one_host(address) {
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

/// Whether the public internet routes to `ip`: not loopback, private, shared (100.64/10), link-local, multicast,
/// unspecified, reserved, for documentation or benchmarks, nor an IPv4 address in IPv6 clothes (mapped,
/// translated, 6to4, Teredo), behind which any of these may hide. After the IANA special-purpose address
/// registries (RFC 6890).
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !matches!(
                (a, b, c),
                (0 | 10 | 127 | 224.., ..)
                    | (169, 254, _)
                    | (192, 168, _)
                    | (100, 64..=127, _)
                    | (172, 16..=31, _)
                    | (198, 18 | 19, _)
                    | (192, 0, 0 | 2)
                    | (192, 88, 99)
                    | (198, 51, 100)
                    | (203, 0, 113)
            )
        }
        // Only 2000::/3 is given out; in it: 2001::/23 for protocols, 2001:db8::/32 and 3fff::/20 for
        // documentation, 2002::/16 (6to4).
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 == 0x2000
                && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
                && a != 0x2002
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

/// Whether the first hop of `address` is an IP address that [`is_global`].
pub fn is_global_address(address: &Multiaddr) -> bool {
    ip_of(address).is_some_and(is_global) && has_one_host(address)
}

/// Whether `address` means the same host to everybody, as far as it can be told without asking anybody: its first
/// hop is an IP address that [`is_global`], an onion service, or a name (but for this machine's own: `localhost`,
/// and those of a local network: `.local`, `.internal`, `.home.arpa`).
pub fn is_for_everybody(address: &Multiaddr) -> bool {
    if !has_one_host(address) {
        return false;
    }
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => is_global(ip.into()),
        Some(Protocol::Ip6(ip)) => is_global(ip.into()),
        Some(
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name),
        ) => !is_local_name(&name),
        Some(Protocol::Onion3(_)) => true,
        _ => false,
    }
}

/// After RFC 6761, 6762, 8375 and ICANN's reservation of `.internal`.
fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    ["localhost", "local", "internal", "home.arpa"]
        .iter()
        .any(|local| {
            name.strip_suffix(local)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
}

/// Whether a peer, itself connected from `from`, may tell of `address`: on the clear net global addresses
/// only, and those of the private network that it shares with us, so that nobody has us knock at our own
/// machine, at our neighbours' or at names of its choice.
pub fn may_tell(policy: NetworkPolicy, from: Group, address: &Multiaddr) -> bool {
    if !allowed(policy, address) || Group::of(address) == Group::Name {
        return false;
    }
    let shared = |ip| is_private(ip) && Group::of_ip(ip) == from;
    match policy {
        NetworkPolicy::Clearnet => ip_of(address).is_some_and(|ip| is_global(ip) || shared(ip)),
        NetworkPolicy::LoopbackOnly | NetworkPolicy::OnionOnly => true,
    }
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

/// A network of a house or a provider. Mapped addresses and link-local ones are none.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// TCP takes the last host of an address, all checks look at the first: there must be no other.
pub(crate) fn has_one_host(address: &Multiaddr) -> bool {
    let hosts = address.iter().filter(|part| {
        matches!(
            part,
            Protocol::Ip4(_)
                | Protocol::Ip6(_)
                | Protocol::Dns(_)
                | Protocol::Dns4(_)
                | Protocol::Dns6(_)
                | Protocol::Dnsaddr(_)
                | Protocol::Onion(..)
                | Protocol::Onion3(_)
                | Protocol::Memory(_)
        )
    });
    hosts.count() == 1
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
            // TCP would dial the last of them.
            (
                "/ip4/7.7.7.7/tcp/1/ip4/127.0.0.1/tcp/22",
                false,
                false,
                false,
            ),
            (
                "/ip4/127.0.0.1/tcp/1/ip4/7.7.7.7/tcp/22",
                false,
                false,
                false,
            ),
        ] {
            assert_eq!(check(Clearnet, address), clearnet, "clearnet {address}");
            assert_eq!(check(LoopbackOnly, address), loopback, "loopback {address}");
            assert_eq!(check(OnionOnly, address), only_onion, "onion {address}");
        }
    }

    #[test]
    fn global_is_what_the_internet_routes() {
        let global = |ip: &str| is_global(ip.parse().unwrap());
        for ip in [
            "7.7.7.7",
            "9.255.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "223.1.1.1",
            "2a00:1450::1",
            "2001:4860::1",
            "2600::1",
        ] {
            assert!(global(ip), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:7.7.7.7",
            "::7.7.7.7",
            "64:ff9b::7.7.7.7",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002::1",
            "3fff::1",
        ] {
            assert!(!global(ip), "{ip}");
        }
    }

    #[test]
    fn names_and_global_addresses_are_for_everybody_and_those_of_a_house_are_not() {
        let onion = format!("/onion3/{}:4001", "a".repeat(56));
        for all in [
            "/ip4/9.9.9.9/tcp/1",
            "/ip4/100.128.0.1/tcp/1",
            "/ip6/2620:fe::fe/udp/1/quic-v1",
            "/dns/seed.example/tcp/1",
            "/dns4/mylocal/tcp/1",
            onion.as_str(),
        ] {
            assert!(is_for_everybody(&all.parse().unwrap()), "{all}");
        }
        for some in [
            "/ip4/192.168.1.2/tcp/1",
            "/ip4/198.51.100.7/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            // Nobody dials it like that, and any IPv4 address may stand behind it.
            "/ip6/::ffff:9.9.9.9/tcp/1",
            "/dns/localhost/tcp/1",
            "/dns/LOCALHOST./tcp/1",
            "/dns4/printer.local/tcp/1",
            "/dns/nas.home.arpa/tcp/1",
            "/memory/7",
            "/ip4/9.9.9.9/tcp/1/ip4/127.0.0.1/tcp/22",
        ] {
            assert!(!is_for_everybody(&some.parse().unwrap()), "{some}");
        }
    }

    #[test]
    fn a_peer_tells_of_the_world_and_of_the_network_it_shares_with_us() {
        use NetworkPolicy::{Clearnet, LoopbackOnly};
        let may = |from: &str, address: &str| {
            let from = Group::of_ip(from.parse().unwrap());
            may_tell(Clearnet, from, &address.parse().unwrap())
        };
        assert!(may("7.7.7.7", "/ip4/8.8.8.8/tcp/4001"));
        assert!(!may("7.7.7.7", "/ip4/192.168.1.2/tcp/4001"));
        assert!(may("192.168.1.9", "/ip4/192.168.1.2/tcp/4001"));
        assert!(!may("192.168.1.9", "/ip4/10.0.0.2/tcp/4001"));
        assert!(may("fd00:1::1", "/ip6/fd00:1::2/tcp/4001"));
        for no in [
            "/ip4/127.0.0.1/tcp/22",
            "/dns4/intranet/tcp/80",
            "/dns/localhost/tcp/80",
        ] {
            assert!(!may("7.7.7.7", no) && !may("127.0.0.1", no), "{no}");
        }
        assert!(!may("169.254.1.1", "/ip4/169.254.169.254/tcp/80"));
        let here = "/ip4/127.0.0.1/tcp/22".parse().unwrap();
        assert!(may_tell(LoopbackOnly, Group::Loopback, &here));
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
