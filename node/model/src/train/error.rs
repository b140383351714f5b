//! What can go wrong when training: each says what happened, why, and what to do next.

use std::{io, path::PathBuf};

use crate::{LoadError, PromptError};

/// A training run could not be started, continued or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A number of the plan is outside its range.
    #[error("the training plan is refused: {0}")]
    BadPlan(String),
    /// The base model could not be read.
    #[error("the model to train cannot be loaded")]
    Load(#[from] LoadError),
    /// There is nothing to train on.
    #[error("the text makes {tokens} tokens, at least 3 are needed: give more text")]
    NoTokens {
        /// How many there are.
        tokens: usize,
    },
    /// The tokenizer refused a document.
    #[error("a document cannot be turned into tokens")]
    Tokenize(#[source] PromptError),
    /// The loss became infinite or no number.
    #[error(
        "the loss is no longer a finite number at step {step}: lower the learning rate and start again"
    )]
    Diverged {
        /// The step, counted from 1.
        step: u32,
    },
    /// A trained weight has no number in the file's format.
    #[error(
        "element {element} of {tensor} would be {value:e} after training, which its file's format cannot hold: nothing was written; lower the learning rate and start again"
    )]
    NotFinite {
        /// The weight's name.
        tensor: String,
        /// Which of its elements, row after row.
        element: usize,
        /// What it would be.
        value: f64,
    },
    /// A round cannot train this model.
    #[error(
        "the model's weights stand in several files, and rounds train models of one file only: put them together into one model.safetensors"
    )]
    Sharded,
    /// Something stands where a result or a state is written until it is whole.
    #[error(
        "{} is in the way and was not left by a run like this one: move it away, or choose another place for the result", .0.display()
    )]
    InTheWay(PathBuf),
    /// The device failed while it computed.
    #[error("the device failed: {0}")]
    Device(String),
    /// A file could not be written.
    #[error(
        "{path} could not be written: free some space or choose another folder; what was saved before is untouched"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A saved state could not be read.
    #[error("the saved state {path} could not be read: delete it to start from the beginning")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A saved state is damaged.
    #[error("the saved state {path} is damaged ({what}): delete it to start from the beginning")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A saved state belongs to another run.
    #[error(
        "the saved state {path} belongs to another run ({what} differs): give the same model, text and options as that run, put this run's result elsewhere, or delete the state to start from the beginning"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
}
