//! Imports a Hugging Face model directory unchanged.
//!
//! Called by the coordinator's `model import`. Only the files that running the model needs are
//! copied, bit for bit; what is checked is the copy, so that what was checked is what is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    CONFIG_FILE, GENERATION_CONFIG_FILE, ImportError, Imported, Progress, Step,
    TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE,
    llama::{Llama, SpecialIds},
    safetensors::{Entry, Header},
    staging::{Staging, copy},
};

/// Longest JSON or template file, in bytes. Tokenizers of 256,000 tokens reach 35 MB.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// Most files that the weights may be split into. Published models have up to 200.
const SHARDS_MAX: usize = 1024;
/// Lists which tensor lies in which file when there are several.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Copied when there.
const OPTIONAL_FILES: [&str; 4] = [
    TOKENIZER_CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    "special_tokens_map.json",
    "chat_template.jinja",
];
/// Element types of weights that the model engine reads.
const WEIGHT_TYPES: [&str; 3] = ["F32", "F16", "BF16"];
/// Rotary base when the configuration names none (`LlamaConfig`'s default).
const ROPE_THETA_DEFAULT: f64 = 10_000.0;
const NOTE: &str = "the published safetensors files, unchanged";

/// Imports the Hugging Face directory `source` (of a plain Llama model, with safetensors weights
/// and a `tokenizer.json`) into the new directory `out_dir`. Files are copied unchanged; anything
/// that running the model does not need stays behind. `out_dir` must not exist or be empty.
pub fn import_hf_dir(
    source: &Path,
    out_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let mut staging = Staging::open(out_dir)?;
    copy_text(&mut staging, source, CONFIG_FILE)?;
    let llama = parse::<ConfigJson>(&staging, CONFIG_FILE)?.llama()?;
    copy_text(&mut staging, source, TOKENIZER_FILE)?;
    parse::<TokenizerJson>(&staging, TOKENIZER_FILE)?;
    for name in OPTIONAL_FILES {
        if exists(source, name)? {
            copy_text(&mut staging, source, name)?;
        }
    }
    let mut tensors = BTreeMap::new();
    for name in copy_weights(&mut staging, source, progress)? {
        let header = Header::read(&staging.path(&name), &name)?;
        for (tensor, entry) in header.tensors {
            if tensors.insert(tensor, entry).is_some() {
                let why = "one of its tensors is in another file too".to_owned();
                return Err(ImportError::Safetensors { file: name, why });
            }
        }
    }
    check_tensors(&llama, tensors)?;
    Ok(Imported {
        files: staging.publish()?,
        architecture: "llama".to_owned(),
        parameters: llama.parameters(),
        context_length: llama.context,
        tokenizer: TOKENIZER_FILE.to_owned(),
        note: NOTE.to_owned(),
    })
}

