//! Questions of this machine's own user, answered by the model that lies here: [`answer`] computes, [`Asking`] does
//! it inside the running daemon, for `control`. `owm-node ask` uses one or the other. No coordinator is involved,
//! nothing is booked, nothing leaves the machine.
//! Must stay true: one such question at a time; one whose asker has gone is broken off; no text is logged.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use owm_proto::{Sha256, SubModelId, VersionId, limits::OUTPUT_TOKENS_MAX, statement::Finish};
use owm_service::clock::SharedClock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    engine::{AnswerError, EncodeError, GenerateJob, Question},
    models::LoadedModel,
};

/// An asker that has not come back for so long has gone.
const ASKER_GONE: Duration = Duration::from_secs(10);

/// A question of the machine's own user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalQuestion {
    /// The text.
    pub text: String,
    /// Who is asked; `None`: the version's default.
    pub sub_model: Option<SubModelId>,
    /// Tokens of the answer at most.
    pub max_tokens: u32,
    /// Thousandths; 0: always the likeliest token.
    pub temperature_milli: u32,
    /// For the chance in it.
    pub seed: u64,
    /// Continue the text instead of answering it.
    pub raw: bool,
}

impl std::fmt::Debug for LocalQuestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalQuestion(…)")
    }
}

/// Who answered, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The version.
    pub version: VersionId,
    /// Its part that was asked.
    pub sub_model: SubModelId,
    /// SHA-256s of its weights, in manifest order.
    pub model_sha256: Vec<Sha256>,
    /// What has to be said wherever the model is shown.
    pub note: String,
    /// Tokens of the question.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub tokens: u32,
    /// Why it ended; `None`: it was broken off.
    pub finish: Option<Finish>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No such sub-model is loaded.
    #[error("{wanted} is not loaded; {version} has here: {}", there.join(", "))]
    NoSuchSubModel {
        /// What was asked for.
        wanted: SubModelId,
        /// Of which version.
        version: VersionId,
        /// What there is.
        there: Vec<String>,
    },
    /// Nothing is loaded.
    #[error("no model is loaded yet; see `owm-node status` for how far it is")]
    NoModel,
    /// One question at a time.
    #[error("another local question is being answered; wait for it, or end its `owm-node ask`")]
    Busy,
    /// Too long, or not what the model takes.
    #[error("the question cannot be asked: {0}")]
    Refused(#[from] EncodeError),
    /// The engine.
    #[error("the model gave no answer: {0}")]
    Failed(#[from] AnswerError),
}

/// Computes an answer; `on_text` hears it as it comes and may break it off. Blocks.
pub fn answer(
    model: &LoadedModel,
    question: &LocalQuestion,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answered, AskError> {
    let id = match &question.sub_model {
        Some(id) => id,
        None if model.sub_models.contains_key(&model.default_sub_model) => &model.default_sub_model,
        None => model.sub_models.keys().next().ok_or(AskError::NoModel)?,
    };
    let Some(asked) = model.sub_models.get(id) else {
        return Err(AskError::NoSuchSubModel {
            wanted: id.clone(),
            version: model.version.clone(),
            there: model.sub_models.keys().map(ToString::to_string).collect(),
        });
    };
    let raw = || asked.engine.encode(&Question::Raw(question.text.clone()));
    let prompt = if question.raw {
        raw()?
    } else {
        let messages = vec![("user".to_owned(), question.text.clone())];
        match asked.engine.encode(&Question::Chat(messages)) {
            // A model without a form for conversations continues the text.
            Err(EncodeError::Refused(_)) => raw()?,
            prompt => prompt?,
        }
    };
    let job = GenerateJob {
        prompt,
        forced_prefix: Vec::new(),
        max_tokens: question.max_tokens.clamp(1, OUTPUT_TOKENS_MAX),
        temperature: question.temperature_milli as f32 / 1_000.0,
        top_p: 1.0,
        top_k: 0,
        seed: question.seed,
        stop: Vec::new(),
    };
    let made = asked
        .engine
        .generate(&job, &mut |token| on_text(token.text))?;
    // The text is out either way.
    let _ = on_text(&made.flush);
    Ok(Answered {
        version: model.version.clone(),
        sub_model: id.clone(),
        model_sha256: asked.weights.clone(),
        note: model.note.clone(),
        prompt_tokens: made.prompt_tokens,
        tokens: u32::try_from(made.tokens.len()).unwrap_or(u32::MAX),
        finish: made.finish,
    })
}

/// What there is of an answer.
#[derive(Clone, Serialize, Deserialize)]
pub struct SoFar {
    /// Text that the asker does not have yet.
    pub text: String,
    /// Who answered, once it has ended.
    pub answered: Option<Answered>,
    /// Why it failed.
    pub error: Option<String>,
}

impl std::fmt::Debug for SoFar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SoFar(…)")
    }
}

/// Answers one question at a time in the background. Cheap to clone.
#[derive(Clone)]
pub struct Asking {
    loaded: watch::Receiver<Option<Arc<LoadedModel>>>,
    clock: SharedClock,
    current: Arc<Mutex<Option<Current>>>,
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asking")
    }
}

struct Current {
    id: u64,
    text: String,
    ended: Option<Result<Answered, String>>,
    /// When its asker was here last.
    seen: Duration,
}

impl Asking {
    /// Answers with whatever is loaded when it is asked.
    pub fn new(loaded: watch::Receiver<Option<Arc<LoadedModel>>>, clock: SharedClock) -> Self {
        Self {
            loaded,
            clock,
            current: Arc::default(),
        }
    }

    /// Begins; the number is what [`Asking::so_far`] wants.
    pub fn begin(&self, question: LocalQuestion) -> Result<u64, AskError> {
        let model = self.loaded.borrow().clone().ok_or(AskError::NoModel)?;
        let now = self.clock.monotonic();
        let mut current = self.lock();
        let is_busy = |c: &Current| c.ended.is_none() && now < c.seen + ASKER_GONE;
        if current.as_ref().is_some_and(is_busy) {
            return Err(AskError::Busy);
        }
        let id = current.as_ref().map_or(1, |c| c.id + 1);
        *current = Some(Current {
            id,
            text: String::new(),
            ended: None,
            seen: now,
        });
        drop(current);
        let own = self.clone();
        tokio::task::spawn_blocking(move || {
            let computed = answer(&model, &question, &mut |text| own.add(id, text));
            own.end(id, computed.map_err(|error| error.to_string()));
        });
        Ok(id)
    }

    /// What has come after the first `from` bytes; `None`: that question is not the current one.
    pub fn so_far(&self, id: u64, from: usize) -> Option<SoFar> {
        let mut current = self.lock();
        let current = current.as_mut().filter(|c| c.id == id)?;
        current.seen = self.clock.monotonic();
        let text = current.text.get(from..)?.to_owned();
        let (answered, error) = match &current.ended {
            None => (None, None),
            Some(Ok(answered)) => (Some(answered.clone()), None),
            Some(Err(error)) => (None, Some(error.clone())),
        };
        Some(SoFar {
            text,
            answered,
            error,
        })
    }

    fn add(&self, id: u64, text: &str) -> ControlFlow<()> {
        let now = self.clock.monotonic();
        match self.lock().as_mut() {
            Some(current) if current.id == id && now < current.seen + ASKER_GONE => {
                current.text.push_str(text);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    }

    fn end(&self, id: u64, ended: Result<Answered, String>) {
        if let Some(current) = self.lock().as_mut().filter(|c| c.id == id) {
            current.ended = Some(ended);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing under this lock can be left half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
