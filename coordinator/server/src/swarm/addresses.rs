//! Where newcomers find the swarm: this coordinator's addresses as others reach them, and a few other peers.
//! Called for `GetNetwork` and invites. Pure, but for [`others`].

use std::{collections::HashSet, net::IpAddr, time::Duration};

use owm_coordinator_store::{Store, StoreError, gossip::reachable};
use owm_p2p::{
    Multiaddr, PeerId, SwarmView,
    multiaddr::Protocol,
    peer::{self, group::is_for_everybody},
};
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
    let useful = found
        .iter()
        .filter(|a| stays_here || is_for_everybody(a))
        .cloned();
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
        NetworkPolicy::Clearnet => is_for_everybody(a),
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
    fn what_the_swarm_found_out_is_told_if_it_is_global_and_what_is_configured_always() {
        let ours = named(
            vec!["/ip4/192.168.1.2/tcp/4001".parse().unwrap()],
            peer::peer_id(&key()).unwrap(),
        );
        let found = [
            "/ip4/10.0.0.5/tcp/4001",
            "/ip6/::ffff:10.0.0.5/tcp/4001",
            "/ip4/9.9.9.9/tcp/4001",
            "/ip4/127.0.0.1/tcp/4001",
        ];
        let found = found.map(|text| text.parse().unwrap());
        let peer = peer::peer_id(&key()).unwrap();
        let told = |network| texts(&told_of(&ours, &found, peer, network));
        let expected = ["/ip4/192.168.1.2/tcp/4001", "/ip4/9.9.9.9/tcp/4001"];
        assert_eq!(told(NetworkPolicy::Clearnet), expected);
        assert_eq!(told(NetworkPolicy::LoopbackOnly).len(), 5);
    }
}
