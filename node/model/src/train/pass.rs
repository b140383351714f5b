//! One forward and backward pass through the decoder, written out: products go to the matrix library, everything
//! between them is done in place, row by row, on all threads of the pool. Called by [`super::micro`]. What must
//! stay true: every derivative is that of what `llama.rs` computes, which the tests compare with burn's automatic
//! differentiation and with finite differences; sums have one order, however many threads there are.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::TrainError;
use crate::{ModelConfig, linear::linear};

pub(super) mod attention;
pub(super) mod rows;

use attention::{Heads, Mixed};
use rows::Norm;

/// Values of a tensor in hand. Made from a tensor that nobody else holds it is no copy.
#[derive(Debug)]
pub(crate) struct Grid(TensorData);

impl Grid {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Self(TensorData::new(
            vec![0.0_f32; rows * columns],
            [rows, columns],
        ))
    }

    pub(super) fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        Self(TensorData::new(values, shape.to_vec()))
    }

    pub(super) fn of<const D: usize>(tensor: Tensor<D>) -> Result<Self, TrainError> {
        let data = tensor.try_into_data();
        data.map(Self)
            .map_err(|error| TrainError::Device(error.to_string()))
    }

    pub(super) fn tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_data(self.0, (&Device::flex(), DType::F32))
    }

    /// The values, row after row.
    pub(crate) fn values(&self) -> &[f32] {
        self.0.as_slice().expect("it is made of f32 only")
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.0.as_mut_slice().expect("it is made of f32 only")
    }
}

/// A weight, and what is trained of it.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) weight: Tensor<2>,
    /// `A` and `B`.
    pub(super) low_rank: Option<(Tensor<2>, Tensor<2>)>,
    /// Which leaf is trained: the weight, or `B` where there is one.
    pub(super) leaf: Option<usize>,
}

impl Product {
    fn forward(&self, x: &Tensor<2>) -> Result<Tensor<2>, TrainError> {
        let y = linear(x.clone(), self.weight.clone());
        match &self.low_rank {
            None => Ok(y),
            Some((a, b)) => {
                let low = linear(linear(x.clone(), a.clone()), b.clone());
                sum(y, low)
            }
        }
    }

    /// The gradient by `x`, which gave the product, from that by the product; the leaf's goes into `found`.
    fn backward(
        &self,
        by: &Tensor<2>,
        x: &Tensor<2>,
        found: &mut Found,
    ) -> Result<Tensor<2>, TrainError> {
        let by_x = by.clone().matmul(self.weight.clone());
        let turned = by.clone().transpose();
        let Some((a, b)) = &self.low_rank else {
            if let Some(leaf) = self.leaf {
                found.put(leaf, turned.matmul(x.clone()))?;
            }
            return Ok(by_x);
        };
        if let Some(leaf) = self.leaf {
            found.put(leaf, turned.matmul(linear(x.clone(), a.clone())))?;
        }
        sum(by_x, by.clone().matmul(b.clone()).matmul(a.clone()))
    }
}

/// Gradients by leaf, as they are found.
#[derive(Debug)]
pub(super) struct Found(pub(super) Vec<Option<Grid>>);

impl Found {
    pub(super) fn put(&mut self, leaf: usize, gradient: Tensor<2>) -> Result<(), TrainError> {
        self.0[leaf] = Some(Grid::of(gradient)?);
        Ok(())
    }
}

/// A layer's weights.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) norm_in: Norm,
    pub(super) q: Product,
    pub(super) k: Product,
    pub(super) v: Product,
    pub(super) o: Product,
    pub(super) norm_mid: Norm,
    pub(super) gate: Product,
    pub(super) up: Product,
    pub(super) down: Product,
}

/// What the backward pass needs of a layer's forward pass.
#[derive(Debug)]
pub(super) struct Kept {
    x: Grid,
    scale_in: Vec<f32>,
    normed_in: Tensor<2>,
    mixed: Mixed,
    attended: Tensor<2>,
    mid: Grid,
    scale_mid: Vec<f32>,
    normed_mid: Tensor<2>,
    gate: Grid,
    up: Grid,
    inner: Tensor<2>,
}

