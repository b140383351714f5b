//! One answer, token by token. Called by [`super::Engine::generate`]; the batch uses the same
//! [`Progress`], so that both end for the same reasons at the same tokens.

use std::{ops::ControlFlow, time::Instant};

use super::{FinishReason, GenerateJob, Generation, Loaded, TokenEvent, forward::Sequences};
use crate::{GenerateError, StopStrings, TextStream};

/// Generates one answer.
pub(super) fn run(
    loaded: &Loaded,
    job: &GenerateJob,
    on_token: &mut dyn FnMut(TokenEvent<'_>) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let started = Instant::now();
    let mut progress = Progress::new(loaded, job)?;
    if progress.finish.is_some() {
        return Ok(progress.into_generation(started, started));
    }
    let mut sequences = Sequences::new(loaded, vec![0], job.prompt.len() + progress.tokens_max);
    let mut scores = sequences.prompt(std::slice::from_ref(&job.prompt))?;
    for token in &job.forced_prefix {
        scores = sequences.step(&[*token])?;
    }
    let prompt_done = Instant::now();
    while let Some(event) = progress.accept(&scores[0])? {
        let token = event.token;
        if on_token(event).is_break() && progress.finish.is_none() {
            progress.finish = Some(FinishReason::Cancelled);
        }
        if progress.finish.is_some() {
            break;
        }
        scores = sequences.step(&[token])?;
    }
    Ok(progress.into_generation(started, prompt_done))
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    loaded: &'a Loaded,
    job: &'a GenerateJob,
    stream: TextStream,
    tokens: Vec<u32>,
    /// Most tokens of the answer: `max_tokens`, or fewer where the context ends.
    pub(super) tokens_max: usize,
    pub(super) finish: Option<FinishReason>,
}

impl<'a> Progress<'a> {
    /// Checks a job and takes its forced prefix in; a prefix may already end the answer.
    pub(super) fn new(loaded: &'a Loaded, job: &'a GenerateJob) -> Result<Self, GenerateError> {
        check(loaded, job)?;
        let room = loaded.config.context - job.prompt.len();
        let mut progress = Self {
            loaded,
            job,
            stream: TextStream::new(&loaded.tokenizer, StopStrings::new(&job.stop)?),
            tokens: job.forced_prefix.clone(),
            tokens_max: room.min(job.max_tokens as usize),
            finish: None,
        };
        for token in &job.forced_prefix {
            progress.stream.push(*token);
        }
        if progress.stream.is_stopped() {
            progress.finish = Some(FinishReason::Stop);
        } else if progress.tokens.len() >= progress.tokens_max {
            progress.finish = Some(FinishReason::Length);
        }
        Ok(progress)
    }

    /// Chooses the next token from scores. `None` if that was the end token. Sets `finish` when
    /// no further token is wanted.
    pub(super) fn accept(
        &mut self,
        scores: &[f32],
    ) -> Result<Option<TokenEvent<'_>>, GenerateError> {
        let index = self.tokens.len();
        let token = self
            .job
            .sampling
            .choose(scores, index as u32)
            .ok_or(GenerateError::NotFinite { index })?;
        if self.loaded.config.end_tokens.contains(&token) {
            self.finish = Some(FinishReason::Stop);
            return Ok(None);
        }
        self.tokens.push(token);
        let from = self.stream.emitted().len();
        self.stream.push(token);
        if self.stream.is_stopped() {
            self.finish = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.tokens_max {
            self.finish = Some(FinishReason::Length);
        }
        let text = &self.stream.emitted()[from..];
        Ok(Some(TokenEvent {
            index: index as u32,
            token,
            text,
        }))
    }

    /// The answer as it stands, with its times.
    pub(super) fn into_generation(mut self, started: Instant, prompt_done: Instant) -> Generation {
        let flush = self.stream.finish().to_owned();
        Generation {
            tokens: self.tokens,
            text: self.stream.text().to_owned(),
            flush,
            finish: self.finish.unwrap_or(FinishReason::Cancelled),
            prompt_tokens: self.job.prompt.len() as u32,
            prompt_time: prompt_done - started,
            generate_time: prompt_done.elapsed(),
        }
    }
}

fn check(loaded: &Loaded, job: &GenerateJob) -> Result<(), GenerateError> {
    let config = &loaded.config;
    job.sampling.check()?;
    if job.prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let (prefix, vocabulary) = (job.forced_prefix.len(), config.vocabulary);
    if prefix > job.max_tokens as usize {
        return Err(GenerateError::PrefixTooLong {
            prefix,
            max: job.max_tokens,
        });
    }
    let tokens = job.prompt.len() + prefix;
    let max = if prefix == 0 {
        config.context - 1
    } else {
        config.context
    };
    if tokens > max {
        return Err(GenerateError::TooLong { tokens, max });
    }
    let mut all = job.prompt.iter().chain(&job.forced_prefix);
    if let Some(token) = all.find(|token| **token as usize >= vocabulary) {
        return Err(GenerateError::UnknownToken {
            token: *token,
            vocabulary,
        });
    }
    match job
        .forced_prefix
        .iter()
        .find(|token| config.end_tokens.contains(token))
    {
        Some(token) => Err(GenerateError::EndInPrefix { token: *token }),
        None => Ok(()),
    }
}
