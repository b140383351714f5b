//! What a run made: the trained values before and after, and the model as files. Called by the
//! daemon: the update's encoder takes the values, a human the files. What must stay true: the files
//! are laid out as the base's, in its format, and a folder is never seen half written.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    sync::Arc,
};

use burn::tensor::DType;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Base, TrainError, TrainMode, low_rank, micro::Leaf};

/// Files that are carried over from the base's folder if they are there.
const CARRIED: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];
const WEIGHTS: &str = "model.safetensors";

/// A trained tensor in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its Hugging Face name; of a `B` the name of its weight with `lora_B` for `weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row after row.
    pub values: Vec<f32>,
}

/// A finished run. Tensors stand in canonical order: as in the base's files.
#[derive(Debug)]
pub struct Trained {
    /// What was trained.
    pub mode: TrainMode,
    /// The trained values before: the base's weights, or zeros for every `B`.
    pub theta_start: Vec<Parameter>,
    /// After.
    pub theta_end: Vec<Parameter>,
    /// Rows that were trained on.
    pub samples: u64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// Steps done.
    pub steps: u32,
    /// Loss of each step, in nats per token.
    pub losses: Vec<f32>,
    base: Arc<Base>,
}

/// The files that [`Trained::write_model`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenModel {
    /// SHA-256 of `model.safetensors`.
    pub weights_sha256: [u8; 32],
    /// Weights whose stored value is another one than the base's.
    pub changed: u64,
    /// All weights.
    pub total: u64,
}

pub(super) fn collect(
    base: Arc<Base>,
    mode: TrainMode,
    leaves: Vec<Leaf>,
    losses: Vec<f32>,
    (samples, tokens): (u64, u64),
) -> Result<Trained, TrainError> {
    let mut theta_end = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        theta_end.push(Parameter {
            values: leaf.values()?,
            name: leaf.name,
            shape: leaf.shape,
        });
    }
    let theta_start = match mode {
        TrainMode::Full => base
            .tensors()
            .iter()
            .map(|tensor| Parameter {
                name: tensor.name.clone(),
                shape: tensor.shape().to_vec(),
                values: tensor.widened(),
            })
            .collect(),
        TrainMode::LowRank { .. } => theta_end
            .iter()
            .map(|end| Parameter {
                values: vec![0.0; end.values.len()],
                ..end.clone()
            })
            .collect(),
    };
    Ok(Trained {
        mode,
        theta_start,
        theta_end,
        samples,
        tokens,
        steps: losses.len() as u32,
        losses,
        base,
    })
}

impl Trained {
    /// Writes the trained model as a Hugging Face folder: weights in the base's layout and format,
    /// the other files as they are in `base_dir`. `out` must not exist, or be empty; it appears
    /// whole.
    pub fn write_model(&self, base_dir: &Path, out: &Path) -> Result<WrittenModel, TrainError> {
        let failed = |source| TrainError::Write {
            path: out.to_owned(),
            source,
        };
        let partial = super::state::unfinished(out);
        let fill = || -> Result<WrittenModel, TrainError> {
            fs::create_dir_all(&partial).map_err(failed)?;
            for name in CARRIED {
                let from = base_dir.join(name);
                if from.is_file() {
                    let bytes = fs::read(&from).map_err(failed)?;
                    write_synced(&partial.join(name), &bytes).map_err(failed)?;
                }
            }
            let written = self.write_weights(&partial.join(WEIGHTS)).map_err(failed)?;
            // An empty folder of that name may be there; a full one makes the renaming fail.
            let _ = fs::remove_dir(out);
            fs::rename(&partial, out).map_err(failed)?;
            super::state::sync_folder(out).map_err(failed)?;
            Ok(written)
        };
        let _ = fs::remove_dir_all(&partial);
        let written = fill();
        if written.is_err() {
            let _ = fs::remove_dir_all(&partial);
        }
        written
    }

    fn write_weights(&self, path: &Path) -> io::Result<WrittenModel> {
        let header = header(&self.base)?;
        let mut out = BufWriter::new(File::create(path)?);
        let mut hash = Sha256::new();
        let mut changed = 0;
        let mut push = |bytes: &[u8]| -> io::Result<()> {
            hash.update(bytes);
            out.write_all(bytes)
        };
        push(&(header.len() as u64).to_le_bytes())?;
        push(&header)?;
        for tensor in self.base.tensors() {
            let (bytes, changes) = self.stored(tensor);
            changed += changes;
            push(&bytes)?;
        }
        out.into_inner()?.sync_all()?;
        Ok(WrittenModel {
            weights_sha256: hash.finalize().into(),
            changed,
            total: self.base.parameters(),
        })
    }

    /// One weight as it is stored after training, and how many of its values changed.
    fn stored(&self, tensor: &super::base::BaseTensor) -> (Vec<u8>, u64) {
        let old = tensor.widened();
        let find = |name: &str| self.theta_end.iter().find(|end| end.name == name);
        if let (TrainMode::LowRank { rank, seed }, &[rows, columns]) = (self.mode, tensor.shape())
            && let Some(b) = find(&low_rank::b_name(&tensor.name))
            && low_rank::is_adapted(&tensor.name)
        {
            let a = low_rank::fixed(&seed, tensor.place, rank, columns);
            return low_rank::merge(&old, (rows, columns), &a, &b.values, tensor.dtype());
        }
        let new = find(&tensor.name).map_or(&old, |end| &end.values);
        let mut bytes = Vec::with_capacity(tensor.data.bytes().len());
        let changed = new.iter().zip(&old).map(|(new, old)| {
            let new = f64::from(*new);
            u64::from(low_rank::push_rounded(
                &mut bytes,
                new,
                *old,
                tensor.dtype(),
            ))
        });
        let changed = changed.sum();
        (bytes, changed)
    }
}

/// The safetensors header: every tensor in the base's order, so that equal places in the file mean
/// equal weights. Padded with spaces to a multiple of 8, as the format wants.
fn header(base: &Base) -> io::Result<Vec<u8>> {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for tensor in base.tensors() {
        let dtype = match tensor.dtype() {
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            _ => "F32",
        };
        let end = start + tensor.data.bytes().len();
        entries.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape(), "data_offsets": [start, end]}),
        );
        start = end;
    }
    let mut header = serde_json::to_vec(&entries)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
