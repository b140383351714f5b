//! What a Llama-architecture model consists of: hyperparameters, tensors, their names and shapes.
//!
//! Used by all three importers. A `Llama` that exists is consistent: its dimensions divide as
//! attention needs them to, and every product of two of them fits 64 bits by far.

use serde::Serialize;

use crate::ImportError;

/// Largest hyperparameter (hidden size, context, vocabulary …). 16 million is beyond every
/// published model; products of two stay far below 2^64.
const DIMENSION_MAX: u64 = 1 << 24;
/// Most layers. The largest published Llama has 126.
const LAYERS_MAX: u64 = 1024;
/// The spread that Hugging Face configurations name for fresh weights; nothing here reads it.
const INITIALIZER_RANGE: f64 = 0.02;

/// Hyperparameters of a Llama-architecture decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Llama {
    pub(crate) layers: u64,
    pub(crate) context: u64,
    pub(crate) hidden: u64,
    pub(crate) feed_forward: u64,
    pub(crate) heads: u64,
    pub(crate) key_value_heads: u64,
    pub(crate) head: u64,
    pub(crate) vocabulary: u64,
    pub(crate) rope_theta: f64,
    pub(crate) rms_epsilon: f64,
    pub(crate) tied: bool,
    pub(crate) special: SpecialIds,
}

/// Token ids with a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u64>,
    pub(crate) eos: Option<u64>,
    pub(crate) pad: Option<u64>,
    pub(crate) unknown: Option<u64>,
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name in Hugging Face's model class.
    pub(crate) name: String,
    /// Name in a GGUF file.
    pub(crate) gguf_name: String,
    /// Shape, slowest dimension first.
    pub(crate) shape: Vec<u64>,
    /// How the rows lie in a GGUF file.
    pub(crate) rows: RowOrder,
}

/// How the rows of a tensor in a GGUF file relate to Hugging Face's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// In the same order.
    Same,
    /// Rows of each head are paired for interleaved rotary embedding: `[head, d/2, 2]`, where
    /// Hugging Face has `[head, 2, d/2]` (rotate-half).
    Paired {
        /// Rows per head (`d`).
        head: u64,
    },
}

impl RowOrder {
    /// The row in the GGUF file that becomes row `row`.
    pub(crate) fn source(self, row: u64) -> u64 {
        match self {
            Self::Same => row,
            Self::Paired { head } => {
                let (half, within) = (head / 2, row % head);
                row - within + 2 * (within % half) + within / half
            }
        }
    }
}

impl Llama {
    /// Checks everything that later arithmetic relies on.
    pub(crate) fn checked(self) -> Result<Self, ImportError> {
        let dimensions = [
            ("context length", self.context),
            ("hidden size", self.hidden),
            ("feed-forward size", self.feed_forward),
            ("number of heads", self.heads),
            ("number of key-value heads", self.key_value_heads),
            ("head size", self.head),
            ("vocabulary size", self.vocabulary),
            (
                "head count times head size",
                self.heads.saturating_mul(self.head),
            ),
        ];
        let impossible = |why: String| Err(ImportError::Configuration { why });
        for (what, found) in dimensions {
            if found == 0 || found > DIMENSION_MAX {
                return impossible(format!("the {what} is {found}"));
            }
        }
        if self.layers == 0 || self.layers > LAYERS_MAX {
            return impossible(format!("the number of layers is {}", self.layers));
        }
        if !self.heads.is_multiple_of(self.key_value_heads) {
            return impossible("the heads do not divide into groups of key-value heads".to_owned());
        }
        if !self.head.is_multiple_of(2) {
            return impossible("the head size is odd".to_owned());
        }
        let positive = |number: f64| number.is_finite() && number > 0.0;
        if !positive(self.rope_theta) || !positive(self.rms_epsilon) {
            return impossible("rope theta or the norm's epsilon is not positive".to_owned());
        }
        let SpecialIds {
            bos,
            eos,
            pad,
            unknown,
        } = self.special;
        for id in [bos, eos, pad, unknown].into_iter().flatten() {
            if id >= self.vocabulary {
                return impossible(format!("special token {id} is outside the vocabulary"));
            }
        }
        Ok(self)
    }

