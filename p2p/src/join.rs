//! One-shot joining: the documents and the newest checkpoint of a network from whichever of the given peers
//! answers first. `owm-node init --join` calls it, and a node's start without the coordinator.
//!
//! It dials all peers at once with a swarm of its own that listens nowhere, and is gone afterwards. Must stay
//! true: what it returns has been verified against the network id that the caller named; it ends within its
//! time; if nobody answered, it says on which layer it failed for whom.

mod answer;
mod dialling;

use std::{sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId};
use owm_proto::{NodeKey, PublicKey, genesis::NetworkId};

use crate::{
    Clock, Documents, NetworkPolicy, NewestCheckpoint, P2pError, Transport, Unavailable,
    bootstrap::{NoResolver, Resolver},
};

/// Addresses that are tried: an invite's and a config's lists are far shorter.
pub const ADDRESSES_MAX: usize = 64;

/// Time for all of it where the caller has no opinion: a dial and an answer, each with one slow round.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for one connection within that.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What to join, through whom.
#[derive(Clone, Debug)]
pub struct Join {
    /// The network, from the invite.
    pub network: NetworkId,
    /// Peers, with `/p2p/<peer>` or without; names go through `resolver`.
    pub peers: Vec<Multiaddr>,
    /// Where it may connect to.
    pub policy: NetworkPolicy,
    /// Resolves names.
    pub resolver: Arc<dyn Resolver>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Time for all of it.
    pub timeout: Duration,
    /// Time for one connection.
    pub dial_timeout: Duration,
}

/// What a peer served, verified.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The network's documents.
    pub documents: Documents,
    /// The newest checkpoint the peer knew, if any.
    pub newest: Option<NewestCheckpoint>,
    /// Who served it.
    pub from: PeerId,
    /// Where that was, with `/p2p/<peer>`: a candidate for the swarm.
    pub address: Multiaddr,
    /// Addresses of other nodes that it told of, each with `/p2p/<peer>`: candidates.
    pub peers: Vec<Multiaddr>,
    /// Keys of the nodes that it told of.
    pub nodes: Vec<PublicKey>,
    /// Who had failed until then, and what is odd about what was served (a clock far apart).
    pub failures: Vec<Unavailable>,
}

/// Why joining did not work.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No peer was named.
    #[error(
        "no peer to join through is known: the invite names none; ask for an invite with peers, \
         or give one in [p2p] peers"
    )]
    NoPeers,
    /// All failed.
    #[error(
        "none of {} peers could be joined through:\n  {}\nask for a newer invite, or check this machine's \
         connection",
        .0.len(),
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Unreachable(Vec<Unavailable>),
    /// The swarm could not be made.
    #[error(transparent)]
    Swarm(#[from] P2pError),
}

impl Join {
    /// With the default times, and no names.
    pub fn new(
        network: NetworkId,
        peers: Vec<Multiaddr>,
        policy: NetworkPolicy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            network,
            peers,
            policy,
            resolver: Arc::new(NoResolver),
            clock,
            timeout: JOIN_TIMEOUT,
            dial_timeout: DIAL_TIMEOUT,
        }
    }

    /// The same with names.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..self }
    }
}

/// Joins over the clear net (or loopback). `key` is the node's own, so that peers see who asks.
pub async fn join(wanted: Join, key: &NodeKey) -> Result<Joined, JoinError> {
    let transport = Transport::clearnet(key)?;
    join_over(wanted, key, transport).await
}

/// The same over a transport of the caller's.
pub async fn join_over(
    wanted: Join,
    key: &NodeKey,
    transport: Transport,
) -> Result<Joined, JoinError> {
    if wanted.peers.is_empty() {
        return Err(JoinError::NoPeers);
    }
    dialling::Joining::new(wanted, key, transport).run().await
}
