//! Sound GGUF files become sound directories; unsound ones become errors, whatever is wrong.

use std::fs;

use owm_model_import::{
    ImportError, Imported, Step,
    gguf::{Gguf, dequantise::dequantise},
    import_gguf, inspect_gguf,
};
use proptest::prelude::*;
use safetensors::SafeTensors;
use tempfile::TempDir;
use tokenizers::Tokenizer;

use crate::sample::{self, Sample};

fn import(sample: &Sample) -> (TempDir, Result<Imported, ImportError>) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("model.gguf");
    fs::write(&source, sample.bytes()).unwrap();
    let result = import_gguf(&source, &directory.path().join("out"), &mut |_| {});
    (directory, result)
}

/// A fault makes an error whose message (or cause's message) has `wanted` in it, and leaves
/// nothing behind.
fn check_refused(wanted: &str, fault: impl FnOnce(&mut Sample)) {
    let mut sample = Sample::llama();
    fault(&mut sample);
    let (directory, result) = import(&sample);
    let error = result.expect_err(wanted);
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains(wanted), "wanted {wanted:?} in {text:?}");
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["model.gguf"]);
}

#[test]
fn the_same_bytes_give_the_same_files() {
    let (first_dir, first) = import(&Sample::llama());
    let (second_dir, second) = import(&Sample::llama());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first, second);
    for file in &first.files {
        let [left, right] = [&first_dir, &second_dir]
            .map(|directory| fs::read(directory.path().join("out").join(&file.name)).unwrap());
        assert!(left == right, "{}", file.name);
        assert_eq!(left.len() as u64, file.size);
    }
    let names: Vec<_> = first.files.iter().map(|file| file.name.as_str()).collect();
    let wanted = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, wanted);
    assert!(
        first
            .note
            .starts_with("dequantised from Q4_0 and Q4_1 and Q8_0 in the GGUF file with")
    );
    assert_eq!(first.context_length, 512);
}

#[test]
fn values_and_row_order_survive_the_import() {
    let sample = Sample::llama();
    let (directory, result) = import(&sample);
    result.unwrap();
    let bytes = fs::read(directory.path().join("out/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let file = sample.bytes();
    let gguf = Gguf::parse(&file, file.len() as u64).unwrap();
    assert_eq!(tensors.len(), gguf.tensors().len());
    let source = |name: &str| {
        let info = gguf.tensor(name).unwrap();
        let mut values = Vec::new();
        let range = info.offset as usize..(info.offset + info.bytes) as usize;
        dequantise(info.encoding, &file[range], &mut values);
        values
    };
    let row = |values: &[f32], row: u64| {
        values[(row * sample::HIDDEN) as usize..][..sample::HIDDEN as usize].to_vec()
    };
    let imported = |name: &str| -> Vec<f32> {
        let (halves, _) = tensors.tensor(name).unwrap().data().as_chunks::<2>();
        halves
            .iter()
            .map(|half| half::f16::from_le_bytes(*half).to_f32())
            .collect()
    };
    let rounded = |values: Vec<f32>| -> Vec<f32> {
        values
            .into_iter()
            .map(|value| half::f16::from_f32(value).to_f32())
            .collect()
    };
    assert_eq!(
        imported("model.layers.1.mlp.down_proj.weight"),
        rounded(source("blk.1.ffn_down.weight"))
    );
    let (paired, halves) = (
        source("blk.0.attn_q.weight"),
        imported("model.layers.0.self_attn.q_proj.weight"),
    );
    for head in 0..sample::HEADS {
        for half in 0..2 {
            for pair in 0..sample::HEAD / 2 {
                let from = row(&paired, head * sample::HEAD + 2 * pair + half);
                let to = row(
                    &halves,
                    head * sample::HEAD + half * sample::HEAD / 2 + pair,
                );
                assert_eq!(rounded(from), to, "head {head}, half {half}, pair {pair}");
            }
        }
    }
}

#[test]
fn the_tokenizer_merges_and_gives_every_byte_back() {
    let (directory, result) = import(&Sample::llama());
    result.unwrap();
    let tokenizer = Tokenizer::from_file(directory.path().join("out/tokenizer.json")).unwrap();
    let encoded = tokenizer.encode("<|end|>ab a1", false).unwrap();
    assert_eq!(encoded.get_tokens(), ["<|end|>", "ab", "Ġ", "a", "1"]);
    let text: String = (0..0x250)
        .filter_map(char::from_u32)
        .chain("😀 ".chars())
        .collect();
    let ids = tokenizer
        .encode(text.as_str(), false)
        .unwrap()
        .get_ids()
        .to_vec();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
}

#[test]
fn progress_reaches_its_total() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("model.gguf");
    fs::write(&source, Sample::llama().bytes()).unwrap();
    let mut last = Vec::new();
    import_gguf(&source, &directory.path().join("out"), &mut |progress| {
        last.retain(|(step, _, _)| *step != progress.step);
        last.push((progress.step, progress.done, progress.total));
    })
    .unwrap();
    assert_eq!(
        last.iter().map(|(step, _, _)| *step).collect::<Vec<_>>(),
        [Step::Hashing, Step::Weights]
    );
    assert!(last.iter().all(|(_, done, total)| done == total));
}

#[test]
fn an_existing_directory_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("model.gguf");
    fs::write(&source, Sample::llama().bytes()).unwrap();
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "mine").unwrap();
    let error = import_gguf(&source, &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ImportError::OutputExists { .. }), "{error}");
    fs::remove_file(out.join("mine")).unwrap();
    import_gguf(&source, &out, &mut |_| {}).expect("an empty directory may be filled");
}

