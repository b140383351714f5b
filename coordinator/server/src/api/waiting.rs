//! Waiting for one answer: events as they come, the stored answer where this reader was cut off, and
//! an asker who went away, whose lease is then taken back (spec §9). Used by the two question
//! endpoints.

use std::time::Duration;

use axum::response::Response;
use owm_coordinator_store::{StoreError, request::RequestState};
use owm_proto::{RequestId, SubModelId, VersionId};
use tokio::{sync::mpsc, time::Instant};
use uuid::Uuid;

use super::problem::{Kind, Problem};
use crate::{
    app::App,
    ask::{Answer, AnswerEvent, AnswerFailure, Asked, Question, delivered::Deliveries},
    batch::hand_in,
};

/// How often a reader who was cut off looks for the stored answer.
const STORED_POLL: Duration = Duration::from_millis(250);

/// The dispatcher ends every question at its deadline; this much later even a stuck one is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer that is there waits for its delivery to be put on record.
const MARKED_WITHIN: Duration = Duration::from_secs(2);

/// A question that is being answered. Dropped before the end, the question is cancelled.
pub(super) struct Waiting {
    app: App,
    api_key: Option<Uuid>,
    /// The capability to read the answer.
    pub(super) request_id: RequestId,
    /// The version that answers.
    pub(super) model_version: VersionId,
    /// The sub-model that answers.
    pub(super) sub_model: SubModelId,
    /// The sampling seed.
    pub(super) seed: u64,
    events: mpsc::Receiver<AnswerEvent>,
    sent_tokens: usize,
    sent_bytes: usize,
    /// The end, held back while a last chunk goes first.
    ending: Option<Box<Answer>>,
    ended: bool,
    give_up_at: Instant,
}

/// One step towards the end.
pub(super) enum Step {
    /// More of the answer.
    Chunk {
        /// Whole characters; may be empty.
        text: String,
        /// Token ids; may be empty.
        tokens: Vec<u32>,
    },
    /// All of it; nothing comes after this.
    Done(Box<Answer>),
    /// None; nothing comes after this.
    Failed(Problem),
}

impl Waiting {
    /// Asks.
    pub(super) async fn ask(app: App, question: Question) -> Result<Self, Problem> {
        let api_key = question.api_key;
        let Asked {
            request_id,
            model_version,
            sub_model,
            seed,
            events,
        } = app.ask(question).await?;
        let give_up_at = Instant::now() + app.config.scheduler.deadline.get() + PATIENCE;
        Ok(Self {
            app,
            api_key,
            request_id,
            model_version,
            sub_model,
            seed,
            events,
            sent_tokens: 0,
            sent_bytes: 0,
            ending: None,
            ended: false,
            give_up_at,
        })
    }

    /// What comes next. Not to be called after an end.
    pub(super) async fn next(&mut self) -> Step {
        if let Some(answer) = self.ending.take() {
            return self.done(answer).await;
        }
        match tokio::time::timeout_at(self.give_up_at, self.events.recv()).await {
            Ok(Some(AnswerEvent::Chunk { text, tokens })) => self.chunk(text, tokens),
            Ok(Some(AnswerEvent::Done(answer))) => self.done(answer).await,
            Ok(Some(AnswerEvent::Failed(failure))) => self.failed(&failure),
            Ok(None) => self.stored().await,
            Err(_) => self.failed(&timeout()),
        }
    }

    /// The whole answer.
    pub(super) async fn finish(mut self) -> Result<Box<Answer>, Problem> {
        loop {
            match self.next().await {
                Step::Chunk { .. } => {}
                Step::Done(answer) => return Ok(answer),
                Step::Failed(problem) => return Err(problem),
            }
        }
    }

    fn chunk(&mut self, text: String, tokens: Vec<u32>) -> Step {
        self.sent_tokens += tokens.len();
        self.sent_bytes += text.len();
        Step::Chunk { text, tokens }
    }

