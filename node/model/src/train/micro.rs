//! One forward and backward pass. Called by the trainer, from several threads at once. What must
//! stay true: the result is a function of the values, the tokens and the scale alone.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{
    Base, TrainError, TrainMode, head, low_rank,
    pass::{
        self, Found, Grid, Layer, Product,
        rows::{self, Norm},
    },
};
use crate::ModelConfig;

#[cfg(test)]
mod reference;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Sum of the losses in nats, and the gradient by each leaf, in the leaves' order.
pub(crate) type LossAndGradient = (f64, Vec<Grid>);

/// A trained tensor: its values are on the device between steps and in hand during one.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl Leaf {
    pub(crate) fn new(name: String, shape: Vec<usize>, values: Vec<f32>) -> Self {
        let values = Values::new(TensorData::new(values, shape.clone()));
        Self {
            name,
            shape,
            values,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    /// Lets `change` work on the values in place.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut [f32])) -> Result<(), TrainError> {
        let empty = Values::new(TensorData::new(vec![0.0_f32], [1]));
        let mut data = std::mem::replace(&mut self.values, empty).into_data()?;
        let values = data
            .as_mut_slice::<f32>()
            .map_err(|error| TrainError::Device(format!("{error:?}")))?;
        change(values);
        self.values = Values::new(data);
        Ok(())
    }

    /// The values, without a copy.
    pub(crate) fn into_values(self) -> Result<Vec<f32>, TrainError> {
        into_vec(self.values.into_data()?)
    }

    /// A copy of the values.
    pub(crate) fn values(&self) -> Result<Vec<f32>, TrainError> {
        into_vec(self.values.clone().into_data()?)
    }
}

impl Values {
    fn new(data: TensorData) -> Self {
        let device = (&Device::flex(), DType::F32);
        if data.shape().len() == 2 {
            Self::Matrix(Tensor::from_data(data, device))
        } else {
            Self::Vector(Tensor::from_data(data, device))
        }
    }

    fn into_data(self) -> Result<TensorData, TrainError> {
        let data = match self {
            Self::Vector(tensor) => tensor.try_into_data(),
            Self::Matrix(tensor) => tensor.try_into_data(),
        };
        data.map_err(|error| TrainError::Device(error.to_string()))
    }
}

fn into_vec(data: TensorData) -> Result<Vec<f32>, TrainError> {
    data.try_into_vec()
        .map_err(|error| TrainError::Device(format!("{error:?}")))
}

/// What stays the same over a run: the frozen weights and the positions.
#[derive(Debug)]
pub(crate) struct Setting {
    config: ModelConfig,
    /// Weights that are not trained, by name; none in full mode.
    frozen: Vec<(String, Values)>,
    /// `A` by the name of its weight.
    fixed: Vec<(String, Tensor<2>)>,
    sequence: usize,
}

impl Setting {
    /// The setting of a run and the tensors that it trains, in canonical order.
    pub(crate) fn new(base: &Base, mode: TrainMode, sequence: usize) -> (Self, Vec<Leaf>) {
        let mut setting = Self {
            config: base.config().clone(),
            frozen: Vec::new(),
            fixed: Vec::new(),
            sequence,
        };
        let mut leaves = Vec::new();
        for tensor in base.tensors().iter().filter(|tensor| tensor.is_used) {
            let (name, shape) = (tensor.name.clone(), tensor.shape().to_vec());
            let TrainMode::LowRank { rank, seed } = mode else {
                leaves.push(Leaf::new(name, shape, tensor.widened()));
                continue;
            };
            let data = TensorData::new(tensor.widened(), shape.clone());
            setting.frozen.push((name.clone(), Values::new(data)));
            if tensor.is_adapted() {
                let a = low_rank::fixed(&seed, tensor.place, rank, shape[1]);
                let a = Tensor::from_data(TensorData::new(a, [rank, shape[1]]), &Device::flex());
                setting.fixed.push((name.clone(), a));
                let b = vec![0.0; shape[0] * rank];
                leaves.push(Leaf::new(low_rank::b_name(&name), vec![shape[0], rank], b));
            }
        }
        setting.frozen.sort_by(|a, b| a.0.cmp(&b.0));
        setting.fixed.sort_by(|a, b| a.0.cmp(&b.0));
        (setting, leaves)
    }

