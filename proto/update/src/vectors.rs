//! Against updates, residues and checkpoints that another implementation made (`tests/vectors/update.py`, plain
//! Python, which writes what it notes in `update.json`): the same bytes are made, and mean the same.

use std::{path::Path, process::Command};

use data_encoding::HEXLOWER as HEX;
use owm_proto::{PublicKey, Sha256, genesis::NetworkId};
use serde::Deserialize;

use crate::{
    Block, Codec, IndexCoding, Keep, Layout, LoraEpoch, Mode, Origin, Residue, Subject, Targets,
    Update, ValueWidth,
    apply::{Merge, lora_a},
    encode_update,
};

#[derive(Deserialize)]
struct Vectors {
    updates: Vec<Vector>,
    lora_a: Vec<LoraA>,
    checkpoints: Vec<Checkpoint>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    elements: usize,
    codec: (u8, u8, u32),
    seed: u64,
    zero: Option<(usize, usize)>,
    residue: Option<u64>,
    mode: Option<LoraMode>,
    origin: Work,
    bytes: String,
    sha256: Sha256,
    values: u64,
    dense_sha256: Sha256,
    norm: String,
    residue_after_sha256: Sha256,
}

#[derive(Deserialize)]
struct LoraMode {
    epoch: u32,
    rank: u16,
    seed: Sha256,
    tensors: u32,
    targets: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Work {
    Node { samples: u64, steps: u32, clip: f32 },
    Mean { updates: u32 },
}

#[derive(Deserialize)]
struct LoraA {
    seed: Sha256,
    tensor: u32,
    rank: u16,
    columns: u64,
    sha256: Sha256,
}

#[derive(Deserialize)]
struct Checkpoint {
    name: String,
    parent: String,
    layout: Sha256,
    delta: String,
    changed: u64,
    child_sha256: Sha256,
}

fn vectors() -> Vectors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/update.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// As `pattern` in update.py.
pub(crate) fn pattern(elements: usize, seed: u64) -> Vec<f32> {
    (0..elements as u64)
        .map(|i| {
            let spread = (i + seed).wrapping_mul(2_654_435_761);
            let hash = spread.wrapping_add((i >> 7) * 40_503 * (seed + 1)) as u32;
            let number = (hash >> 8) as i32 - (1 << 23);
            number as f32 / (1_u32 << (23 + (hash & 7))) as f32
        })
        .collect()
}

impl Vector {
    fn codec(&self) -> Codec {
        let (bits, coding, ppm) = self.codec;
        Codec {
            keep: Keep::from_ppm(ppm).unwrap(),
            values: ValueWidth::from_bits(bits).unwrap(),
            indices: IndexCoding::from_code(coding).unwrap(),
        }
    }

    fn subject(&self) -> Subject {
        let mode = self.mode.as_ref().map_or(Mode::Full, |lora| {
            Mode::Lora(LoraEpoch {
                epoch: lora.epoch,
                rank: lora.rank,
                seed: lora.seed.0,
                targets: Targets::new(lora.tensors, lora.targets.iter().copied()).unwrap(),
            })
        });
        Subject {
            network: NetworkId(Sha256::of(b"network")),
            round: 7,
            sub_model: "owm-code".parse().unwrap(),
            base: Sha256::of(b"base"),
            layout: Sha256::of(b"layout"),
            mode,
            origin: match self.origin {
                Work::Mean { updates } => Origin::Aggregate { updates },
                Work::Node {
                    samples,
                    steps,
                    clip,
                } => Origin::Node {
                    node: PublicKey(Sha256::of(b"node").0),
                    samples,
                    steps,
                    clip,
                },
            },
        }
    }