/// Copies the file or files with the weights and returns their names.
fn copy_weights(
    staging: &mut Staging,
    source: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<BTreeSet<String>, ImportError> {
    let names = if exists(source, WEIGHTS_FILE)? {
        BTreeSet::from([WEIGHTS_FILE.to_owned()])
    } else {
        copy_text(staging, source, INDEX_FILE)?;
        shard_names(parse::<IndexJson>(staging, INDEX_FILE)?)?
    };
    let mut total = 0;
    for name in &names {
        let path = source.join(name);
        total += fs::metadata(&path)
            .map_err(ImportError::io("look at", &path))?
            .len();
    }
    let mut before = 0;
    for name in &names {
        let path = source.join(name);
        let mut file = File::open(&path).map_err(ImportError::io("open", &path))?;
        staging.file(name, |target| {
            before += copy(&mut file, target, &path, &mut |copied| {
                progress(Progress {
                    step: Step::Copying,
                    done: before + copied,
                    total,
                });
            })?;
            Ok(())
        })?;
    }
    Ok(names)
}

/// The files an index names: plain names of safetensors files, none of them outside the directory.
fn shard_names(index: IndexJson) -> Result<BTreeSet<String>, ImportError> {
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let plain = |name: &String| {
        name.ends_with(".safetensors")
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if names.is_empty() || names.len() > SHARDS_MAX || !names.iter().all(plain) {
        let why =
            format!("it names no files, more than {SHARDS_MAX}, or some outside the directory");
        return Err(ImportError::Safetensors {
            file: INDEX_FILE.to_owned(),
            why,
        });
    }
    Ok(names)
}

/// Fails unless the tensors are those of the configuration.
fn check_tensors(llama: &Llama, mut tensors: BTreeMap<String, Entry>) -> Result<(), ImportError> {
    for part in llama.parts() {
        let Some(entry) = tensors.remove(&part.name) else {
            return Err(ImportError::TensorMissing { tensor: part.name });
        };
        if entry.shape != part.shape {
            let (tensor, found, wanted) = (part.name, entry.shape, part.shape);
            return Err(ImportError::TensorShape {
                tensor,
                found,
                wanted,
            });
        }
        if !WEIGHT_TYPES.contains(&entry.dtype.as_str()) {
            let feature = format!("weights of type {:?}", entry.dtype);
            return Err(ImportError::Unsupported { feature });
        }
    }
    // Exports may repeat the tied head, and old ones keep the rotary frequencies: both are redundant.
    let redundant = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
    match tensors.into_keys().find(|name| !redundant(name)) {
        Some(tensor) => Err(ImportError::TensorUnknown { tensor }),
        None => Ok(()),
    }
}

fn exists(source: &Path, name: &str) -> Result<bool, ImportError> {
    let path = source.join(name);
    path.try_exists().map_err(ImportError::io("look at", &path))
}

/// Copies a file of at most [`TEXT_BYTES_MAX`] bytes.
fn copy_text(staging: &mut Staging, source: &Path, name: &str) -> Result<(), ImportError> {
    let path = source.join(name);
    let file = File::open(&path).map_err(ImportError::io("open", &path))?;
    staging.file(name, |target| {
        let found = copy(
            &mut file.take(TEXT_BYTES_MAX + 1),
            target,
            &path,
            &mut |_| {},
        )?;
        if found > TEXT_BYTES_MAX {
            let (file, limit) = (name.to_owned(), TEXT_BYTES_MAX);
            return Err(ImportError::FileTooLarge { file, found, limit });
        }
        Ok(())
    })
}

fn parse<T: for<'de> Deserialize<'de>>(staging: &Staging, name: &str) -> Result<T, ImportError> {
    let path = staging.path(name);
    let bytes = fs::read(&path).map_err(ImportError::io("read", &path))?;
    serde_json::from_slice(&bytes).map_err(|source| ImportError::Json {
        file: name.to_owned(),
        source,
    })
}

#[derive(Debug, Deserialize)]
struct TokenizerJson {
    #[serde(rename = "model")]
    _model: TokenizerModelJson,
}

#[derive(Debug, Deserialize)]
struct TokenizerModelJson {
    #[serde(rename = "vocab")]
    _vocabulary: IgnoredAny,
}

#[derive(Debug, Deserialize)]
struct IndexJson {
    weight_map: BTreeMap<String, String>,
}

/// What of `config.json` decides how the model is computed.
#[derive(Debug, Deserialize)]
struct ConfigJson {
    model_type: String,
    hidden_act: String,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<IgnoredAny>,
    rope_parameters: Option<RopeJson>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// Where newer configurations keep the rotary base.
#[derive(Debug, Deserialize)]
struct RopeJson {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl ConfigJson {
    fn llama(self) -> Result<Llama, ImportError> {
        if self.model_type != "llama" {
            return Err(ImportError::Architecture {
                found: self.model_type,
            });
        }
        let rope = self.rope_parameters.as_ref();
        let rope_type = rope.and_then(|rope| rope.rope_type.as_deref());
        let variations = [
            (self.attention_bias || self.mlp_bias, "biases"),
            (self.hidden_act != "silu", "another activation than silu"),
            (self.rope_scaling.is_some(), "scaled rotary positions"),
            (
                rope_type.is_some_and(|kind| kind != "default"),
                "scaled rotary positions",
            ),
        ];
        if let Some((_, feature)) = variations.into_iter().find(|(present, _)| *present) {
            return Err(ImportError::Unsupported {
                feature: feature.to_owned(),
            });
        }
        let heads = self.num_attention_heads;
        Llama {
            layers: self.num_hidden_layers,
            context: self.max_position_embeddings,
            hidden: self.hidden_size,
            feed_forward: self.intermediate_size,
            heads,
            key_value_heads: self.num_key_value_heads.unwrap_or(heads),
            head: self
                .head_dim
                .unwrap_or_else(|| self.hidden_size.checked_div(heads).unwrap_or_default()),
            vocabulary: self.vocab_size,
            rope_theta: self
                .rope_theta
                .or_else(|| rope.and_then(|rope| rope.rope_theta))
                .unwrap_or(ROPE_THETA_DEFAULT),
            rms_epsilon: self.rms_norm_eps,
            tied: self.tie_word_embeddings,
            special: SpecialIds::default(),
        }
        .checked()
    }
}
