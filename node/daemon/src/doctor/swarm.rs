//! The swarm: whether its ports are free, whether peers are reached and what keeps them away, clocks, NAT.

use std::net::{IpAddr, SocketAddr};

use owm_p2p::{
    Multiaddr, Unavailable, error::FailedLayer, multiaddr::Protocol, view::Reachability,
};
use owm_service::doctor::{
    Finding, Level,
    ports::{self, Daemon},
};

use super::Ground;
use crate::swarm::{Settings, SwarmPicture};

const AREA: &str = "swarm";
const KEY: &str = "[p2p] listen";
/// Failures named in one finding.
const NAMED_MAX: usize = 4;

/// Its TCP ports; those of QUIC are told by the running node, the system's table has no word for them.
pub(super) fn check_ports(ground: &Ground) -> Vec<Finding> {
    let Ok(settings) = Settings::parse(&ground.config.p2p) else {
        return Vec::new(); // `settings` has told.
    };
    if !ground.config.p2p.enabled {
        return Vec::new();
    }
    let wanted: Vec<SocketAddr> = settings.swarm.listen.iter().filter_map(tcp).collect();
    let told = |address: &SocketAddr| {
        let daemon = ground.daemon();
        let mut told = ports::judge("port.swarm", KEY, *address, &ports::probe(), daemon);
        // The node goes on without it.
        told.level = told.level.min(Level::Warning);
        told
    };
    wanted.iter().map(told).collect()
}

/// IPv4 only: `[::]` shares its port with it.
fn tcp(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    match (parts.next()?, parts.next()?) {
        (Protocol::Ip4(ip), Protocol::Tcp(port)) if port != 0 => {
            Some(SocketAddr::new(IpAddr::from(ip), port))
        }
        _ => None,
    }
}

/// What the running node says of it.
pub(super) fn judge(ground: &Ground) -> Vec<Finding> {
    let Some(picture) = ground.process.swarm() else {
        return match ground.daemon() {
            Daemon::Stopped if !ground.config.p2p.enabled => vec![off()],
            _ => Vec::new(), // `process` has told.
        };
    };
    if !ground.config.p2p.enabled {
        return vec![off()];
    }
    judge_picture(picture, &ground.command("start"))
}

fn off() -> Finding {
    Finding::ok(AREA, "off, as configured: [p2p] enabled = false")
}

fn judge_picture(picture: &SwarmPicture, start: &str) -> Vec<Finding> {
    if !picture.running {
        let fix = format!("mend that in the configuration, stop the node, then: {start}");
        return vec![Finding::problem(AREA, picture.summary(), fix)];
    }
    let mut findings: Vec<Finding> = picture
        .problems
        .iter()
        .map(|problem| Finding::warning("port.swarm", problem, FREE_THE_PORT))
        .collect();
    findings.extend(judge_peers(picture));
    findings.extend(judge_clock(picture));
    let is_cut_off = picture.reachability == Reachability::Private && picture.external.is_empty();
    if is_cut_off {
        let what =
            "behind NAT, and no relay carries connections for this node yet: others can't reach it";
        let fix = "forward UDP and TCP port 4001 to this machine and name the outer address in [p2p] external; \
                   or wait for a relay: any publicly reachable peer is one";
        findings.push(Finding::warning("swarm.reach", what, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, picture.summary()));
    }
    findings
}

const FREE_THE_PORT: &str =
    "end the other program, or choose other ports in [p2p] listen; then restart the node";

fn failures(picture: &SwarmPicture) -> impl Iterator<Item = &Unavailable> {
    picture.sources.iter().flat_map(|source| &source.failures)
}

fn judge_peers(picture: &SwarmPicture) -> Option<Finding> {
    if picture.peers_connected > 0 {
        return None;
    }
    let all: Vec<&Unavailable> = failures(picture).collect();
    let named: Vec<String> = all
        .iter()
        .rev()
        .take(NAMED_MAX)
        .map(ToString::to_string)
        .collect();
    let what = match (
        picture.sources.iter().map(|s| s.given).sum(),
        named.is_empty(),
    ) {
        (0, _) => "no peer is known: the invite names none, nor does [p2p] peers".to_owned(),
        (given, true) => format!("no peer is connected; {given} addresses are being tried"),
        (given, false) => format!("no peer of {given} is reached: {}", named.join("; ")),
    };
    let fix = all
        .last()
        .map_or(ASK_FOR_PEERS, |failure| fix(failure.layer));
    Some(Finding::warning("swarm.peers", what, fix))
}

