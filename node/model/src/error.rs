//! The errors of the engine, one enum per thing a caller asks for. Messages say what happened,
//! why, and what to do next; sources are chained, never formatted into a string.

use std::{io, path::PathBuf};

use crate::{ConfigError, DeviceError, StopStringsError};

/// A model directory could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {}: is the model's directory complete and readable?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is larger than the limit for its kind.
    #[error(
        "{file} has {bytes} bytes, the limit is {max}: this is not a model that this engine takes"
    )]
    TooLarge {
        /// File name inside the directory.
        file: String,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A file's SHA-256 is not the expected one.
    #[error("{file} has SHA-256 {found}, expected {expected}: fetch the file again")]
    HashMismatch {
        /// File name inside the directory.
        file: String,
        /// Lowercase hex, from the caller.
        expected: String,
        /// Lowercase hex, of the bytes that were read.
        found: String,
    },
    /// The caller gave hashes, but none for a file that the model needs.
    #[error("{file} is needed but has no expected SHA-256: the manifest does not list it")]
    Unlisted {
        /// File name inside the directory.
        file: String,
    },
    /// A file that should be JSON is not, or has another shape.
    #[error("{file} is not the JSON that a Hugging Face directory has there")]
    Json {
        /// File name inside the directory.
        file: String,
        /// Where the parser stopped.
        source: serde_json::Error,
    },
    /// `config.json` describes something this engine does not run.
    #[error("config.json is refused")]
    Config(#[from] ConfigError),
    /// A weight file is damaged.
    #[error("{file} is not a whole safetensors file: fetch it again")]
    Safetensors {
        /// File name inside the directory.
        file: String,
        /// What the parser found.
        source: safetensors::SafeTensorError,
    },
    /// The directory holds no weights.
    #[error(
        "there is no model.safetensors and no model.safetensors.index.json: give a Hugging Face directory"
    )]
    NoWeights,
    /// The index names a file outside the directory, or too many of them.
    #[error("model.safetensors.index.json names the file {file:?}, which is not a plain file name")]
    BadIndex {
        /// The name as written.
        file: String,
    },
    /// The index names more weight files than the limit.
    #[error("model.safetensors.index.json names {files} files, the limit is {max}")]
    TooManyFiles {
        /// How many it names.
        files: usize,
        /// The limit.
        max: usize,
    },
    /// A tensor that the configuration asks for is in no file.
    #[error("the tensor {name} is missing: the weights do not belong to this config.json")]
    MissingTensor {
        /// Its Hugging Face name.
        name: String,
    },
    /// A tensor that the architecture has no place for.
    #[error(
        "the tensor {name} in {file} has no place in this architecture: the weights do not belong to this config.json"
    )]
    UnexpectedTensor {
        /// Its name.
        name: String,
        /// The file it is in.
        file: String,
    },
    /// A tensor is in more than one file.
    #[error("the tensor {name} is in more than one file: the directory mixes two models")]
    DuplicateTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has the wrong shape.
    #[error("the tensor {name} has shape {found:?}, config.json asks for {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// From the configuration.
        expected: Vec<usize>,
        /// From the file.
        found: Vec<usize>,
    },
    /// A tensor has a number format that is not read.
    #[error("the tensor {name} has the format {found}; F32, F16 and BF16 are read")]
    WrongFormat {
        /// Its name.
        name: String,
        /// The safetensors format name.
        found: String,
    },
    /// A tensor holds an infinity or a NaN.
    #[error("the tensor {name} holds a value that is not finite: the weights are damaged")]
    NotFinite {
        /// Its name.
        name: String,
    },
    /// `tokenizer.json` could not be read by the tokenizer.
    #[error("tokenizer.json is not a tokenizer that this engine reads")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tokenizer does not decode by bytes.
    #[error(
        "tokenizer.json has a decoder other than ByteLevel: only byte-level vocabularies are supported"
    )]
    TokenizerDecoder,
    /// The tokenizer has ids that the model has no embedding for, or holes.
    #[error("tokenizer.json holds the id {id}, config.json has a vocabulary of {vocabulary}")]
    TokenizerVocabulary {
        /// The offending id.
        id: u32,
        /// `vocab_size` of the configuration.
        vocabulary: usize,
    },
    /// The wanted device is not there or failed its test.
    #[error("the wanted device cannot be used")]
    Device(#[from] DeviceError),
}

/// A prompt could not be turned into tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// More tokens than the model's context leaves room for.
    #[error("the prompt has {tokens} tokens, at most {max} fit: shorten it")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most tokens that leave room for one token of answer.
        max: usize,
    },
    /// More bytes than are tokenized at all.
    #[error("the prompt has {bytes} bytes, the limit is {max}: shorten it")]
    TooManyBytes {
        /// Bytes of the prompt's text.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// No text at all.
    #[error("the prompt is empty: give at least one token of text")]
    Empty,
    /// More chat messages than the limit.
    #[error("the chat has {messages} messages, the limit is {max}: drop the oldest")]
    TooManyMessages {
        /// How many there are.
        messages: usize,
        /// The limit.
        max: usize,
    },
    /// A role that is none of system, user, assistant.
    #[error("unknown chat role {role:?}: use system, user or assistant")]
    UnknownRole {
        /// The role as written, cut to 32 characters.
        role: String,
    },
    /// The model has no chat form.
    #[error("this model has no chat template: send the prompt with template none")]
    NoChatTemplate,
    /// The model's template refused the messages or failed.
    #[error("the model's chat template does not take these messages")]
    Template(#[source] minijinja::Error),
    /// The tokenizer refused the text.
    #[error("the tokenizer does not take this text")]
    Tokenize(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A generation could not be started or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The prompt has no tokens.
    #[error("the prompt has no tokens: encode a prompt first")]
    EmptyPrompt,
    /// Prompt (and forced prefix) do not fit the context.
    #[error("prompt and forced prefix have {tokens} tokens, at most {max} fit")]
    TooLong {
        /// Tokens of prompt and forced prefix together.
        tokens: usize,
        /// The most that fit.
        max: usize,
    },
    /// A token id outside the vocabulary.
    #[error("the token id {token} is outside the vocabulary of {vocabulary}")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// The forced prefix holds an end-of-sequence token, which is never delivered.
    #[error("the forced prefix holds the end token {token}: it is not a delivered prefix")]
    EndInPrefix {
        /// The id.
        token: u32,
    },
    /// The forced prefix is longer than the whole answer may be.
    #[error("the forced prefix has {prefix} tokens, max_tokens is {max}")]
    PrefixTooLong {
        /// Its length.
        prefix: usize,
        /// `max_tokens` of the job.
        max: u32,
    },
    /// A sampling parameter is outside its range.
    #[error("{name} is {value}: {range}")]
    BadSampling {
        /// Which parameter.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What is allowed.
        range: &'static str,
    },
    /// The stop strings are outside their limits.
    #[error("the stop strings are refused")]
    Stop(#[from] StopStringsError),
    /// The model gave no finite score.
    #[error(
        "the model gave no finite score for token {index}: the weights or the device are broken"
    )]
    NotFinite {
        /// Index in the generation.
        index: usize,
    },
    /// The device failed while it computed.
    #[error("the device failed: {0}")]
    Device(String),
}
