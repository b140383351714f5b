//! Golden vectors of every signed message: `tests/vectors/envelopes.json` holds payload, preimage hash
//! and signature under a public test key, so that an independent implementation can check itself.
//! `OWM_WRITE_VECTORS=1 cargo test -p owm-proto --test vectors` adds a new message; a changed one is a
//! broken contract.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use data_encoding::HEXLOWER;
use owm_proto::{
    Envelope, NodeKey, PublicKey, Purpose, Sha256, SignerRule, TaskId, Tier, UnixMillis,
    envelope::preimage,
    genesis::{DelegatedRole, Delegation, Genesis, Revocation, network_id},
    gossip::{Bootstrap, Checkpoint},
    manifest::{Manifest, ManifestFile, SubModel},
    statement::{
        Commit, Finish, Membership, OwnerBinding, Segment, Statement, TaskResultStatement,
        tokens_sha256,
    },
    wire::{coordinator as wire, gossip::CapabilityBody},
};
use prost::Message as _;
use serde_json::{Value, json};

const SEED: [u8; 32] = [7; 32];

fn payload(purpose: Purpose, key: PublicKey) -> Vec<u8> {
    let (task_id, weights) = (TaskId::from_random([1; 16]), vec![Sha256::of(b"weights")]);
    let json = |value: &dyn erased::Json| value.bytes();
    match purpose {
        Purpose::Register => wire::RegisterNodeBody {
            request_id: vec![2; 16],
            issued_at_ms: 1_800_000_000_000,
            expires_at_ms: 1_800_000_300_000,
            capabilities: Some(wire::Capabilities {
                ram_bytes: Some(16_000_000_000),
                cpu_cores: 2,
                backend: "burn-flex/f32".into(),
                ..wire::Capabilities::default()
            }),
            software_version: "0.1.0".into(),
            ..wire::RegisterNodeBody::default()
        }
        .encode_to_vec(),
        Purpose::Heartbeat => wire::HeartbeatBody {
            issued_at_ms: 1_799_999_940_000,
            expires_at_ms: 1_800_000_240_000,
            sequence: 1_799_999_940_000,
            session_id: vec![3; 16],
            running_tasks: 1,
            loaded_sha256: vec![weights[0].to_string()],
        }
        .encode_to_vec(),
        Purpose::Capability => CapabilityBody {
            issued_at_ms: 1_799_999_940_000,
            expires_at_ms: 1_800_001_740_000,
            sequence: 1_799_999_940_000,
            session_id: vec![3; 16],
            software_version: "0.1.0".into(),
            roles: vec!["infer".into()],
            // /ip4/203.0.113.7/tcp/4001
            addresses: vec![vec![4, 203, 0, 113, 7, 6, 0x0f, 0xa1]],
            holds: vec![weights[0].as_bytes().to_vec()],
            checkpoint_sequence: 1,
            relay: true,
            ..CapabilityBody::default()
        }
        .encode_to_vec(),
        Purpose::Checkpoint => json(&Checkpoint {
            sequence: 1,
            version: "owm-v0.1.0".parse().unwrap(),
            manifest_sha256: Sha256::of(&manifest().to_bytes()),
            manifest_bytes: manifest().to_bytes().len() as u64,
            created_at_ms: UnixMillis(7),
        }),
        Purpose::Bootstrap => json(&Bootstrap {
            issued_at_ms: UnixMillis(8),
            shards: 4,
            heartbeat_secs: 60,
            capability_secs: 600,
        }),
        Purpose::Delegation => json(&Delegation {
            role: DelegatedRole::Release,
            key,
            issued_at_ms: UnixMillis(1),
            expires_at_ms: UnixMillis(2),
        }),
        Purpose::Revocation => json(&Revocation {
            key,
            revoked_at_ms: UnixMillis(3),
        }),
        Purpose::OwnerBinding => json(&OwnerBinding {
            owner: key,
            node: key,
            issued_at_ms: UnixMillis(4),
        }),
        Purpose::Membership => json(&Membership {
            node: key,
            node_id: owm_proto::NodeId::from_random([5; 16]),
            owner: key,
            tier: Tier::T1,
            issued_at_ms: UnixMillis(5),
            expires_at_ms: UnixMillis(6),
        }),
        Purpose::Manifest => manifest().to_bytes(),
        Purpose::Commit => json(&Commit {
            task_id,
            epoch: 1,
            result_sha256: Sha256::of(b"result"),
        }),
        Purpose::Result => json(&TaskResultStatement {
            task_id,
            epoch: 1,
            model_sha256: weights,
            input_sha256: Sha256::of(b"in"),
            output_sha256: Sha256::of(b"out"),
            tokens_sha256: tokens_sha256(&[1, 2]),
            prompt_tokens: 3,
            output_tokens: 2,
            finish: Finish::Stop,
            seed: 9,
            backend: "burn-flex/f32".into(),
            exec_ms: 10,
        }),
        Purpose::Segment => json(&Segment {
            task_id,
            epoch: 1,
            model_sha256: weights,
            from: 0,
            to: 2,
            prefix_sha256: tokens_sha256(&[]),
            tokens_sha256: tokens_sha256(&[1, 2]),
            seed: 9,
        }),
        // Their payloads are vectors of the rooms that own them once something makes them.
        Purpose::Withdrawal | Purpose::Receipt => b"{}".to_vec(),
    }
}