const ASK_FOR_PEERS: &str = "ask for an invite that names peers, or add addresses to [p2p] peers";

/// What to do about a failure on this layer.
fn fix(layer: FailedLayer) -> &'static str {
    match layer {
        FailedLayer::Policy => "[p2p] network forbids these addresses: name others in [p2p] peers",
        FailedLayer::Name => "check the names in [p2p] dns and peers, and this machine's DNS",
        FailedLayer::Transport => {
            "check this machine's connection and firewall (UDP and TCP outwards); else ask for an invite with other peers"
        }
        FailedLayer::Handshake => "another peer than named answers there: ask for a newer invite",
        FailedLayer::Version => {
            "these peers are of another network or version: check the invite, update owm-node"
        }
        FailedLayer::Clock => SET_THE_CLOCK,
        FailedLayer::Documents => {
            "these peers serve what does not verify: check the invite, ask for other peers"
        }
        FailedLayer::Timeout => {
            "check firewalls on the way; the peers are slow or gone: add others to [p2p] peers"
        }
    }
}

const SET_THE_CLOCK: &str =
    "set this machine's clock: timedatectl set-ntp true; if it is right, theirs are wrong";

fn judge_clock(picture: &SwarmPicture) -> Option<Finding> {
    let mut said = failures(picture).filter(|failure| failure.layer == FailedLayer::Clock);
    let failure = said.next()?;
    let peers = 1 + said.count();
    let what = format!("by the word of {peers} peers the clocks are apart: {failure}");
    Some(Finding::warning("swarm.clock", what, SET_THE_CLOCK))
}

#[cfg(test)]
mod tests {
    use owm_p2p::view::SourceView;

    use super::*;

    fn picture(failed: &[FailedLayer]) -> SwarmPicture {
        let failure = |layer: &FailedLayer| Unavailable {
            target: "12D3KooW".into(),
            layer: *layer,
            reason: "it said no".into(),
        };
        SwarmPicture {
            running: true,
            sources: vec![SourceView {
                name: "invite".into(),
                given: failed.len(),
                reached: 0,
                failures: failed.iter().map(failure).collect(),
            }],
            ..SwarmPicture::default()
        }
    }

    #[test]
    fn no_peers_are_told_with_the_layer_and_what_to_do_about_it() {
        for (layer, word, fix) in [
            (FailedLayer::Name, "name", "DNS"),
            (FailedLayer::Transport, "tcp/quic", "firewall"),
            (FailedLayer::Handshake, "handshake", "newer invite"),
            (FailedLayer::Version, "version", "update owm-node"),
        ] {
            let findings = judge_picture(&picture(&[layer]), "start");
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, Level::Warning);
            let text = format!("{:?}", findings[0]);
            assert!(text.contains(word) && text.contains(fix), "{text}");
        }
        let text = format!("{:?}", judge_picture(&picture(&[]), "start"));
        assert!(
            text.contains("ask for an invite that names peers"),
            "{text}"
        );
    }

    #[test]
    fn a_clock_that_peers_disagree_with_and_a_nat_without_relay_are_told() {
        let mut seen = picture(&[FailedLayer::Clock]);
        seen.peers_connected = 1;
        seen.reachability = Reachability::Private;
        let findings = judge_picture(&seen, "start");
        let text = format!("{findings:?}");
        assert_eq!(findings.len(), 2, "{text}");
        assert!(
            text.contains("timedatectl") && text.contains("port 4001"),
            "{text}"
        );
        seen.reachability = Reachability::Public;
        seen.sources.clear();
        assert_eq!(judge_picture(&seen, "start")[0].level, Level::Ok);
    }

    #[test]
    fn a_swarm_that_does_not_run_is_a_problem_and_a_taken_port_a_warning() {
        let off = SwarmPicture::off("no transport");
        assert_eq!(judge_picture(&off, "start")[0].level, Level::Problem);
        let mut taken = picture(&[]);
        taken.peers_connected = 1;
        taken.problems = vec!["the swarm does not listen on /ip4/0.0.0.0/tcp/4001".into()];
        let findings = judge_picture(&taken, "start");
        assert_eq!((findings.len(), findings[0].level), (1, Level::Warning));
    }
}