    /// All tensors, in the order of their Hugging Face names.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut parts = vec![
            part(
                "model.embed_tokens",
                "token_embd",
                &[self.vocabulary, self.hidden],
            ),
            part("model.norm", "output_norm", &[self.hidden]),
        ];
        if !self.tied {
            parts.push(part("lm_head", "output", &[self.vocabulary, self.hidden]));
        }
        for layer in 0..self.layers {
            self.layer_parts(layer, &mut parts);
        }
        parts.sort_by(|left, right| left.name.cmp(&right.name));
        parts
    }

    fn layer_parts(&self, layer: u64, parts: &mut Vec<Part>) {
        let (hidden, ffn) = (self.hidden, self.feed_forward);
        let (query, key) = (self.heads * self.head, self.key_value_heads * self.head);
        let paired = RowOrder::Paired { head: self.head };
        let rows: [(&str, &str, &[u64], RowOrder); 9] = [
            ("input_layernorm", "attn_norm", &[hidden], RowOrder::Same),
            (
                "post_attention_layernorm",
                "ffn_norm",
                &[hidden],
                RowOrder::Same,
            ),
            ("self_attn.q_proj", "attn_q", &[query, hidden], paired),
            ("self_attn.k_proj", "attn_k", &[key, hidden], paired),
            ("self_attn.v_proj", "attn_v", &[key, hidden], RowOrder::Same),
            (
                "self_attn.o_proj",
                "attn_output",
                &[hidden, query],
                RowOrder::Same,
            ),
            ("mlp.gate_proj", "ffn_gate", &[ffn, hidden], RowOrder::Same),
            ("mlp.up_proj", "ffn_up", &[ffn, hidden], RowOrder::Same),
            ("mlp.down_proj", "ffn_down", &[hidden, ffn], RowOrder::Same),
        ];
        parts.extend(rows.into_iter().map(|(name, gguf_name, shape, rows)| Part {
            rows,
            ..part(
                &format!("model.layers.{layer}.{name}"),
                &format!("blk.{layer}.{gguf_name}"),
                shape,
            )
        }));
    }

    /// Number of weights.
    pub(crate) fn parameters(&self) -> u64 {
        self.parts().iter().map(Part::values).sum()
    }

    /// `config.json` as Hugging Face's `LlamaConfig` writes it.
    pub(crate) fn config_json(&self) -> Vec<u8> {
        json_file(&ConfigJson {
            architectures: ["LlamaForCausalLM"],
            attention_bias: false,
            attention_dropout: 0.0,
            bos_token_id: self.special.bos,
            eos_token_id: self.special.eos,
            head_dim: self.head,
            hidden_act: "silu",
            hidden_size: self.hidden,
            initializer_range: INITIALIZER_RANGE,
            intermediate_size: self.feed_forward,
            max_position_embeddings: self.context,
            mlp_bias: false,
            model_type: "llama",
            num_attention_heads: self.heads,
            num_hidden_layers: self.layers,
            num_key_value_heads: self.key_value_heads,
            pad_token_id: self.special.pad,
            pretraining_tp: 1,
            rms_norm_eps: self.rms_epsilon,
            rope_scaling: None,
            rope_theta: self.rope_theta,
            tie_word_embeddings: self.tied,
            torch_dtype: "float16",
            use_cache: true,
            vocab_size: self.vocabulary,
        })
    }

    /// `generation_config.json`: the special tokens' ids once more, for generators.
    pub(crate) fn generation_config_json(&self) -> Vec<u8> {
        json_file(&GenerationConfigJson {
            from_model_config: true,
            bos_token_id: self.special.bos,
            eos_token_id: self.special.eos,
            pad_token_id: self.special.pad,
        })
    }
}

impl Part {
    /// Number of values.
    pub(crate) fn values(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Pretty JSON with a final newline. Field order is the struct's, so the bytes are the same
/// whatever features the JSON library was built with.
pub(crate) fn json_file(content: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(content)
        .expect("the structs written here have string keys and finite numbers");
    bytes.push(b'\n');
    bytes
}

fn part(name: &str, gguf_name: &str, shape: &[u64]) -> Part {
    Part {
        name: format!("{name}.weight"),
        gguf_name: format!("{gguf_name}.weight"),
        shape: shape.to_vec(),
        rows: RowOrder::Same,
    }
}

#[derive(Debug, Serialize)]
struct ConfigJson {
    architectures: [&'static str; 1],
    attention_bias: bool,
    attention_dropout: f64,
    bos_token_id: Option<u64>,
    eos_token_id: Option<u64>,
    head_dim: u64,
    hidden_act: &'static str,
    hidden_size: u64,
    initializer_range: f64,
    intermediate_size: u64,
    max_position_embeddings: u64,
    mlp_bias: bool,
    model_type: &'static str,
    num_attention_heads: u64,
    num_hidden_layers: u64,
    num_key_value_heads: u64,
    pad_token_id: Option<u64>,
    pretraining_tp: u64,
    rms_norm_eps: f64,
    rope_scaling: Option<()>,
    rope_theta: f64,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    use_cache: bool,
    vocab_size: u64,
}

#[derive(Debug, Serialize)]
struct GenerationConfigJson {
    #[serde(rename = "_from_model_config")]
    from_model_config: bool,
    bos_token_id: Option<u64>,
    eos_token_id: Option<u64>,
    pad_token_id: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paired_rows_go_back_to_halves() {
        let order = RowOrder::Paired { head: 6 };
        let sources: Vec<_> = (0..12).map(|row| order.source(row)).collect();
        assert_eq!(sources, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
