//! Where newcomers find the swarm: this coordinator's addresses as others reach them, and a few other peers.
//! Called for `GetNetwork` and invites. Pure, but for [`others`].

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use owm_coordinator_store::{Store, StoreError, gossip::reachable};
use owm_p2p::{Multiaddr, PeerId, SwarmView, multiaddr::Protocol, peer};
use owm_proto::{PublicKey, UnixMillis};
use owm_service::dialer::{NetworkPolicy, split_host_port};

use super::settings::is_loopback;
use crate::config::Config;

/// Addresses of our own that are told: two transports on a few hosts.
const OWN_MAX: usize = 6;

/// Other peers that are told, one address each.
pub const OTHERS_MAX: usize = 3;

/// Of so many nodes heard last, those that can be reached best are told.
const LOOKED_AT: u32 = 32;

/// A node that has not said for so long where it can be reached is not told of.
const HEARD_WITHIN: Duration = Duration::from_hours(1);

/// Our addresses as the configuration tells them, with `/p2p`, best first.
pub fn configured(config: &Config, instance: &PublicKey) -> Vec<Multiaddr> {
    let Some(peer) = peer::peer_id(instance).filter(|_| config.p2p.enabled) else {
        return Vec::new();
    };
    named(told(config), peer)
}

/// The same without `/p2p`: those of `[p2p] external`, then `[p2p] listen`, where an address that listens
/// everywhere stands for the hosts of `[invite] addresses` of its family.
pub fn told(config: &Config) -> Vec<Multiaddr> {
    let hosts: Vec<Protocol<'_>> = config
        .invite
        .addresses
        .iter()
        .filter_map(|address| split_host_port(address))
        .map(|(host, _)| protocol(host))
        .collect();
    let mut all = config.p2p.external.clone();
    for address in config.p2p.listen.iter().filter(|a| has_port(a)) {
        if is_everywhere(address) {
            let fitting = hosts.iter().filter(|host| same_family(host, address));
            let at = |host: &Protocol<'_>| address.replace(0, |_| Some(host.clone().acquire()));
            all.extend(fitting.filter_map(at));
        } else {
            all.push(address.clone());
        }
    }
    // A name stands for both families.
    let mut seen = HashSet::new();
    all.retain(|address| seen.insert(address.clone()));
    all
}

/// Our addresses, with `/p2p`: the configured ones, then those that the running swarm has found out and that
/// mean the same to everybody (those of our own local network are nobody's business).
pub(super) fn own(
    configured: &[Multiaddr],
    view: &SwarmView,
    network: NetworkPolicy,
) -> Vec<Multiaddr> {
    let found: Vec<Multiaddr> = view
        .external
        .iter()
        .chain(&view.listening)
        .cloned()
        .collect();
    told_of(configured, &found, view.peer, network)
}

fn told_of(
    configured: &[Multiaddr],
    found: &[Multiaddr],
    peer: PeerId,
    network: NetworkPolicy,
) -> Vec<Multiaddr> {
    let stays_here = network == NetworkPolicy::LoopbackOnly;
    let useful = found.iter().filter(|a| stays_here || is_global(a)).cloned();
    let mut all = configured.to_vec();
    all.extend(named(useful.collect(), peer));
    let mut own: Vec<Multiaddr> = Vec::new();
    for address in all {
        if !own.contains(&address) && own.len() < OWN_MAX {
            own.push(address);
        }
    }
    own
}

/// A few active nodes that can be reached, one address each, with `/p2p`.
pub async fn others(
    store: &Store,
    network: NetworkPolicy,
    now: UnixMillis,
) -> Result<Vec<Multiaddr>, StoreError> {
    let mut tx = store.single("gossip.reachable").await?;
    let nodes = reachable(&mut tx, now.before(HEARD_WITHIN), LOOKED_AT).await?;
    let best = nodes.into_iter().filter_map(|(key, addresses)| {
        let peer = peer::peer_id(&key)?;
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        best(addresses.collect(), network).map(|address| named(vec![address], peer))
    });
    Ok(best.flatten().take(OTHERS_MAX).collect())
}

/// The address of a node that a stranger reaches best: in a clear network a global one, QUIC before TCP,
/// never through a relay; on loopback, any there.
fn best(addresses: Vec<Multiaddr>, network: NetworkPolicy) -> Option<Multiaddr> {
    let relayed = |a: &Multiaddr| a.iter().any(|part| matches!(part, Protocol::P2pCircuit));
    let fits = |a: &Multiaddr| match network {
        NetworkPolicy::Clearnet => is_global(a),
        NetworkPolicy::LoopbackOnly => is_loopback(a),
    };
    let quic = |a: &Multiaddr| a.iter().any(|part| matches!(part, Protocol::QuicV1));
    let mut fitting: Vec<Multiaddr> = addresses.into_iter().filter(fits).collect();
    fitting.retain(|a| !relayed(a));
    fitting.sort_by_key(|a| !quic(a));
    fitting.into_iter().next()
}

fn named(addresses: Vec<Multiaddr>, peer: PeerId) -> Vec<Multiaddr> {
    let named = |address: Multiaddr| address.with_p2p(peer).ok();
    addresses.into_iter().filter_map(named).collect()
}

fn protocol(host: &str) -> Protocol<'_> {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.into(),
        Err(_) => Protocol::Dns(host.into()),
    }
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// A host of an invite, and an address that listens everywhere.
fn same_family(host: &Protocol<'_>, address: &Multiaddr) -> bool {
    match host {
        Protocol::Ip4(_) => ip(address).is_some_and(|ip| ip.is_ipv4()),
        Protocol::Ip6(_) => ip(address).is_some_and(|ip| ip.is_ipv6()),
        _ => true,
    }
}

fn is_everywhere(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_unspecified())
}

