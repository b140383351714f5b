//! What the daemon needs of a model engine, as a trait: `roles::infer` computes through it, `models`
//! loads through it. The real one is [`burn`] (cargo feature `burn`); tests bring their own.

use std::{collections::BTreeMap, fmt::Debug, ops::ControlFlow, path::Path, sync::Arc};

use owm_proto::{Sha256, statement::Finish};

#[cfg(feature = "burn")]
pub mod burn;
#[cfg(feature = "burn")]
mod training;

/// What is loaded and where it computes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EngineDescription {
    /// `burn-flex/f32`: part of every signed result.
    pub backend: String,
    /// The device's name.
    pub device: String,
    /// Why this device.
    pub device_reason: String,
    /// Longest sequence, prompt and answer, in tokens.
    pub context_length: u32,
    /// Trained values.
    pub parameters: u64,
}

/// A question before it is tokens.
#[derive(Clone, PartialEq, Eq)]
pub enum Question {
    /// Text to be continued.
    Raw(String),
    /// (role, content) of a conversation.
    Chat(Vec<(String, String)>),
}

impl Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question(…)")
    }
}

/// Why a question can't be tokens. No text of the question is in here.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Longer than the model's context.
    #[error("the prompt has {tokens} tokens, the model takes {max} minus max_tokens")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most that fit.
        max: usize,
    },
    /// Nothing a node could do anything about.
    #[error("{0}")]
    Refused(String),
}

/// One answer to compute.
#[derive(Clone, PartialEq)]
pub struct GenerateJob {
    /// The encoded prompt.
    pub prompt: Vec<u32>,
    /// Tokens that a predecessor has delivered.
    pub forced_prefix: Vec<u32>,
    /// Most tokens of the answer, forced prefix included.
    pub max_tokens: u32,
    /// 0: greedy.
    pub temperature: f32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub top_k: u32,
    /// Counter-based: (seed, token index) decides.
    pub seed: u64,
    /// Strings before which the answer ends.
    pub stop: Vec<String>,
}

impl Debug for GenerateJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "GenerateJob({} prompt tokens, at most {})",
            self.prompt.len(),
            self.max_tokens
        )
    }
}

/// A token came out.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Index in the whole answer.
    pub index: u32,
    /// Its id.
    pub token: u32,
    /// Text that became certain; whole characters.
    pub text: &'a str,
}

/// A finished answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// All tokens, forced prefix included.
    pub tokens: Vec<u32>,
    /// The whole text, forced prefix included.
    pub text: String,
    /// The end of the text that no token carried.
    pub flush: String,
    /// Why it ended; `None`: the callback broke it off.
    pub finish: Option<Finish>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
}

impl Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({} tokens, {:?})", self.tokens.len(), self.finish)
    }
}

/// Text to measure a model with.
#[derive(Clone, PartialEq, Eq)]
pub struct MeasureJob {
    /// In the order in which they are read.
    pub documents: Vec<String>,
    /// Tokens of one row.
    pub window: u32,
    /// Whole documents until this many tokens.
    pub tokens_max: u64,
}

impl Debug for MeasureJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MeasureJob({} documents)", self.documents.len())
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredSoFar {
    /// Tokens that are foretold.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Mean loss so far, in nats per token.
    pub loss: f64,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Documents that were read.
    pub documents: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Tokens that were foretold.
    pub tokens: u64,
    /// [`owm_proto::statement::tokens_sha256`] of the whole row.
    pub tokens_sha256: Sha256,
    /// Nats per token.
    pub loss: f64,
    /// The documents' length as the model would write them.
    pub bits_per_byte: f64,
}

/// Local steps of training, as a round or a reference asks for them.
#[derive(Clone, PartialEq)]
pub struct TrainJob {
    /// Trained on.
    pub documents: Vec<String>,
    /// Whole documents until this many tokens.
    pub tokens_max: u64,
    /// Tokens of a row.
    pub sequence: u32,
    /// Rows of a step.
    pub rows: u32,
    /// Steps.
    pub steps: u32,
    /// Full learning rate.
    pub learning_rate: f32,
    /// Rank and seed of low-rank training; `None`: every weight.
    pub low_rank: Option<(u16, [u8; 32])>,
    /// The order of the text.
    pub seed: u64,
}

