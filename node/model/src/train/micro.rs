//! One forward and backward pass. Called by the trainer, from several threads at once. What must
//! stay true: the result is a function of the values, the tokens and the scale alone.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::{Base, TrainError, TrainMode, head, low_rank};
use crate::{
    ModelConfig,
    linear::{Linear, LowRank},
    llama::{
        Llama, Parts,
        cache::KvCache,
        positions::{Mask, Rotation},
    },
};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Sum of the losses in nats, and the gradient by each leaf, in the leaves' order.
pub(crate) type LossAndGradient = (f64, Vec<Vec<f32>>);

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

    /// The same values as the beginning of a graph.
    fn tracked(&self) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor.clone().autodiff().require_grad()),
            Self::Matrix(tensor) => Self::Matrix(tensor.clone().autodiff().require_grad()),
        }
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
    mask: Mask,
}

impl Setting {
    /// The setting of a run and the tensors that it trains, in canonical order.
    pub(crate) fn new(base: &Base, mode: TrainMode, sequence: usize) -> (Self, Vec<Leaf>) {
        let mut setting = Self {
            config: base.config().clone(),
            frozen: Vec::new(),
            fixed: Vec::new(),
            sequence,
            mask: Mask::new(0, sequence, &[0], &Device::flex()),
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
        let tracked: Vec<(&str, Values)> = leaves
            .iter()
            .map(|leaf| (leaf.name.as_str(), leaf.values.tracked()))
            .collect();
        let (normed, _) = self.forward(&tracked, rows)?;
        let targets = targets(rows);
        let head_name = if self.config.tied_head {
            EMBEDDING
        } else {
            HEAD
        };
        let head_leaf = leaves.iter().position(|leaf| leaf.name == head_name);
        let weight = match head_leaf {
            Some(at) => matrix(&leaves[at].values),
            None => self
                .frozen(head_name)
                .map(matrix)
                .transpose()?
                .ok_or_else(missing),
        };
        let head = head::loss_and_gradient(
            &normed.clone().inner(),
            &weight?,
            &targets,
            scale,
            head_leaf.is_some(),
        )?;
        // The derivative of this product by everything before `normed` is the loss's.
        let surrogate = (normed * head.hidden).sum();
        let mut gradients = surrogate.backward();
        let mut found = Vec::with_capacity(leaves.len());
        for (at, (_, values)) in tracked.iter().enumerate() {
            let mut gradient = match values {
                Values::Vector(tensor) => tensor.grad_remove(&mut gradients).map(Values::Vector),
                Values::Matrix(tensor) => tensor.grad_remove(&mut gradients).map(Values::Matrix),
            };
            if head_leaf == Some(at)
                && let Some(by_head) = &head.weight
            {
                gradient = Some(match gradient {
                    Some(Values::Matrix(sum)) => Values::Matrix(sum + by_head.clone()),
                    _ => Values::Matrix(by_head.clone()),
                });
            }
            found.push(match gradient {
                Some(gradient) => into_vec(gradient.into_data()?)?,
                // Nothing depends on it.
                None => vec![0.0; leaves[at].len()],
            });
        }
        Ok((head.loss, found))
    }

    /// Sum of the losses alone.
    #[cfg(test)]
    pub(crate) fn loss(&self, leaves: &[Leaf], rows: &[&[u32]]) -> Result<f64, TrainError> {
        let plain: Vec<(&str, Values)> = leaves
            .iter()
            .map(|leaf| (leaf.name.as_str(), leaf.values.clone()))
            .collect();
        let (normed, llama) = self.forward(&plain, rows)?;
        let targets = targets(rows);
        head::loss(&normed, &llama.head_weight(), &targets)
    }

    /// Normed hidden states of every token but the last of each row, `[rows · sequence, hidden]`.
    fn forward(
        &self,
        leaves: &[(&str, Values)],
        rows: &[&[u32]],
    ) -> Result<(Tensor<2>, Llama), TrainError> {
        let mut sources = Sources {
            setting: self,
            leaves,
        };
        let llama = Llama::assemble(&self.config, &mut sources)?;
        let device = Device::flex();
        let positions: Vec<usize> = rows.iter().flat_map(|_| 0..self.sequence).collect();
        let rotation = Rotation::new(&self.config, rows.len(), &positions, &device);
        let ids: Vec<i32> = rows
            .iter()
            .flat_map(|row| &row[..self.sequence])
            .map(|id| *id as i32)
            .collect();
        let count = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
        let mut cache = KvCache::passing(&self.config);
        let hidden = llama.hidden(ids, &rotation, &self.mask, &mut cache);
        Ok((llama.model.norm.forward(hidden), llama))
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

/// Gives the tree its weights: trained ones from the leaves, others as they are.
struct Sources<'a> {
    setting: &'a Setting,
    leaves: &'a [(&'a str, Values)],
}

impl Sources<'_> {
    fn leaf(&self, name: &str) -> Option<&Values> {
        let found = self.leaves.iter().find(|(leaf, _)| *leaf == name);
        found.map(|(_, values)| values)
    }
}

impl Parts for Sources<'_> {
    type Error = TrainError;

    fn matrix(&mut self, name: &str, _: usize, _: usize) -> Result<Linear, TrainError> {
        if let Some(values) = self.leaf(name) {
            return Ok(Linear::new(matrix(values)?, None));
        }
        let frozen = self.setting.frozen(name).ok_or_else(missing)?;
        let linear = Linear::new(matrix(frozen)?, None);
        let fixed = &self.setting.fixed;
        let Ok(at) = fixed.binary_search_by(|(known, _)| known.as_str().cmp(name)) else {
            return Ok(linear);
        };
        let b = self.leaf(&low_rank::b_name(name)).ok_or_else(missing)?;
        Ok(linear.with_low_rank(LowRank {
            a: fixed[at].1.clone(),
            b: matrix(b)?,
        }))
    }

    fn vector(&mut self, name: &str, _: usize) -> Result<Tensor<1>, TrainError> {
        let values = self.leaf(name).or_else(|| self.setting.frozen(name));
        match values {
            Some(Values::Vector(tensor)) => Ok(tensor.clone()),
            _ => Err(missing()),
        }
    }
}

/// The token that follows each of the rows' but their last.
fn targets(rows: &[&[u32]]) -> Vec<u32> {
    let following = rows.iter().flat_map(|row| &row[1..]);
    following.copied().collect()
}
