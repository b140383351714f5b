//! What `POST /v1/chat/completions` takes: OpenAI's parameters that mean something here, those that
//! are ignored because they change no answer, and those that are refused because they would.

use owm_proto::SubModelId;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{
        problem::{Kind, Problem},
        query::{MAX_TOKENS_DEFAULT, Stop},
    },
    ask::{ChatTurn, Question, QuestionPrompt},
};

/// As `POST /v1/query` has it: small models babble at OpenAI's 1.0.
const TEMPERATURE_DEFAULT: f32 = 0.7;

/// A question as OpenAI's clients send it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ChatRequest {
    /// A sub-model, the current version, or `owm`.
    #[schema(example = "owm-geo")]
    model: String,
    /// The conversation; at most 256 messages of together 262 144 bytes.
    messages: Vec<Message>,
    /// Tokens of the answer, at most 4 096.
    #[schema(default = 256, minimum = 1, maximum = 4096)]
    max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1, maximum = 4096)]
    max_tokens: Option<u32>,
    /// 0 always takes the likeliest token.
    #[schema(default = 0.7, minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Sample among the likeliest tokens that together have this probability.
    #[schema(default = 1.0, maximum = 1)]
    top_p: Option<f32>,
    /// Sample among this many likeliest tokens; 0 for all. Not one of OpenAI's.
    #[schema(default = 0)]
    top_k: Option<u32>,
    /// Makes the answer repeatable; drawn if absent.
    seed: Option<i64>,
    /// Texts that end the answer, at most four of 256 bytes.
    stop: Option<Stop>,
    /// Only 1.
    #[schema(default = 1)]
    n: Option<u32>,
    /// Whether the answer is wanted as server-sent events, while it is written.
    stream: Option<bool>,
    /// What a stream ends with.
    stream_options: Option<StreamOptions>,

    // Ignored: no answer would be another one.
    #[schema(ignore)]
    #[serde(rename = "user")]
    _user: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "store")]
    _store: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "service_tier")]
    _service_tier: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<Value>,
    #[schema(ignore)]
    #[serde(rename = "prediction")]
    _prediction: Option<Value>,

    // Refused, unless they say what is the case anyway.
    #[schema(ignore)]
    tools: Option<Value>,
    #[schema(ignore)]
    tool_choice: Option<Value>,
    #[schema(ignore)]
    functions: Option<Value>,
    #[schema(ignore)]
    function_call: Option<Value>,
    #[schema(ignore)]
    logprobs: Option<Value>,
    #[schema(ignore)]
    top_logprobs: Option<Value>,
    #[schema(ignore)]
    logit_bias: Option<Value>,
    #[schema(ignore)]
    presence_penalty: Option<Value>,
    #[schema(ignore)]
    frequency_penalty: Option<Value>,
    #[schema(ignore)]
    response_format: Option<Value>,
    #[schema(ignore)]
    modalities: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
    #[schema(ignore)]
    reasoning_effort: Option<Value>,
    #[schema(ignore)]
    verbosity: Option<Value>,
    #[schema(ignore)]
    web_search_options: Option<Value>,
}

/// What a stream ends with.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::api) struct StreamOptions {
    /// Whether a last chunk with the number of tokens is wanted.
    #[serde(default)]
    include_usage: bool,
}

/// One turn of the conversation.
#[derive(Deserialize, ToSchema)]
#[schema(as = ChatMessage)]
pub(in crate::api) struct Message {
    /// `system` (or `developer`), `user` or `assistant`.
    #[schema(example = "user")]
    role: String,
    /// The text.
    content: Option<Content>,
    #[schema(ignore)]
    tool_calls: Option<Value>,
    #[schema(ignore)]
    function_call: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
}

/// What was said: a text, or parts that are all texts.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of text parts")]
enum Content {
    /// All of it.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of what was said.
#[derive(Deserialize, ToSchema)]
struct Part {
    /// Only `text`.
    r#type: String,
    /// The text.
    text: Option<String>,
}

fn unsupported(param: impl Into<String>, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::UnsupportedParameter, detail).about(param)
}

/// Whether a parameter says nothing: absent, empty, or off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text == "none",
        Value::Bool(true) => false,
    }
}

fn is_plain_text(format: &Value) -> bool {
    is_off(format) || format["type"] == "text" || *format == serde_json::json!(["text"])
}

