//! The Llama decoder: rotate-half RoPE, RMS norm, SwiGLU, grouped-query attention. Called by the
//! engine. Module fields bear the Hugging Face names, so that a checkpoint's tensor names are
//! paths in this tree; weights keep the Hugging Face layout `[out, in]`.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Int, Tensor, TensorData, activation},
};

use crate::{
    ModelConfig,
    decode::Stored,
    linear::{Linear, linear},
    llama::{
        cache::{KvCache, LayerCache},
        positions::{Mask, Rotation},
    },
};

pub(crate) mod cache;
pub(crate) mod positions;

/// Gives the tensor of a Hugging Face name, which must have the given shape. Vectors are f32; a
/// matrix may have another format on the CPU.
pub(crate) type TakeTensor<'a, E> = dyn FnMut(&str, &[usize]) -> Result<TensorData, E> + 'a;

/// Where the decoder's weights come from: the loader's bytes, or the leaves that a training step
/// differentiates by.
pub(crate) trait Parts {
    /// Why a weight can't be had.
    type Error;
    /// A matrix `[rows, columns]` by its Hugging Face name.
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, Self::Error>;
    /// A vector by its Hugging Face name.
    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<1>, Self::Error>;
}

/// Weights of a checkpoint, on a device.
struct Taken<'a, 'b, E> {
    take: &'a mut TakeTensor<'b, E>,
    device: &'a Device,
}

impl<E> Parts for Taken<'_, '_, E> {
    type Error = E;

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, E> {
        let data = (self.take)(name, &[rows, columns])?;
        let (weight, narrow) = weight(data, self.device);
        Ok(Linear::new(weight, narrow))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<1>, E> {
        let data = (self.take)(name, &[len])?;
        Ok(Tensor::from_data(data, self.device))
    }
}

/// The whole model as `LlamaForCausalLM` holds it.
#[derive(Module, Debug)]
pub(crate) struct Llama {
    pub(crate) model: LlamaModel,
    /// Absent where the head is tied to the embedding.
    pub(crate) lm_head: Option<Linear>,
}

/// Embedding, layers, last norm.
#[derive(Module, Debug)]
pub(crate) struct LlamaModel {
    pub(crate) embed_tokens: Embedding,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: RmsNorm,
}

/// Token embedding, `[vocabulary, hidden]`.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    pub(crate) weight: Param<Tensor<2>>,
}

/// Root mean square norm with a gain.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Param<Tensor<1>>,
    pub(crate) epsilon: f64,
}

/// One layer.
#[derive(Module, Debug)]
pub(crate) struct DecoderLayer {
    pub(crate) input_layernorm: RmsNorm,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: RmsNorm,
    pub(crate) mlp: Mlp,
}

/// Grouped-query attention.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub(crate) q_proj: Linear,
    pub(crate) k_proj: Linear,
    pub(crate) v_proj: Linear,
    pub(crate) o_proj: Linear,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// SwiGLU feed-forward.
#[expect(
    clippy::struct_field_names,
    reason = "fields bear the Hugging Face names"
)]
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub(crate) gate_proj: Linear,
    pub(crate) up_proj: Linear,
    pub(crate) down_proj: Linear,
}

impl Llama {
    /// Builds the tree, asking `take(name, shape)` for each tensor by its Hugging Face name.
    pub(crate) fn build<E>(
        config: &ModelConfig,
        take: &mut TakeTensor<'_, E>,
        device: &Device,
    ) -> Result<Self, E> {
        Self::assemble(config, &mut Taken { take, device })
    }

    /// Builds the tree from weights of any kind.
    pub(crate) fn assemble<P: Parts>(
        config: &ModelConfig,
        parts: &mut P,
    ) -> Result<Self, P::Error> {
        let hidden = config.hidden;
        let embedding = parts.matrix("model.embed_tokens.weight", config.vocabulary, hidden)?;
        let lm_head = if config.tied_head {
            None
        } else {
            Some(parts.matrix("lm_head.weight", config.vocabulary, hidden)?)
        };
        let layers = (0..config.layers)
            .map(|layer| DecoderLayer::build(config, layer, parts))
            .collect::<Result<_, _>>()?;
        let norm = RmsNorm::new(parts.vector("model.norm.weight", hidden)?, config);
        let embed_tokens = Embedding {
            weight: embedding.weight,
        };
        Ok(Self {
            model: LlamaModel {
                embed_tokens,
                layers,
                norm,
            },
            lm_head,
        })
    }

    /// Runs `tokens` (`[batch, new]`, flattened to one row of ids) after what `cache` holds and
    /// gives the hidden state of every new token, `[batch · new, hidden]`.
    pub(crate) fn hidden(
        &self,
        tokens: Tensor<1, Int>,
        rotation: &Rotation,
        mask: &Mask,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let x = self.model.embed_tokens.weight.val().select(0, tokens);
        let mut x = x.cast(DType::F32);
        for (layer, kept) in self.model.layers.iter().zip(&mut cache.layers) {
            x = layer.forward(x, rotation, mask, kept);
        }
        x
    }

