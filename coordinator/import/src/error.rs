//! Why an import did not happen.
//!
//! One enum for the whole crate. Names from foreign files are shown quoted and escaped.

use std::path::{Path, PathBuf};

use crate::gguf::GgufError;

/// Why an import did not happen. Whatever the reason, nothing was left under the final name.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file or directory could not be read or written.
    #[error("cannot {action} {}; check that it exists, its permissions and the free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The destination exists and is not empty.
    #[error("{} already exists and is not empty; remove it or choose another directory", path.display())]
    OutputExists {
        /// The destination.
        path: PathBuf,
    },
    /// A file with more pieces than a ladder may have.
    #[error("{file} is too large to be published")]
    TooLarge {
        /// Which.
        file: String,
        /// How much too large.
        #[source]
        source: owm_proto::ladder::LadderError,
    },
    /// The source is no readable GGUF file.
    #[error("the GGUF file cannot be read")]
    Gguf(#[from] GgufError),
    /// A model that is not of the Llama architecture.
    #[error(
        "architecture {found:?} cannot be imported, only \"llama\" can; choose a model of the Llama family"
    )]
    Architecture {
        /// What the source says it is.
        found: String,
    },
    /// A Llama variation that the model engine does not compute.
    #[error(
        "the model needs {feature}, which the model engine does not have; choose a plain Llama model"
    )]
    Unsupported {
        /// The variation.
        feature: String,
    },
    /// Hyperparameters that contradict each other or lie outside the limits.
    #[error("the model's configuration is impossible: {why}; the source is damaged")]
    Configuration {
        /// What is wrong.
        why: String,
    },
    /// A tokenizer that this importer cannot write down.
    #[error(
        "the tokenizer cannot be imported: {why}; import the model's Hugging Face directory instead"
    )]
    Tokenizer {
        /// What is wrong.
        why: String,
    },
    /// A tensor that the architecture needs is absent.
    #[error("tensor {tensor:?} is missing; the source is incomplete: fetch it again")]
    TensorMissing {
        /// Its name in the source.
        tensor: String,
    },
    /// A tensor that the architecture does not know.
    #[error(
        "tensor {tensor:?} has no place in a plain Llama model, and leaving it out would change the answers; choose another model"
    )]
    TensorUnknown {
        /// Its name in the source.
        tensor: String,
    },
    /// A tensor of another shape than the configuration calls for.
    #[error(
        "tensor {tensor:?} has shape {found:?} and the configuration calls for {wanted:?}; the source is damaged"
    )]
    TensorShape {
        /// Its name in the source.
        tensor: String,
        /// Its shape there, slowest dimension first.
        found: Vec<u64>,
        /// The shape that the configuration calls for.
        wanted: Vec<u64>,
    },
    /// A weight that is infinite, not a number, or beyond half precision.
    #[error(
        "tensor {tensor:?} holds a weight that half precision cannot (largest 65504); import a safetensors directory instead"
    )]
    WeightRange {
        /// The tensor's name in the source.
        tensor: String,
    },
    /// A JSON file of a Hugging Face directory that cannot be understood.
    #[error("{file} cannot be understood; take the directory from its publisher again")]
    Json {
        /// The file's name.
        file: String,
        /// Where the JSON fails.
        #[source]
        source: serde_json::Error,
    },
    /// A safetensors file whose header is wrong.
    #[error("{file} is not a sound safetensors file: {why}; fetch it again")]
    Safetensors {
        /// The file's name.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A file of a Hugging Face directory above its limit.
    #[error("{file} has {found} bytes, above the limit of {limit}; this is not what it should be")]
    FileTooLarge {
        /// The file's name.
        file: String,
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

impl ImportError {
    /// For `map_err`: an I/O error with what was tried and where.
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
