//! `config.json`: what a model is. Called by the engine's loader. Everything in a [`ModelConfig`]
//! has been checked: sizes are bounded, divisible where they must be, and every feature that the
//! decoder does not compute has been refused, never ignored.

use serde::Deserialize;

/// Longest context, in tokens: bounds the cache of one request.
const CONTEXT_MAX: usize = 1 << 20;
/// Largest vocabulary, in tokens: four times the largest in use.
const VOCABULARY_MAX: usize = 1 << 20;
/// Widest layer, in values: four times the widest Llama (16,384).
const WIDTH_MAX: usize = 1 << 16;
/// Most layers: twice the deepest Llama (126).
const LAYERS_MAX: usize = 256;
/// Most attention heads.
const HEADS_MAX: usize = 512;
/// Most end-of-sequence tokens.
const END_TOKENS_MAX: usize = 16;

/// A checked configuration of a Llama-architecture decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values per head; even.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Epsilon of the RMS norms.
    pub norm_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The output head is the embedding.
    pub tied_head: bool,
    /// Ids that end an answer.
    pub end_tokens: Vec<u32>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not JSON of the known form.
    #[error("it is not JSON of the known form")]
    Json(#[from] serde_json::Error),
    /// Another architecture.
    #[error(
        "model_type is {found:?}; this engine runs \"llama\": see the crate's README for how to add one"
    )]
    UnknownArchitecture {
        /// The `model_type` in the file, cut to 64 characters.
        found: String,
    },
    /// A size is zero or above its limit.
    #[error("{name} is {value}, allowed are 1 to {max}")]
    OutOfRange {
        /// Field name in `config.json`.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The limit.
        max: usize,
    },
    /// Two sizes do not fit together.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// A feature that this decoder does not compute.
    #[error("{name} is set, which this engine does not compute")]
    Unsupported {
        /// Field name in `config.json`.
        name: &'static str,
    },
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Newer files put `rope_theta` in here.
    rope_parameters: Option<RawRope>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    eos_token_id: EndTokens,
}

#[derive(Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

impl RawRope {
    fn is_plain(&self) -> bool {
        self.rope_type
            .as_deref()
            .is_none_or(|kind| kind == "default")
    }
}

/// `eos_token_id`: a number, a list, or nothing.
#[derive(Deserialize, Default)]
#[serde(untagged)]
pub(crate) enum EndTokens {
    /// Absent or null.
    #[default]
    None,
    /// One id.
    One(u32),
    /// Several ids.
    Many(Vec<u32>),
}