    /// The head's weight, `[vocabulary, hidden]`, in f32.
    pub(crate) fn head_weight(&self) -> Tensor<2> {
        let weight = match &self.lm_head {
            Some(head) => &head.weight,
            None => &self.model.embed_tokens.weight,
        };
        weight.val().cast(DType::F32)
    }

    /// Scores of every token id, `[rows, vocabulary]`, for hidden states `[rows, hidden]`.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let x = self.model.norm.forward(hidden);
        match &self.lm_head {
            Some(head) => head.forward(x),
            None => linear(x, self.model.embed_tokens.weight.val().cast(DType::F32)),
        }
    }
}

/// A tensor that shares the data's bytes and format; and the data itself where it is narrower than
/// the products are computed.
fn weight(data: TensorData, device: &Device) -> (Tensor<2>, Option<Stored>) {
    let dtype = data.dtype();
    let stored = Stored::new(data.clone()).filter(Stored::is_narrow);
    (Tensor::from_data(data, (device, dtype)), stored)
}

impl RmsNorm {
    fn new(weight: Tensor<1>, config: &ModelConfig) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            epsilon: config.norm_epsilon,
        }
    }

    /// `x / sqrt(mean(x²) + ε) · weight` over rows. All in f32: squares of f16 would
    /// overflow.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        let scale = mean_square.add_scalar(self.epsilon).sqrt().recip();
        x * scale * self.weight.val().unsqueeze()
    }
}

impl DecoderLayer {
    fn build<P: Parts>(
        config: &ModelConfig,
        layer: usize,
        parts: &mut P,
    ) -> Result<Self, P::Error> {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let (q_rows, kv_rows) = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        let mut matrix = |name: &str, rows: usize, columns: usize| {
            parts.matrix(
                &format!("model.layers.{layer}.{name}.weight"),
                rows,
                columns,
            )
        };
        let self_attn = Attention {
            q_proj: matrix("self_attn.q_proj", q_rows, hidden)?,
            k_proj: matrix("self_attn.k_proj", kv_rows, hidden)?,
            v_proj: matrix("self_attn.v_proj", kv_rows, hidden)?,
            o_proj: matrix("self_attn.o_proj", hidden, q_rows)?,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        };
        let mlp = Mlp {
            gate_proj: matrix("mlp.gate_proj", wide, hidden)?,
            up_proj: matrix("mlp.up_proj", wide, hidden)?,
            down_proj: matrix("mlp.down_proj", hidden, wide)?,
        };
        let mut norm = |name: &str| {
            let weight = parts.vector(&format!("model.layers.{layer}.{name}.weight"), hidden)?;
            Ok(RmsNorm::new(weight, config))
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp,
        })
    }

    fn forward(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        mask: &Mask,
        kept: &mut LayerCache,
    ) -> Tensor<2> {
        let normed = self.input_layernorm.forward(x.clone());
        let x = x + self.self_attn.forward(normed, rotation, mask, kept);
        let normed = self.post_attention_layernorm.forward(x.clone());
        x + self.mlp.forward(normed)
    }
}

impl Attention {
    /// `[batch · new, hidden]` to the same shape. Query heads that share a key head are folded
    /// into rows, so that keys and values are never repeated.
    fn forward(
        &self,
        x: Tensor<2>,
        rotation: &Rotation,
        mask: &Mask,
        kept: &mut LayerCache,
    ) -> Tensor<2> {
        let (batch, new) = (rotation.batch, rotation.new);
        let (kv, dim) = (self.kv_heads, self.head_dim);
        let group = self.heads / kv;
        let split =
            |x: Tensor<2>, heads: usize| x.reshape([batch, new, heads, dim]).swap_dims(1, 2);
        let q = rotation.apply(split(self.q_proj.forward(x.clone()), self.heads));
        let k = rotation.apply(split(self.k_proj.forward(x.clone()), kv));
        let v = split(self.v_proj.forward(x), kv);
        let (keys, values) = kept.append(k, v);
        let total = keys.dims()[2];

        let q = q
            .mul_scalar((dim as f64).sqrt().recip())
            .reshape([batch, kv, group * new, dim]);
        let scores = q.matmul(keys.swap_dims(2, 3));
        let scores = mask.apply(scores.reshape([batch, kv * group, new, total]));
        let weights = activation::softmax(scores, 3).reshape([batch, kv, group * new, total]);
        let mixed = weights
            .matmul(values)
            .reshape([batch, kv * group, new, dim]);
        let mixed = mixed
            .swap_dims(1, 2)
            .reshape([batch * new, self.heads * dim]);
        self.o_proj.forward(mixed)
    }
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = activation::silu(self.gate_proj.forward(x.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(x))
    }
}