impl Debug for TrainJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainJob({} steps)", self.steps)
    }
}

/// How far training is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainedSoFar {
    /// Steps done.
    pub step: u32,
    /// Of so many.
    pub steps: u32,
    /// Loss of the last step, in nats per token; `None` before the first.
    pub loss: Option<f32>,
    /// Tokens trained on.
    pub tokens: u64,
}

/// What training has come to.
#[derive(Clone, PartialEq)]
pub struct TrainedStep {
    /// θ_end − θ_start, flat, in the order of the base's file.
    pub step: Vec<f32>,
    /// The base's file before its values.
    pub header: Vec<u8>,
    /// Tensors in it.
    pub tensors: u32,
    /// Places of the matrices that low-rank training adapts.
    pub adapted: Vec<u32>,
    /// Loss of each step.
    pub losses: Vec<f32>,
    /// What computed it.
    pub backend: String,
    /// Documents that were read.
    pub documents: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Tokens in the row of them.
    pub tokens: u64,
    /// Hash of that row.
    pub tokens_sha256: Sha256,
}

impl Debug for TrainedStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainedStep({} elements)", self.step.len())
    }
}

/// Called on the way; `Break` ends the training.
pub type OnTrained<'a> = dyn FnMut(TrainedSoFar) -> ControlFlow<()> + 'a;

/// Called on the way; `Break` ends the measurement.
pub type OnMeasured<'a> = dyn FnMut(MeasuredSoFar) -> ControlFlow<()> + 'a;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// No node could: bad parameters, too long.
    #[error("{0}")]
    Input(String),
    /// This engine or device failed.
    #[error("{0}")]
    Failed(String),
}

/// Called for every token; `Break` ends the answer.
pub type OnToken<'a> = dyn FnMut(Token<'_>) -> ControlFlow<()> + 'a;

/// A loaded model. Called from blocking threads, several at once.
pub trait InferenceEngine: Send + Sync + Debug {
    /// What it is.
    fn description(&self) -> EngineDescription;
    /// Text to tokens.
    fn encode(&self, question: &Question) -> Result<Vec<u32>, EncodeError>;
    /// Computes one answer.
    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut OnToken<'_>,
    ) -> Result<Answer, AnswerError>;
    /// Bytes of main memory that measuring with rows of so many tokens takes beside the model.
    fn measuring_bytes(&self, _window: u32) -> u64 {
        0
    }
    /// How well it foretells text; `None`: broken off.
    fn measure(
        &self,
        _job: &MeasureJob,
        _on_measured: &mut OnMeasured<'_>,
    ) -> Result<Option<Measurement>, AnswerError> {
        let why = "this engine cannot measure";
        Err(AnswerError::Failed(why.into()))
    }
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes on disk are not the manifest's: fetching again helps.
    #[error("{file} on disk is damaged ({reason}); it is fetched again")]
    Damaged {
        /// Its name in the manifest.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Anything else; trying again at once does not help.
    #[error("the model cannot be loaded: {0}")]
    Unusable(String),
}

/// Loads models.
pub trait EngineLoader: Send + Sync + Debug {
    /// Loads the directory; every file it reads must have the SHA-256 given under its name. Blocks.
    fn load(
        &self,
        folder: &Path,
        expected: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError>;

    /// Bytes of memory that training the model in the directory takes in all. Blocks.
    fn training_bytes(&self, _folder: &Path, _job: &TrainJob) -> Result<u64, LoadError> {
        Ok(0)
    }

    /// Trains the model in the directory, which stays as it is; `None`: broken off. Blocks.
    fn train(
        &self,
        _folder: &Path,
        _expected: &BTreeMap<String, [u8; 32]>,
        _job: &TrainJob,
        _on_trained: &mut OnTrained<'_>,
    ) -> Result<Option<TrainedStep>, LoadError> {
        Err(LoadError::Unusable("this engine cannot train".into()))
    }
}

/// Stands in where no engine was built in: says so.
#[derive(Clone, Copy, Debug)]
pub struct NoEngine;

impl EngineLoader for NoEngine {
    fn load(
        &self,
        _: &Path,
        _: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        let why =
            "this owm-node was built without a model engine; build it with the feature `burn`";
        Err(LoadError::Unusable(why.into()))
    }
}
