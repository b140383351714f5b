//! The swarm's ports: whether they are free or ours, and whether newcomers are told addresses that they can reach.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use owm_p2p::{Multiaddr, multiaddr::Protocol};
use owm_service::doctor::{
    Finding,
    ports::{self, Daemon, Listener},
};

use crate::{config::Config, swarm::addresses};

const AREA: &str = "port.p2p";

pub(super) fn judge(
    config: &Config,
    listeners: &io::Result<Vec<Listener>>,
    daemon: Daemon,
) -> Vec<Finding> {
    if !config.p2p.enabled {
        let what =
            "this coordinator takes no part in the swarm: newcomers can join only while it runs";
        return vec![Finding::warning(AREA, what, "[p2p] enabled = true")];
    }
    let tcp = config.p2p.listen.iter().filter_map(tcp);
    let judge = |wanted| ports::judge(AREA, "[p2p] listen", wanted, listeners, daemon);
    let mut findings: Vec<Finding> = tcp.map(judge).collect();
    findings.extend(reached(config));
    findings
}

/// Who listens by UDP can't be told apart from who only sends: TCP stands for both.
fn tcp(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Invites name peers by what the configuration says.
fn reached(config: &Config) -> Option<Finding> {
    addresses::told(config).is_empty().then(|| {
        Finding::warning(
            AREA,
            "invites name no peer: the ports of [p2p] listen are chosen anew at each start",
            "[p2p] listen = [\"/ip4/0.0.0.0/udp/4001/quic-v1\", \"/ip4/0.0.0.0/tcp/4001\"], then restart and hand out new invites",
        )
    })
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;

    fn levels(config: &Config, listeners: Vec<Listener>, daemon: Daemon) -> Vec<Level> {
        let found = judge(config, &Ok(listeners), daemon);
        found.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_taken_port_and_invites_without_peers_are_told() {
        let mut config = Config::default();
        config.p2p.listen = vec!["/ip4/0.0.0.0/tcp/4001".parse().unwrap()];
        assert_eq!(levels(&config, vec![], Daemon::Stopped), [Level::Ok]);
        let other = Listener {
            address: "0.0.0.0:4001".parse().unwrap(),
            owner: Some((7, "ipfs".into())),
        };
        let taken = levels(&config, vec![other.clone()], Daemon::Stopped);
        assert_eq!(taken, [Level::Problem]);
        assert_eq!(
            levels(&config, vec![other], Daemon::Runs(Some(7))),
            [Level::Ok]
        );
        config.p2p.listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
        let any = levels(&config, vec![], Daemon::Stopped);
        assert_eq!(any, [Level::Ok, Level::Warning]);
        config.p2p.enabled = false;
        assert_eq!(levels(&config, vec![], Daemon::Stopped), [Level::Warning]);
    }
}
