//! What can be seen of the swarm from here: a snapshot, made at most a few times a second.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use owm_proto::{PublicKey, Tier, UnixMillis, gossip::Bootstrap};
use serde::{Deserialize, Serialize};

use crate::Unavailable;

/// The swarm as one peer sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwarmView {
    /// Who we are.
    pub peer: PeerId,
    /// Where we listen.
    pub listening: Vec<Multiaddr>,
    /// Where we can be reached from outside, as far as it is known.
    pub external: Vec<Multiaddr>,
    /// Whether we can.
    pub reachability: Reachability,
    /// Connected peers that speak our network.
    pub peers: Vec<PeerView>,
    /// Nodes heard of lately, ourselves included, by key.
    pub nodes: Vec<NodeView>,
    /// Sequence and version of the newest verified checkpoint.
    pub checkpoint: Option<CheckpointView>,
    /// The agreed numbers.
    pub parameters: Bootstrap,
    /// What each way in has brought.
    pub sources: Vec<SourceView>,
    /// What was seen and must be looked at by a person: equivocation of a release key, a wrong clock.
    pub warnings: Vec<String>,
}

/// Whether peers can reach us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Not known yet.
    #[default]
    Unknown,
    /// Directly.
    Public,
    /// Behind NAT: through relays or by hole punching only.
    Private,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its identity.
    pub key: PublicKey,
    /// The address of a connection.
    pub address: Multiaddr,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// Round trip of the last ping.
    pub round_trip: Option<Duration>,
    /// Its gossip score.
    pub score: f64,
    /// A valid membership statement is known.
    pub member: bool,
}

/// A node as gossip tells of it. Nothing here changes its status with the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Which.
    pub key: PublicKey,
    /// From its membership statement; absent: a stranger.
    pub tier: Option<Tier>,
    /// When its last heartbeat or capability was heard here.
    pub heard_at_ms: UnixMillis,
    /// Tasks under way, by its own word.
    pub running_tasks: u32,
    /// What it serves, SHA-256 of complete files.
    pub holds: Vec<owm_proto::Sha256>,
    /// What it does.
    pub roles: Vec<String>,
    /// Of its program.
    pub software_version: String,
    /// The newest checkpoint it knows, 0: none.
    pub checkpoint_sequence: u64,
    /// Whether we are connected with it.
    pub connected: bool,
}

/// The newest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Its sequence.
    pub sequence: u64,
    /// `owm-v0.1.0`.
    pub version: String,
    /// Of the manifest.
    pub manifest_sha256: owm_proto::Sha256,
    /// Who told us first.
    pub from: String,
    /// When it was learnt here.
    pub learnt_at_ms: UnixMillis,
}

/// One way into the swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// `static`, `dns`, `coordinator`, `remembered`, `invite`, `mdns`.
    pub name: String,
    /// Addresses it has given.
    pub given: usize,
    /// Of these, peers that were reached.
    pub reached: usize,
    /// The failures told last, a few.
    pub failures: Vec<Unavailable>,
}
