//! What a run made: its step away from the base in flat order, and the model as files. Called by the
//! daemon: the update's encoder takes the step, a human the files. What must stay true: the files are the base's
//! file ⊕ the step by the rule that makes checkpoints (docs/fl-protocol.md), and a folder is never seen half
//! written.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    ops::Range,
    path::Path,
    sync::Arc,
};

use burn::tensor::DType;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Base, TrainError, TrainMode,
    base::BaseTensor,
    low_rank::{self, OutOfRange},
    micro::Leaf,
};

/// Files that are carried over from the base's folder if they are there.
const CARRIED: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
];
const WEIGHTS: &str = "model.safetensors";
/// In a folder that is not whole yet: says that a run like this one has made it. It is the first file there and the
/// last to go, after the folder has its name; so of a kill it may be left in a whole folder, where it means nothing.
const MARK: &str = ".owm-unfinished";

/// A finished run.
#[derive(Debug)]
pub struct Trained {
    /// What was trained.
    pub mode: TrainMode,
    /// Rows that were trained on.
    pub samples: u64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// Steps done.
    pub steps: u32,
    /// Loss of each step, in nats per token.
    pub losses: Vec<f32>,
    step: Vec<f32>,
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
    Ok(Trained {
        step: step_of(&base, mode, leaves)?,
        mode,
        samples,
        tokens,
        steps: losses.len() as u32,
        losses,
        base,
    })
}

/// θ_end − θ_start in flat order (every `B` begins at 0). What no update could say is 0: differences below f32's normal numbers, and
/// tensors that are not trained.
fn step_of(base: &Base, mode: TrainMode, leaves: Vec<Leaf>) -> Result<Vec<f32>, TrainError> {
    let sizes = leaves.iter().map(Leaf::len).sum();
    let mut step: Vec<f32> = Vec::with_capacity(sizes);
    let mut leaves = leaves.into_iter();
    for tensor in base.tensors() {
        let is_trained = match mode {
            TrainMode::Full => tensor.is_used,
            TrainMode::LowRank { .. } => tensor.is_adapted(),
        };
        let Some(leaf) = is_trained.then(|| leaves.next()).flatten() else {
            if mode == TrainMode::Full {
                step.resize(step.len() + tensor.len(), 0.0);
            }
            continue;
        };
        let mut moved = leaf.into_values()?;
        if mode == TrainMode::Full {
            let both = moved.iter_mut().zip(tensor.widened());
            both.for_each(|(end, start)| *end -= start);
        }
        if let Some(element) = moved.iter().position(|value| !value.is_finite()) {
            return Err(TrainError::NotFinite {
                tensor: tensor.name.clone(),
                element,
                value: f64::from(moved[element]),
            });
        }
        let said = |value: f32| if value.is_normal() { value } else { 0.0 };
        step.extend(moved.into_iter().map(said));
    }
    Ok(step)
}

