//! The network of a run: its keys and documents, memberships and checkpoints, and what peers say, signed.

use std::{sync::Arc, time::Duration};

use owm_p2p::{Documents, gossip::Topics, news::NewestCheckpoint};
use owm_proto::{
    Envelope, NodeId, PublicKey, Purpose, Sha256, Tier, UnixMillis,
    envelope::preimage,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, network_id},
    gossip::{Bootstrap, Checkpoint},
    manifest::{Manifest, ManifestFile, SubModel},
    statement::{Membership, Statement as _},
    time::next_sequence,
    wire::{
        coordinator::{Capabilities, HeartbeatBody},
        gossip::CapabilityBody,
    },
};

use crate::{
    identity::{Identity, Memo, identity},
    time::EPOCH_MS,
};

/// Numbers of the keys that are no peer's.
const ROOT: u32 = 1_000_000;
const RELEASE: u32 = 1_000_001;
const INSTANCE: u32 = 1_000_002;
/// Identities of Sybils begin here.
pub const SYBILS: u32 = 2_000_000;

/// How long a heartbeat holds, as `owm-node` signs it.
pub const HEARTBEAT_TIME: Duration = Duration::from_mins(5);

const DAY_MS: u64 = 86_400_000;

/// A run's network.
#[derive(Debug)]
pub struct Lore {
    /// Its documents.
    pub documents: Documents,
    /// Its topics.
    pub topics: Topics,
    /// Signature checks.
    pub memo: Memo,
    /// Signs checkpoints and manifests.
    pub release: Arc<Identity>,
    instance: Arc<Identity>,
}

impl Lore {
    /// A network with so many shards and these periods.
    pub fn new(shards: u32, heartbeat_secs: u32, capability_secs: u32) -> Self {
        let [root, release, instance] = [ROOT, RELEASE, INSTANCE].map(identity);
        let genesis = Genesis {
            name: "sim".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public,
            created_at: UnixMillis(EPOCH_MS - DAY_MS),
        };
        let genesis = genesis.to_bytes();
        let network = network_id(&genesis);
        let delegated = |role, key| {
            let delegation = Delegation {
                role,
                key,
                issued_at_ms: UnixMillis(EPOCH_MS - DAY_MS),
                expires_at_ms: UnixMillis(EPOCH_MS + 365 * DAY_MS),
            };
            delegation.sign(&root.key, &network)
        };
        let delegations = vec![
            delegated(DelegatedRole::Release, release.public),
            delegated(DelegatedRole::Instance, instance.public),
        ];
        let bootstrap = Bootstrap {
            issued_at_ms: UnixMillis(EPOCH_MS - 3_600_000),
            shards,
            heartbeat_secs,
            capability_secs,
        };
        let bootstrap = bootstrap.sign(&instance.key, &network);
        let documents = Documents::verify(
            Some(network),
            genesis,
            delegations,
            Vec::new(),
            Some(bootstrap),
            String::new(),
            UnixMillis(EPOCH_MS),
        );
        Self {
            documents: documents.expect("the documents were signed here"),
            topics: Topics { network, shards },
            memo: Memo::default(),
            release,
            instance,
        }
    }

    /// Its id.
    pub fn network(&self) -> NetworkId {
        self.topics.network
    }

    /// A membership statement for the whole run.
    pub fn membership(&self, node: &PublicKey) -> Envelope {
        let statement = Membership {
            node: *node,
            node_id: NodeId(uuid::Uuid::from_bytes(
                *node.0.first_chunk().expect("a key has 32 bytes"),
            )),
            owner: *node,
            tier: Tier::T1,
            issued_at_ms: UnixMillis(EPOCH_MS - 60_000),
            expires_at_ms: UnixMillis(EPOCH_MS + 7 * DAY_MS),
        };
        statement.sign(&self.instance.key, &self.network())
    }

