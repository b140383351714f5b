//! The engine of `owm-model` behind [`InferenceEngine`]. Nothing else names that crate.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use owm_model::{
    ChatMessage, DeviceChoice, Engine, FinishReason, GenerateError, LoadOptions, Prompt,
    PromptError, Sampling, TokenEvent, evaluate_tokens, tokens_within,
};
use owm_proto::statement::{Finish, tokens_sha256};
use owm_service::report::Chain;

use super::{
    Answer, AnswerError, EncodeError, EngineDescription, EngineLoader, GenerateJob,
    InferenceEngine, LoadError, MeasureJob, MeasuredSoFar, Measurement, OnMeasured, OnToken,
    OnTrained, Question, Token, TrainJob, TrainedStep,
};
use crate::config::Device;

/// Loads Hugging Face directories.
#[derive(Clone, Copy, Debug)]
pub struct BurnLoader {
    /// Where to compute.
    pub device: Device,
}

#[derive(Debug)]
struct BurnEngine(Engine);

impl EngineLoader for BurnLoader {
    fn load(
        &self,
        folder: &Path,
        expected: &BTreeMap<String, [u8; 32]>,
    ) -> Result<Arc<dyn InferenceEngine>, LoadError> {
        let options = LoadOptions {
            device: match self.device {
                Device::Auto => DeviceChoice::Auto,
                Device::Cpu => DeviceChoice::Cpu,
                Device::Gpu => DeviceChoice::Gpu,
            },
            expected_sha256: Some(expected.clone()),
        };
        match Engine::load(folder, &options) {
            Ok(engine) => Ok(Arc::new(BurnEngine(engine))),
            Err(owm_model::LoadError::HashMismatch {
                file,
                expected,
                found,
            }) => Err(LoadError::Damaged {
                file,
                reason: format!("SHA-256 {found}, not {expected}"),
            }),
            Err(error) => Err(LoadError::Unusable(Chain(&error).to_string())),
        }
    }

    fn training_bytes(&self, folder: &Path, job: &TrainJob) -> Result<u64, LoadError> {
        super::training::bytes(folder, job)
    }

    fn train(
        &self,
        folder: &Path,
        expected: &BTreeMap<String, [u8; 32]>,
        job: &TrainJob,
        on_trained: &mut OnTrained<'_>,
    ) -> Result<Option<TrainedStep>, LoadError> {
        super::training::train(folder, expected, job, on_trained)
    }
}

impl InferenceEngine for BurnEngine {
    fn description(&self) -> EngineDescription {
        let said = self.0.description();
        EngineDescription {
            backend: said.backend.to_owned(),
            device: said.device,
            device_reason: said.device_reason,
            context_length: said.context_length,
            parameters: said.parameters,
        }
    }

    fn encode(&self, question: &Question) -> Result<Vec<u32>, EncodeError> {
        let prompt = match question {
            Question::Raw(text) => Prompt::Raw(text.clone()),
            Question::Chat(messages) => Prompt::Chat(
                messages
                    .iter()
                    .map(|(role, content)| {
                        Ok(ChatMessage {
                            role: role.parse()?,
                            content: content.clone(),
                        })
                    })
                    .collect::<Result<_, PromptError>>()
                    .map_err(|_| EncodeError::Refused("a message has an unknown role".into()))?,
            ),
        };
        self.0.encode_prompt(&prompt).map_err(|error| match error {
            // The engine leaves room for one token; the context is one more.
            PromptError::TooLong { tokens, max } => EncodeError::TooLong {
                tokens,
                max: max + 1,
            },
            // These two may quote the text: only the outer message, which does not, is passed on.
            PromptError::Template(_) | PromptError::Tokenize(_) => {
                EncodeError::Refused(error.to_string())
            }
            error => EncodeError::Refused(Chain(&error).to_string()),
        })
    }