impl ChatRequest {
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// What this request calls the limit of the answer.
    pub(super) fn limit_name(&self) -> &'static str {
        if self.max_completion_tokens.is_some() {
            "max_completion_tokens"
        } else {
            "max_tokens"
        }
    }

    /// Refuses what would change the answer and isn't there, rather than answer something else.
    pub(super) fn check_supported(&self) -> Result<(), Problem> {
        let off: [(&str, &Option<Value>); 13] = [
            ("tools", &self.tools),
            ("tool_choice", &self.tool_choice),
            ("functions", &self.functions),
            ("function_call", &self.function_call),
            ("logprobs", &self.logprobs),
            ("top_logprobs", &self.top_logprobs),
            ("logit_bias", &self.logit_bias),
            ("presence_penalty", &self.presence_penalty),
            ("frequency_penalty", &self.frequency_penalty),
            ("audio", &self.audio),
            ("reasoning_effort", &self.reasoning_effort),
            ("verbosity", &self.verbosity),
            ("web_search_options", &self.web_search_options),
        ];
        let on = |value: &Option<Value>| value.as_ref().is_some_and(|value| !is_off(value));
        if let Some((name, _)) = off.into_iter().find(|(_, value)| on(value)) {
            return Err(unsupported(
                name,
                format!("{name} is not supported here; leave it out"),
            ));
        }
        for (name, value) in [
            ("response_format", &self.response_format),
            ("modalities", &self.modalities),
        ] {
            if value.as_ref().is_some_and(|value| !is_plain_text(value)) {
                return Err(unsupported(
                    name,
                    format!("{name}: only text is supported here"),
                ));
            }
        }
        if self.n.is_some_and(|n| n != 1) {
            return Err(unsupported(
                "n",
                "n: only one answer per question is supported; ask again",
            ));
        }
        Ok(())
    }

    pub(super) fn question(
        self,
        api_key: Option<Uuid>,
        sub_model: SubModelId,
    ) -> Result<Question, Problem> {
        let stream = self.stream();
        let turns = self
            .messages
            .into_iter()
            .enumerate()
            .map(|(i, m)| m.turn(i));
        let turns = turns.collect::<Result<_, _>>()?;
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        Ok(Question {
            api_key,
            sub_model: Some(sub_model),
            prompt: QuestionPrompt::Chat(turns),
            max_tokens: max_tokens.unwrap_or(MAX_TOKENS_DEFAULT),
            temperature: self.temperature.unwrap_or(TEMPERATURE_DEFAULT),
            top_p: self.top_p.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            seed: self.seed.map(i64::cast_unsigned),
            stop: Stop::list(self.stop),
            stream,
        })
    }
}

impl Message {
    fn turn(self, index: usize) -> Result<ChatTurn, Problem> {
        let at = |field: &str| format!("messages[{index}].{field}");
        let extras = [
            ("tool_calls", &self.tool_calls),
            ("function_call", &self.function_call),
            ("audio", &self.audio),
        ];
        for (name, value) in extras {
            if value.as_ref().is_some_and(|value| !is_off(value)) {
                return Err(unsupported(
                    at(name),
                    format!("{} is not supported here", at(name)),
                ));
            }
        }
        let role = match self.role.as_str() {
            "developer" | "system" => "system",
            "user" => "user",
            "assistant" => "assistant",
            other => {
                let other: String = other.chars().take(40).collect();
                let detail = format!(
                    "{}: {other:?} is not one of system, developer, user, assistant",
                    at("role")
                );
                return Err(Problem::parameter(&at("role"), detail));
            }
        };
        let content = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().map(|part| match part {
                    Part {
                        r#type,
                        text: Some(text),
                    } if r#type == "text" => Ok(text),
                    _ => Err(unsupported(
                        at("content"),
                        format!("{}: only text parts are supported here", at("content")),
                    )),
                });
                texts.collect::<Result<Vec<_>, _>>()?.concat()
            }
            None => {
                let detail = format!("{} is missing; it has to be a text", at("content"));
                return Err(Problem::parameter(&at("content"), detail));
            }
        };
        Ok(ChatTurn {
            role: role.to_owned(),
            content,
        })
    }
}

#[cfg(test)]
mod tests;
