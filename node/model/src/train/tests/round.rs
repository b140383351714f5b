//! What a round does with a trainer's step: the update's codec cuts it by the parent's own file, and parent ⊕
//! update is the file that the trainer writes itself.

use std::collections::BTreeMap;

use half::{bf16, f16};
use owm_proto::{PublicKey, Sha256, genesis::NetworkId};
use owm_update::{
    Codec, Keep, Layout, LoraEpoch, Mode, Origin, Subject, Targets, Update, ValueWidth,
    apply::{Merge, lora_a},
    encode_update,
};
use serde_json::json;

use super::*;
use crate::tiny::Weights;

/// A bound that clips nothing.
const NO_CLIP: f32 = 1e30;

/// Number formats by tensor.
type FormatOf = fn(&str) -> &'static str;

/// Name, shape, values.
type Entry<'a> = (&'a String, &'a (Vec<usize>, Vec<f32>));

/// A safetensors file of these tensors in the order given.
fn file(tensors: &[Entry<'_>], format_of: FormatOf) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (shape, values)) in tensors {
        let format = format_of(name);
        let start = data.len();
        for value in values {
            match format {
                "F16" => data.extend(f16::from_f32(*value).to_le_bytes()),
                "BF16" => data.extend(bf16::from_f32(*value).to_le_bytes()),
                _ => data.extend(value.to_le_bytes()),
            }
        }
        let entry = json!({"dtype": format, "shape": shape, "data_offsets": [start, data.len()]});
        entries.insert((*name).clone(), entry);
    }
    // As others write it: with metadata of its own, and blanks at the end.
    entries.insert("__metadata__".into(), json!({"made": "elsewhere"}));
    let mut json = serde_json::to_vec(&entries).unwrap();
    json.extend(b"     ");
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.extend(data);
    file
}

/// The tiny model with what old exports carry along (a copy of the tied head, rotary frequencies, of which some
/// have no values), its tensors from the last name to the first.
fn model(format_of: FormatOf) -> TinyModel {
    let model = TinyModel::new();
    let mut weights: Weights = model.weights.clone();
    let head = weights["model.embed_tokens.weight"].clone();
    weights.insert("lm_head.weight".into(), head);
    let frequencies = |layer: usize| format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq");
    weights.insert(frequencies(0), (vec![4], vec![1.0, 0.1, -0.0, 0.001]));
    weights.insert(frequencies(1), (vec![0], Vec::new()));
    let (_, gain) = weights.get_mut("model.norm.weight").unwrap();
    // Keeps its bits where nothing is added.
    gain[0] = -0.0;
    let order: Vec<_> = weights.iter().rev().collect();
    model.write("model.safetensors", &file(&order, format_of));
    model
}

fn mode_of(base: &Base, mode: TrainMode) -> Mode {
    let order = base.flat_order().unwrap();
    match mode {
        TrainMode::Full => Mode::Full,
        TrainMode::LowRank { rank, seed } => Mode::Lora(LoraEpoch {
            epoch: 3,
            rank: rank as u16,
            seed,
            targets: Targets::new(order.tensors, order.adapted).unwrap(),
        }),
    }
}

#[test]
fn parent_and_update_make_the_file_that_the_trainer_writes() {
    let formats: [FormatOf; 3] = [
        |_| "F32",
        |_| "F16",
        // As many models are: narrow matrices, wide norms.
        |name| if name.contains("norm") { "F32" } else { "BF16" },
    ];
    let dir = tempfile::tempdir().unwrap();
    for (at, format_of) in formats.into_iter().enumerate() {
        let model = model(format_of);
        for mode in [TrainMode::Full, LOW_RANK] {
            let out = dir.path().join(format!("{at} {mode:?}"));
            let base = base(&model);
            let trained = run(trainer(&model, plan(mode)));
            let written = trained.write_model(model.path(), &out).unwrap();
            assert!(written.changed > written.total / 2, "{written:?}");

            let parent = model.read("model.safetensors");
            let layout = Layout::parse(base.flat_order().unwrap().header).unwrap();
            assert_eq!(layout, Layout::parse(&parent).unwrap());
            let mode = mode_of(&base, mode);
            let step = trained.into_step().unwrap();
            assert_eq!(layout.elements(&mode).unwrap(), step.len() as u64);
            let subject = Subject {
                network: NetworkId(Sha256([1; 32])),
                round: 1,
                sub_model: "owm-code".parse().unwrap(),
                base: Sha256::of(&parent),
                layout: layout.id(),
                mode,
                origin: Origin::Node {
                    node: PublicKey([2; 32]),
                    samples: 24,
                    steps: 6,
                    clip: NO_CLIP,
                },
            };
            let lossless = Codec {
                keep: Keep::ALL,
                values: ValueWidth::Exact,
                ..Codec::DEFAULT
            };
            let encoded = encode_update(subject, lossless, step, None).unwrap();
            assert!(encoded.residue.values().iter().all(|value| *value == 0.0));
            let update = Update::parse(&encoded.bytes).unwrap();
            let mut child = parent;
            let merged = Merge::new(&layout, child.len() as u64, &update)
                .unwrap()
                .in_place(&mut child);
            let child_is = |bytes: Vec<u8>| bytes == child;
            assert!(child_is(
                std::fs::read(out.join("model.safetensors")).unwrap()
            ));
            let merged = merged.unwrap();
            assert_eq!(merged.sha256.0, written.weights_sha256);
            assert_eq!(merged.changed, written.changed);
        }
    }
}

