//! `POST /v1/query`: a question in this network's own words, answered at once or streamed.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use owm_proto::SubModelId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Api,
    body::JsonBody,
    caller::Asker,
    problem::{Problem, ProblemBody},
    receipts::SignedReceiptBody,
    sse::{self, Framing},
    waiting::Waiting,
};
use crate::ask::{Answer, ChatTurn, Question, QuestionPrompt};

/// Tokens of an answer that names no limit.
pub(super) const MAX_TOKENS_DEFAULT: u32 = 256;

/// The temperature of a question that names none.
const TEMPERATURE_DEFAULT: f32 = 0.7;

/// How the question becomes the model's input.
#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Template {
    /// As a user's turn in the model's chat template.
    #[default]
    Chat,
    /// As it is: the model continues the text.
    None,
}

/// Texts that end an answer.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum Stop {
    /// One.
    One(String),
    /// Up to four.
    Many(Vec<String>),
}

impl Stop {
    /// As a list.
    pub(super) fn list(stop: Option<Self>) -> Vec<String> {
        match stop {
            None => vec![],
            Some(Self::One(text)) => vec![text],
            Some(Self::Many(texts)) => texts,
        }
    }
}

/// A question.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryRequest {
    /// What is asked; at most 262 144 bytes.
    #[schema(example = "What is the capital of France?")]
    query: String,
    /// Which sub-model answers; the version's default if absent.
    #[schema(example = "owm-geo")]
    sub_model: Option<String>,
    /// Tokens of the answer, at most 4 096.
    #[schema(default = 256, minimum = 1, maximum = 4096)]
    max_tokens: Option<u32>,
    /// 0 always takes the likeliest token.
    #[schema(default = 0.7, minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Sample among the likeliest tokens that together have this probability.
    #[schema(default = 1.0, maximum = 1)]
    top_p: Option<f32>,
    /// Sample among this many likeliest tokens; 0 for all.
    #[schema(default = 0)]
    top_k: Option<u32>,
    /// Makes the answer repeatable; drawn if absent.
    seed: Option<u64>,
    /// Texts that end the answer, at most four of 256 bytes.
    stop: Option<Stop>,
    /// `chat` or `none`.
    #[serde(default)]
    #[schema(default = "chat")]
    template: Template,
    /// Whether the answer's token ids are wanted.
    #[serde(default)]
    return_token_ids: bool,
    /// Whether the answer is wanted as server-sent events, while it is written.
    #[serde(default)]
    stream: bool,
}

/// An answer.
#[derive(Serialize, ToSchema)]
pub(super) struct QueryAnswer {
    /// The text.
    answer: String,
    /// The text's token ids, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    /// Which sub-models answered.
    #[schema(value_type = Vec<String>)]
    sub_models_used: Vec<SubModelId>,
    /// The version that answered.
    #[schema(example = "owm-v0.1.0")]
    model_version: String,
    /// SHA-256 of the weights file that answered; `sha256sum` of the file agrees.
    sha256: String,
    /// What has to be said of the model.
    model_note: String,
    /// Whether the weights are attested by Bitcoin.
    ots_verified: bool,
    /// From question to answer, at the coordinator.
    latency_ms: u64,
    /// What it cost.
    cost_sats: u64,
    /// The capability to read the answer again: keep it to yourself.
    request_id: String,
    /// The sampling seed.
    seed: u64,
    /// Tokens of the prompt.
    prompt_tokens: u32,
    /// Tokens of the answer.
    output_tokens: u32,
    /// `stop` or `length`.
    finish_reason: String,
    /// Which node answered with which weights, signed.
    receipt: SignedReceiptBody,
}

impl QueryAnswer {
    fn new(answer: Answer, token_ids: bool) -> Self {
        Self {
            answer: answer.answer,
            token_ids: token_ids.then_some(answer.token_ids),
            sub_models_used: answer.sub_models_used,
            model_version: answer.model_version.to_string(),
            sha256: answer.sha256.to_string(),
            model_note: answer.model_note,
            ots_verified: answer.ots_verified,
            latency_ms: answer.latency_ms,
            cost_sats: answer.cost_sats,
            request_id: answer.request_id.reveal(),
            seed: answer.seed,
            prompt_tokens: answer.prompt_tokens,
            output_tokens: answer.output_tokens,
            finish_reason: answer.finish_reason,
            receipt: answer.receipt.into(),
        }
    }
}

impl QueryRequest {
    fn question(self, asker: &Asker) -> Result<Question, Problem> {
        let sub_model = self.sub_model.map(|name| name.parse()).transpose();
        let sub_model: Option<SubModelId> =
            sub_model.map_err(|e| Problem::parameter("sub_model", format!("sub_model: {e}")))?;
        let prompt = match self.template {
            Template::None => QuestionPrompt::Raw(self.query),
            Template::Chat => QuestionPrompt::Chat(vec![ChatTurn {
                role: "user".to_owned(),
                content: self.query,
            }]),
        };
        Ok(Question {
            api_key: asker.caller.api_key,
            sub_model,
            prompt,
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
            temperature: self.temperature.unwrap_or(TEMPERATURE_DEFAULT),
            top_p: self.top_p.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            seed: self.seed,
            stop: Stop::list(self.stop),
            stream: self.stream,
        })
    }
}

/// Ask a question.
///
/// With `stream: true` the answer comes as server-sent events, each one JSON object:
/// `{"type": "start", request_id, model_version, sub_model, seed}`, then
/// `{"type": "token", text, token_ids?}` as often as needed, then `{"type": "done", …}` with all
/// fields of an answer that is not streamed, then `data: [DONE]`. A stream that breaks off ends with
/// `{"error": {…}}`. Who hangs up before the end cancels the question.
#[utoipa::path(
    post, path = "/v1/query", tag = "questions", security(("api_key" = [])),
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The answer", content(
            (QueryAnswer = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_query(
    State(api): State<Api>,
    asker: Asker,
    body: Result<JsonBody<QueryRequest>, Problem>,
) -> Response {
    let result = answer(api, &asker, body).await;
    asker.respond(result)
}

async fn answer(
    api: Api,
    asker: &Asker,
    body: Result<JsonBody<QueryRequest>, Problem>,
) -> Result<Response, Problem> {
    let JsonBody(request) = body?;
    let (token_ids, stream) = (request.return_token_ids, request.stream);
    let waiting = Waiting::ask(api.app, request.question(asker)?).await?;
    if stream {
        return Ok(sse::respond(waiting, QueryFraming { token_ids }));
    }
    let answer = waiting.finish().await?;
    Ok(Json(QueryAnswer::new(*answer, token_ids)).into_response())
}

/// Events of this endpoint.
struct QueryFraming {
    token_ids: bool,
}

impl Framing for QueryFraming {
    fn start(&mut self, waiting: &Waiting) -> Vec<Value> {
        vec![json!({
            "type": "start",
            "request_id": waiting.request_id,
            "model_version": waiting.model_version,
            "sub_model": waiting.sub_model,
            "seed": waiting.seed,
        })]
    }

    fn chunk(&mut self, text: String, tokens: Vec<u32>) -> Option<Value> {
        if self.token_ids {
            return Some(json!({ "type": "token", "text": text, "token_ids": tokens }));
        }
        (!text.is_empty()).then(|| json!({ "type": "token", "text": text }))
    }

    fn done(&mut self, answer: Answer) -> Vec<Value> {
        let answer = QueryAnswer::new(answer, self.token_ids);
        let mut event = serde_json::to_value(answer).expect("an answer is plain JSON");
        event["type"] = "done".into();
        vec![event]
    }
}
