//! The engine: a loaded model and the work it does. The daemon calls it from blocking threads.
//! An engine is immutable; every generation has its own cache, so generations do not see one
//! another and any number may run at once.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use burn::tensor::TensorData;
use serde::Deserialize;

use crate::{
    ConfigError, DeviceChoice, GenerateError, LoadError, ModelConfig, Prompt, PromptError,
    Sampling, Tokenizer,
    chat::ChatTemplate,
    checkpoint::{Directory, JSON_BYTES_MAX},
    config::EndTokens,
    decode::Decoder,
    device::{self, ChosenDevice},
    llama::Llama,
};

mod batch;
mod forward;
mod generate;

/// Largest `config.json` and `generation_config.json`, in bytes: real ones have a few thousand.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: DeviceChoice,
    /// SHA-256 of the directory's files by name. If given, every file that is loaded must be in
    /// it and match; files that it does not name are left alone.
    pub expected_sha256: Option<BTreeMap<String, [u8; 32]>>,
}

/// A loaded model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Loaded>);

#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: ModelConfig,
    pub(crate) llama: Llama,
    /// Computes single steps where that is the CPU's work.
    decoder: Option<Decoder>,
    pub(crate) tokenizer: Tokenizer,
    chat: ChatTemplate,
    pub(crate) device: ChosenDevice,
}

/// What is loaded and where it computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDescription {
    /// `llama`.
    pub architecture: &'static str,
    /// Number of trained values; a tied head counts once.
    pub parameters: u64,
    /// Longest sequence (prompt and answer), in tokens.
    pub context_length: u32,
    /// Number of token ids.
    pub vocabulary: u32,
    /// Backend and number format, such as `burn-flex+decode/f32`.
    pub backend: &'static str,
    /// The device's name.
    pub device: String,
    /// Why this device, in a sentence's part for the operator.
    pub device_reason: String,
}

/// One answer to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateJob {
    /// The encoded prompt ([`Engine::encode_prompt`]).
    pub prompt: Vec<u32>,
    /// Tokens of the answer that are already delivered: context after the prompt. They count as
    /// generated and are never given to the callback.
    pub forced_prefix: Vec<u32>,
    /// Most tokens of the whole answer, forced prefix included.
    pub max_tokens: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Strings in front of which the answer ends.
    pub stop: Vec<String>,
}

/// A token has been generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenEvent<'a> {
    /// Its index in the whole answer, forced prefix included.
    pub index: u32,
    /// Its id.
    pub token: u32,
    /// Text that became certain through it; often empty, never half a character.
    pub text: &'a str,
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// All tokens, forced prefix included, without the end token.
    pub tokens: Vec<u32>,
    /// The whole text, forced prefix included, cut at the stop string. It is the text a
    /// [`crate::TextStream`] emits for the forced prefix, then the text of all events, then
    /// [`Self::flush`].
    pub text: String,
    /// Text that no event carried: what was held back in case a stop string followed, and the
    /// end of an unfinished character.
    pub flush: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Time for the prompt and the forced prefix.
    pub prompt_time: Duration,
    /// Time from then to the end.
    pub generate_time: Duration,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token, or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The callback said so.
    Cancelled,
}

