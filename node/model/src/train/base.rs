//! The model that training starts from: its files' weights by name, in the order in which they
//! stand in the files, as stored. Called by the trainer and by what writes the result. Files are
//! read and hashed by the same room that the engine's loader uses.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::{DType, Device, Tensor, TensorData};
use sha2::{Digest, Sha256};

use super::{TrainError, low_rank};
use crate::{
    LoadError, ModelConfig, Tokenizer,
    checkpoint::Directory,
    engine::config_and_tokenizer,
    linear::Linear,
    llama::{Llama, Parts},
};

/// A model as its files have it.
#[derive(Debug)]
pub struct Base {
    config: ModelConfig,
    tokenizer: Tokenizer,
    tensors: Vec<BaseTensor>,
    /// What stands before the values in its file; none of a model of several files.
    header: Option<Vec<u8>>,
}

/// Where the values of a model's one file stand: what the flat order of an update is cut by
/// (docs/fl-protocol.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatOrder<'a> {
    /// The file's bytes before its values: length and JSON.
    pub header: &'a [u8],
    /// Tensors in the file.
    pub tensors: u32,
    /// The places in data order of the matrices that low-rank training adapts.
    pub adapted: Vec<u32>,
}

/// One tensor of the files.
#[derive(Debug, Clone)]
pub(crate) struct BaseTensor {
    pub(crate) name: String,
    /// Its place in data order, in all files together.
    pub(crate) place: u32,
    /// Whether the decoder has a place for it. The others are carried along as they are.
    pub(crate) is_used: bool,
    /// In the file's format, sharing the file's bytes.
    pub(crate) data: TensorData,
}

impl BaseTensor {
    pub(crate) fn is_adapted(&self) -> bool {
        self.is_used && low_rank::is_adapted(&self.name)
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.data.shape().as_slice()
    }

    pub(crate) fn len(&self) -> usize {
        self.shape().iter().product()
    }

    pub(crate) fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// As f32, which loses nothing.
    pub(crate) fn widened(&self) -> Vec<f32> {
        let wide = self.data.clone().convert::<f32>();
        wide.try_into_vec().expect("the data was converted to f32")
    }
}

impl Base {
    /// Reads a Hugging Face directory. If `expected` is given, every file that is read must be in
    /// it, with this SHA-256.
    pub fn load(
        dir: &Path,
        expected: Option<&BTreeMap<String, [u8; 32]>>,
    ) -> Result<Self, LoadError> {
        let files = Directory::new(dir, expected);
        let (config, tokenizer) = config_and_tokenizer(&files)?;
        let mut read = files.tensors()?;
        let (order, header) = (read.names_in_order(), read.header());
        let mut wanted = Wanted::default();
        // Asking for the parts of the tree checks that each is there once, in its shape.
        let Ok(_) = Llama::assemble(&config, &mut wanted);
        let mut found = BTreeMap::new();
        for (name, shape) in wanted.0 {
            let data = read.take(&name, &shape)?;
            found.insert(name, data);
        }
        let mut rest = read.finish(config.tied_head)?;
        let tensors = (0..).zip(order).filter_map(|(place, name)| {
            let used = found.remove(&name);
            let is_used = used.is_some();
            let data = used.or_else(|| rest.remove(&name))?;
            Some(BaseTensor {
                name,
                place,
                is_used,
                data,
            })
        });
        Ok(Self {
            tensors: tensors.collect(),
            config,
            tokenizer,
            header,
        })
    }

    /// The checked configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let used = self.tensors.iter().filter(|tensor| tensor.is_used);
        used.map(|tensor| tensor.len() as u64).sum()
    }

    /// Where the values stand, for rounds. A model of several files is refused: a flat order is one file's.
    pub fn flat_order(&self) -> Result<FlatOrder<'_>, TrainError> {
        let header = self.header.as_deref().ok_or(TrainError::Sharded)?;
        let adapted = self.adapted().map(|tensor| tensor.place);
        Ok(FlatOrder {
            header,
            tensors: self.tensors.len() as u32,
            adapted: adapted.collect(),
        })
    }

    /// SHA-256 over names, formats, shapes and bytes, in order: what a saved state belongs to.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for tensor in &self.tensors {
            hash.update(format!(
                "{} {:?} {:?}\n",
                tensor.name,
                tensor.dtype(),
                tensor.shape()
            ));
            hash.update(&**tensor.data.bytes());
        }
        hash.finalize().into()
    }

    /// All tensors of the files, in data order.
    pub(crate) fn tensors(&self) -> &[BaseTensor] {
        &self.tensors
    }

    /// Those that low-rank training adapts.
    pub(crate) fn adapted(&self) -> impl Iterator<Item = &BaseTensor> {
        self.tensors.iter().filter(|tensor| tensor.is_adapted())
    }

    pub(crate) fn header(&self) -> Option<&[u8]> {
        self.header.as_deref()
    }
}

/// Notes the names and shapes that the decoder's tree asks for.
#[derive(Default)]
pub(crate) struct Wanted(Vec<(String, Vec<usize>)>);

impl Wanted {
    pub(crate) fn into_shapes(self) -> Vec<(String, Vec<usize>)> {
        self.0
    }
}

impl Parts for Wanted {
    type Error = std::convert::Infallible;

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, Self::Error> {
        self.0.push((name.to_owned(), vec![rows, columns]));
        Ok(Linear::new(Tensor::zeros([1, 1], &Device::flex()), None))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<1>, Self::Error> {
        self.0.push((name.to_owned(), vec![len]));
        Ok(Tensor::zeros([1], &Device::flex()))
    }
}
