//! What a swarm is made of. The daemons read most of it from their `[p2p]` section.

use std::{collections::BTreeSet, time::Duration};

use libp2p::Multiaddr;

use crate::{NetworkPolicy, bootstrap::Ways};

/// The settings of a swarm.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Where it may connect to.
    pub policy: NetworkPolicy,
    /// Where it listens; empty: nowhere (it dials only).
    pub listen: Vec<Multiaddr>,
    /// Addresses that the operator knows to be reachable from outside, announced beside those that AutoNAT
    /// has confirmed.
    pub external: Vec<Multiaddr>,
    /// Listens to all shards (coordinators), not to its own only.
    pub all_shards: bool,
    /// Finds peers in the local network by mDNS, which tells everybody there that a node runs here.
    pub mdns: bool,
    /// Carries connections for peers behind NAT, if it is publicly reachable itself.
    pub relay_server: bool,
    /// Connections of this process: established, in both directions.
    pub connections_max: u32,
    /// Established inbound connections from one IP address; loopback is exempt.
    pub connections_per_address: u32,
    /// Share of the machine's memory above which new connections are refused, in thousandths.
    pub memory_max_permille: u32,
    /// Peers that it never talks to.
    pub blocked: BTreeSet<libp2p::PeerId>,
    /// Time for one connection, handshakes included.
    pub dial_timeout: Duration,
    /// Peers it wants to be connected with.
    pub peers_wanted: usize,
    /// How it finds its way in.
    pub ways: Ways,
}

impl SwarmConfig {
    /// Connections of a process at most, unless its operator says otherwise.
    pub const CONNECTIONS_MAX: u32 = 512;

    /// Peers that a process wants to be connected with, unless its operator says otherwise.
    pub const PEERS_WANTED: usize = 16;
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            policy: NetworkPolicy::Clearnet,
            listen: Vec::new(),
            external: Vec::new(),
            all_shards: false,
            mdns: false,
            relay_server: true,
            connections_max: Self::CONNECTIONS_MAX,
            connections_per_address: 16,
            memory_max_permille: 900,
            blocked: BTreeSet::new(),
            dial_timeout: Duration::from_secs(10),
            peers_wanted: Self::PEERS_WANTED,
            ways: Ways::default(),
        }
    }
}
