//! How gossipsub is told to rate peers. `behaviour` uses it. Topics are sparse (a node says something once a
//! minute), so missing deliveries mean nothing (P3 and P3b are off); what counts is invalid messages (P4),
//! gossipsub's own rules of conduct (P7) and our application score (P5, `peer::score`).
//!
//! Must stay true: peers on this machine never graylist each other for sharing an address (P6 spares
//! loopback, and is off where addresses mean nothing), and what gossipsub gives for good conduct stays far
//! below what one fault costs.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libp2p::gossipsub::{PeerScoreParams, PeerScoreThresholds, TopicScoreParams};

use crate::{
    NetworkPolicy,
    peer::{
        ban::FIRST_BAN,
        score::{GOSSIP_BELOW, GRAYLIST_BELOW, HALF_LIFE, PUBLISH_BELOW},
    },
};

/// Counters are faded this often.
const FADED_EVERY: Duration = Duration::from_secs(1);

/// The most that good conduct gives, over all topics.
const GOOD_CONDUCT_MAX: f64 = 10.0;

/// Parameters for all topics together. `peers_per_address`: as many as may connect from one address
/// (`SwarmConfig::connections_per_address`).
pub fn peer_score_params(policy: NetworkPolicy, peers_per_address: u32) -> PeerScoreParams {
    // Onion connections carry no address: everybody would share one.
    let by_address = match policy {
        NetworkPolicy::Clearnet => -5.0,
        NetworkPolicy::LoopbackOnly | NetworkPolicy::OnionOnly => 0.0,
    };
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    PeerScoreParams {
        topic_score_cap: GOOD_CONDUCT_MAX,
        app_specific_weight: 1.0,
        ip_colocation_factor_weight: by_address,
        ip_colocation_factor_threshold: f64::from(peers_per_address.max(1)),
        ip_colocation_factor_whitelist: loopback.into_iter().collect(),
        // A machine that is overloaded for some seconds breaks a few promises; with each one it would send
        // less, and get less, until nobody talks to it: seen with 50 peers on two busy cores.
        behaviour_penalty_weight: -2.0,
        behaviour_penalty_threshold: 20.0,
        behaviour_penalty_decay: decay(Duration::from_mins(1)),
        decay_interval: FADED_EVERY,
        decay_to_zero: 0.01,
        // Less than the first ban: who comes back after one starts anew.
        retain_score: FIRST_BAN / 2,
        slow_peer_weight: -0.1,
        slow_peer_threshold: 20.0,
        slow_peer_decay: decay(Duration::from_mins(1)),
        ..PeerScoreParams::default()
    }
}

/// Parameters of one topic.
pub fn topic_score_params() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(10),
        time_in_mesh_cap: 200.0,
        first_message_deliveries_weight: 0.05,
        first_message_deliveries_decay: decay(HALF_LIFE),
        first_message_deliveries_cap: 60.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // Squared: four invalid messages are enough.
        invalid_message_deliveries_weight: -5.0,
        invalid_message_deliveries_decay: decay(HALF_LIFE),
        ..TopicScoreParams::default()
    }
}

/// From which score on a peer loses what.
pub fn peer_score_thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: GOSSIP_BELOW,
        publish_threshold: PUBLISH_BELOW,
        graylist_threshold: GRAYLIST_BELOW,
        // Peer exchange is not used: addresses come from signed capabilities.
        accept_px_threshold: f64::MAX,
        opportunistic_graft_threshold: 0.5,
    }
}

/// The factor by which a counter halves in `half_life`.
fn decay(half_life: Duration) -> f64 {
    0.5_f64.powf(FADED_EVERY.as_secs_f64() / half_life.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gossipsub_takes_the_parameters() {
        for policy in [
            NetworkPolicy::Clearnet,
            NetworkPolicy::LoopbackOnly,
            NetworkPolicy::OnionOnly,
        ] {
            assert_eq!(peer_score_params(policy, 16).validate(), Ok(()));
        }
        assert_eq!(topic_score_params().validate(), Ok(()));
        assert_eq!(peer_score_thresholds().validate(), Ok(()));
    }

    #[test]
    fn four_invalid_messages_outweigh_all_good_conduct() {
        let params = topic_score_params();
        let invalid = 4.0_f64.powi(2) * params.invalid_message_deliveries_weight;
        assert!(invalid * params.topic_weight + GOOD_CONDUCT_MAX < PUBLISH_BELOW);
    }

    #[test]
    fn peers_on_one_machine_do_not_pay_for_their_address() {
        let params = peer_score_params(NetworkPolicy::Clearnet, 16);
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            assert!(params.ip_colocation_factor_whitelist.contains(&address));
        }
    }
}