impl Layer {
    /// `x` after this layer, and what the way back needs.
    pub(super) fn forward(&self, x: Grid, heads: &Heads) -> Result<(Grid, Kept), TrainError> {
        let width = self.norm_in.gain.len();
        let (normed_in, scale_in) = self.norm_in.forward(&x, width);
        let normed_in = normed_in.tensor::<2>();
        let q = Grid::of(self.q.forward(&normed_in)?)?;
        let k = Grid::of(self.k.forward(&normed_in)?)?;
        let v = Grid::of(self.v.forward(&normed_in)?)?;
        let (attended, mixed) = heads.forward(&q, &k, &v)?;
        drop((q, k, v));
        let attended = attended.tensor::<2>();
        let mut mid = Grid::of(self.o.forward(&attended)?)?;
        rows::add(mid.values_mut(), x.values());
        let (normed_mid, scale_mid) = self.norm_mid.forward(&mid, width);
        let normed_mid = normed_mid.tensor::<2>();
        let gate = Grid::of(self.gate.forward(&normed_mid)?)?;
        let up = Grid::of(self.up.forward(&normed_mid)?)?;
        let inner = rows::gated(gate.values(), up.values());
        let wide = up.values().len() / scale_mid.len();
        let inner = Grid::new(inner, &[scale_mid.len(), wide]).tensor::<2>();
        let mut out = Grid::of(self.down.forward(&inner)?)?;
        rows::add(out.values_mut(), mid.values());
        let kept = Kept {
            x,
            scale_in,
            normed_in,
            mixed,
            attended,
            mid,
            scale_mid,
            normed_mid,
            gate,
            up,
            inner,
        };
        Ok((out, kept))
    }

    /// The gradient by the layer's input from that by its output.
    pub(super) fn backward(
        &self,
        by_out: Grid,
        kept: Kept,
        heads: &Heads,
        found: &mut Found,
    ) -> Result<Grid, TrainError> {
        let width = self.norm_in.gain.len();
        let by_out = by_out.tensor::<2>();
        let by_inner = Grid::of(self.down.backward(&by_out, &kept.inner, found)?)?;
        drop(kept.inner);
        let (mut gate, mut up) = (kept.gate, kept.up);
        rows::gated_back(by_inner.values(), gate.values_mut(), up.values_mut());
        drop(by_inner);
        let (by_gate, by_up) = (gate.tensor::<2>(), up.tensor::<2>());
        let mut by_normed = Grid::of(self.gate.backward(&by_gate, &kept.normed_mid, found)?)?;
        let by_up = Grid::of(self.up.backward(&by_up, &kept.normed_mid, found)?)?;
        rows::add(by_normed.values_mut(), by_up.values());
        drop((by_gate, by_up, kept.normed_mid));
        let mut by_mid = Grid::of(by_out)?;
        let (mid, scale) = (&kept.mid, &kept.scale_mid);
        self.norm_mid
            .backward(&by_normed, mid, scale, &mut by_mid, width, found);
        drop((by_normed, kept.mid));

        let by_mid = by_mid.tensor::<2>();
        let by_attended = Grid::of(self.o.backward(&by_mid, &kept.attended, found)?)?;
        let (by_q, by_k, by_v) = heads.backward(&by_attended, kept.mixed)?;
        drop((by_attended, kept.attended));
        let x = &kept.normed_in;
        let mut by_normed = Grid::of(self.q.backward(&by_q.tensor(), x, found)?)?;
        for (product, by) in [(&self.k, by_k), (&self.v, by_v)] {
            let part = Grid::of(product.backward(&by.tensor(), x, found)?)?;
            rows::add(by_normed.values_mut(), part.values());
        }
        let mut by_x = Grid::of(by_mid)?;
        let scale = &kept.scale_in;
        self.norm_in
            .backward(&by_normed, &kept.x, scale, &mut by_x, width, found);
        Ok(by_x)
    }
}

/// Both, in the memory of the first.
fn sum(a: Tensor<2>, b: Tensor<2>) -> Result<Tensor<2>, TrainError> {
    let (mut a, b) = (Grid::of(a)?, Grid::of(b)?);
    rows::add(a.values_mut(), b.values());
    Ok(a.tensor())
}

/// How attention is cut into heads.
pub(super) fn heads(config: &ModelConfig, batch: usize, length: usize) -> Heads {
    Heads::new(config, batch, length)
}