#[test]
fn models_that_would_be_computed_wrongly_are_refused() {
    check_refused("architecture \"gemma\"", |s| {
        s.set("general.architecture", sample::string("gemma"));
    });
    check_refused("scaled rotary", |s| {
        s.set("llama.rope.scaling.type", sample::string("yarn"));
    });
    check_refused("mixture", |s| {
        s.set("llama.expert_count", sample::u32_value(8));
    });
    check_refused("sliding", |s| {
        s.set("llama.attention.sliding_window", sample::u32_value(8));
    });
    check_refused("rope.dimension_count", |s| {
        s.set("llama.rope.dimension_count", sample::u32_value(8));
    });
    check_refused("has no place", |s| {
        s.tensor("rope_freqs.weight", &[16], sample::F32);
    });
    check_refused("\"tokenizer.ggml.pre\"", |s| s.unset("tokenizer.ggml.pre"));
    check_refused("only \"smollm\"", |s| {
        s.set("tokenizer.ggml.pre", sample::string("llama-bpe"));
    });
    check_refused("add_bos_token", |s| {
        s.set("tokenizer.ggml.add_bos_token", [7, 0, 0, 0, 1].to_vec());
    });
}

#[test]
fn contradictions_are_refused() {
    check_refused("is missing", |s| {
        s.tensors.retain(|t| t.name != "blk.1.ffn_up.weight");
    });
    check_refused("calls for", |s| {
        s.set("llama.feed_forward_length", sample::u32_value(64));
    });
    check_refused("number of heads is 0", |s| {
        s.set("llama.attention.head_count", sample::u32_value(0));
        s.set("llama.attention.head_count_kv", sample::u32_value(1));
        s.set("llama.attention.key_length", sample::u32_value(32));
    });
    check_refused("number of layers", |s| {
        s.set("llama.block_count", sample::u32_value(u32::MAX));
    });
    check_refused("not a whole number", |s| {
        s.set("llama.block_count", sample::string("2"));
    });
    check_refused("outside the vocabulary", |s| {
        s.set("tokenizer.ggml.eos_token_id", sample::u32_value(259));
    });
    check_refused("a merge uses", |s| {
        s.set(
            "tokenizer.ggml.merges",
            sample::strings(&["b a".to_owned()]),
        );
    });
    check_refused("a merge is not", |s| {
        s.set(
            "tokenizer.ggml.merges",
            sample::strings(&["a b c".to_owned()]),
        );
    });
    check_refused("as many token types", |s| {
        s.set("tokenizer.ggml.token_type", sample::i32_array(&[1]));
    });
    check_refused("half precision cannot", |s| {
        s.tensor_mut("output_norm.weight").data[..4].copy_from_slice(&1e6_f32.to_le_bytes());
    });
    check_refused("half precision cannot", |s| {
        s.tensor_mut("output_norm.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
}

#[test]
fn damaged_headers_are_refused() {
    check_refused("version 2", |s| s.version = 2);
    check_refused("above the limit", |s| {
        s.set("x", sample::array_start(0, u64::MAX));
    });
    check_refused("ends early", |s| {
        s.set("x", sample::array_start(12, 1 << 20));
    });
    check_refused("ends early", |s| {
        s.set("x", sample::array_start(8, 1 << 20));
    });
    check_refused("unreadable type", |s| s.set("x", sample::array_start(9, 1)));
    check_refused("unreadable type", |s| {
        s.set("x", 13_u32.to_le_bytes().to_vec());
    });
    check_refused("unreadable type", |s| s.set("x", [7, 0, 0, 0, 2].to_vec()));
    check_refused("not UTF-8", |s| {
        s.set("x", [8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xff].to_vec());
    });
    check_refused("occurs twice", |s| s.metadata.push(s.metadata[0].clone()));
    check_refused("occurs twice", |s| s.tensors.push(s.tensors[0].clone()));
    check_refused("power of two", |s| {
        s.set("general.alignment", sample::u32_value(48));
    });
    check_refused("power of two", |s| {
        s.set("general.alignment", sample::u32_value(0));
    });
    check_refused("encoding 12", |s| s.tensors[0].encoding = 12);
    check_refused("whole blocks", |s| s.tensors[0].dimensions[0] = 33);
    check_refused("1 to 4 dimensions", |s| {
        s.tensors[0].dimensions = vec![1; 5];
    });
    check_refused("1 to 4 dimensions", |s| s.tensors[0].dimensions = vec![]);
    check_refused("no elements", |s| s.tensors[0].dimensions = vec![32, 0]);
    check_refused("no elements", |s| {
        s.tensors[0].dimensions = vec![1 << 40, 1 << 40];
    });
    check_refused("not aligned", |s| s.tensors[0].offset = Some(1));
    check_refused("overlaps", |s| s.tensors[1].offset = Some(0));
    check_refused("out of range", |s| {
        s.tensors[1].offset = Some(u64::MAX - 31);
    });
    check_refused("past the end", |s| s.tensors[1].offset = Some(1 << 40));
    check_refused("past the end", |s| {
        s.tensors.last_mut().unwrap().data.pop();
    });
}

#[test]
fn every_file_cut_short_is_refused() {
    let bytes = Sample::llama().bytes();
    let header = Sample::llama().header().len();
    inspect_gguf(&bytes, bytes.len() as u64).expect("the whole file is sound");
    for length in (0..header).chain([bytes.len() - 1]) {
        let cut = &bytes[..length];
        assert!(inspect_gguf(cut, length as u64).is_err(), "{length} bytes");
    }
}

#[test]
fn a_header_longer_than_what_was_read_is_called_too_long() {
    let bytes = Sample::llama().bytes();
    let error = inspect_gguf(&bytes[..100], bytes.len() as u64).unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("longer than the limit"));
}

proptest! {
    /// Whatever bytes of the header are overwritten: an error or a plan, never a panic, and every
    /// tensor that is accepted can be read.
    #[test]
    fn mutated_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = Sample::llama().bytes();
        let header = Sample::llama().header().len();
        for (at, byte) in changes {
            bytes[at.index(header)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let length = bytes.len() as u64;
        let _either = inspect_gguf(&bytes, length);
        if let Ok(gguf) = Gguf::parse(&bytes, length) {
            for (_, info) in gguf.tensors() {
                let range = info.offset as usize..(info.offset + info.bytes) as usize;
                let mut values = Vec::new();
                dequantise(info.encoding, &bytes[range], &mut values);
                prop_assert_eq!(values.len() as u64, info.values());
            }
        }
    }

    /// Numbers overwritten whole (counts, lengths, offsets) reach the limits that single bytes miss.
    #[test]
    fn mutated_numbers_never_panic(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![any::<u64>(), 0..1_u64 << 24, u64::MAX - 64..u64::MAX],
    ) {
        let mut bytes = Sample::llama().bytes();
        let at = at.index(Sample::llama().header().len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let length = bytes.len() as u64;
        let _either = inspect_gguf(&bytes, length);
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &tail].concat();
        let length = bytes.len() as u64;
        prop_assert!(inspect_gguf(&bytes, length).is_err());
    }
}
