//! A model that knows nothing yet: a small byte-level decoder with seeded weights, to be trained from the
//! beginning. Called by the daemon's `train --model tiny`. What must stay true: a seed gives the same
//! bytes on every machine.

use std::{collections::BTreeMap, fs, io, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    ModelConfig, llama::Llama, tokenizer::byte_alphabet, train::Wanted, train::low_rank_fixed,
};

/// Special tokens after the 256 bytes.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Id of the first special token, which ends a text.
const END: u32 = 256;

/// How large a fresh model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshShape {
    /// Width of the residual stream; each head has as much of it as there are heads.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
}

impl FreshShape {
    /// 0.8 million weights: learns letters and words in a minute on two cores.
    pub const TINY: Self = Self {
        hidden: 128,
        intermediate: 352,
        layers: 4,
        heads: 4,
        kv_heads: 2,
    };
    /// 7.2 million weights, as wide as SmolLM2-135M: for measurements.
    pub const WIDE: Self = Self {
        hidden: 576,
        intermediate: 1536,
        layers: 2,
        heads: 9,
        kv_heads: 3,
    };
}

/// Writes the folder of a [`FreshShape::TINY`] model into `dir`, which must exist.
pub fn write_fresh(dir: &Path, seed: u64) -> io::Result<()> {
    write_fresh_of(dir, FreshShape::TINY, seed)
}

/// As [`write_fresh`], of that shape.
pub fn write_fresh_of(dir: &Path, shape: FreshShape, seed: u64) -> io::Result<()> {
    let config = config_json(shape);
    let invalid = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let parsed = ModelConfig::from_json(config.to_string().as_bytes()).map_err(|e| invalid(&e))?;
    let mut wanted = Wanted::default();
    let Ok(_) = Llama::assemble(&parsed, &mut wanted);
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let weights: Vec<(String, Vec<usize>, Vec<u8>)> = wanted
        .into_shapes()
        .into_iter()
        .map(|(name, sides)| {
            let bytes = weight(&key, &name, &sides, shape.layers);
            let bytes = bytes.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, sides, bytes)
        })
        .collect();
    let views = weights.iter().map(|(name, sides, bytes)| {
        let view = TensorView::new(Dtype::F32, sides.clone(), bytes);
        (name, view.expect("four bytes were written per value"))
    });
    let weights = safetensors::serialize(views, None).map_err(|e| invalid(&e))?;
    fs::write(dir.join("model.safetensors"), weights)?;
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("tokenizer.json"), tokenizer_json().to_string())
}

/// Norms are 1; the others are even around 0, with what is added to the residual stream made smaller, so
/// that a deep stack begins close to the identity.
fn weight(seed: &[u8; 32], name: &str, sides: &[usize], layers: usize) -> Vec<f32> {
    let &[rows, columns] = sides else {
        return vec![1.0; sides.iter().product()];
    };
    let scale = match name {
        "model.embed_tokens.weight" => 0.5,
        _ if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => {
            (2.0 * layers as f32).sqrt().recip()
        }
        _ => 1.0,
    };
    // Even over (−1/√columns, 1/√columns), by a key of the tensor's own.
    let key = Sha256::new()
        .chain_update(seed)
        .chain_update(name)
        .finalize();
    let mut values = low_rank_fixed(&key.into(), 0, rows, columns);
    for value in &mut values {
        *value *= scale;
    }
    values
}

fn config_json(shape: FreshShape) -> Value {
    let FreshShape {
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
    } = shape;
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "vocab_size": 256 + SPECIAL.len(),
        "tie_word_embeddings": true, "eos_token_id": END, "torch_dtype": "float32",
    })
}

fn tokenizer_json() -> Value {
    let mut vocabulary: BTreeMap<String, u32> = byte_alphabet()
        .into_iter()
        .map(|(stand_in, byte)| (stand_in.to_string(), u32::from(byte)))
        .collect();
    let special = (END..).zip(SPECIAL);
    vocabulary.extend(special.clone().map(|(id, text)| (text.to_owned(), id)));
    let added: Vec<Value> = special
        .map(|(id, text)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                  "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, Engine, LoadOptions};

    #[test]
    fn a_fresh_model_loads_knows_bytes_and_is_the_seed_s() {
        let write = |seed| {
            let dir = tempfile::tempdir().unwrap();
            write_fresh(dir.path(), seed).unwrap();
            dir
        };
        let dir = write(1);
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            expected_sha256: None,
        };
        let engine = Engine::load(dir.path(), &options).unwrap();
        assert_eq!(engine.description().parameters, 771_584);
        let text = "naïve <|endoftext|>\n";
        let tokens = engine.tokenizer().encode(text, false).unwrap();
        assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
        let weights =
            |dir: &tempfile::TempDir| fs::read(dir.path().join("model.safetensors")).unwrap();
        assert_eq!(weights(&dir), weights(&write(1)));
        assert_ne!(weights(&dir), weights(&write(2)));
    }
}