    /// Sum of the losses of `rows` windows, and the gradient of `scale` times it by each leaf, in
    /// the leaves' order.
    pub(crate) fn gradient(
        &self,
        leaves: &[Leaf],
        rows: &[&[u32]],
        scale: f32,
    ) -> Result<LossAndGradient, TrainError> {
        let width = self.config.hidden;
        let ids: Vec<u32> = rows
            .iter()
            .flat_map(|row| &row[..self.sequence])
            .copied()
            .collect();
        let heads = pass::heads(&self.config, rows.len(), self.sequence);
        let layers = (0..self.config.layers)
            .map(|layer| self.layer(leaves, layer))
            .collect::<Result<Vec<Layer>, _>>()?;
        let mut x = Grid::of(self.embedded(leaves, &ids)?)?;
        let mut kept = Vec::with_capacity(layers.len());
        for layer in &layers {
            let (after, keep) = layer.forward(x, &heads)?;
            x = after;
            kept.push(keep);
        }
        let last = self.norm(leaves, "model.norm.weight")?;
        let (normed, scales) = last.forward(&x, width);
        let head_name = if self.config.tied_head {
            EMBEDDING
        } else {
            HEAD
        };
        let (head_weight, head_leaf) = self.matrix(leaves, head_name)?;
        let normed = normed.tensor();
        let targets = targets(rows);
        let head =
            head::loss_and_gradient(&normed, &head_weight, &targets, scale, head_leaf.is_some())?;
        drop((normed, head_weight));
        let mut found = Found((0..leaves.len()).map(|_| None).collect());
        if let (Some(leaf), Some(by_head)) = (head_leaf, head.weight) {
            found.put(leaf, by_head)?;
        }
        let by_normed = Grid::of(head.hidden)?;
        let mut by_x = Grid::zeros(ids.len(), width);
        last.backward(&by_normed, &x, &scales, &mut by_x, width, &mut found);
        drop((by_normed, x));
        while let (Some(layer), Some(keep)) = (layers.get(kept.len().wrapping_sub(1)), kept.pop()) {
            by_x = layer.backward(by_x, keep, &heads, &mut found)?;
        }
        if let (_, Some(leaf)) = self.matrix(leaves, EMBEDDING)? {
            let zeros = || Grid::zeros(self.config.vocabulary, width);
            let table = found.0[leaf].get_or_insert_with(zeros);
            rows::scatter(table.values_mut(), &ids, by_x.values(), width);
        }
        let gradients = found.0.into_iter().zip(leaves).map(|(found, leaf)| {
            // Nothing depends on it.
            found.unwrap_or_else(|| Grid::new(vec![0.0; leaf.len()], &leaf.shape))
        });
        Ok((head.loss, gradients.collect()))
    }

    /// The embedding of each token.
    fn embedded(&self, leaves: &[Leaf], ids: &[u32]) -> Result<Tensor<2>, TrainError> {
        let (table, _) = self.matrix(leaves, EMBEDDING)?;
        let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let count = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &Device::flex());
        Ok(table.select(0, ids))
    }

    fn layer(&self, leaves: &[Leaf], layer: usize) -> Result<Layer, TrainError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let product = |part: &str| self.product(leaves, &name(part));
        let norm = |part: &str| self.norm(leaves, &name(part));
        Ok(Layer {
            norm_in: norm("input_layernorm")?,
            q: product("self_attn.q_proj")?,
            k: product("self_attn.k_proj")?,
            v: product("self_attn.v_proj")?,
            o: product("self_attn.o_proj")?,
            norm_mid: norm("post_attention_layernorm")?,
            gate: product("mlp.gate_proj")?,
            up: product("mlp.up_proj")?,
            down: product("mlp.down_proj")?,
        })
    }

    fn product(&self, leaves: &[Leaf], name: &str) -> Result<Product, TrainError> {
        let (weight, leaf) = self.matrix(leaves, name)?;
        let fixed = &self.fixed;
        let Ok(at) = fixed.binary_search_by(|(known, _)| known.as_str().cmp(name)) else {
            return Ok(Product {
                weight,
                low_rank: None,
                leaf,
            });
        };
        let (b, leaf) = self.matrix(leaves, &low_rank::b_name(name))?;
        Ok(Product {
            weight,
            low_rank: Some((fixed[at].1.clone(), b)),
            leaf,
        })
    }

    fn norm(&self, leaves: &[Leaf], name: &str) -> Result<Norm, TrainError> {
        let leaf = leaves.iter().position(|leaf| leaf.name == name);
        let values = match leaf {
            Some(at) => &leaves[at].values,
            None => self.frozen(name).ok_or_else(missing)?,
        };
        Ok(Norm {
            gain: into_vec(values.clone().into_data()?)?,
            epsilon: self.config.norm_epsilon as f32,
            leaf,
        })
    }

    /// A weight, and which leaf it is if it is trained.
    fn matrix(
        &self,
        leaves: &[Leaf],
        name: &str,
    ) -> Result<(Tensor<2>, Option<usize>), TrainError> {
        let leaf = leaves.iter().position(|leaf| leaf.name == name);
        let values = match leaf {
            Some(at) => &leaves[at].values,
            None => self.frozen(name).ok_or_else(missing)?,
        };
        Ok((matrix(values)?, leaf))
    }

    fn frozen(&self, name: &str) -> Option<&Values> {
        let at = self
            .frozen
            .binary_search_by(|(known, _)| known.as_str().cmp(name));
        at.ok().map(|at| &self.frozen[at].1)
    }
}

fn matrix(values: &Values) -> Result<Tensor<2>, TrainError> {
    match values {
        Values::Matrix(tensor) => Ok(tensor.clone()),
        Values::Vector(_) => Err(missing()),
    }
}

/// The base was checked when it was loaded: not reached.
fn missing() -> TrainError {
    TrainError::Device("a weight of the base is missing".to_owned())
}

/// The token that follows each of the rows' but their last.
fn targets(rows: &[&[u32]]) -> Vec<u32> {
    let following = rows.iter().flat_map(|row| &row[1..]);
    following.copied().collect()
}