mod erased {
    //! JSON of any statement.

    pub(crate) trait Json {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn bytes(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}

fn manifest() -> Manifest {
    let name = |n: &str| n.to_owned();
    Manifest {
        sequence: 1,
        version: "owm-v0.1.0".parse().unwrap(),
        round: None,
        created_at: UnixMillis(7),
        parent: None,
        default_sub_model: "owm-geo".parse().unwrap(),
        sub_models: [(
            "owm-geo".parse().unwrap(),
            SubModel {
                architecture: name("llama"),
                tokenizer: name("tokenizer.json"),
                files: vec![name("model.safetensors"), name("tokenizer.json")],
            },
        )]
        .into(),
        files: ["model.safetensors", "tokenizer.json"]
            .map(|n| ManifestFile {
                name: name(n),
                size: 5,
                sha256: Sha256::of(n.as_bytes()),
                piece_len: None,
                ladder_sha256: None,
            })
            .into(),
        note: String::new(),
        deltas: Vec::new(),
        release_notes: String::new(),
    }
}

fn vectors() -> Value {
    let key = NodeKey::from_seed(&SEED);
    let genesis = Genesis {
        name: "vectors".into(),
        bitcoin_chain: "regtest".into(),
        root_public_key: key.public(),
        created_at: UnixMillis(1_800_000_000_000),
    }
    .to_bytes();
    let network = network_id(&genesis);
    let messages: Vec<Value> = Purpose::ALL
        .iter()
        .map(|purpose| {
            let payload = payload(*purpose, key.public());
            let bytes = preimage(purpose.as_str(), &network, &payload);
            let envelope = Envelope::sign(&key, *purpose, &network, payload.clone());
            json!({
                "purpose": purpose.as_str(),
                "payload_hex": HEXLOWER.encode(&payload),
                "preimage_sha256": Sha256::of(&bytes),
                "signature": HEXLOWER.encode(envelope.signature()),
                "stored_hex": HEXLOWER.encode(&envelope.to_stored()),
                "envelope_id": envelope.id(),
            })
        })
        .collect();
    json!({
        "private_seed": HEXLOWER.encode(&SEED),
        "public_key": key.public(),
        "genesis": String::from_utf8(genesis).unwrap(),
        "network_id": network,
        "messages": messages,
    })
}

#[test]
fn every_signed_message_is_what_the_vectors_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/envelopes.json");
    let now = vectors();
    if std::env::var_os("OWM_WRITE_VECTORS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
    }
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(kept, now);
}

#[test]
fn the_stored_vectors_open() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/envelopes.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let network = network_id(kept["genesis"].as_str().unwrap().as_bytes());
    let key: PublicKey = kept["public_key"].as_str().unwrap().parse().unwrap();
    let messages = kept["messages"].as_array().unwrap();
    assert_eq!(messages.len(), Purpose::ALL.len());
    for message in messages {
        let stored = HEXLOWER
            .decode(message["stored_hex"].as_str().unwrap().as_bytes())
            .unwrap();
        let purpose: Purpose = message["purpose"].as_str().unwrap().parse().unwrap();
        let envelope = Envelope::from_stored(&stored).unwrap();
        let verified = envelope
            .verify(purpose, &network, SignerRule::Exactly(&key))
            .unwrap();
        let hex = message["payload_hex"].as_str().unwrap();
        assert_eq!(HEXLOWER.encode(verified.payload), hex);
    }
    let manifest = messages
        .iter()
        .find(|m| m["purpose"] == "owm/manifest/v1")
        .unwrap();
    let payload = HEXLOWER
        .decode(manifest["payload_hex"].as_str().unwrap().as_bytes())
        .unwrap();
    Manifest::from_bytes(&payload).unwrap();
    let _: Commit = Commit::open(
        &Envelope::from_stored(
            &HEXLOWER
                .decode(
                    messages
                        .iter()
                        .find(|m| m["purpose"] == "owm/commit/v1")
                        .unwrap()["stored_hex"]
                        .as_str()
                        .unwrap()
                        .as_bytes(),
                )
                .unwrap(),
        )
        .unwrap(),
        &network,
        SignerRule::Anyone,
    )
    .unwrap();
}
