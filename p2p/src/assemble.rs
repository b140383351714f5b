//! Puts a swarm's behaviours together from its settings: the numbers, each with its reason.

use std::{num::NonZeroUsize, time::Duration};

use libp2p::{
    StreamProtocol, allow_block_list,
    autonat::v2 as autonat,
    connection_limits::{self, ConnectionLimits},
    dcutr,
    gossipsub::{
        self, CallbackSubscriptionFilter, MaxCountSubscriptionFilter, MessageAuthenticity,
        MessageId, TopicHash, ValidationMode,
    },
    identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping, relay,
    swarm::behaviour::toggle::Toggle,
};
use owm_proto::{
    Sha256,
    genesis::NetworkId,
    limits::{GOSSIP_MESSAGE_BYTES_MAX, SHARDS_MAX},
};

use crate::{
    NetworkPolicy, P2pError, SwarmConfig,
    behaviour::{Behaviour, Gossip, Open, Others},
    discreet::Discreet,
    doze::Doze,
    exchange,
    gossip::{Topics, mesh, scoring},
    guard::Guard,
    meet,
};

/// Topic name and protobuf around one gossip message, and what may already have been read of the next one:
/// gossipsub 0.50 measures all that is buffered (8 KiB a read) against its limit, and breaks the stream.
const FRAME_BYTES: usize = 16 << 10;

/// Topics that one peer may subscribe to: a coordinator's of 2,048 shards.
const SUBSCRIPTIONS_MAX: usize = 2 * 2_048 + 1;

/// Handshakes under way in each direction: a flood of them must not hold memory.
const PENDING_MAX: u32 = 64;

/// Connections with one peer: one each way, and one that replaces a relayed one.
const CONNECTIONS_PER_PEER: u32 = 3;

/// Between two walks through the DHT that keep its table fresh: one meets nearly everybody of a small network
/// and some hundred of a large one. `tending` lets those go again.
const KAD_WALK_EVERY: Duration = Duration::from_mins(30);

/// Peers nearest to a key that a walk looks for and a record is put to: with libp2p's 20 each walk of a network
/// of 50 meets nearly all of it, and what is kept here is refreshed by its owners anyway.
const KAD_NEAREST: NonZeroUsize = NonZeroUsize::new(8).expect("it is 8");

/// Peers in each of the 256 parts of the DHT's table. Room for all of them is taken at once: 1.7 MB of a node's
/// memory with libp2p's 20 (heap profile, docs/benchmarks.md). As many as a walk asks are enough.
const KAD_BUCKET: NonZeroUsize = KAD_NEAREST;

/// Values in the DHT are signed envelopes of a few hundred bytes.
const RECORD_BYTES_MAX: usize = 4 << 10;

/// Records of others that are kept: one per network is valid.
const RECORDS_MAX: usize = 16;

/// Provider records: of shards.
const PROVIDED_KEYS_MAX: usize = 1_024;

/// The name under which identify and Kademlia run in a network.
pub(crate) fn protocol_version(network: &NetworkId) -> String {
    format!("/owm/{network}/1")
}

/// All of it.
pub(crate) fn behaviour(
    config: &SwarmConfig,
    key: &Keypair,
    network: &NetworkId,
    relayed: Option<relay::client::Behaviour>,
) -> Result<Behaviour, P2pError> {
    let open = match config.policy {
        NetworkPolicy::OnionOnly => None,
        NetworkPolicy::Clearnet | NetworkPolicy::LoopbackOnly => {
            Some(open(config, key, network, relayed)?)
        }
    };
    let mut blocked = allow_block_list::Behaviour::default();
    for peer in &config.blocked {
        blocked.block_peer(*peer);
    }
    let permille = f64::from(config.memory_max_permille);
    let others = Others {
        limits: connection_limits::Behaviour::new(limits(config)),
        memory: memory_connection_limits::Behaviour::with_max_percentage(permille / 1_000.0),
        guard: Guard::new(config.connections_per_address),
        gate: None.into(),
        blocked,
        ping: ping::Behaviour::default(),
        meet: meet::behaviour(network),
        exchange: exchange::behaviour::Behaviour::new(network),
        dht: dht(key, network),
        open: open.into(),
    };
    Ok(Behaviour {
        others: Doze::new(others),
        gossip: gossip(config, network)?,
    })
}

