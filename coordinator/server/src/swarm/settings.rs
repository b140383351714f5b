//! `[p2p]` as the swarm takes it, and the numbers that all peers follow. Pure.

use owm_p2p::{Multiaddr, NetworkPolicy as SwarmPolicy, SwarmConfig, multiaddr::Protocol};
use owm_proto::{UnixMillis, gossip::Bootstrap};
use owm_service::dialer::NetworkPolicy;

use crate::config::Config;

/// What is wrong with `[p2p]`, or with `[scheduler] heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A peer's address does not say whose it is.
    #[error(
        "[p2p] peers: {0} does not end in /p2p/<peer>: whose address is it? It looks like /ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…"
    )]
    Nameless(Multiaddr),
    /// An address of ours names a peer.
    #[error("[p2p] {key}: {address} names a peer; leave /p2p/… away, it is ours")]
    Named {
        /// Which key.
        key: &'static str,
        /// The address.
        address: Multiaddr,
    },
    /// An address elsewhere, in a network that stays on this machine.
    #[error(
        "[p2p] {key}: {address} is not on this machine's loopback, and network = \"loopback_only\"; name /ip4/127.0.0.1/…, or set network = \"clearnet\""
    )]
    Elsewhere {
        /// Which key.
        key: &'static str,
        /// The address.
        address: Multiaddr,
    },
    /// Numbers that no peer would follow.
    #[error(
        "[p2p] shards = {shards} must be a power of two up to {max}, [scheduler] heartbeat between 1 s and 1 h, [p2p] capability between 1 s and 1 day: peers would not follow these",
        max = owm_proto::limits::SHARDS_MAX
    )]
    Unsound {
        /// As configured.
        shards: u32,
    },
}

/// The numbers that this coordinator signs. Spans below a second count as one.
pub fn parameters(config: &Config, now: UnixMillis) -> Bootstrap {
    let secs = |span: owm_service::config::HumanDuration| {
        u32::try_from(span.get().as_secs())
            .unwrap_or(u32::MAX)
            .max(1)
    };
    Bootstrap {
        issued_at_ms: now,
        shards: config.p2p.shards,
        heartbeat_secs: secs(config.scheduler.heartbeat),
        capability_secs: secs(config.p2p.capability),
    }
}

/// Checks what can be checked without starting anything.
pub fn check(config: &Config) -> Result<(), SettingsError> {
    let p2p = &config.p2p;
    if !parameters(config, UnixMillis(0)).is_sound() {
        return Err(SettingsError::Unsound { shards: p2p.shards });
    }
    let names_peer = |a: &Multiaddr| a.iter().any(|part| matches!(part, Protocol::P2p(_)));
    for (key, addresses) in [("listen", &p2p.listen), ("external", &p2p.external)] {
        if let Some(address) = addresses.iter().find(|a| names_peer(a)) {
            let address = address.clone();
            return Err(SettingsError::Named { key, address });
        }
    }
    let nameless = |a: &&Multiaddr| !matches!(a.iter().last(), Some(Protocol::P2p(_)));
    if let Some(address) = p2p.peers.iter().find(nameless) {
        return Err(SettingsError::Nameless(address.clone()));
    }
    if p2p.network == NetworkPolicy::LoopbackOnly {
        let all = [
            ("listen", &p2p.listen),
            ("external", &p2p.external),
            ("peers", &p2p.peers),
        ];
        for (key, addresses) in all {
            if let Some(address) = addresses.iter().find(|a| !is_loopback(a)) {
                let address = address.clone();
                return Err(SettingsError::Elsewhere { key, address });
            }
        }
    }
    Ok(())
}

/// Whether an address stays on this machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            name == "localhost"
        }
        _ => false,
    }
}

/// Where the swarm may connect to.
pub(super) fn policy(network: NetworkPolicy) -> SwarmPolicy {
    match network {
        NetworkPolicy::Clearnet => SwarmPolicy::Clearnet,
        NetworkPolicy::LoopbackOnly => SwarmPolicy::LoopbackOnly,
    }
}

/// For the swarm; the ways in are `ways`'.
pub(super) fn swarm_config(config: &Config) -> SwarmConfig {
    let p2p = &config.p2p;
    SwarmConfig {
        policy: policy(p2p.network),
        listen: p2p.listen.clone(),
        external: p2p.external.clone(),
        all_shards: true,
        mdns: p2p.mdns,
        relay_server: p2p.relay,
        connections_max: p2p.connections_max,
        ..SwarmConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config)
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn what_peers_would_not_follow_or_reach_is_told() {
        let at = |text: &str| vec![text.parse::<Multiaddr>().unwrap()];
        assert_eq!(wrong(|_| {}), "", "the defaults are good");
        assert!(wrong(|c| c.p2p.shards = 3).contains("shards = 3"));
        let peer = owm_p2p::PeerId::random();
        let named = format!("/ip4/203.0.113.7/tcp/4001/p2p/{peer}");
        assert_eq!(wrong(|c| c.p2p.peers = at(&named)), "");
        let nameless = wrong(|c| c.p2p.peers = at("/ip4/203.0.113.7/tcp/4001"));
        assert!(nameless.contains("whose address"), "{nameless}");
        let ours = wrong(|c| c.p2p.external = at(&named));
        assert!(ours.contains("[p2p] external"), "{ours}");
        let elsewhere = wrong(|c| c.p2p.network = NetworkPolicy::LoopbackOnly);
        assert!(elsewhere.contains("/ip4/0.0.0.0"), "{elsewhere}");
    }

    #[test]
    fn the_signed_numbers_are_those_of_the_config() {
        let mut config = Config::default();
        config.p2p.shards = 4;
        config.scheduler.heartbeat = owm_service::config::HumanDuration::from_secs(5);
        let numbers = parameters(&config, UnixMillis(7));
        let shown = (
            numbers.shards,
            numbers.heartbeat_secs,
            numbers.capability_secs,
        );
        assert_eq!(shown, (4, 5, 600));
    }
}
