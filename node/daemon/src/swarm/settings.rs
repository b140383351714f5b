//! `[p2p]` as the swarm takes it: multiaddresses parsed, contradictions told with an example of what is
//! right. Pure.

use std::net::IpAddr;

use owm_p2p::{Multiaddr, NetworkPolicy as SwarmPolicy, SwarmConfig, multiaddr::Protocol};
use owm_service::dialer::NetworkPolicy;

use crate::config::P2pSection;

/// Connections that a setting must allow: own shard, relay and newcomers.
const CONNECTIONS_MIN: u32 = 8;
/// Longest host name (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// What is wrong with a key of `[p2p]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[p2p] {key}: `{value}` {wrong}")]
pub struct SettingsError {
    key: &'static str,
    value: String,
    wrong: String,
}

impl SettingsError {
    /// The key as it could be.
    pub fn example(&self) -> &'static str {
        match self.key {
            "listen" => {
                "[p2p] listen = [\"/ip4/0.0.0.0/udp/4001/quic-v1\", \"/ip4/0.0.0.0/tcp/4001\"]"
            }
            "external" => "[p2p] external = [\"/ip4/203.0.113.7/udp/4001/quic-v1\"]",
            "peers" => "[p2p] peers = [\"/ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…\"]",
            "dns" => "[p2p] dns = [\"seed.example.org\"]",
            _ => "[p2p] connections_max = 256",
        }
    }
}

/// The section, parsed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the swarm.
    pub swarm: SwarmConfig,
    /// Peers named in the file.
    pub peers: Vec<Multiaddr>,
    /// Seed names.
    pub dns: Vec<String>,
}

impl Settings {
    /// Reads the section; all that is wrong with it at once.
    pub fn parse(section: &P2pSection) -> Result<Self, Vec<SettingsError>> {
        let mut wrong = Vec::new();
        let policy = section.network;
        let mut each = |key, texts: &[String], with_peer| {
            let read = |text: &String| match address(text, policy, with_peer) {
                Ok(address) => Some(address),
                Err(why) => {
                    wrong.push(error(key, text, why));
                    None
                }
            };
            texts.iter().filter_map(read).collect::<Vec<_>>()
        };
        let listen = each("listen", &section.listen, false);
        let external = each("external", &section.external, false);
        let peers = each("peers", &section.peers, true);
        for address in listen.iter().filter(|address| name_of(address).is_some()) {
            let why = "is a name; a node listens on addresses of its own machine";
            wrong.push(error("listen", &address.to_string(), why));
        }
        let names = section.dns.iter().filter(|name| !is_name(name));
        wrong.extend(names.map(|name| error("dns", name, "is no host name")));
        if section.connections_max < CONNECTIONS_MIN {
            let why = format!("is too few, a peer needs at least {CONNECTIONS_MIN}");
            let value = section.connections_max.to_string();
            wrong.push(error("connections_max", &value, why));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let swarm = SwarmConfig {
            policy: match policy {
                NetworkPolicy::Clearnet => SwarmPolicy::Clearnet,
                NetworkPolicy::LoopbackOnly => SwarmPolicy::LoopbackOnly,
            },
            listen,
            external,
            mdns: section.mdns,
            relay_server: section.relay,
            connections_max: section.connections_max,
            ..SwarmConfig::default()
        };
        Ok(Self {
            swarm,
            peers,
            dns: section.dns.clone(),
        })
    }
}

fn error(key: &'static str, value: &str, wrong: impl Into<String>) -> SettingsError {
    SettingsError {
        key,
        value: value.to_owned(),
        wrong: wrong.into(),
    }
}

/// An address over TCP or QUIC, with or without `/p2p` at its end as wanted, allowed by the policy.
fn address(text: &str, policy: NetworkPolicy, with_peer: bool) -> Result<Multiaddr, String> {
    let address: Multiaddr = text
        .parse()
        .map_err(|error| format!("is no multiaddress ({error})"))?;
    let mut parts = address.iter().peekable();
    let host = parts.next();
    let transport = (parts.next(), parts.peek());
    match transport {
        (Some(Protocol::Tcp(_)), _) => {}
        (Some(Protocol::Udp(_)), Some(Protocol::QuicV1)) => drop(parts.next()),
        _ => return Err("is neither …/tcp/<port> nor …/udp/<port>/quic-v1".into()),
    }
    let peer = parts.next();
    match (with_peer, &peer, parts.next()) {
        (true, Some(Protocol::P2p(_)), None) | (false, None, _) => {}
        (true, Some(Protocol::P2p(_)), Some(_)) => {
            // Through a relay: /p2p/<relay>/p2p-circuit/p2p/<peer>.
            if !matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                return Err("does not end in /p2p/<peer>".into());
            }
        }
        (true, ..) => return Err("does not end in /p2p/<peer>: whose address is it?".into()),
        (false, ..) => return Err("names more than a host, a port and a transport".into()),
    }
    let ip = match host {
        Some(Protocol::Ip4(ip)) => IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::from(ip),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            let is_allowed = policy == NetworkPolicy::Clearnet || name == "localhost";
            return is_allowed
                .then_some(address.clone())
                .ok_or_else(|| "is not on this machine, and network = \"loopback_only\"".into());
        }
        _ => return Err("does not begin with /ip4, /ip6 or /dns".into()),
    };
    if policy == NetworkPolicy::LoopbackOnly && !ip.is_loopback() {
        return Err("is not on this machine's loopback, and network = \"loopback_only\"".into());
    }
    Ok(address)
}

