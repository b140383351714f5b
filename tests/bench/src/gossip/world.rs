//! The network that the peers belong to: genesis, an instance that signs the agreed numbers.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use owm_p2p::{Documents, gossip::{Topic, Topics}};
use owm_proto::{
    Envelope, NodeId, NodeKey, Purpose, Sha256, Tier, UnixMillis,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, network_id},
    gossip::Bootstrap,
    statement::{Membership, Statement as _},
    wire::gossip::CapabilityBody,
};
use owm_service::clock::SharedClock;
use prost::Message as _;

/// A membership's life (spec §5).
const WEEK: Duration = Duration::from_hours(24 * 7);

/// Issue times are rounded down to this (spec §5).
const MINUTE_MS: u64 = 60_000;

/// How long a capability holds.
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Between two heartbeats of a node, in seconds: what the rules must allow is ten a second from as few as
/// eight nodes.
const HEARTBEAT_SECS: u32 = 1;

/// One network.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) network: NetworkId,
    pub(crate) documents: Documents,
    pub(crate) topics: Topics,
    pub(crate) clock: SharedClock,
    pub(crate) instance: Arc<NodeKey>,
}

impl World {
    pub(crate) fn new(clock: &SharedClock) -> Result<Self> {
        let now = UnixMillis(clock.now_ms());
        let (root, instance) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let genesis = Genesis {
            name: "bench".to_owned(),
            bitcoin_chain: "regtest".to_owned(),
            root_public_key: root.public(),
            created_at: UnixMillis(1_700_000_000_000),
        };
        let genesis = genesis.to_bytes();
        let network = network_id(&genesis);
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: now,
            expires_at_ms: now.after(Duration::from_hours(24)),
        };
        let bootstrap = Bootstrap {
            issued_at_ms: now,
            heartbeat_secs: HEARTBEAT_SECS,
            ..Bootstrap::before_any()
        };
        let delegations = vec![delegation.sign(&root, &network)];
        let bootstrap: Envelope = bootstrap.sign(&instance, &network);
        let documents = Documents::verify(
            Some(network),
            genesis,
            delegations,
            Vec::new(),
            Some(bootstrap),
            String::new(),
            now,
        )?;
        anyhow::ensure!(documents.parameters(now).heartbeat_secs == HEARTBEAT_SECS);
        Ok(Self {
            network,
            documents,
            topics: Topics { network, shards: 1 },
            clock: clock.clone(),
            instance: Arc::new(instance),
        })
    }

    /// The first thing that a member says: what it has, and the instance's word that it is one.
    pub(crate) fn capability(&self, member: usize, key: &NodeKey, now: UnixMillis) -> Envelope {
        let node = key.public();
        let id = Sha256::of(&member.to_be_bytes());
        let id = id.0.first_chunk().expect("a hash has 16 bytes");
        let membership = Membership {
            node,
            node_id: NodeId::from_random(*id),
            owner: node,
            tier: Tier::T1,
            issued_at_ms: now,
            expires_at_ms: now.after(WEEK),
        };
        let issued_at_ms = now.0 - now.0 % MINUTE_MS;
        let body = CapabilityBody {
            issued_at_ms,
            expires_at_ms: issued_at_ms + HOUR_MS,
            sequence: issued_at_ms,
            session_id: id.to_vec(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: vec!["infer".to_owned()],
            membership: Some((&membership.sign(&self.instance, &self.network)).into()),
            ..CapabilityBody::default()
        };
        let body = body.encode_to_vec();
        Envelope::sign(key, Purpose::Capability, &self.network, body)
    }

    /// The topic that both variants speak on: of equal length, because it travels with every message.
    pub(crate) fn topic(&self) -> String {
        self.topics.name(Topic::Heartbeat(0)).to_string()
    }
}
