//! Questions of model users: checked, queued as a task, followed until the one answer. Called by the
//! public API; what happens in between is the dispatcher's and the nodes' business.

pub(crate) mod delivered;
pub(crate) mod intake;

use std::time::Duration;

use owm_coordinator_store::{
    StoreError,
    model::ModelVersion,
    request::{Request, RequestState, request_lookup, request_mark_delivered},
    task::NewTask,
};
use owm_proto::{
    RequestId, Sha256, SubModelId, TaskId, TaskType, Tier, VersionId, limits,
    receipt::SignedReceipt, wire::coordinator as wire,
};
use prost::Message as _;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::intake::{Intake, NewQuestion, Taken};
use crate::{app::App, batch::hand_in};

/// What is asked. `Debug` shows no text.
#[derive(Clone)]
pub enum QuestionPrompt {
    /// The model continues this text as it is (`template: none`).
    Raw(String),
    /// Turns of a conversation, put into the model's chat template by the node.
    Chat(Vec<ChatTurn>),
}

impl std::fmt::Debug for QuestionPrompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuestionPrompt")
    }
}

/// One turn of a conversation. `Debug` shows no text.
#[derive(Clone)]
pub struct ChatTurn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl std::fmt::Debug for ChatTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTurn({})", self.role)
    }
}

