#![doc = include_str!("../README.md")]
//!
//! This file holds what all importers hand back; each importer has a room of its own. Called by
//! the coordinator's `model import` and by the devnet. The crate knows neither burn nor any other
//! OWM crate, and that must stay so: what it writes is plain Hugging Face layout.

mod directory;
mod error;
mod from_gguf;
mod from_hf;
pub mod gguf;
mod llama;
mod safetensors;
pub mod smollm2;
mod staging;
pub mod tiny;
mod tokenizer;

pub use self::{
    error::ImportError,
    from_gguf::{import_gguf, inspect_gguf},
    from_hf::import_hf_dir,
};

/// Name of the weights' file in every model directory that this crate writes.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Name of the hyperparameters' file.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the tokenizer's file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Name of the chat template's and special tokens' file.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Name of the file with the generator's stop tokens.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// A model directory that now exists (or, from [`inspect_gguf`], that could).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// All its files, in the order of their names; none if nothing was written.
    pub files: Vec<ImportedFile>,
    /// `model_type` in Hugging Face's words; always `llama` so far.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Longest context, in tokens.
    pub context_length: u64,
    /// Name of the tokenizer's file in the directory.
    pub tokenizer: String,
    /// Where the weights come from, to be shown wherever the model is.
    pub note: String,
}

/// One file of a model directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its size, in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, 64 hexadecimal digits, computed while it was written.
    pub sha256: String,
    /// Its SHA-256 midstates, noted by the same pass: what peers prove single pieces with.
    pub ladder: owm_proto::Ladder,
}

/// How far an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// How much of it is done, in bytes of the file that is read or written.
    pub done: u64,
    /// How much there is to do in this step, in bytes.
    pub total: u64,
}

/// The steps of an import, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Computing the SHA-256 of the source file.
    Hashing,
    /// Writing the weights.
    Weights,
    /// Copying files of a Hugging Face directory.
    Copying,
}
