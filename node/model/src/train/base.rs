//! The model that training starts from: its files' weights by name, in the order in which they
//! stand in the files, as stored. Called by the trainer and by what writes the result. Files are
//! read and hashed by the same room that the engine's loader uses.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::{DType, Device, Tensor, TensorData};
use sha2::{Digest, Sha256};

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
}

/// One weight.
#[derive(Debug, Clone)]
pub(crate) struct BaseTensor {
    pub(crate) name: String,
    /// Its place in its file, in data order.
    pub(crate) place: u32,
    /// In the file's format, sharing the file's bytes.
    pub(crate) data: TensorData,
}

impl BaseTensor {
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
        let order = read.names_in_order();
        let mut wanted = Wanted::default();
        // Asking for the parts of the tree checks that each is there once, in its shape.
        let Ok(_) = Llama::assemble(&config, &mut wanted);
        let mut found = BTreeMap::new();
        for (name, shape) in wanted.0 {
            let data = read.take(&name, &shape)?;
            found.insert(name, data);
        }
        read.finish(config.tied_head)?;
        let tensors = order
            .into_iter()
            .filter_map(|(name, place)| {
                let data = found.remove(&name)?;
                Some(BaseTensor { name, place, data })
            })
            .collect();
        Ok(Self {
            config,
            tokenizer,
            tensors,
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
        self.tensors.iter().map(|tensor| tensor.len() as u64).sum()
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

    pub(crate) fn tensors(&self) -> &[BaseTensor] {
        &self.tensors
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