impl EndTokens {
    /// The ids, sorted, each once.
    pub(crate) fn into_ids(self) -> Vec<u32> {
        let mut ids = match self {
            Self::None => Vec::new(),
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl ModelConfig {
    /// Reads and checks the bytes of a `config.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        // The architecture is looked at first, so that another model's file gets the clear error
        // even where its other fields have other types.
        #[derive(Deserialize)]
        struct Kind {
            model_type: Option<String>,
        }
        let kind: Kind = serde_json::from_slice(bytes)?;
        let found = kind.model_type.unwrap_or_default();
        if found != "llama" {
            let found = found.chars().take(64).collect();
            return Err(ConfigError::UnknownArchitecture { found });
        }
        serde_json::from_slice::<RawConfig>(bytes)?.checked()
    }

    /// Radians that each pair of a head's values turns per token.
    pub(crate) fn rotary_frequencies(&self) -> Vec<f32> {
        (0..self.head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f64 / self.head_dim as f64;
                (1.0 / self.rope_theta.powf(exponent)) as f32
            })
            .collect()
    }

    /// Adds ids (of `generation_config.json`) to the end tokens.
    pub(crate) fn add_end_tokens(&mut self, ids: Vec<u32>) -> Result<(), ConfigError> {
        self.end_tokens.extend(ids);
        self.end_tokens.sort_unstable();
        self.end_tokens.dedup();
        self.check_end_tokens()
    }

    fn check_end_tokens(&self) -> Result<(), ConfigError> {
        if self.end_tokens.len() > END_TOKENS_MAX {
            return Err(ConfigError::OutOfRange {
                name: "eos_token_id (count)",
                value: self.end_tokens.len(),
                max: END_TOKENS_MAX,
            });
        }
        match self
            .end_tokens
            .iter()
            .find(|id| **id as usize >= self.vocabulary)
        {
            Some(id) => Err(ConfigError::OutOfRange {
                name: "eos_token_id",
                value: *id as usize,
                max: self.vocabulary - 1,
            }),
            None => Ok(()),
        }
    }
}

impl RawConfig {
    fn checked(self) -> Result<ModelConfig, ConfigError> {
        debug_assert_eq!(self.model_type.as_deref(), Some("llama"));
        self.refuse_unsupported()?;
        let hidden = bounded("hidden_size", self.hidden_size, WIDTH_MAX)?;
        let heads = bounded("num_attention_heads", self.num_attention_heads, HEADS_MAX)?;
        let kv_heads = self.num_key_value_heads.or(Some(heads));
        let kv_heads = bounded("num_key_value_heads", kv_heads, heads)?;
        let head_dim = bounded(
            "head_dim",
            self.head_dim.or(Some(hidden / heads)),
            WIDTH_MAX,
        )?;
        if self.head_dim.is_none() && !hidden.is_multiple_of(heads) {
            return Err(ConfigError::Inconsistent(
                "hidden_size is no multiple of num_attention_heads",
            ));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::Inconsistent(
                "num_attention_heads is no multiple of num_key_value_heads",
            ));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(ConfigError::Inconsistent(
                "head_dim is odd, rotary positions need pairs",
            ));
        }
        let nested_theta = self
            .rope_parameters
            .as_ref()
            .and_then(|rope| rope.rope_theta);
        let config = ModelConfig {
            hidden,
            intermediate: bounded("intermediate_size", self.intermediate_size, 4 * WIDTH_MAX)?,
            layers: bounded("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX)?,
            heads,
            kv_heads,
            head_dim,
            vocabulary: bounded("vocab_size", self.vocab_size, VOCABULARY_MAX)?,
            context: bounded(
                "max_position_embeddings",
                self.max_position_embeddings,
                CONTEXT_MAX,
            )?,
            norm_epsilon: positive(
                "rms_norm_eps must be above 0 and below 1",
                self.rms_norm_eps.unwrap_or(1e-6),
                1.0,
            )?,
            rope_theta: positive(
                "rope_theta must be above 0 and finite",
                self.rope_theta.or(nested_theta).unwrap_or(10_000.0),
                f64::MAX,
            )?,
            tied_head: self.tie_word_embeddings,
            end_tokens: self.eos_token_id.into_ids(),
        };
        config.check_end_tokens()?;
        Ok(config)
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        let refused = [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
            (
                "rope_scaling",
                self.rope_scaling
                    .as_ref()
                    .is_some_and(|rope| !rope.is_plain()),
            ),
            (
                "rope_parameters",
                self.rope_parameters
                    .as_ref()
                    .is_some_and(|rope| !rope.is_plain()),
            ),
            (
                "hidden_act (other than silu)",
                self.hidden_act.as_deref().is_some_and(|act| act != "silu"),
            ),
        ];
        match refused.into_iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(ConfigError::Unsupported { name }),
            None => Ok(()),
        }
    }
}

fn bounded(name: &'static str, value: Option<usize>, max: usize) -> Result<usize, ConfigError> {
    let value = value.unwrap_or(0);
    if value == 0 || value > max {
        return Err(ConfigError::OutOfRange { name, value, max });
    }
    Ok(value)
}

fn positive(rule: &'static str, value: f64, max: f64) -> Result<f64, ConfigError> {
    if value > 0.0 && value < max {
        Ok(value)
    } else {
        Err(ConfigError::Inconsistent(rule))
    }
}