    fn generate(
        &self,
        job: &GenerateJob,
        on_token: &mut OnToken<'_>,
    ) -> Result<Answer, AnswerError> {
        let job = owm_model::GenerateJob {
            prompt: job.prompt.clone(),
            forced_prefix: job.forced_prefix.clone(),
            max_tokens: job.max_tokens,
            sampling: Sampling {
                temperature: job.temperature,
                top_p: job.top_p,
                top_k: job.top_k,
                seed: job.seed,
            },
            stop: job.stop.clone(),
        };
        let mut pass_on = |event: TokenEvent<'_>| -> ControlFlow<()> {
            on_token(Token {
                index: event.index,
                token: event.token,
                text: event.text,
            })
        };
        let made = self
            .0
            .generate(&job, &mut pass_on)
            .map_err(|error| answer_error(&error, !job.forced_prefix.is_empty()))?;
        Ok(Answer {
            tokens: made.tokens,
            text: made.text,
            flush: made.flush,
            finish: match made.finish {
                FinishReason::Stop => Some(Finish::Stop),
                FinishReason::Length => Some(Finish::Length),
                FinishReason::Cancelled => None,
            },
            prompt_tokens: made.prompt_tokens,
        })
    }

    fn measuring_bytes(&self, window: u32) -> u64 {
        // A graphics card has memory of its own.
        if self.0.description().backend.starts_with("burn-flex") {
            self.0.config().measuring_bytes(window as usize)
        } else {
            0
        }
    }

    fn measure(
        &self,
        job: &MeasureJob,
        on_measured: &mut OnMeasured<'_>,
    ) -> Result<Option<Measurement>, AnswerError> {
        // What is wrong with a text may quote it.
        let refused = |error: PromptError| AnswerError::Failed(error.to_string());
        let (config, tokenizer) = (self.0.config(), self.0.tokenizer());
        let row = tokens_within(config, tokenizer, &job.documents, job.tokens_max);
        let row = row.map_err(refused)?;
        let (tokens, bytes) = (row.tokens, row.bytes);
        let of = tokens.len().saturating_sub(1) as u64;
        let mut go_on = |done: usize, loss: f64| {
            let done = done as u64;
            on_measured(MeasuredSoFar { done, of, loss })
        };
        let window = job.window as usize;
        let found = evaluate_tokens(&self.0, &tokens, bytes, window, &mut go_on);
        let found = found.map_err(|error| AnswerError::Failed(error.to_string()))?;
        Ok(found.map(|found| Measurement {
            documents: u32::try_from(row.documents).unwrap_or(u32::MAX),
            bytes,
            tokens: found.tokens,
            tokens_sha256: tokens_sha256(&tokens),
            loss: found.loss,
            bits_per_byte: found.bits_per_byte,
        }))
    }
}

/// Whose fault it is that there is no answer. A forced prefix comes from a predecessor: what is wrong
/// with it, no user has asked for.
fn answer_error(error: &GenerateError, has_prefix: bool) -> AnswerError {
    let text = Chain(error).to_string();
    match error {
        GenerateError::NotFinite { .. } | GenerateError::Device(_) => AnswerError::Failed(text),
        GenerateError::EndInPrefix { .. }
        | GenerateError::UnknownToken { .. }
        | GenerateError::PrefixTooLong { .. }
            if has_prefix =>
        {
            AnswerError::Failed(text)
        }
        _ => AnswerError::Input(text),
    }
}

/// How many threads the CPU engine uses; 0: one per core. Once per process, before anything is loaded.
pub fn set_threads(threads: u32) -> Result<(), rayon::ThreadPoolBuildError> {
    if threads == 0 {
        return Ok(());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .build_global()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_cannot_be_continued_is_not_the_users_fault() {
        let is_input = |error: &GenerateError, prefix| {
            matches!(answer_error(error, prefix), AnswerError::Input(_))
        };
        let unknown = GenerateError::UnknownToken {
            token: 9,
            vocabulary: 5,
        };
        for error in [
            GenerateError::EndInPrefix { token: 2 },
            GenerateError::PrefixTooLong { prefix: 2, max: 1 },
        ] {
            assert!(!is_input(&error, true), "{error}");
        }
        assert!(!is_input(&unknown, true));
        assert!(is_input(&unknown, false));
        let too_long = GenerateError::TooLong { tokens: 9, max: 5 };
        assert!(
            is_input(&too_long, true),
            "the question is, whoever answers"
        );
    }
}
