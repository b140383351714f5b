//! A tiny model for the tests: seeded weights, a byte-level vocabulary, written as the Hugging
//! Face directory that the engine reads. It says nothing sensible, but computes everything that
//! a large one does.

use std::{collections::BTreeMap, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    DeviceChoice, Engine, GenerateJob, LoadOptions, ModelConfig, Sampling, Tokenizer,
    tokenizer::byte_alphabet,
};

/// Ids 0 to 255 are bytes, then these.
pub(crate) const END: u32 = 256;
pub(crate) const IM_START: u32 = 257;
pub(crate) const IM_END: u32 = 258;
/// Merged tokens behind the special ones.
const MERGES: [(&str, &str); 6] = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "a"),
    ("o", "n"),
    ("e", "r"),
    ("Ġ", "the"),
];
/// Size of the vocabulary.
pub(crate) const VOCABULARY: usize = 259 + MERGES.len();
/// Longest sequence of the tiny model.
pub(crate) const CONTEXT: usize = 600;

/// Tensors by name: shape and values.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// `config.json`.
pub(crate) fn config_json() -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": null, "vocab_size": VOCABULARY, "tie_word_embeddings": true,
        "eos_token_id": END,
    })
}

/// `tokenizer.json`.
pub(crate) fn tokenizer_json() -> serde_json::Value {
    let mut vocabulary: BTreeMap<String, u32> = byte_alphabet()
        .into_iter()
        .map(|(stand_in, byte)| (stand_in.to_string(), u32::from(byte)))
        .collect();
    let special = [
        ("<|endoftext|>", END),
        ("<|im_start|>", IM_START),
        ("<|im_end|>", IM_END),
    ];
    vocabulary.extend(special.map(|(text, id)| (text.to_owned(), id)));
    for (id, (left, right)) in (IM_END + 1..).zip(MERGES) {
        vocabulary.insert(format!("{left}{right}"), id);
    }
    let added = special.map(|(text, id)| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    });
    let byte_level = |name: &str| json!({"type": name, "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level("ByteLevel"), "post_processor": null,
        "decoder": byte_level("ByteLevel"),
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary,
                  "merges": MERGES.map(|(left, right)| [left, right])},
    })
}

/// A vocabulary without a model.
pub(crate) fn tokenizer() -> Tokenizer {
    let json = tokenizer_json().to_string();
    Tokenizer::from_json(json.as_bytes(), VOCABULARY).expect("the tiny vocabulary loads")
}

/// Numbers in [-1, 1), the same for the same seed.
pub(crate) fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}

/// Numbers from 0 to below `end`, from [`noise`].
pub(crate) fn noise_below(noise: &mut impl FnMut() -> f32, end: u32) -> u32 {
    ((f32::midpoint(noise(), 1.0) * end as f32) as u32).min(end - 1)
}

/// Seeded weights for a configuration.
pub(crate) fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut noise = noise(seed);
    let mut weights = Weights::new();
    let mut matrix = |name: String, rows: usize, columns: usize, scale: f32| {
        let values = (0..rows * columns).map(|_| noise() * scale).collect();
        weights.insert(name, (vec![rows, columns], values));
    };
    let (hidden, wide) = (config.hidden, config.intermediate);
    let (q, kv) = (
        config.heads * config.head_dim,
        config.kv_heads * config.head_dim,
    );
    matrix(
        "model.embed_tokens.weight".into(),
        config.vocabulary,
        hidden,
        0.6,
    );
    if !config.tied_head {
        matrix("lm_head.weight".into(), config.vocabulary, hidden, 0.6);
    }
    for layer in 0..config.layers {
        let parts = [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", wide, hidden),
            ("mlp.up_proj", wide, hidden),
            ("mlp.down_proj", hidden, wide),
        ];
        for (part, rows, columns) in parts {
            let scale = 2.5 / (columns as f32).sqrt();
            matrix(
                format!("model.layers.{layer}.{part}.weight"),
                rows,
                columns,
                scale,
            );
        }
    }
    let norms = (0..config.layers)
        .flat_map(|layer| {
            ["input_layernorm", "post_attention_layernorm"]
                .map(|norm| format!("model.layers.{layer}.{norm}.weight"))
        })
        .chain(["model.norm.weight".to_owned()]);
    for name in norms {
        let values = (0..hidden).map(|_| 1.0 + 0.3 * noise()).collect();
        weights.insert(name, (vec![hidden], values));
    }
    weights
}

/// Number formats in which the tests write weights.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
}

/// A safetensors file.
pub(crate) fn safetensors(weights: &Weights, format: Format) -> Vec<u8> {
    let encode = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| match format {
                Format::F32 => value.to_le_bytes().to_vec(),
                Format::F16 => half::f16::from_f32(*value).to_le_bytes().to_vec(),
                Format::Bf16 => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
            })
            .collect()
    };
    let dtype = match format {
        Format::F32 => Dtype::F32,
        Format::F16 => Dtype::F16,
        Format::Bf16 => Dtype::BF16,
    };
    let encoded: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .iter()
        .map(|(name, (shape, values))| (name.clone(), shape.clone(), encode(values)))
        .collect();
    let views = encoded.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(dtype, shape.clone(), bytes).expect("shape and bytes agree"),
        )
    });
    safetensors::serialize(views, None).expect("the tiny weights serialize")
}

/// A directory with the tiny model; gone when dropped.
pub(crate) struct TinyModel {
    dir: TempDir,
    pub(crate) config: ModelConfig,
    pub(crate) weights: Weights,
}

impl TinyModel {
    /// The usual one.
    pub(crate) fn new() -> Self {
        Self::with_config(&config_json())
    }

    /// With another `config.json`.
    pub(crate) fn with_config(config_json: &serde_json::Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = ModelConfig::from_json(config_json.to_string().as_bytes()).expect("a config");
        let weights = weights(&config, 7);
        let model = Self {
            dir,
            config,
            weights,
        };
        model.write("config.json", config_json.to_string().as_bytes());
        model.write("tokenizer.json", tokenizer_json().to_string().as_bytes());
        model.write(
            "model.safetensors",
            &safetensors(&model.weights, Format::F32),
        );
        model
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(file), bytes).expect("a file can be written");
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path().join(file)).expect("a file can be read")
    }

    pub(crate) fn engine(&self) -> Engine {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            expected_sha256: None,
        };
        Engine::load(self.path(), &options).expect("the tiny model loads")
    }
}

/// A job without prefix and stop strings.
pub(crate) fn job(prompt: &[u32], max_tokens: u32, sampling: Sampling) -> GenerateJob {
    GenerateJob {
        prompt: prompt.to_vec(),
        forced_prefix: Vec::new(),
        max_tokens,
        sampling,
        stop: Vec::new(),
    }
}