    fn step(&self) -> Vec<f32> {
        let mut step = pattern(self.elements, self.seed);
        if let Some((from, to)) = self.zero {
            step[from..to].fill(0.0);
        }
        step
    }
}

fn dense(update: &Update<'_>, elements: usize) -> Vec<f32> {
    let mut dense = vec![0.0; elements];
    update.add_to(&mut dense).unwrap();
    dense
}

fn hash(values: &[f32]) -> Sha256 {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Sha256::of(&bytes)
}

#[test]
fn the_vectors_of_another_encoder_are_made_byte_for_byte() {
    let vectors = vectors().updates;
    assert_eq!(vectors.len(), 16);
    for vector in vectors {
        let (name, subject) = (&vector.name, vector.subject());
        let residue = vector.residue.map(|seed| {
            let values = pattern(vector.elements, seed);
            let values = values.into_iter().map(|value| value / 16.0).collect();
            Residue::new(&subject, values).unwrap()
        });
        let encoded = encode_update(subject, vector.codec(), vector.step(), residue).unwrap();
        assert_eq!(HEX.encode(&encoded.bytes), vector.bytes, "{name}");
        assert_eq!(encoded.sha256, vector.sha256, "{name}");
        let after = &encoded.residue;
        assert_eq!(after.sha256(), vector.residue_after_sha256, "{name}");
        assert_eq!(encoded.report.values, vector.values, "{name}");
    }
}

#[test]
fn the_vectors_of_another_encoder_mean_what_it_says() {
    for vector in vectors().updates {
        let name = &vector.name;
        let bytes = HEX.decode(vector.bytes.as_bytes()).unwrap();
        let update = Update::parse(&bytes).unwrap();
        assert_eq!(update.header().subject, vector.subject(), "{name}");
        assert_eq!(update.header().codec, vector.codec(), "{name}");
        let after = vector.residue_after_sha256;
        assert_eq!(update.header().residue_after, Some(after), "{name}");
        let summary = update.summary().unwrap();
        assert_eq!(summary.values, vector.values, "{name}");
        let norm = HEX.encode(&summary.norm.to_be_bytes());
        assert_eq!(norm, vector.norm, "{name}: the norm to the last bit");
        let dense = dense(&update, vector.elements);
        assert_eq!(hash(&dense), vector.dense_sha256, "{name}");
        let mut block = Block::default();
        let mut values = 0;
        for i in 0..update.blocks() {
            update.read(i, &mut block).unwrap();
            values += block.values().len() as u64;
        }
        assert_eq!(values, vector.values, "{name}");
    }
}

#[test]
fn the_vectors_a_matrices_come_from_the_seed() {
    for vector in vectors().lora_a {
        let a = lora_a(&vector.seed.0, vector.tensor, vector.rank, vector.columns);
        assert_eq!(hash(&a), vector.sha256);
    }
}

#[test]
fn the_vectors_checkpoints_are_made_byte_for_byte() {
    let checkpoints = vectors().checkpoints;
    assert_eq!(checkpoints.len(), 3);
    for vector in checkpoints {
        let name = &vector.name;
        let parent = HEX.decode(vector.parent.as_bytes()).unwrap();
        let delta = HEX.decode(vector.delta.as_bytes()).unwrap();
        let layout = Layout::parse(&parent).unwrap();
        assert_eq!(layout.id(), vector.layout, "{name}");
        let update = Update::parse(&delta).unwrap();
        let merge = Merge::new(&layout, parent.len() as u64, &update).unwrap();

        let mut file = parent.clone();
        let merged = merge.in_place(&mut file).unwrap();
        assert_eq!(merged.sha256, vector.child_sha256, "{name}");
        assert_eq!(merged.changed, vector.changed, "{name}");

        let mut streamed = Vec::new();
        let mut stream = merge.stream();
        while let Some(bytes) = stream.next_bytes() {
            let at = streamed.len();
            streamed.extend_from_slice(&parent[at..at + bytes]);
            stream.apply(&mut streamed[at..]).unwrap();
        }
        assert_eq!(stream.finish().unwrap(), merged, "{name}");
        assert_eq!(streamed, file, "{name}");
    }
}

#[test]
fn the_vectors_are_what_the_python_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let made = Command::new("python3")
        .arg(folder.join("update.py"))
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
    let noted = std::fs::read(folder.join("update.json")).unwrap();
    let same = made.stdout == noted;
    assert!(
        same,
        "update.json is not what update.py writes; see its head"
    );
}
