//! The one seam through which every matrix product with a weight goes that burn computes: prompts,
//! training, and all on a GPU. Called by the decoder layers. A decode step on the CPU has products of
//! its own ([`crate::decode`]). What must stay true: the result of a row does not depend on what was
//! computed before it, so that a resumed generation repeats its predecessor's numbers.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use crate::decode::Stored;

/// A weight matrix in the Hugging Face layout, `[out, in]`, without bias.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    /// Shape `[out, in]`.
    pub(crate) weight: Param<Tensor<2>>,
    /// The same bytes, where they are kept in fewer bits than products are computed in.
    #[module(skip)]
    narrow: Option<Stored>,
    /// What is added to the weight, as two thin matrices: training only.
    #[module(skip)]
    low_rank: Option<LowRank>,
}

/// `B · A`, added to a weight `[out, in]` without ever being computed.
#[derive(Debug, Clone)]
pub(crate) struct LowRank {
    /// `[rank, in]`, fixed.
    pub(crate) a: Tensor<2>,
    /// `[out, rank]`, trained.
    pub(crate) b: Tensor<2>,
}

impl Linear {
    /// Wraps a weight of shape `[out, in]`. `narrow` is the same weight as its file has it, if that
    /// is not f32.
    pub(crate) fn new(weight: Tensor<2>, narrow: Option<Stored>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            narrow,
            low_rank: None,
        }
    }

    /// With `b · a` added to the weight: what the trainer's pass is compared with.
    #[cfg(test)]
    pub(crate) fn with_low_rank(self, low_rank: LowRank) -> Self {
        Self {
            low_rank: Some(low_rank),
            ..self
        }
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let low = self
            .low_rank
            .as_ref()
            .map(|low| linear(linear(x.clone(), low.a.clone()), low.b.clone()));
        let y = match &self.narrow {
            None => linear(x, self.weight.val()),
            Some(narrow) => {
                let weight = Tensor::from_data(narrow.widened(), &x.device());
                linear(x, weight)
            }
        };
        match low {
            None => y,
            Some(low) => y + low,
        }
    }
}

/// `x · weightᵀ`: `[rows, in]` and `[out, in]` to `[rows, out]`. Two dimensions on purpose: a
/// product with a batch dimension would copy the whole weight.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}