fn name_of(address: &Multiaddr) -> Option<String> {
    match address.iter().next() {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => {
            Some(name.into_owned())
        }
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(inner)
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGjMCwCXwoLKkrHMLTKsqLLfLKXUMzMdSEeWVrQHY1pDA";

    fn check(change: impl FnOnce(&mut P2pSection)) -> Vec<String> {
        let mut section = P2pSection::default();
        change(&mut section);
        let wrong = Settings::parse(&section).err().unwrap_or_default();
        wrong.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_and_what_the_examples_show_are_good() {
        let peer = owm_p2p::PeerId::random();
        let none: Vec<String> = vec![];
        assert_eq!(check(|_| {}), none);
        let good = |p2p: &mut P2pSection| {
            p2p.external = vec!["/dns4/node.example.org/tcp/4001".into()];
            p2p.peers = vec![
                format!("/ip6/2001:db8::1/udp/4001/quic-v1/p2p/{peer}"),
                format!("/ip4/203.0.113.7/tcp/4001/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            ];
            p2p.dns = vec!["seed.example.org".into()];
        };
        assert_eq!(check(good), none);
        let devnet = |p2p: &mut P2pSection| {
            p2p.network = NetworkPolicy::LoopbackOnly;
            p2p.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
        };
        assert_eq!(check(devnet), none);
    }

    #[test]
    fn every_wrong_address_is_told_with_its_key_and_what_is_wrong() {
        let wrong = check(|p2p| {
            p2p.listen = vec!["0.0.0.0:4001".into(), "/dns4/a.b/tcp/1".into()];
            p2p.external = vec![format!("/ip4/203.0.113.7/tcp/4001/p2p/{PEER}")];
            p2p.peers = vec!["/ip4/203.0.113.7/tcp/4001".into()];
            p2p.dns = vec!["not a name".into()];
            p2p.connections_max = 1;
        });
        let words = [
            ("listen", "no multiaddress"),
            ("external", "more than a host"),
            ("peers", "does not end in /p2p/<peer>"),
            ("listen", "is a name"),
            ("dns", "no host name"),
            ("connections_max", "at least 8"),
        ];
        assert_eq!(wrong.len(), words.len(), "{wrong:#?}");
        for (said, (key, what)) in wrong.iter().zip(words) {
            assert!(said.contains(key) && said.contains(what), "{said}");
        }
    }

    #[test]
    fn a_loopback_network_names_no_other_address() {
        let wrong = check(|p2p| p2p.network = NetworkPolicy::LoopbackOnly);
        assert_eq!(wrong.len(), 4, "the default listens everywhere: {wrong:#?}");
        assert!(wrong[0].contains("loopback_only"), "{}", wrong[0]);
    }
}
