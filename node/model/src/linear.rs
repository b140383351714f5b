//! The one seam through which every matrix product with a weight goes. Called by the decoder
//! layers. A dedicated kernel for one row (a decode step) is to be put into [`matvec`] and
//! nowhere else; what must stay true: the result of a row does not depend on what was computed
//! before it, so that a resumed generation repeats its predecessor's numbers.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// A weight matrix in the Hugging Face layout, `[out, in]`, without bias.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    /// Shape `[out, in]`.
    pub(crate) weight: Param<Tensor<2>>,
}

impl Linear {
    /// Wraps a weight of shape `[out, in]`.
    pub(crate) fn new(weight: Tensor<2>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
        }
    }

    /// `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(x, self.weight.val())
    }
}

/// `x · weightᵀ`: `[rows, in]` and `[out, in]` to `[rows, out]`. Two dimensions on purpose: a
/// product with a batch dimension would copy the whole weight.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if x.dims()[0] == 1 {
        matvec(x, weight)
    } else {
        x.matmul(weight.transpose())
    }
}

/// The product for a single row. burn's CPU backend reads the weight with one thread. Splitting
/// the rows of the weight between two threads through burn was tried: it cost a third more CPU
/// time and gained nothing on a machine with other work.
fn matvec(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}