/// A question with everything that shapes its answer. `Debug` shows no text.
#[derive(Clone)]
pub struct Question {
    /// Who asks; only this key may read the answer.
    pub api_key: Option<Uuid>,
    /// Which sub-model; the manifest's default if absent.
    pub sub_model: Option<SubModelId>,
    /// What.
    pub prompt: QuestionPrompt,
    /// Tokens of the answer, at most [`limits::OUTPUT_TOKENS_MAX`].
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus, 0 < p ≤ 1.
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
    /// Sampling seed; drawn if absent.
    pub seed: Option<u64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Whether chunks are wanted.
    pub stream: bool,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("sub_model", &self.sub_model)
            .field("max_tokens", &self.max_tokens)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// A question that is queued.
#[derive(Debug)]
pub struct Asked {
    /// The capability to read the answer.
    pub request_id: RequestId,
    /// The version that will answer.
    pub model_version: VersionId,
    /// The sub-model that will answer.
    pub sub_model: SubModelId,
    /// The seed that is used.
    pub seed: u64,
    /// Chunks (if wanted), then exactly one end.
    pub events: mpsc::Receiver<AnswerEvent>,
}

/// What happens to a queued question.
#[derive(Clone, Debug)]
pub enum AnswerEvent {
    /// More of the answer, journalled.
    Chunk {
        /// Whole characters; may be empty.
        text: String,
        /// Token ids; may be empty in the last chunk.
        tokens: Vec<u32>,
    },
    /// The answer. Everything in it that was not sent as a chunk has been sent before it.
    Done(Box<Answer>),
    /// There will be none.
    Failed(AnswerFailure),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFailure {
    /// `timeout`, `attempts_exhausted`, `input_refused`, `cancelled`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// An answer as it is stored and given to every reader, byte for byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text.
    pub answer: String,
    /// The text's token ids.
    pub token_ids: Vec<u32>,
    /// Which sub-models answered.
    pub sub_models_used: Vec<SubModelId>,
    /// The version that answered.
    pub model_version: VersionId,
    /// SHA-256 of the weights file that answered (the first, where there are several).
    pub sha256: Sha256,
    /// What has to be said of the model.
    pub model_note: String,
    /// Whether the weights are attested by Bitcoin.
    pub ots_verified: bool,
    /// From question to answer, at the coordinator.
    pub latency_ms: u64,
    /// What it cost the asker.
    pub cost_sats: u64,
    /// The capability to read it again.
    pub request_id: RequestId,
    /// The sampling seed.
    pub seed: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// `stop` or `length`.
    pub finish_reason: String,
    /// Proof of which node answered with which weights.
    pub receipt: SignedReceipt,
}

/// Why a question is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A parameter is out of bounds.
    #[error("{param}: {message}")]
    Invalid {
        /// Which.
        param: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
    /// No version is published.
    #[error(
        "no model is published on this network yet; its operator runs `owm-coordinator model import`"
    )]
    NoModel,
    /// Every node is busy and the queue is full.
    #[error("all nodes are busy and {queued} questions wait already; try again in {} s", retry_after.as_secs())]
    Busy {
        /// How many wait.
        queued: u64,
        /// When to come back.
        retry_after: Duration,
    },
    /// No connected node has the model.
    #[error("no node that has this model is connected right now; try again in {} s", retry_after.as_secs())]
    NoNodes {
        /// When to come back.
        retry_after: Duration,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Queued questions per free or busy slot before new ones are turned away: at a few seconds an answer,
/// the last in line still gets one within the deadline.
const QUEUE_PER_SLOT_MAX: u64 = 8;

const RETRY_BUSY: Duration = Duration::from_secs(5);
const RETRY_NO_NODES: Duration = Duration::from_secs(15);

/// Seeds we draw fit a JSON number that any client reads exactly (RFC 8259 §6).
const SEED_BITS: u32 = 53;

/// Chunks between the hub and one asker: a reader that falls this far behind is cut off and can fetch
/// the whole answer.
pub const EVENTS_PENDING_MAX: usize = 256;

fn invalid(param: &'static str, message: impl Into<String>) -> AskError {
    AskError::Invalid {
        param,
        message: message.into(),
    }
}

impl Question {
    fn check(&self) -> Result<(), AskError> {
        let bytes = match &self.prompt {
            QuestionPrompt::Raw(text) => text.len(),
            QuestionPrompt::Chat(turns) => {
                if turns.is_empty() || turns.len() > limits::CHAT_MESSAGES_MAX {
                    let max = limits::CHAT_MESSAGES_MAX;
                    return Err(invalid(
                        "messages",
                        format!("between 1 and {max} messages are taken"),
                    ));
                }
                if let Some(turn) = turns.iter().find(|t| !is_role(&t.role)) {
                    let role: String = turn.role.chars().take(40).collect();
                    let message = format!("role {role:?} is not one of system, user, assistant");
                    return Err(invalid("messages", message));
                }
                turns.iter().map(|turn| turn.content.len()).sum()
            }
        };
        if bytes == 0 {
            return Err(invalid("query", "the question is empty"));
        }
        if bytes > limits::PROMPT_BYTES_MAX {
            let max = limits::PROMPT_BYTES_MAX;
            return Err(invalid(
                "query",
                format!("{bytes} bytes, at most {max} are taken"),
            ));
        }
        if !(1..=limits::OUTPUT_TOKENS_MAX).contains(&self.max_tokens) {
            let max = limits::OUTPUT_TOKENS_MAX;
            return Err(invalid(
                "max_tokens",
                format!("must be between 1 and {max}"),
            ));
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return Err(invalid("temperature", "must be between 0 and 2"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(invalid("top_p", "must be above 0 and at most 1"));
        }
        if self.stop.len() > limits::STOP_STRINGS_MAX {
            let max = limits::STOP_STRINGS_MAX;
            return Err(invalid(
                "stop",
                format!("at most {max} stop strings are taken"),
            ));
        }
        if self
            .stop
            .iter()
            .any(|s| s.is_empty() || s.len() > limits::STOP_STRING_BYTES_MAX)
        {
            let max = limits::STOP_STRING_BYTES_MAX;
            return Err(invalid(
                "stop",
                format!("a stop string has 1 to {max} bytes"),
            ));
        }
        Ok(())
    }

    fn payload(&self, seed: u64) -> Vec<u8> {
        let (prompt, messages) = match &self.prompt {
            QuestionPrompt::Raw(text) => (text.clone(), vec![]),
            QuestionPrompt::Chat(turns) => {
                let message = |t: &ChatTurn| wire::ChatMessage {
                    role: t.role.clone(),
                    content: t.content.clone(),
                };
                (String::new(), turns.iter().map(message).collect())
            }
        };
        let inference = wire::InferencePayload {
            prompt,
            messages,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed,
            stop: self.stop.clone(),
            stream: self.stream,
        };
        let task = Some(wire::task_payload::Task::Inference(inference));
        wire::TaskPayload { task }.encode_to_vec()
    }
}

fn choose_sub_model(question: &Question, model: &ModelVersion) -> Result<SubModelId, AskError> {
    let manifest = &model.manifest;
    let wanted = question
        .sub_model
        .as_ref()
        .unwrap_or(&manifest.default_sub_model);
    if manifest.sub_models.contains_key(wanted) {
        return Ok(wanted.clone());
    }
    let has: Vec<&str> = manifest.sub_models.keys().map(SubModelId::as_str).collect();
    let message = format!(
        "{} has no {wanted}; it has {}",
        manifest.version,
        has.join(", ")
    );
    Err(invalid("sub_model", message))
}

/// A question on its way into the queue; dropped half-way, it is forgotten and cancelled.
struct Unasked<'a> {
    app: &'a App,
    task: Option<TaskId>,
}

impl Drop for Unasked<'_> {
    fn drop(&mut self) {
        let Some(task) = self.task else { return };
        self.app.answers.forget(task);
        let app = self.app.clone();
        drop(tokio::spawn(async move {
            if let Err(error) = app.task_cancel(task, "the asker has gone").await {
                tracing::warn!(%error, task.id = %task, "a question nobody waits for stays queued");
            }
        }));
    }
}

fn is_role(role: &str) -> bool {
    matches!(role, "system" | "user" | "assistant")
}

impl App {
    /// Queues a question and follows it.
    pub async fn ask(&self, question: Question) -> Result<Asked, AskError> {
        let asked = self.queue(question).await;
        match &asked {
            Ok(_) => drop(self.metrics.questions.inc()),
            Err(error) => self.metrics.refused(error),
        }
        asked
    }

    async fn queue(&self, question: Question) -> Result<Asked, AskError> {
        question.check()?;
        let model = self.current_model().await?.ok_or(AskError::NoModel)?;
        let sub_model = choose_sub_model(&question, &model)?;
        let weights = model.manifest.weights_sha256(&sub_model);
        let slots = self.sessions.slots_holding(&weights, self.now());
        if slots == 0 {
            return Err(AskError::NoNodes {
                retry_after: RETRY_NO_NODES,
            });
        }
        let mut rng = self.request_rng();
        let (request_id, task_id) = (
            RequestId::from_random(rng.random()),
            TaskId::from_random(rng.random()),
        );
        let seed = question
            .seed
            .unwrap_or_else(|| rng.random::<u64>() >> (64 - SEED_BITS));
        let now = self.now();
        let new = NewTask {
            task_id,
            task_type: TaskType::Inference,
            sub_model: sub_model.clone(),
            model_version: model.manifest.version.clone(),
            model_sha256: weights,
            payload: question.payload(seed),
            streaming: question.stream,
            max_tokens: question.max_tokens,
            seed,
            min_tier: Tier::T1,
            lease_ms: self.config.scheduler.lease.get().as_millis() as u32,
            deadline: now.after(self.config.scheduler.deadline.get()),
            request: Some((request_id, question.api_key)),
        };
        let (sender, events) = mpsc::channel(EVENTS_PENDING_MAX);
        // Followed before it is queued, so that no event can be missed.
        self.answers
            .follow(task_id, request_id, sender, question.stream);
        // If the asker hangs up here, nobody would ever end what is followed and queued.
        let mut guard = Unasked {
            app: self,
            task: Some(task_id),
        };
        let question = NewQuestion {
            task: new,
            at: now,
            slots,
        };
        let taken = hand_in::<Intake>(self, question).await?;
        guard.task = None;
        let refused = match taken {
            Taken::Queued(_) => None,
            Taken::Busy(queued) => Some(AskError::Busy {
                queued,
                retry_after: RETRY_BUSY,
            }),
            Taken::Failed(error) => Some(error.into()),
        };
        if let Some(refused) = refused {
            self.answers.forget(task_id);
            return Err(refused);
        }
        tracing::info!(request = request_id.log_id(), task.id = %task_id, "question queued");
        Ok(Asked {
            request_id,
            model_version: model.manifest.version.clone(),
            sub_model,
            seed,
            events,
        })
    }

    /// Nobody reads the answer any more: the task is cancelled and its lease taken back.
    pub async fn abandon(&self, id: RequestId) -> Result<(), StoreError> {
        let mut tx = self.store.single("ask.abandon").await?;
        let Some(request) = request_lookup(&mut tx, &self.vault, &id).await? else {
            return Ok(());
        };
        drop(tx);
        self.task_cancel(request.task_id, "the asker has gone")
            .await
    }

    /// What is on record about a request, for the key that asked (`None`: nobody's).
    pub async fn request_show(
        &self,
        id: RequestId,
        api_key: Option<Uuid>,
    ) -> Result<Option<Request>, StoreError> {
        let mut tx = self.store.single("request.show").await?;
        let found = request_lookup(&mut tx, &self.vault, &id).await?;
        let Some(request) = found.filter(|r| r.api_key.is_none() || r.api_key == api_key) else {
            return Ok(None);
        };
        if matches!(
            request.state,
            RequestState::Answered { .. } | RequestState::Failed { .. }
        ) {
            request_mark_delivered(&mut tx, &id, self.now()).await?;
        }
        tx.commit().await?;
        Ok(Some(request))
    }
}

#[cfg(test)]
mod tests;