/// Refuses what stands where a result is written until it is whole, unless an interrupted run has left it.
pub fn check_way(out: &Path) -> Result<(), TrainError> {
    let partial = super::state::unfinished(out);
    let is_free = match fs::symlink_metadata(&partial) {
        // An empty folder is one that was made or cleared a moment before a kill.
        Ok(there) => there.is_dir() && (partial.join(MARK).is_file() || is_empty(&partial)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_free {
        Ok(())
    } else {
        Err(TrainError::InTheWay(partial))
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes what a run has left there, the mark at the end, so that a kill in between leaves what is known as ours.
fn clear(partial: &Path) {
    for entry in fs::read_dir(partial).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let _ = fs::remove_dir_all(path);
        } else if entry.file_name() != MARK {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_file(partial.join(MARK));
    let _ = fs::remove_dir(partial);
}

impl Trained {
    /// θ_end − θ_start in f32, flat, in the data order of the base's file: every element of full training, each
    /// `B` row by row of low-rank training.
    pub fn step(&self) -> &[f32] {
        &self.step
    }

    /// The step for a round's update ([`Base::flat_order`]); a model of several files has none.
    pub fn into_step(self) -> Result<Vec<f32>, TrainError> {
        self.base.flat_order()?;
        Ok(self.step)
    }

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
            let mark = partial.join(MARK);
            write_synced(&mark, b"").map_err(failed)?;
            for name in CARRIED {
                let from = base_dir.join(name);
                if from.is_file() {
                    let bytes = fs::read(&from).map_err(failed)?;
                    write_synced(&partial.join(name), &bytes).map_err(failed)?;
                }
            }
            let written = self.write_weights(&partial.join(WEIGHTS), &failed)?;
            super::state::sync_folder(&mark).map_err(failed)?;
            // An empty folder of that name may be there; a full one makes the renaming fail.
            let _ = fs::remove_dir(out);
            fs::rename(&partial, out).map_err(failed)?;
            super::state::sync_folder(out).map_err(failed)?;
            let _ = fs::remove_file(out.join(MARK));
            Ok(written)
        };
        check_way(out)?;
        clear(&partial);
        let written = fill();
        if written.is_err() {
            clear(&partial);
        }
        written
    }

    fn write_weights(
        &self,
        path: &Path,
        failed: &dyn Fn(io::Error) -> TrainError,
    ) -> Result<WrittenModel, TrainError> {
        let made;
        let header = if let Some(header) = self.base.header() {
            header
        } else {
            made = header_of(&self.base).map_err(failed)?;
            &made
        };
        let mut out = BufWriter::new(File::create(path).map_err(failed)?);
        let mut hash = Sha256::new();
        let mut changed = 0;
        let mut push = |bytes: &[u8]| {
            hash.update(bytes);
            out.write_all(bytes).map_err(failed)
        };
        push(header)?;
        let mut at = 0;
        for tensor in self.base.tensors() {
            let elements = at..at + self.elements_of(tensor);
            at = elements.end;
            match self.stored(tensor, elements) {
                None => push(tensor.data.bytes())?,
                Some(Ok((bytes, changes))) => {
                    changed += changes;
                    push(&bytes)?;
                }
                Some(Err(OutOfRange { element, value })) => {
                    let tensor = tensor.name.clone();
                    return Err(TrainError::NotFinite {
                        tensor,
                        element,
                        value,
                    });
                }
            }
        }
        let file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(WrittenModel {
            weights_sha256: hash.finalize().into(),
            changed,
            total: self.base.parameters(),
        })
    }

    /// How many elements of the step are this tensor's.
    fn elements_of(&self, tensor: &BaseTensor) -> usize {
        match self.mode {
            TrainMode::Full => tensor.len(),
            TrainMode::LowRank { rank, .. } if tensor.is_adapted() => tensor.shape()[0] * rank,
            TrainMode::LowRank { .. } => 0,
        }
    }

    /// One tensor's bytes after training, and how many of its values changed; `None`: it stays.
    fn stored(
        &self,
        tensor: &BaseTensor,
        elements: Range<usize>,
    ) -> Option<Result<(Vec<u8>, u64), OutOfRange>> {
        let step = &self.step[elements];
        if step.is_empty() || !tensor.is_used {
            return None;
        }
        let (old, dtype) = (tensor.widened(), tensor.dtype());
        if let TrainMode::LowRank { rank, seed } = self.mode {
            let &[rows, columns] = tensor.shape() else {
                return None;
            };
            let a = low_rank::fixed(&seed, tensor.place, rank, columns);
            return Some(low_rank::merge(&old, (rows, columns), &a, step, dtype));
        }
        Some(low_rank::add(&old, step, dtype))
    }
}

/// What stands before the values in one file of all tensors of a base that has several: the length, and every
/// tensor in the base's order, padded with spaces to a multiple of 8, as the format wants.
fn header_of(base: &Base) -> io::Result<Vec<u8>> {
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
    let mut json = serde_json::to_vec(&entries)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
