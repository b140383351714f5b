//! Writes a whole model directory from hyperparameters, a vocabulary and a source of weights.
//!
//! Called by `from_gguf` and `tiny`. Weights pass through in pieces: memory stays at a few MiB
//! whatever the model's size.

use std::{io::Write, path::Path};

use crate::{
    CONFIG_FILE, GENERATION_CONFIG_FILE, ImportError, Imported, ImportedFile, Progress, Step,
    TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE,
    llama::{Llama, Part},
    safetensors::{WriteF16Error, header_f16, write_f16},
    staging::{HashingFile, Staging},
    tokenizer::ByteLevelBpe,
};

/// Bytes of a half-precision number.
const F16_BYTES: u64 = 2;

/// A model that is about to be written.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    pub(crate) llama: &'a Llama,
    pub(crate) tokenizer: &'a ByteLevelBpe<'a>,
    pub(crate) note: &'a str,
}

/// Takes pieces of a tensor's values in order.
#[derive(Debug)]
pub(crate) struct WeightSink<'a> {
    file: &'a mut HashingFile,
    path: &'a Path,
    halves: Vec<half::f16>,
    bytes: Vec<u8>,
}

impl WeightSink<'_> {
    /// Rounds the next values of `part` to half precision (to nearest, ties to even) and writes them.
    pub(crate) fn push(&mut self, part: &Part, values: &[f32]) -> Result<(), ImportError> {
        write_f16(values, &mut self.halves, &mut self.bytes, self.file).map_err(|error| match error
        {
            WriteF16Error::Range => ImportError::WeightRange {
                tensor: part.gguf_name.clone(),
            },
            WriteF16Error::Io(source) => ImportError::io("write", self.path)(source),
        })
    }
}

/// Writes `out_dir`. `weights` is called once per tensor, in the order of their names, and pushes
/// all its values.
pub(crate) fn write_model(
    out_dir: &Path,
    model: &Model<'_>,
    progress: &mut dyn FnMut(Progress),
    mut weights: impl FnMut(&Part, &mut WeightSink<'_>) -> Result<(), ImportError>,
) -> Result<Imported, ImportError> {
    let Model {
        llama,
        tokenizer,
        note,
    } = model;
    let mut staging = Staging::open(out_dir)?;
    staging.bytes(CONFIG_FILE, &llama.config_json())?;
    staging.bytes(GENERATION_CONFIG_FILE, &llama.generation_config_json())?;
    staging.bytes(TOKENIZER_FILE, &tokenizer.tokenizer_json())?;
    staging.bytes(
        TOKENIZER_CONFIG_FILE,
        &tokenizer.tokenizer_config_json(llama),
    )?;
    let path = staging.path(WEIGHTS_FILE);
    let parts = llama.parts();
    let total = llama.parameters() * F16_BYTES;
    staging.file(WEIGHTS_FILE, |file| {
        file.write_all(&header_f16(&parts, note))
            .map_err(ImportError::io("write", &path))?;
        let mut done = 0;
        let mut sink = WeightSink {
            file,
            path: &path,
            halves: Vec::new(),
            bytes: Vec::new(),
        };
        for part in &parts {
            weights(part, &mut sink)?;
            done += part.values() * F16_BYTES;
            progress(Progress {
                step: Step::Weights,
                done,
                total,
            });
        }
        Ok(())
    })?;
    Ok(model.imported(staging.publish()?))
}

impl Model<'_> {
    /// What to tell about the model whose files are `files`.
    pub(crate) fn imported(&self, files: Vec<ImportedFile>) -> Imported {
        Imported {
            files,
            architecture: "llama".to_owned(),
            parameters: self.llama.parameters(),
            context_length: self.llama.context,
            tokenizer: TOKENIZER_FILE.to_owned(),
            note: self.note.to_owned(),
        }
    }
}