    /// Checkpoint number `sequence` with its manifest; `note` makes it another one of the same sequence.
    pub fn checkpoint(&self, sequence: u64, note: &str, signer: &Identity) -> NewestCheckpoint {
        let manifest = manifest(sequence, note);
        let bytes = manifest.to_bytes();
        let checkpoint = Checkpoint {
            sequence,
            version: manifest.version.clone(),
            manifest_sha256: Sha256::of(&bytes),
            manifest_bytes: bytes.len() as u64,
            created_at_ms: manifest.created_at,
        };
        let network = self.network();
        NewestCheckpoint {
            envelope: checkpoint.sign(&signer.key, &network),
            manifest_envelope: Envelope::sign(&signer.key, Purpose::Manifest, &network, bytes),
            checkpoint,
            manifest,
        }
    }

    /// Signs a state message's body.
    pub fn sign(&self, who: &Identity, purpose: Purpose, body: &impl prost::Message) -> Envelope {
        let (network, payload) = (self.network(), body.encode_to_vec());
        let message = preimage(purpose.as_str(), &network, &payload);
        let envelope = Envelope::sign(&who.key, purpose, &network, payload);
        self.memo.made(&who.public, &message, envelope.signature());
        envelope
    }
}

/// A heartbeat as `owm-node` makes it.
pub fn heartbeat(now: UnixMillis, last: Option<u64>, session: [u8; 16]) -> HeartbeatBody {
    let issued_at = now.rounded_for_state();
    HeartbeatBody {
        issued_at_ms: issued_at.0,
        expires_at_ms: issued_at.after(HEARTBEAT_TIME).0,
        sequence: next_sequence(last, issued_at),
        session_id: session.to_vec(),
        running_tasks: 1,
        loaded_sha256: Vec::new(),
    }
}

/// A capability of a node with one GPU, one address and a few files.
pub fn capability(
    now: UnixMillis,
    last: Option<u64>,
    session: [u8; 16],
    lasts: Duration,
    membership: Option<&Envelope>,
    checkpoint_sequence: u64,
) -> CapabilityBody {
    let issued_at = now.rounded_for_state();
    CapabilityBody {
        issued_at_ms: issued_at.0,
        expires_at_ms: issued_at.after(lasts).0,
        sequence: next_sequence(last, issued_at),
        session_id: session.to_vec(),
        software_version: "0.1.0".into(),
        capabilities: Some(Capabilities {
            vram_bytes: Some(24_000_000_000),
            ram_bytes: Some(64_000_000_000),
            bandwidth_kbps: Some(200_000),
            disk_free_bytes: Some(500_000_000_000),
            cpu_cores: 16,
            gpus: vec!["NVIDIA GeForce RTX 4090".into()],
            backend: "burn-wgpu/f32".into(),
        }),
        roles: vec!["infer".into(), "train".into()],
        // /ip4/203.0.113.7/udp/4001/quic-v1 in binary
        addresses: vec![vec![4, 203, 0, 113, 7, 0x91, 0x02, 0x0f, 0xa1, 0xcd, 0x03]],
        holds: (0..3).map(|n| Sha256::of(&[n]).0.to_vec()).collect(),
        checkpoint_sequence,
        membership: membership.map(Into::into),
        relay: false,
    }
}

fn manifest(sequence: u64, note: &str) -> Manifest {
    let file = |name: &str| ManifestFile {
        name: name.into(),
        size: 3,
        sha256: Sha256::of(name.as_bytes()),
        piece_len: None,
        ladder_sha256: None,
    };
    let sub_model = SubModel {
        architecture: "llama".into(),
        tokenizer: "tokenizer.json".into(),
        files: vec!["model.safetensors".into(), "tokenizer.json".into()],
    };
    let id = || "owm-geo".parse().expect("a sub-model's id");
    Manifest {
        sequence,
        version: format!("owm-v0.{sequence}.0")
            .parse()
            .expect("a version's id"),
        round: None,
        created_at: UnixMillis(EPOCH_MS + sequence),
        parent: None,
        default_sub_model: id(),
        sub_models: [(id(), sub_model)].into(),
        files: vec![file("model.safetensors"), file("tokenizer.json")],
        note: note.into(),
        deltas: Vec::new(),
        release_notes: String::new(),
    }
}
