//! The swarm as this node sees it, for `status`, `top` and `doctor`: pure, made from the swarm's own view.
//! Must stay true: bounded; what a peer says of itself is shown as that.

use owm_p2p::{
    Multiaddr, SwarmView,
    multiaddr::Protocol,
    view::{NodeView, PeerView, Reachability, SourceView},
};
use owm_proto::gossip::Bootstrap;
use serde::{Deserialize, Serialize};

/// Peers and nodes listed; the counts are of all.
const LISTED_MAX: usize = 64;

/// The picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwarmPicture {
    /// Whether it runs.
    pub running: bool,
    /// Why it does not, or what it does without: an address that could not be listened on.
    pub problems: Vec<String>,
    /// Who we are there.
    pub peer_id: String,
    /// Where we listen, each with `/p2p/<us>`, ready to be given to others.
    pub listening: Vec<String>,
    /// Where we can be reached from outside, as far as it is known.
    pub external: Vec<String>,
    /// Whether we can.
    pub reachability: Reachability,
    /// Connected peers.
    pub peers_connected: usize,
    /// Those of them that are reached through a relay.
    pub peers_relayed: usize,
    /// Some of them.
    pub peers: Vec<PeerPicture>,
    /// Nodes heard of lately by gossip, ourselves included.
    pub nodes_known: usize,
    /// Those of them with a valid membership statement.
    pub members_known: usize,
    /// Those heard last.
    pub nodes: Vec<NodePicture>,
    /// The newest version that a release key has announced.
    pub newest: Option<NewestPicture>,
    /// The numbers that the network has agreed on.
    pub parameters: Option<Bootstrap>,
    /// What each way into the swarm has brought.
    pub sources: Vec<SourceView>,
    /// What a person has to look at.
    pub warnings: Vec<String>,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerPicture {
    /// Its key, hex.
    pub key: String,
    /// Where.
    pub address: String,
    /// Through a relay.
    pub relayed: bool,
    /// Round trip of its last ping.
    pub round_trip_ms: Option<u64>,
    /// Its gossip score.
    pub score: f64,
    /// A valid membership statement is known.
    pub member: bool,
}

/// A node as gossip tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePicture {
    /// Its key, hex.
    pub key: String,
    /// From its membership statement; absent: a stranger.
    pub tier: Option<String>,
    /// When it was heard last, Unix milliseconds.
    pub heard_at_ms: u64,
    /// By its own word.
    pub software_version: String,
    /// Of the newest checkpoint that it knows, by its own word.
    pub checkpoint_sequence: u64,
    /// Complete files that it serves, by its own word.
    pub holds: usize,
    /// Whether we are connected with it.
    pub connected: bool,
}

/// The newest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestPicture {
    /// Rises over releases and withdrawals.
    pub sequence: u64,
    /// Which version.
    pub version: String,
    /// Of its manifest.
    pub manifest_sha256: String,
    /// `disk`, or the peer that told us first.
    pub from: String,
    /// When we learnt it, Unix milliseconds.
    pub learnt_at_ms: u64,
}

impl SwarmPicture {
    /// A swarm that does not run.
    pub fn off(why: impl Into<String>) -> Self {
        Self {
            problems: vec![why.into()],
            ..Self::default()
        }
    }

    /// A running one.
    pub fn of(view: &SwarmView, problems: &[String]) -> Self {
        let mut nodes: Vec<&NodeView> = view.nodes.iter().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(node.heard_at_ms));
        let nodes = nodes.into_iter().take(LISTED_MAX).map(node);
        Self {
            running: true,
            problems: problems.to_vec(),
            peer_id: view.peer.to_string(),
            listening: with_peer(&view.listening, view),
            external: with_peer(&view.external, view),
            reachability: view.reachability,
            peers_connected: view.peers.len(),
            peers_relayed: view.peers.iter().filter(|peer| peer.relayed).count(),
            peers: view.peers.iter().take(LISTED_MAX).map(peer).collect(),
            nodes_known: view.nodes.len(),
            members_known: view.nodes.iter().filter(|n| n.tier.is_some()).count(),
            nodes: nodes.collect(),
            newest: view.checkpoint.as_ref().map(|newest| NewestPicture {
                sequence: newest.sequence,
                version: newest.version.clone(),
                manifest_sha256: newest.manifest_sha256.to_string(),
                from: if newest.from.is_empty() {
                    "disk".to_owned()
                } else {
                    newest.from.clone()
                },
                learnt_at_ms: newest.learnt_at_ms.0,
            }),
            parameters: Some(view.parameters.clone()),
            sources: view.sources.clone(),
            warnings: view.warnings.clone(),
        }
    }

    /// One line: how it is.
    pub fn summary(&self) -> String {
        if !self.running {
            let why = self.problems.first().map_or("not started", String::as_str);
            return format!("off: {why}");
        }
        let relayed = match self.peers_relayed {
            0 => String::new(),
            n => format!(" ({n} through relays)"),
        };
        let reach = match self.reachability {
            Reachability::Unknown => "reachability not known yet",
            Reachability::Public => "reachable from outside",
            Reachability::Private => "behind NAT",
        };
        format!(
            "{} peers{relayed}, {} nodes known, {reach}",
            self.peers_connected, self.nodes_known
        )
    }
}

fn with_peer(addresses: &[Multiaddr], view: &SwarmView) -> Vec<String> {
    let complete = |address: &Multiaddr| match address.iter().last() {
        Some(Protocol::P2p(peer)) if peer == view.peer => address.to_string(),
        _ => address.clone().with(Protocol::P2p(view.peer)).to_string(),
    };
    addresses.iter().map(complete).collect()
}

fn peer(view: &PeerView) -> PeerPicture {
    PeerPicture {
        key: view.key.to_string(),
        address: view.address.to_string(),
        relayed: view.relayed,
        round_trip_ms: view.round_trip.map(|time| time.as_millis() as u64),
        score: view.score,
        member: view.member,
    }
}

fn node(view: &NodeView) -> NodePicture {
    NodePicture {
        key: view.key.to_string(),
        tier: view.tier.map(|tier| tier.to_string()),
        heard_at_ms: view.heard_at_ms.0,
        software_version: view.software_version.clone(),
        checkpoint_sequence: view.checkpoint_sequence,
        holds: view.holds.len(),
        connected: view.connected,
    }
}
