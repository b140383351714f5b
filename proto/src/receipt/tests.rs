//! A receipt of two nodes verifies; every changed part is noticed.

use super::*;
use crate::{
    genesis::{Delegation, Genesis, network_id},
    key::NodeKey,
    statement::{Finish, tokens_sha256},
};

struct World {
    trust: TrustRoot,
    instance: NodeKey,
    nodes: [NodeKey; 2],
}

fn world() -> World {
    let [root, instance, a, b] = [1, 2, 3, 4].map(|n| NodeKey::from_seed(&[n; 32]));
    let genesis = Genesis {
        name: "t".into(),
        bitcoin_chain: "regtest".into(),
        root_public_key: root.public(),
        created_at: UnixMillis(0),
    }
    .to_bytes();
    let delegation = Delegation {
        role: DelegatedRole::Instance,
        key: instance.public(),
        issued_at_ms: UnixMillis(0),
        expires_at_ms: UnixMillis(1),
    }
    .sign(&root, &network_id(&genesis));
    let trust = TrustRoot::from_documents(None, &genesis, &[delegation], &[]).unwrap();
    World {
        trust,
        instance,
        nodes: [a, b],
    }
}

fn receipt(world: &World) -> Receipt {
    let network = world.trust.id();
    let (task_id, weights, tokens) = (
        TaskId::from_random([9; 16]),
        Sha256::of(b"w"),
        [10_u32, 11, 12, 13],
    );
    let share = |node: &NodeKey, epoch, from: usize, to: usize| {
        let said = Segment {
            task_id,
            epoch,
            model_sha256: vec![weights],
            from: from as u32,
            to: to as u32,
            prefix_sha256: tokens_sha256(&tokens[..from]),
            tokens_sha256: tokens_sha256(&tokens[..to]),
            seed: 7,
        };
        ReceiptStatement::from_envelope(&said.sign(node, &network), from as u32, to as u32)
    };
    let result = TaskResultStatement {
        task_id,
        epoch: 2,
        model_sha256: vec![weights],
        input_sha256: Sha256::of(b"in"),
        output_sha256: Sha256::of(b"out"),
        tokens_sha256: tokens_sha256(&tokens),
        prompt_tokens: 5,
        output_tokens: 4,
        finish: Finish::Stop,
        seed: 7,
        backend: "test".into(),
        exec_ms: 1,
    };
    let signed_result =
        ReceiptStatement::from_envelope(&result.sign(&world.nodes[1], &network), 0, 4);
    Receipt {
        format: RECEIPT_FORMAT.into(),
        network,
        request_id: RequestId::from_random([8; 16]),
        task_id,
        model_version: "owm-v0.1.0".parse().unwrap(),
        sub_model: "owm-geo".parse().unwrap(),
        files: vec![ReceiptFile {
            name: "model.safetensors".into(),
            sha256: weights,
        }],
        seed: 7,
        input_sha256: result.input_sha256,
        output_sha256: result.output_sha256,
        tokens_sha256: result.tokens_sha256,
        segments: vec![
            share(&world.nodes[0], 1, 0, 3),
            share(&world.nodes[1], 2, 3, 4),
        ],
        result: signed_result,
        answered_at_ms: UnixMillis(99),
    }
}

fn countersign(world: &World, receipt: &Receipt, key: &NodeKey) -> SignedReceipt {
    let payload = serde_json::to_vec(receipt).unwrap();
    let network = world.trust.id();
    SignedReceipt::from_envelope(&Envelope::sign(key, Purpose::Receipt, &network, payload))
}

#[test]
fn an_answer_of_two_nodes_verifies() {
    let world = world();
    let good = receipt(&world);
    let verified = countersign(&world, &good, &world.instance)
        .verify(&world.trust)
        .unwrap();
    assert_eq!(verified.receipt, good);
    assert_eq!(verified.result.output_tokens, 4);
}

type Change = fn(&mut Receipt);

#[test]
fn a_changed_receipt_does_not_verify_even_when_countersigned_anew() {
    let world = world();
    let changes: [(&str, Change); 9] = [
        ("weights", |r| r.files[0].sha256 = Sha256::of(b"x")),
        ("seed", |r| r.seed = 8),
        ("answer", |r| r.output_sha256 = Sha256::of(b"x")),
        ("input", |r| r.input_sha256 = Sha256::of(b"x")),
        ("gap", |r| {
            r.segments.remove(0);
        }),
        ("missing end", |r| {
            r.segments.pop();
        }),
        ("stolen share", |r| r.segments[0].node = r.segments[1].node),
        ("stretched share", |r| r.segments[0].to = 2),
        ("task", |r| r.task_id = TaskId::from_random([1; 16])),
    ];
    for (what, change) in changes {
        let mut bad = receipt(&world);
        change(&mut bad);
        let verdict = countersign(&world, &bad, &world.instance).verify(&world.trust);
        assert!(verdict.is_err(), "{what}");
    }
}

#[test]
fn only_a_delegated_instance_key_countersigns() {
    let world = world();
    let stranger = NodeKey::from_seed(&[77; 32]);
    let signed = countersign(&world, &receipt(&world), &stranger);
    assert!(signed.verify(&world.trust).is_err());
}
