//! The same pass as the decoder's own tree and burn's automatic differentiation compute it: what the written-out
//! one is compared with. Tests only.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{
    EMBEDDING, HEAD, Leaf, Setting, TrainError, Values, head, into_vec, low_rank, matrix, missing,
    targets,
};
use crate::{
    linear::{Linear, LowRank},
    llama::{
        Llama, Parts,
        cache::KvCache,
        positions::{Mask, Rotation},
    },
};

impl Values {
    /// The same values as the beginning of a graph.
    fn tracked(&self) -> Self {
        match self {
            Self::Vector(tensor) => Self::Vector(tensor.clone().autodiff().require_grad()),
            Self::Matrix(tensor) => Self::Matrix(tensor.clone().autodiff().require_grad()),
        }
    }
}

impl Setting {
    /// Sum of the losses of `rows` windows, and the gradient of `scale` times it by each leaf, in
    /// the leaves' order.
    pub(crate) fn automatic_gradient(
        &self,
        leaves: &[Leaf],
        rows: &[&[u32]],
        scale: f32,
    ) -> Result<(f64, Vec<Vec<f32>>), TrainError> {
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
        let mask = Mask::new(0, self.sequence, &[0], &device);
        let hidden = llama.hidden(ids, &rotation, &mask, &mut cache);
        Ok((llama.model.norm.forward(hidden), llama))
    }
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
