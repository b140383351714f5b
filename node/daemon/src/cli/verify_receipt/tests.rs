//! A receipt checked offline, with the weights and the answer it names and with others.

use owm_proto::{
    Envelope, NodeKey, Purpose, RequestId, TaskId, UnixMillis,
    genesis::{DelegatedRole, Delegation, Genesis, NetworkId, network_id},
    receipt::{RECEIPT_FORMAT, Receipt, ReceiptFile, ReceiptStatement},
    statement::{Finish, Segment, Statement as _, TaskResultStatement, tokens_sha256},
    wire::coordinator::GetNetworkResponse,
};

use super::*;

const ANSWER: &str = " Paris.";
const WEIGHTS: &[u8] = b"weights";

/// A folder with the network's documents, a weights file and a good receipt.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let [root, instance, node] = [1, 2, 3].map(|n| NodeKey::from_seed(&[n; 32]));
    let genesis = Genesis {
        name: "t".into(),
        bitcoin_chain: "regtest".into(),
        root_public_key: root.public(),
        created_at: UnixMillis(0),
    }
    .to_bytes();
    let id = network_id(&genesis);
    let delegation = Delegation {
        role: DelegatedRole::Instance,
        key: instance.public(),
        issued_at_ms: UnixMillis(0),
        expires_at_ms: UnixMillis(1),
    };
    let documents = GetNetworkResponse {
        genesis,
        delegations: vec![(&delegation.sign(&root, &id)).into()],
        ..GetNetworkResponse::default()
    };
    Network::verify(None, documents)
        .unwrap()
        .store(&folder.path().join("network"))
        .unwrap();
    std::fs::write(folder.path().join("model.safetensors"), WEIGHTS).unwrap();
    let signed = receipt(&node, &instance, id);
    let bytes = serde_json::to_vec(&signed).unwrap();
    std::fs::write(folder.path().join("receipt.json"), bytes).unwrap();
    folder
}

/// An answer of two tokens by one node.
fn receipt(node: &NodeKey, instance: &NodeKey, id: NetworkId) -> SignedReceipt {
    let (task_id, tokens) = (TaskId::from_random([9; 16]), [10, 11]);
    let model_sha256 = vec![Sha256::of(WEIGHTS)];
    let segment = Segment {
        task_id,
        epoch: 1,
        model_sha256: model_sha256.clone(),
        from: 0,
        to: 2,
        prefix_sha256: tokens_sha256(&[]),
        tokens_sha256: tokens_sha256(&tokens),
        seed: 7,
    };
    let result = TaskResultStatement {
        task_id,
        epoch: 1,
        model_sha256,
        input_sha256: Sha256::of(b"in"),
        output_sha256: Sha256::of(ANSWER.as_bytes()),
        tokens_sha256: tokens_sha256(&tokens),
        prompt_tokens: 5,
        output_tokens: 2,
        finish: Finish::Stop,
        seed: 7,
        backend: "test".into(),
        exec_ms: 1,
    };
    let share = |envelope: &Envelope| ReceiptStatement::from_envelope(envelope, 0, 2);
    let receipt = Receipt {
        format: RECEIPT_FORMAT.into(),
        network: id,
        request_id: RequestId::from_random([8; 16]),
        task_id,
        model_version: "owm-v0.1.0".parse().unwrap(),
        sub_model: "owm-geo".parse().unwrap(),
        files: vec![ReceiptFile {
            name: "model.safetensors".into(),
            sha256: Sha256::of(WEIGHTS),
        }],
        seed: 7,
        input_sha256: Sha256::of(b"in"),
        output_sha256: Sha256::of(ANSWER.as_bytes()),
        tokens_sha256: tokens_sha256(&tokens),
        segments: vec![share(&segment.sign(node, &id))],
        result: share(&result.sign(node, &id)),
        answered_at_ms: UnixMillis(5),
    };
    let bytes = serde_json::to_vec(&receipt).unwrap();
    SignedReceipt::from_envelope(&Envelope::sign(instance, Purpose::Receipt, &id, bytes))
}

fn verify(folder: &Path, weights: Option<&str>, answer: Option<&str>) -> Result<(), RunError> {
    let arguments = VerifyArgs {
        receipt: folder.join("receipt.json"),
        config: ConfigArg { config: None },
        genesis_dir: Some(folder.join("network")),
        weights: weights.map(|name| folder.join(name)),
        answer: answer.map(str::to_owned),
    };
    run(&arguments, Output { json: true })
}

#[test]
fn a_good_receipt_names_its_weights_and_its_answer() {
    let folder = folder();
    verify(folder.path(), None, None).unwrap();
    verify(folder.path(), Some("model.safetensors"), Some(ANSWER)).unwrap();
    assert!(
        verify(folder.path(), Some("receipt.json"), None).is_err(),
        "no such weights"
    );
    assert!(
        verify(folder.path(), None, Some("Paris.")).is_err(),
        "every blank counts"
    );
}

#[test]
fn a_changed_receipt_is_not_good() {
    let folder = folder();
    let path = folder.path().join("receipt.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("owm-v0.1.0", "owm-v0.2.0", 1)).unwrap();
    let error = verify(folder.path(), None, None).unwrap_err();
    assert!(
        error.source.to_string().contains("signature"),
        "{}",
        error.source
    );
    std::fs::write(&path, "{}").unwrap();
    assert!(verify(folder.path(), None, None).is_err());
}