#[test]
fn the_trainer_s_a_is_the_codec_s() {
    for (tensor, rank, columns) in [(0, 1, 1), (5, 4, 32), (271, 16, 576)] {
        let codec = lora_a(&[9; 32], tensor, rank, columns);
        let own = low_rank_fixed(&[9; 32], tensor, usize::from(rank), columns as usize);
        assert_eq!(own, codec);
    }
}

/// Splits the file in two, and says so in an index.
fn shard(model: &TinyModel) {
    let all: Vec<_> = model.weights.iter().collect();
    let mut map = BTreeMap::new();
    for (number, part) in all.chunks(all.len().div_ceil(2)).enumerate() {
        let name = format!("part-{number}.safetensors");
        model.write(&name, &file(part, |_| "F32"));
        map.extend(
            part.iter()
                .map(|(tensor, _)| ((*tensor).clone(), name.clone())),
        );
    }
    std::fs::remove_file(model.path().join("model.safetensors")).unwrap();
    let index = json!({"weight_map": map}).to_string();
    model.write("model.safetensors.index.json", index.as_bytes());
}

#[test]
fn a_model_of_several_files_is_refused_for_rounds_and_trained_at_home() {
    let model = TinyModel::new();
    shard(&model);
    let refused = base(&model).flat_order().unwrap_err();
    assert!(matches!(refused, TrainError::Sharded), "{refused}");
    let dir = tempfile::tempdir().unwrap();
    for mode in [TrainMode::Full, LOW_RANK] {
        let out = dir.path().join(format!("{mode:?}"));
        let trained = run(trainer(&model, plan(mode)));
        trained.write_model(model.path(), &out).unwrap();
        // One file now, which a round takes.
        let whole = Base::load(&out, None).unwrap();
        let tensors = whole.flat_order().unwrap().tensors;
        assert_eq!(tensors as usize, model.weights.len());
        let refused = trained.into_step().unwrap_err();
        assert!(matches!(refused, TrainError::Sharded), "{refused}");
    }
    // Matrices of one shape have different A, in whichever file they stand.
    let base = base(&model);
    let mut places: Vec<u32> = base.adapted().map(|tensor| tensor.place).collect();
    let count = places.len();
    places.dedup();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), count);
}

#[test]
fn a_step_that_the_file_s_format_cannot_hold_is_refused_by_name() {
    let model = model(|_| "F16");
    let dir = tempfile::tempdir().unwrap();
    for mode in [TrainMode::Full, LOW_RANK] {
        let out = dir.path().join("out");
        let mut trainer = trainer(&model, plan(mode));
        trainer.step(&mut go_on).unwrap();
        let wide = trainer
            .leaves
            .iter_mut()
            .find(|leaf| leaf.name.contains("layers.1.mlp.down_proj"));
        // Above what 16 bits hold, whatever A is.
        wide.unwrap().update(|values| values[2] = 1e9).unwrap();
        let refused = trainer
            .finish()
            .unwrap()
            .write_model(model.path(), &out)
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("model.layers.1.mlp.down_proj.weight"),
            "{refused}"
        );
        assert!(!out.exists() && !state::unfinished(&out).exists());
        let mut endless = self::trainer(&model, plan(mode));
        endless.leaves[1]
            .update(|values| values[0] = f32::INFINITY)
            .unwrap();
        let refused = endless.finish().unwrap_err();
        assert!(
            matches!(refused, TrainError::NotFinite { element: 0, .. }),
            "{refused}"
        );
    }
}

#[test]
fn what_somebody_else_has_put_there_is_not_deleted() {
    let model = TinyModel::new();
    let dir = tempfile::tempdir().unwrap();
    let [out, state] = ["mine", "mine.state"].map(|name| dir.path().join(name));
    let theirs = state::unfinished(&out);
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join("letter"), "dear").unwrap();
    std::fs::write(state::unfinished(&state), "notes").unwrap();
    let is_refused =
        |error: TrainError| assert!(matches!(error, TrainError::InTheWay(_)), "{error}");
    is_refused(check_way(&out).unwrap_err());
    is_refused(Trainer::check_way(&state).unwrap_err());
    let trainer = trainer(&model, plan(LOW_RANK));
    is_refused(trainer.save(&state).unwrap_err());
    let trained = trainer.finish().unwrap();
    is_refused(trained.write_model(model.path(), &out).unwrap_err());
    assert_eq!(std::fs::read(theirs.join("letter")).unwrap(), b"dear");
    assert_eq!(std::fs::read(state::unfinished(&state)).unwrap(), b"notes");
    // What a run of ours has left is.
    std::fs::remove_dir_all(&theirs).unwrap();
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(theirs.join(".owm-unfinished"), "").unwrap();
    std::fs::write(theirs.join("half"), "").unwrap();
    trained.write_model(model.path(), &out).unwrap();
    let left: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !theirs.exists()
            && left
                .iter()
                .all(|name| name != "half" && name != ".owm-unfinished"),
        "{left:?}"
    );
    // Of a kill between the folder and the mark in it.
    let second = dir.path().join("second");
    std::fs::create_dir(state::unfinished(&second)).unwrap();
    check_way(&second).unwrap();
    trained.write_model(model.path(), &second).unwrap();
    assert!(second.join("model.safetensors").is_file());
}