/// Means the same host to everybody: not of a private, shared, local, documentation or reserved range; a name
/// may be global.
fn is_global(address: &Multiaddr) -> bool {
    match ip(address) {
        Some(IpAddr::V4(ip)) => is_global_v4(ip),
        Some(IpAddr::V6(ip)) => ip
            .to_ipv4_mapped()
            .map_or_else(|| is_global_v6(ip), is_global_v4),
        None => !is_loopback(address),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (b & 0xc0) == 64;
    let protocols = [a, b, c] == [192, 0, 0];
    let benchmarks = a == 198 && (b & 0xfe) == 18;
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_documentation()
        || a == 0
        || a >= 224
        || shared
        || protocols
        || benchmarks)
}

/// Global unicast is 2000::/3, and in it 2001:db8::/32 and 3fff::/20 are for documentation.
fn is_global_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    (a & 0xe000) == 0x2000 && (a, b) != (0x2001, 0xdb8) && !(a == 0x3fff && b < 0x1000)
}

/// A port that is chosen at the start is not known before.
fn has_port(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::Tcp(port) | Protocol::Udp(port) if port != 0))
}

#[cfg(test)]
mod tests {
    use owm_proto::NodeKey;

    use super::*;

    fn key() -> PublicKey {
        NodeKey::from_seed(&[1; 32]).public()
    }

    fn texts(addresses: &[Multiaddr]) -> Vec<String> {
        let end = format!("/p2p/{}", peer::peer_id(&key()).unwrap());
        let text = |a: &Multiaddr| a.to_string().strip_suffix(&end).unwrap().to_owned();
        addresses.iter().map(text).collect()
    }

    #[test]
    fn an_address_that_listens_everywhere_stands_for_the_hosts_of_the_invite() {
        let mut config = Config::default();
        config.invite.addresses = vec![
            "coordinator.example:9000".into(),
            "[2001:db8::1]:9000".into(),
        ];
        let expected = [
            "/dns/coordinator.example/udp/4001/quic-v1",
            "/dns/coordinator.example/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
            "/ip6/2001:db8::1/tcp/4001",
        ];
        assert_eq!(texts(&configured(&config, &key())), expected);
        // No address of a family that nobody listens on.
        config.p2p.listen = vec!["/ip4/0.0.0.0/tcp/4001".parse().unwrap()];
        config.invite.addresses = vec!["[2001:db8::1]:9000".into(), "203.0.113.9:9000".into()];
        let only_ip4 = ["/ip4/203.0.113.9/tcp/4001"];
        assert_eq!(texts(&configured(&config, &key())), only_ip4);
        config.p2p.external = vec!["/ip4/203.0.113.7/tcp/4001".parse().unwrap()];
        config.p2p.listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/7"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let expected = ["/ip4/203.0.113.7/tcp/4001", "/ip4/127.0.0.1/tcp/7"];
        assert_eq!(texts(&configured(&config, &key())), expected);
        config.p2p.enabled = false;
        assert_eq!(configured(&config, &key()), []);
    }

    #[test]
    fn strangers_are_told_global_addresses_and_no_relayed_ones() {
        let relay = PeerId::random();
        let all: Vec<Multiaddr> = [
            "/ip4/192.168.1.2/udp/4001/quic-v1".to_owned(),
            format!("/ip4/9.9.9.1/udp/4001/quic-v1/p2p/{relay}/p2p-circuit"),
            "/ip4/9.9.9.2/tcp/4001".to_owned(),
            "/ip4/9.9.9.2/udp/4001/quic-v1".to_owned(),
            "/ip4/127.0.0.1/tcp/4001".to_owned(),
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        let best = |network| best(all.clone(), network).unwrap().to_string();
        assert_eq!(
            best(NetworkPolicy::Clearnet),
            "/ip4/9.9.9.2/udp/4001/quic-v1"
        );
        assert_eq!(best(NetworkPolicy::LoopbackOnly), "/ip4/127.0.0.1/tcp/4001");
    }

    #[test]
    fn an_address_that_means_another_host_elsewhere_is_not_global() {
        for local in [
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(
                !is_global(&format!("/ip4/{local}/tcp/1").parse().unwrap()),
                "{local}"
            );
        }
        for local in [
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "2001:db8::1",
            "3fff::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(
                !is_global(&format!("/ip6/{local}/tcp/1").parse().unwrap()),
                "{local}"
            );
        }
        for global in [
            "/ip4/9.9.9.9/tcp/1",
            "/ip4/100.128.0.1/tcp/1",
            "/ip4/100.63.0.1/tcp/1",
            "/ip4/172.32.0.1/tcp/1",
            "/ip6/2620:fe::fe/tcp/1",
            "/ip6/::ffff:9.9.9.9/tcp/1",
            "/dns/seed.example/tcp/1",
        ] {
            assert!(is_global(&global.parse().unwrap()), "{global}");
        }
    }

    #[test]
    fn what_the_swarm_found_out_is_told_if_it_is_global_and_what_is_configured_always() {
        let ours = named(
            vec!["/ip4/192.168.1.2/tcp/4001".parse().unwrap()],
            peer::peer_id(&key()).unwrap(),
        );
        let found = [
            "/ip4/10.0.0.5/tcp/4001",
            "/ip4/9.9.9.9/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
        ];
        let found = found.map(|text| text.parse().unwrap());
        let peer = peer::peer_id(&key()).unwrap();
        let told = |network| texts(&told_of(&ours, &found, peer, network));
        let expected = ["/ip4/192.168.1.2/tcp/4001", "/ip4/9.9.9.9/tcp/4001"];
        assert_eq!(told(NetworkPolicy::Clearnet), expected);
        assert_eq!(told(NetworkPolicy::LoopbackOnly).len(), 4);
    }
}