    async fn done(&mut self, answer: Box<Answer>) -> Step {
        self.ended = true;
        if let Err(error) = self.mark_delivered().await {
            // It is deleted a day later then, not ten minutes.
            tracing::warn!(request = self.request_id.log_id(), %error, "delivery is not on record");
        }
        Step::Done(answer)
    }

    fn failed(&mut self, failure: &AnswerFailure) -> Step {
        self.ended = true;
        Step::Failed(Problem::from(failure).of_request(self.request_id))
    }

    async fn mark_delivered(&self) -> Result<(), StoreError> {
        let marked = hand_in::<Deliveries>(&self.app, self.request_id);
        tokio::time::timeout(MARKED_WITHIN, marked)
            .await
            .unwrap_or_else(|_| Err(StoreError::interrupted()))
    }

    /// This reader was too slow and was cut off: the rest comes from the database.
    async fn stored(&mut self) -> Step {
        while Instant::now() < self.give_up_at {
            match self.app.request_show(self.request_id, self.api_key).await {
                Ok(Some(request)) => match request.state {
                    RequestState::Open => {}
                    RequestState::Answered { answer, .. } => return self.rest(&answer).await,
                    RequestState::Failed { error } => return self.failed(&failure_of(error)),
                    RequestState::Deleted => return self.failed(&gone()),
                },
                Ok(None) => return self.failed(&gone()),
                Err(error) => tracing::debug!(%error, "a reader who was cut off looks again"),
            }
            tokio::time::sleep(STORED_POLL).await;
        }
        self.failed(&timeout())
    }

    async fn rest(&mut self, stored: &[u8]) -> Step {
        let Ok(answer) = serde_json::from_slice::<Answer>(stored) else {
            tracing::error!(
                request = self.request_id.log_id(),
                "a stored answer does not parse"
            );
            self.ended = true;
            return Step::Failed(Problem::internal().of_request(self.request_id));
        };
        let text = answer
            .answer
            .get(self.sent_bytes..)
            .unwrap_or_default()
            .to_owned();
        let tokens = answer
            .token_ids
            .get(self.sent_tokens..)
            .unwrap_or_default()
            .to_vec();
        let answer = Box::new(answer);
        if text.is_empty() && tokens.is_empty() {
            return self.done(answer).await;
        }
        self.ending = Some(answer);
        self.chunk(text, tokens)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The asker hung up. No runtime means that the whole process stops: the task's deadline ends it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (app, id) = (self.app.clone(), self.request_id);
        runtime.spawn(async move {
            tracing::info!(request = id.log_id(), "the asker has gone");
            if let Err(error) = app.abandon(id).await {
                tracing::warn!(request = id.log_id(), %error, "an abandoned question runs on");
            }
        });
    }
}

/// A failure as it is stored: `{code, message}`.
pub(super) fn failure_of(stored: serde_json::Value) -> AnswerFailure {
    serde_json::from_value(stored).unwrap_or_else(|_| AnswerFailure {
        code: "unreadable".into(),
        message: "the stored reason can't be read".into(),
    })
}

fn failure(code: &str, message: &str) -> AnswerFailure {
    AnswerFailure {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

fn timeout() -> AnswerFailure {
    failure(
        "timeout",
        "there was no answer within the deadline; ask again",
    )
}

fn gone() -> AnswerFailure {
    failure(
        "gone",
        "the answer has been deleted: answers are kept for 10 minutes after delivery",
    )
}

/// What a reader of a request or receipt gets while or unless there is an answer.
pub(super) fn without_answer(state: RequestState) -> Result<Response, Problem> {
    use axum::{Json, response::IntoResponse as _};
    match state {
        RequestState::Failed { error } => Err(Problem::from(&failure_of(error))),
        RequestState::Deleted => Err(Problem::new(Kind::Gone, gone().message)),
        RequestState::Open | RequestState::Answered { .. } => {
            let body = Json(serde_json::json!({ "status": "open" }));
            let soon = [(
                http::header::RETRY_AFTER,
                http::HeaderValue::from_static("1"),
            )];
            Ok((http::StatusCode::ACCEPTED, soon, body).into_response())
        }
    }
}
