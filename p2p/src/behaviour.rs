//! What a peer does, as one derive. Which parts exist follows from the network policy: what could tell an
//! address of ours stands in [`Open`], and an onion-only swarm has none.

use libp2p::{
    allow_block_list::{self, BlockedPeers},
    autonat::v2 as autonat,
    connection_limits, dcutr, gossipsub, kad, mdns, memory_connection_limits, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use crate::{discreet::Discreet, doze::Doze, exchange, guard::Guard, meet, rest::Gate};

/// A peer. Gossip stands last: what its handlers say goes through the fewest of the derive's layers, each of which
/// moves it. Everything else sleeps until it has something to do.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) others: Doze<Others>,
    pub(crate) gossip: Gossip,
}

/// What a peer does besides gossiping. The limits stand first: they refuse before the others learn of a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Others {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) memory: memory_connection_limits::Behaviour,
    pub(crate) guard: Guard,
    /// Always there in a running swarm: `service` puts it in.
    pub(crate) gate: Toggle<Gate>,
    pub(crate) blocked: allow_block_list::Behaviour<BlockedPeers>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) meet: meet::Behaviour,
    pub(crate) exchange: exchange::behaviour::Behaviour,
    pub(crate) dht: kad::Behaviour<kad::store::MemoryStore>,
    pub(crate) open: Toggle<Open>,
}

/// What a peer whose address is no secret does besides.
#[derive(NetworkBehaviour)]
pub(crate) struct Open {
    pub(crate) identify: Discreet,
    pub(crate) reach: autonat::client::Behaviour,
    pub(crate) probe: autonat::server::Behaviour,
    pub(crate) relayed: Toggle<relay::client::Behaviour>,
    pub(crate) relay: Toggle<relay::Behaviour>,
    pub(crate) punch: Toggle<dcutr::Behaviour>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// Gossipsub with our topics only.
pub(crate) type Gossip = gossipsub::Behaviour<gossipsub::IdentityTransform, OurTopics>;

/// Subscriptions to the topics of this network, bounded.
pub(crate) type OurTopics = gossipsub::MaxCountSubscriptionFilter<
    gossipsub::CallbackSubscriptionFilter<Box<dyn FnMut(&gossipsub::TopicHash) -> bool + Send>>,
>;
