//! The rules, each with who would break it. Here: the network that the tests play in.

mod abuse;
mod checkpoint;
mod clock;
mod membership;
mod properties;
mod state;

use std::{cell::Cell, time::Duration};

use owm_proto::{
    Envelope, NodeId, NodeKey, PublicKey, Purpose, Sha256, SignatureCheck, StrictEd25519, Tier,
    UnixMillis,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, Revocation, network_id},
    gossip::{Bootstrap, Checkpoint, shard_of},
    statement::{Membership, Statement as _},
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};
use prost::Message as _;

use super::*;

pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const START_MS: u64 = 1_800_000_000_000;

/// Counts signature checks.
#[derive(Default)]
pub(super) struct Counting(Cell<u32>);

impl Counting {
    pub(super) fn count(&self) -> u32 {
        self.0.get()
    }
}

impl SignatureCheck for Counting {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.set(self.0.get() + 1);
        StrictEd25519.holds(key, message, signature)
    }
}

/// Takes every signature for good: for tests that need more messages than can be signed.
pub(super) struct Trusting;

impl SignatureCheck for Trusting {
    fn holds(&self, _: &PublicKey, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

pub(super) fn key(n: u32) -> NodeKey {
    let mut seed = [9; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    NodeKey::from_seed(&seed)
}

/// Seconds after the start, on both clocks.
pub(super) fn at(secs: u64) -> Moment {
    Moment {
        wall: UnixMillis(START_MS + secs * 1_000),
        monotonic: Duration::from_secs(1_000 + secs),
    }
}

/// A network with one instance and two release keys, as one peer in it sees it.
pub(super) struct Net {
    pub(super) id: NetworkId,
    pub(super) rules: Rules,
    pub(super) check: Counting,
    genesis: Vec<u8>,
    delegations: Vec<Envelope>,
    shards: u32,
}

pub(super) const ROOT: u32 = 1_000_001;
pub(super) const INSTANCE: u32 = 1_000_002;
pub(super) const RELEASE: u32 = 1_000_003;
pub(super) const OTHER_RELEASE: u32 = 1_000_004;
pub(super) const ME: u32 = 1_000_005;
/// The peer that messages come from.
pub(super) const PEER: u32 = 1_000_006;

impl Net {
    pub(super) fn new(shards: u32) -> Self {
        Self::with(shards, Limits::default())
    }

    pub(super) fn with(shards: u32, limits: Limits) -> Self {
        let root = key(ROOT);
        let genesis = Genesis {
            name: "test".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(1),
        };
        let genesis = genesis.to_bytes();
        let id = network_id(&genesis);
        let delegate = |role, n| {
            let delegation = Delegation {
                role,
                key: key(n).public(),
                issued_at_ms: UnixMillis(1),
                expires_at_ms: UnixMillis(u64::MAX),
            };
            delegation.sign(&root, &id)
        };
        let delegations = vec![
            delegate(DelegatedRole::Instance, INSTANCE),
            delegate(DelegatedRole::Release, RELEASE),
            delegate(DelegatedRole::Release, OTHER_RELEASE),
        ];
        let documents = documents(id, &genesis, &delegations, vec![], shards);
        Self {
            id,
            rules: Rules::new(&documents, key(ME).public(), limits, at(0)),
            check: Counting::default(),
            genesis,
            delegations,
            shards,
        }
    }

    /// The root key takes `n`'s delegation back.
    pub(super) fn revoke(&mut self, n: u32, now: Moment) {
        let revocation = Revocation {
            key: key(n).public(),
            revoked_at_ms: now.wall,
        };
        let revocations = vec![revocation.sign(&key(ROOT), &self.id)];
        let documents = documents(
            self.id,
            &self.genesis,
            &self.delegations,
            revocations,
            self.shards,
        );
        self.rules.set_documents(&documents, now);
    }

    pub(super) fn judge(&mut self, now: Moment, topic: Topic, envelope: &Envelope) -> Judged {
        let peer = key(PEER).public();
        self.rules
            .judge(now, &peer, topic, &envelope.to_stored(), &self.check)
    }

    pub(super) fn verdict(&mut self, now: Moment, topic: Topic, envelope: &Envelope) -> Verdict {
        self.judge(now, topic, envelope).verdict
    }

    /// A heartbeat on the right topic.
    pub(super) fn hear(&mut self, now: Moment, envelope: &Envelope) -> Verdict {
        let topic = Topic::Heartbeat(shard_of(&envelope.claimed_signer(), self.shards));
        self.verdict(now, topic, envelope)
    }

    /// A capability on the right topic.
    pub(super) fn learn(&mut self, now: Moment, envelope: &Envelope) -> Verdict {
        let topic = Topic::Capability(shard_of(&envelope.claimed_signer(), self.shards));
        self.verdict(now, topic, envelope)
    }

    pub(super) fn beat(&self, n: u32, now: Moment, sequence: u64) -> Envelope {
        self.signed(n, Purpose::Heartbeat, beat(now, sequence).encode_to_vec())
    }

    pub(super) fn capability(&self, n: u32, body: &CapabilityBody) -> Envelope {
        self.signed(n, Purpose::Capability, body.encode_to_vec())
    }

    pub(super) fn signed(&self, n: u32, purpose: Purpose, payload: Vec<u8>) -> Envelope {
        Envelope::sign(&key(n), purpose, &self.id, payload)
    }

    pub(super) fn membership(&self, node: u32, instance: u32, now: Moment) -> Envelope {
        let node = key(node).public();
        let statement = Membership {
            node,
            node_id: NodeId::from_random([1; 16]),
            owner: node,
            tier: Tier::T2,
            issued_at_ms: now.wall,
            expires_at_ms: now.wall.after(7 * 24 * HOUR),
        };
        statement.sign(&key(instance), &self.id)
    }

    pub(super) fn checkpoint(&self, signer: u32, sequence: u64, patch: u32) -> Envelope {
        let checkpoint = Checkpoint {
            sequence,
            version: format!("owm-v0.1.{patch}").parse().unwrap(),
            manifest_sha256: Sha256::of(&patch.to_be_bytes()),
            manifest_bytes: 1_000,
            created_at_ms: UnixMillis(START_MS),
        };
        checkpoint.sign(&key(signer), &self.id)
    }

    pub(super) fn nodes(&self, now: Moment) -> Vec<PublicKey> {
        let nodes = self.rules.directory().nodes(now);
        nodes.into_iter().map(|node| node.key).collect()
    }
}

fn documents(
    id: NetworkId,
    genesis: &[u8],
    delegations: &[Envelope],
    revocations: Vec<Envelope>,
    shards: u32,
) -> Documents {
    let bootstrap = Bootstrap {
        shards,
        ..Bootstrap::before_any()
    };
    let bootstrap = bootstrap.sign(&key(INSTANCE), &id);
    Documents::verify(
        Some(id),
        genesis.to_vec(),
        delegations.to_vec(),
        revocations,
        Some(bootstrap),
        String::new(),
        at(0).wall,
    )
    .unwrap()
}

pub(super) fn beat(now: Moment, sequence: u64) -> HeartbeatBody {
    let issued = now.wall.rounded_for_state();
    HeartbeatBody {
        issued_at_ms: issued.0,
        expires_at_ms: issued.after(Duration::from_mins(5)).0,
        sequence,
        session_id: vec![1; 16],
        running_tasks: 3,
        loaded_sha256: vec![Sha256::of(b"file").to_string()],
    }
}

pub(super) fn capability(now: Moment, sequence: u64) -> CapabilityBody {
    let issued = now.wall.rounded_for_state();
    let address: libp2p::Multiaddr = "/ip4/192.0.2.7/udp/4001/quic-v1".parse().unwrap();
    CapabilityBody {
        issued_at_ms: issued.0,
        expires_at_ms: issued.after(Duration::from_mins(30)).0,
        sequence,
        session_id: vec![1; 16],
        software_version: "0.1.0".into(),
        roles: vec!["infer".into()],
        addresses: vec![address.to_vec()],
        holds: vec![[7; 32].to_vec()],
        checkpoint_sequence: 4,
        ..CapabilityBody::default()
    }
}

pub(super) const fn ignored(reason: IgnoreReason) -> Verdict {
    Verdict::Ignore(reason)
}

pub(super) const fn rejected(reason: RejectReason) -> Verdict {
    Verdict::Reject(reason)
}
