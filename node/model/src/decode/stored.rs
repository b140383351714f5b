//! A weight matrix in the format of its file, shared with burn's tensor of the same weight: the
//! bytes are in memory once. Made by the engine's loader; the decode step reads it as it is, the
//! prompt's pass widens it matrix by matrix.

use burn::tensor::{DType, TensorData, bf16, f16};
use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::ParallelSliceMut,
};

use super::kernel::{self, Rows, Weights};

/// Values that one thread widens at a time.
const WIDEN_VALUES: usize = 1 << 16;

/// A matrix `[rows, columns]`. Cheap to clone if the bytes are shared ones.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    data: TensorData,
    rows: usize,
    columns: usize,
}

impl Stored {
    /// `None` if the data is no matrix in one of the known formats.
    pub(crate) fn new(data: TensorData) -> Option<Self> {
        let &[rows, columns] = data.shape().as_slice() else {
            return None;
        };
        let known = matches!(data.dtype(), DType::F32 | DType::F16 | DType::BF16);
        (known && rows > 0 && columns > 0).then_some(Self {
            data,
            rows,
            columns,
        })
    }

    /// Length of the result of a product.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Whether the weights are stored in fewer bits than the products are computed in.
    pub(crate) fn is_narrow(&self) -> bool {
        self.data.dtype() != DType::F32
    }

    fn weights(&self) -> Weights<'_> {
        const KNOWN: &str = "the format was checked when the matrix was made";
        match self.data.dtype() {
            DType::F16 => Weights::F16(self.data.as_slice::<f16>().expect(KNOWN)),
            DType::BF16 => Weights::Bf16(self.data.as_slice::<bf16>().expect(KNOWN)),
            _ => Weights::F32(self.data.as_slice::<f32>().expect(KNOWN)),
        }
    }

    /// Rows `from..to` times each vector of `x`: the products of the first vector, then those of
    /// the second, and so on.
    pub(crate) fn products(&self, from: usize, to: usize, x: &Rows, out: &mut [f32]) {
        let part = self.weights().slice(from * self.columns..to * self.columns);
        kernel::products(part, self.columns, x, out);
    }

    /// One row as f32.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let start = row * self.columns;
        kernel::widen(self.weights().slice(start..start + self.columns), out);
    }

    /// The whole matrix as f32.
    pub(crate) fn widened(&self) -> TensorData {
        let mut wide = vec![0.0; self.rows * self.columns];
        let weights = self.weights();
        let parts = wide.par_chunks_mut(WIDEN_VALUES).enumerate();
        parts.for_each(|(at, part)| {
            let start = at * WIDEN_VALUES;
            kernel::widen(weights.slice(start..start + part.len()), part);
        });
        TensorData::new(wide, [self.rows, self.columns])
    }
}
