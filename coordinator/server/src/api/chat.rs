//! `POST /v1/chat/completions`: the question endpoint that OpenAI's clients know, streamed or not.
//! What a request may hold is in [`request`].

mod request;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use owm_proto::{RequestId, UnixMillis};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(super) use self::request::ChatRequest;
use super::{
    Api,
    body::JsonBody,
    caller::Asker,
    models,
    problem::{Problem, ProblemBody},
    receipts::SignedReceiptBody,
    sse::{self, Framing},
    waiting::Waiting,
};
use crate::ask::Answer;

/// An answer in OpenAI's shape.
#[derive(Serialize, ToSchema)]
pub(super) struct ChatCompletion {
    /// For logs; not the capability.
    id: String,
    /// `chat.completion`.
    object: &'static str,
    /// In seconds since 1970.
    created: u64,
    /// The sub-model that answered.
    model: String,
    /// The version that answered.
    system_fingerprint: String,
    /// Exactly one.
    choices: Vec<Choice>,
    /// Tokens.
    usage: Usage,
    /// What OpenAI's shape has no place for.
    owm: Extension,
}

/// The one answer.
#[derive(Serialize, ToSchema)]
pub(super) struct Choice {
    /// 0.
    index: u32,
    /// What the model says.
    message: Message,
    /// Always null.
    logprobs: Option<String>,
    /// `stop` or `length`.
    finish_reason: String,
}

/// What the model says.
#[derive(Serialize, ToSchema)]
pub(super) struct Message {
    /// `assistant`.
    role: &'static str,
    /// The text.
    content: String,
    /// Always null.
    refusal: Option<String>,
}

/// Tokens of a question and its answer.
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
#[derive(Clone, Copy, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

/// What OpenAI's shape has no place for.
#[derive(Serialize, ToSchema)]
pub(super) struct Extension {
    /// The capability to read the answer again (`GET /v1/requests/{id}`): keep it to yourself.
    request_id: String,
    /// The version that answered.
    model_version: String,
    /// SHA-256 of the weights file that answered; `sha256sum` of the file agrees.
    sha256: String,
    /// What has to be said of the model.
    model_note: String,
    /// Whether the weights are attested by Bitcoin.
    ots_verified: bool,
    /// The sampling seed.
    seed: u64,
    /// What it cost.
    cost_sats: u64,
    /// Which node answered with which weights, signed.
    receipt: SignedReceiptBody,
}

/// What is the same in an answer and in each of its chunks. The id is one that may be logged.
struct Head {
    id: String,
    created: u64,
    model: String,
    version: String,
}

impl Head {
    fn new(waiting: &Waiting, now: UnixMillis) -> Self {
        Self {
            id: completion_id(waiting.request_id),
            created: now.0 / 1_000,
            model: waiting.sub_model.to_string(),
            version: waiting.model_version.to_string(),
        }
    }
}

/// OpenAI's clients log this id, so it is not the capability, and does not reveal it.
fn completion_id(id: RequestId) -> String {
    let mut text = format!("chatcmpl-{}", id.key());
    text.truncate("chatcmpl-".len() + 24);
    text
}

impl Usage {
    fn of(answer: &Answer) -> Self {
        Self {
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.output_tokens,
            total_tokens: answer.prompt_tokens.saturating_add(answer.output_tokens),
        }
    }
}

impl From<Answer> for Extension {
    fn from(answer: Answer) -> Self {
        Self {
            request_id: answer.request_id.reveal(),
            model_version: answer.model_version.to_string(),
            sha256: answer.sha256.to_string(),
            model_note: answer.model_note,
            ots_verified: answer.ots_verified,
            seed: answer.seed,
            cost_sats: answer.cost_sats,
            receipt: answer.receipt.into(),
        }
    }
}

fn completion(head: Head, mut answer: Answer) -> ChatCompletion {
    let message = Message {
        role: "assistant",
        content: std::mem::take(&mut answer.answer),
        refusal: None,
    };
    let finish_reason = std::mem::take(&mut answer.finish_reason);
    ChatCompletion {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: head.version,
        choices: vec![Choice {
            index: 0,
            message,
            logprobs: None,
            finish_reason,
        }],
        usage: Usage::of(&answer),
        owm: answer.into(),
    }
}

/// Ask a question, as OpenAI's clients do.
///
/// `model` is a sub-model, the current version, or `owm`. Parameters that would change the answer and
/// that this network does not have (tools, log probabilities, JSON mode, penalties, several choices)
/// are refused with the parameter's name; those without effect here are ignored.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "questions", security(("api_key" = [])),
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer", content(
            (ChatCompletion = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_chat(
    State(api): State<Api>,
    asker: Asker,
    body: Result<JsonBody<ChatRequest>, Problem>,
) -> Response {
    let result = answer(api, &asker, body).await;
    asker.respond(result)
}

async fn answer(
    api: Api,
    asker: &Asker,
    body: Result<JsonBody<ChatRequest>, Problem>,
) -> Result<Response, Problem> {
    let JsonBody(request) = body?;
    request.check_supported()?;
    let sub_model = models::resolve(&api.app, request.model()).await?;
    let (stream, include_usage) = (request.stream(), request.include_usage());
    let limit_name = request.limit_name();
    let question = request.question(asker.caller.api_key, sub_model)?;
    let now = api.app.now();
    let waiting = Waiting::ask(api.app, question).await.map_err(|problem| {
        problem
            .rename("query", "messages")
            .rename("max_tokens", limit_name)
    })?;
    let head = Head::new(&waiting, now);
    if stream {
        return Ok(sse::respond(
            waiting,
            ChatFraming {
                head,
                include_usage,
            },
        ));
    }
    let answer = waiting.finish().await?;
    Ok(Json(completion(head, *answer)).into_response())
}

/// Events of this endpoint: OpenAI's chunks.
struct ChatFraming {
    head: Head,
    include_usage: bool,
}

impl ChatFraming {
    fn event(&self, choices: &Value) -> Value {
        let mut event = json!({
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": self.head.version,
            "choices": choices,
        });
        if self.include_usage {
            // As OpenAI has it: null in every chunk but the last.
            event["usage"] = Value::Null;
        }
        event
    }

    fn delta(&self, delta: &Value, finish_reason: Option<&str>) -> Value {
        self.event(&json!([{
            "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason,
        }]))
    }
}

impl Framing for ChatFraming {
    fn start(&mut self, _waiting: &Waiting) -> Vec<Value> {
        vec![self.delta(&json!({ "role": "assistant", "content": "" }), None)]
    }

    fn chunk(&mut self, text: String, _tokens: Vec<u32>) -> Option<Value> {
        (!text.is_empty()).then(|| self.delta(&json!({ "content": text }), None))
    }

    fn done(&mut self, answer: Answer) -> Vec<Value> {
        let usage = Usage::of(&answer);
        let mut last = self.delta(&json!({}), Some(&answer.finish_reason));
        last["owm"] = json!(Extension::from(answer));
        let mut events = vec![last];
        if self.include_usage {
            let mut event = self.event(&json!([]));
            event["usage"] = json!(usage);
            events.push(event);
        }
        events
    }
}