fn open(
    config: &SwarmConfig,
    key: &Keypair,
    network: &NetworkId,
    relayed: Option<relay::client::Behaviour>,
) -> Result<Open, P2pError> {
    let me = key.public().to_peer_id();
    let identify = identify::Config::new(protocol_version(network), key.public())
        .with_agent_version(concat!("owm/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_cache_size(0)
        .with_push_listen_addr_updates(true);
    let mdns = (config.mdns && config.policy == NetworkPolicy::Clearnet)
        .then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me))
        .transpose()
        .map_err(|error| P2pError::Transport(format!("mDNS: {error}")))?;
    let relay = config
        .relay_server
        .then(|| relay::Behaviour::new(me, relay::Config::default()));
    Ok(Open {
        identify: Discreet::new(identify, config.policy),
        reach: autonat::client::Behaviour::default(),
        probe: autonat::server::Behaviour::default(),
        punch: Toggle::from(relayed.is_some().then(|| dcutr::Behaviour::new(me))),
        relayed: relayed.into(),
        relay: relay.into(),
        mdns: mdns.into(),
    })
}

fn limits(config: &SwarmConfig) -> ConnectionLimits {
    // A quarter is kept for our own dials, so that a flood from outside can't cut us off.
    let inbound = config.connections_max - config.connections_max / 4;
    ConnectionLimits::default()
        .with_max_established(Some(config.connections_max))
        .with_max_established_incoming(Some(inbound))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
}

fn gossip(config: &SwarmConfig, network: &NetworkId) -> Result<Gossip, P2pError> {
    let scores = scoring::peer_score_params(config.policy, config.connections_per_address);
    let refused = |error: &dyn std::fmt::Display| P2pError::Transport(format!("gossip: {error}"));
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::new(Sha256::of(&message.data).as_bytes()))
        .max_transmit_size(GOSSIP_MESSAGE_BYTES_MAX + FRAME_BYTES)
        .duplicate_cache_time(mesh::KNOWN_TIME)
        .flood_publish(mesh::floods(config.policy))
        .mesh_n_low(mesh::PEERS_LOW)
        .mesh_n(mesh::PEERS_WANTED)
        .mesh_n_high(mesh::PEERS_HIGH)
        .mesh_outbound_min(mesh::DIALLED_MIN)
        .gossip_lazy(mesh::TOLD_MIN)
        .gossip_factor(1.0 / mesh::TOLD_ONE_OF as f64)
        .heartbeat_interval(mesh::ROUND)
        .history_gossip(mesh::ROUNDS_TOLD)
        .history_length(mesh::ROUNDS_KEPT)
        .prune_backoff(mesh::BACKOFF)
        .iwant_followup_time(mesh::PROMISE_TIME)
        .build()
        .map_err(|error| refused(&error))?;
    let topics = Topics {
        network: *network,
        // A peer may know of more shards than we do yet.
        shards: SHARDS_MAX,
    };
    let ours = move |topic: &TopicHash| topics.parse(topic.as_str()).is_some();
    let filter = MaxCountSubscriptionFilter {
        filter: CallbackSubscriptionFilter(Box::new(ours) as Box<_>),
        max_subscribed_topics: SUBSCRIPTIONS_MAX,
        max_subscriptions_per_request: SUBSCRIPTIONS_MAX,
    };
    let mut gossip =
        Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
            .map_err(|error| refused(&error))?;
    gossip
        .with_peer_score(scores, scoring::peer_score_thresholds())
        .map_err(|error| refused(&error))?;
    Ok(gossip)
}

fn dht(key: &Keypair, network: &NetworkId) -> kad::Behaviour<kad::store::MemoryStore> {
    let me = key.public().to_peer_id();
    let protocol =
        StreamProtocol::try_from_owned(format!("/owm/{network}/kad/1")).expect("it begins with /");
    let mut config = kad::Config::new(protocol);
    config
        .disjoint_query_paths(true)
        .set_replication_factor(KAD_NEAREST)
        .set_kbucket_size(KAD_BUCKET)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        // The table is for bootstrap only, and every new peer in it starts a walk already.
        .set_periodic_bootstrap_interval(Some(KAD_WALK_EVERY));
    let store = kad::store::MemoryStoreConfig {
        max_records: RECORDS_MAX,
        max_value_bytes: RECORD_BYTES_MAX,
        max_provided_keys: PROVIDED_KEYS_MAX,
        ..kad::store::MemoryStoreConfig::default()
    };
    let store = kad::store::MemoryStore::with_config(me, store);
    kad::Behaviour::with_config(me, store, config)
}

#[cfg(test)]
mod tests;