impl Engine {
    /// Loads a Hugging Face directory: `config.json`, `tokenizer.json`, `model.safetensors` or
    /// an index with several files; `tokenizer_config.json` (chat template) and
    /// `generation_config.json` (end tokens) if they are there.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let files = Directory::new(dir, options.expected_sha256.as_ref());
        let (config, tokenizer) = config_and_tokenizer(&files)?;
        let template = files.read_optional("tokenizer_config.json", JSON_BYTES_MAX)?;
        let chat = ChatTemplate::from_json(template.as_deref(), &tokenizer)?;
        let mut tensors = files.tensors()?;
        let device = device::choose(options.device)?;
        // On the CPU both read the same bytes, in the file's format; elsewhere all is f32.
        let mut shared = BTreeMap::new();
        let llama = Llama::build(
            &config,
            &mut |name, shape| -> Result<TensorData, LoadError> {
                let data = tensors.take(name, shape)?;
                if device.is_cpu && shape.len() > 1 {
                    shared.insert(name.to_owned(), data.clone());
                    return Ok(data);
                }
                let data = data.convert::<f32>();
                shared.insert(name.to_owned(), data.clone());
                Ok(data)
            },
            &device.device,
        )?;
        tensors.finish(config.tied_head)?;
        let decoder = device
            .is_cpu
            .then(|| decoder(&config, shared))
            .transpose()?;
        Ok(Self(Arc::new(Loaded {
            config,
            llama,
            decoder,
            tokenizer,
            chat,
            device,
        })))
    }

    /// What is loaded and where it computes.
    pub fn description(&self) -> EngineDescription {
        let Loaded {
            config,
            llama,
            device,
            ..
        } = &*self.0;
        EngineDescription {
            architecture: "llama",
            parameters: burn::module::Module::num_params(llama) as u64,
            context_length: config.context as u32,
            vocabulary: config.vocabulary as u32,
            backend: device.backend,
            device: device.name.clone(),
            device_reason: device.reason.clone(),
        }
    }

    /// The checked configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// Text to tokens, with room left for at least one token of answer.
    pub fn encode_prompt(&self, query: &Prompt) -> Result<Vec<u32>, PromptError> {
        let tokens = match query {
            Prompt::Raw(text) => self.0.tokenizer.encode(text, true)?,
            Prompt::Chat(messages) => self.0.chat.encode(messages, &self.0.tokenizer)?,
        };
        let max = self.0.config.context - 1;
        if tokens.is_empty() {
            return Err(PromptError::Empty);
        }
        if tokens.len() > max {
            return Err(PromptError::TooLong {
                tokens: tokens.len(),
                max,
            });
        }
        Ok(tokens)
    }

    /// Generates one answer, calling `on_token` for each new token; `Break` cancels.
    ///
    /// A forced prefix is run token by token through the same decode steps that made it, so on
    /// one kind of machine an answer that was cut and resumed equals the uncut one to the bit.
    pub fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut dyn FnMut(TokenEvent<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        generate::run(&self.0, job, on_token)
    }

    /// Generates several answers, one result for each job in its order. Jobs without a forced
    /// prefix share forward passes.
    pub fn generate_batch(&self, jobs: &[GenerateJob]) -> Vec<Result<Generation, GenerateError>> {
        batch::run(&self.0, jobs)
    }

    /// What the rooms beside the generation compute with.
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.0
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }
}

fn decoder(
    config: &ModelConfig,
    mut tensors: BTreeMap<String, TensorData>,
) -> Result<Decoder, LoadError> {
    let missing = |name: &str| LoadError::MissingTensor {
        name: name.to_owned(),
    };
    // As many threads as burn uses: the operator's cap, which the daemon sets before it loads.
    let threads = rayon::current_num_threads();
    let mut take = |name: &str, _: &[usize]| tensors.remove(name).ok_or_else(|| missing(name));
    Decoder::build(config, &mut take, threads, missing)
}

/// What a model's directory says of it besides its weights.
pub(crate) fn config_and_tokenizer(
    files: &Directory<'_>,
) -> Result<(ModelConfig, Tokenizer), LoadError> {
    let mut config = ModelConfig::from_json(&files.read("config.json", CONFIG_BYTES_MAX)?)?;
    add_generation_config(files, &mut config)?;
    let tokenizer = files.read("tokenizer.json", JSON_BYTES_MAX)?;
    let tokenizer = Tokenizer::from_json(&tokenizer, config.vocabulary)?;
    Ok((config, tokenizer))
}

fn add_generation_config(files: &Directory<'_>, config: &mut ModelConfig) -> Result<(), LoadError> {
    #[derive(Deserialize)]
    struct GenerationConfig {
        #[serde(default)]
        eos_token_id: EndTokens,
    }
    const FILE: &str = "generation_config.json";
    let Some(bytes) = files.read_optional(FILE, CONFIG_BYTES_MAX)? else {
        return Ok(());
    };
    let parsed: GenerationConfig =
        serde_json::from_slice(&bytes).map_err(|source| LoadError::Json {
            file: FILE.to_owned(),
            source,
        })?;
    config
        .add_end_tokens(parsed.eos_token_id.into_ids())
        .map_err(|error: ConfigError| error.into())
}

#[cfg(test)]
pub(crate) mod tests;
