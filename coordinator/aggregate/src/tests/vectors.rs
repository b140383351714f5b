//! Against a round that another implementation has computed (`tests/vectors/aggregate.py`, plain Python, which writes what
//! it notes in `aggregate.json`): the same verdicts, the same weights to the bit, the same delta and residue byte for byte.

use std::{path::PathBuf, process::Command};

use owm_proto::{Permille, PublicKey, Sha256, UnixMillis, genesis::NetworkId};
use owm_update::{Codec, Layout, Mode, Origin, Residue, Subject, encode_update};
use serde::Deserialize;

use super::fixture::{decide, memory};
use crate::{Base, MemoryParent, Policy, Statistics, StrategyName, Submission, Work, aggregate};

#[derive(Deserialize)]
struct Vector {
    elements: usize,
    parent_sha256: Sha256,
    updates: Vec<One>,
    delta_sha256: Sha256,
    residue_before_sha256: Sha256,
    residue_after_sha256: Sha256,
}

#[derive(Deserialize)]
struct One {
    node: Sha256,
    committed_at: u64,
    samples: u64,
    sha256: Sha256,
    rejected: Option<String>,
    scale: String,
    weight: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

/// As `pattern` in update.py.
fn pattern(elements: usize, seed: u64) -> impl Iterator<Item = f64> {
    (0..elements as u64).map(move |i| {
        let spread = (i + seed).wrapping_mul(2_654_435_761);
        let hash = spread.wrapping_add((i >> 7) * 40_503 * (seed + 1)) as u32;
        f64::from((hash >> 8) as i32 - (1 << 23)) / f64::from(1_u32 << (23 + (hash & 7)))
    })
}

/// As `step` in aggregate.py.
fn step(elements: usize, i: u64) -> Vec<f32> {
    let source = if i == 8 { 1 } else { i };
    let sign = if i == 3 { -1.0 } else { 1.0 };
    let factor = if i == 6 { 64.0 } else { 1.0 };
    let noise = pattern(elements, 7 * source + 3);
    pattern(elements, 1_000)
        .zip(noise)
        .map(|(a, b)| (sign * factor * (a + b) / 1_024.0) as f32)
        .collect()
}

fn subject(layout: Sha256, base: Sha256, origin: Origin) -> Subject {
    Subject {
        network: NetworkId(Sha256::of(b"network")),
        round: 7,
        sub_model: "owm-code".parse().unwrap(),
        base,
        layout,
        mode: Mode::Full,
        origin,
    }
}

/// As `safetensors` in update.py, of one f16 vector.
fn parent(elements: usize) -> Vec<u8> {
    let mut json = format!(
        r#"{{"__metadata__": {{"format": "pt"}}, "w": {{"dtype": "F16", "shape": [{elements}], "data_offsets": [0, {}]}}}}"#,
        elements * 2
    );
    json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    let element = |value: f64| half::f16::from_f32((value / 8.0) as f32).to_le_bytes();
    file.extend(pattern(elements, 77).flat_map(element));
    file
}

fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

#[test]
fn another_implementation_s_round_is_made_byte_for_byte() {
    let noted = std::fs::read(folder().join("aggregate.json")).unwrap();
    let vector: Vector = serde_json::from_slice(&noted).unwrap();
    let updates: Vec<Vec<u8>> = (0..)
        .zip(&vector.updates)
        .map(|(i, one)| {
            let origin = Origin::Node {
                node: PublicKey(one.node.0),
                samples: one.samples,
                steps: 30,
                clip: 1e9,
            };
            let subject = subject(Sha256::of(b"layout"), Sha256::of(b"base"), origin);
            let step = step(vector.elements, i);
            let encoded = encode_update(subject, Codec::DEFAULT, step, None).unwrap();
            assert_eq!(encoded.sha256, one.sha256, "update {i}");
            encoded.bytes
        })
        .collect();
    let submissions: Vec<Submission> = vector
        .updates
        .iter()
        .map(|one| Submission {
            node: PublicKey(one.node.0),
            owner: one.node,
            committed_at: UnixMillis(one.committed_at),
            samples: one.samples,
            tier: Permille::ONE,
            stake_bonus: Permille::ONE,
            audited: true,
        })
        .collect();
    let parent = parent(vector.elements);
    assert_eq!(Sha256::of(&parent), vector.parent_sha256);
    let layout = Layout::parse(&parent).unwrap();
    let accepted = vector.updates.iter().filter(|one| one.rejected.is_none());
    let updates_in_it = accepted.count() as u32;
    let origin = Origin::Aggregate {
        updates: updates_in_it,
    };
    let subject = subject(layout.id(), vector.parent_sha256, origin);
    let residue = pattern(vector.elements, 55).map(|value| (value / 4_096.0) as f32);
    let residue = Residue::new(&subject, residue.collect()).unwrap();
    assert_eq!(residue.sha256(), vector.residue_before_sha256);
    let work = Work {
        subject,
        codec: Codec::DEFAULT,
    };
    let base = Base {
        layout: &layout,
        parent: &MemoryParent(&parent),
    };
    let by = |statistics: &Statistics| decide(StrategyName::OwmRobust, statistics, &submissions);
    let (decision, released) = aggregate(
        &memory(&updates),
        &Policy::default(),
        by,
        work,
        Some(residue),
        &base,
    )
    .unwrap();
    for (i, (verdict, one)) in decision.verdicts.iter().zip(&vector.updates).enumerate() {
        let reason = verdict.rejected.as_ref().map(|reason| {
            let json = serde_json::to_value(reason).unwrap();
            json["reason"].as_str().unwrap().to_owned()
        });
        assert_eq!(reason, one.rejected, "update {i}");
        assert_eq!(bits(verdict.scale), one.scale, "update {i}");
        assert_eq!(bits(verdict.weight), one.weight, "update {i}");
    }
    assert_eq!(released.residue.sha256(), vector.residue_after_sha256);
    assert_eq!(released.sha256, vector.delta_sha256);
}

#[test]
fn the_vector_is_what_the_python_makes() {
    let made = Command::new("python3")
        .arg(folder().join("aggregate.py"))
        .output();
    let made = match made {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIP: there is no python3");
            return;
        }
        made => made.unwrap(),
    };
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let noted = std::fs::read(folder().join("aggregate.json")).unwrap();
    let same = made.stdout == noted;
    assert!(
        same,
        "aggregate.json is not what aggregate.py writes; see its head"
    );
}
