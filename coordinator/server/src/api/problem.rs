//! What goes wrong, in the one shape that every endpoint answers with: RFC 9457
//! `application/problem+json` plus the member `error{}` that OpenAI's clients read. Nothing of the
//! inside (SQL, paths, addresses) ever gets into one.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use owm_coordinator_store::StoreError;
use owm_proto::RequestId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ask::{AnswerFailure, AskError};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $status:ident, $code:literal, $title:literal;)*) => {
        /// Which problem it is. Append only: codes are part of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind { $($(#[$doc])* $kind),* }

        impl Kind {
            /// All of them.
            pub(super) const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The HTTP status.
            pub(super) const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status),* }
            }

            /// The stable name for programs.
            pub(super) const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code),* }
            }

            /// The same for every occurrence.
            pub(super) const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title),* }
            }
        }
    };
}

kinds! {
    /// The body is not the JSON that the endpoint takes.
    InvalidBody = BAD_REQUEST, "invalid_body", "The body is not what this endpoint takes";
    /// A parameter is out of its bounds.
    InvalidParameter = BAD_REQUEST, "invalid_parameter", "A parameter is not allowed";
    /// A parameter that would change the answer and that this API does not have.
    UnsupportedParameter = BAD_REQUEST, "unsupported_parameter", "A parameter is not supported";
    /// The model can't take this prompt.
    InputRefused = BAD_REQUEST, "context_length_exceeded", "The model can't take this prompt";
    /// No API key.
    MissingKey = UNAUTHORIZED, "missing_api_key", "An API key is needed";
    /// An API key that is none, or no longer one.
    WrongKey = UNAUTHORIZED, "invalid_api_key", "This API key is not valid";
    /// The open devnet API, asked from elsewhere.
    NotLocal = FORBIDDEN, "not_local", "This API is open to this machine only";
    /// Nothing here.
    NotFound = NOT_FOUND, "not_found", "There is nothing here";
    /// No such model.
    ModelNotFound = NOT_FOUND, "model_not_found", "There is no such model";
    /// The path exists, the method does not.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed", "This path has no such method";
    /// The body came too slowly.
    BodyTimeout = REQUEST_TIMEOUT, "body_timeout", "The body took too long to arrive";
    /// The asker went away before there was an answer.
    Cancelled = CONFLICT, "cancelled", "The request was cancelled";
    /// Answered once, deleted since.
    Gone = GONE, "gone", "The answer has been deleted";
    /// The body is too large.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large";
    /// The body is no JSON by its own account.
    NotJson = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body has to be JSON";
    /// A range outside the file.
    BadRange = RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "The range is outside the file";
    /// One asker asks too much.
    TooManyQuestions = TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too many questions in a short time";
    /// All nodes are busy.
    Busy = TOO_MANY_REQUESTS, "busy", "All nodes are busy";
    /// Target and headers are too large.
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "The headers are too large";
    /// A fault of ours.
    Internal = INTERNAL_SERVER_ERROR, "internal", "The coordinator failed";
    /// Nodes tried and failed.
    AttemptsExhausted = BAD_GATEWAY, "attempts_exhausted", "No node could answer";
    /// No node has the model.
    NoNodes = SERVICE_UNAVAILABLE, "no_nodes", "No node is connected";
    /// No model is published.
    NoModel = SERVICE_UNAVAILABLE, "no_model", "No model is published";
    /// Too many requests at once.
    Overloaded = SERVICE_UNAVAILABLE, "overloaded", "The coordinator is overloaded";
    /// The database is away.
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "The coordinator can't reach its database";
    /// The answer took too long.
    AnswerTimeout = GATEWAY_TIMEOUT, "timeout", "There was no answer in time";
}

impl Kind {
    /// What OpenAI's clients call the family.
    pub(super) fn family(self) -> &'static str {
        match self {
            Self::MissingKey | Self::WrongKey => "authentication_error",
            Self::NotLocal => "permission_error",
            Self::TooManyQuestions | Self::Busy => "rate_limit_error",
            _ if self.status().is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// When to come back where nothing better is known.
    fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NoModel => Some(Duration::from_secs(30)),
            Self::NoNodes => Some(Duration::from_secs(15)),
            Self::Busy | Self::Unavailable => Some(Duration::from_secs(5)),
            Self::Overloaded | Self::TooManyQuestions => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// OpenAI's clients repeat 409 and everything from 500 on by themselves; these are in vain.
    const fn repeating_is_in_vain(self) -> bool {
        matches!(self, Self::Cancelled | Self::AnswerTimeout)
    }
}

/// A problem. As a response it has its status, body and headers.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    param: Option<String>,
    retry_after: Option<Duration>,
    request_id: Option<RequestId>,
    file_size: Option<u64>,
}

/// The body of a problem (RFC 9457), with the `error` member that OpenAI's clients read.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// Which problem, as a reference into this document.
    #[schema(example = "/openapi.json#busy")]
    r#type: String,
    /// The same for every occurrence.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time, and what to do.
    detail: String,
    /// The same for OpenAI's clients.
    error: ErrorMember,
    /// The request this is about, if it was taken: `GET /v1/requests/{id}` has what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// The error as OpenAI's clients read it; also what a stream that breaks off ends with.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorMember {
    /// What happened this time, and what to do.
    message: String,
    /// Family: `invalid_request_error`, `authentication_error`, `permission_error`,
    /// `rate_limit_error`, `server_error`.
    r#type: &'static str,
    /// Stable name of the problem.
    code: &'static str,
    /// The parameter at fault, if one is.
    param: Option<String>,
}

impl Problem {
    /// A problem of a kind; `detail` is for people and says what to do.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            param: None,
            retry_after: kind.retry_after(),
            request_id: None,
            file_size: None,
        }
    }

    /// A parameter that is not allowed.
    pub(super) fn parameter(param: &str, detail: impl Into<String>) -> Self {
        Self::new(Kind::InvalidParameter, detail).about(param)
    }

    /// Names the parameter at fault.
    #[must_use]
    pub(super) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Names the request, for the one who asked.
    #[must_use]
    pub(super) fn of_request(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// Says how many bytes the file has, for one who asked for others.
    #[must_use]
    pub(super) fn of_file(mut self, size: u64) -> Self {
        self.file_size = Some(size);
        self
    }

    /// Which problem it is.
    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Renames the parameter at fault, where an endpoint calls it differently.
    #[must_use]
    pub(super) fn rename(mut self, from: &str, to: &str) -> Self {
        if self.param.as_deref() == Some(from) {
            self.param = Some(to.to_owned());
        }
        self
    }

    /// The `error` member, which is also how a stream says that it breaks off.
    pub(super) fn error_member(&self) -> ErrorMember {
        ErrorMember {
            message: self.detail.clone(),
            r#type: self.kind.family(),
            code: self.kind.code(),
            param: self.param.clone(),
        }
    }

    fn body(&self) -> ProblemBody {
        ProblemBody {
            r#type: format!("/openapi.json#{}", self.kind.code()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone(),
            error: self.error_member(),
            request_id: self.request_id.map(|id| id.reveal()),
        }
    }
}

/// A header value out of a number.
fn number(value: u128) -> HeaderValue {
    HeaderValue::from(u64::try_from(value).unwrap_or(u64::MAX))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).expect("a problem is plain JSON");
        let mut response = (self.kind.status(), body).into_response();
        let headers = response.headers_mut();
        if let Some(size) = self.file_size {
            let size = HeaderValue::from_str(&format!("bytes */{size}")).expect("ASCII digits");
            headers.insert(header::CONTENT_RANGE, size);
        }
        let media = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media);
        if self.kind.status() == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"owm\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(after) = self.retry_after {
            let ms = after.as_millis().max(1);
            headers.insert(header::RETRY_AFTER, number(ms.div_ceil(1_000)));
            headers.insert(HeaderName::from_static("retry-after-ms"), number(ms));
        }
        if self.kind.repeating_is_in_vain() {
            let name = HeaderName::from_static("x-should-retry");
            headers.insert(name, HeaderValue::from_static("false"));
        }
        response
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let detail = error.to_string();
        match error {
            AskError::Invalid { param, .. } => Self::parameter(param, detail),
            AskError::NoModel => Self::new(Kind::NoModel, detail),
            AskError::Busy { retry_after, .. } => {
                Self::new(Kind::Busy, detail).retry_after(retry_after)
            }
            AskError::NoNodes { retry_after } => {
                Self::new(Kind::NoNodes, detail).retry_after(retry_after)
            }
            AskError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        // Logged here, where it is handled: the asker gets no SQL to see.
        if matches!(error, StoreError::Unavailable(_)) {
            tracing::warn!(%error, "a request met an unavailable database");
            let detail = "the database is not available right now; try again in a few seconds";
            return Self::new(Kind::Unavailable, detail);
        }
        tracing::error!(%error, "a request failed");
        Self::internal()
    }
}

impl Problem {
    /// A fault of ours, already logged.
    pub(super) fn internal() -> Self {
        let detail =
            "the coordinator failed; its operator finds the cause in the log by x-request-id";
        Self::new(Kind::Internal, detail)
    }
}

impl From<&AnswerFailure> for Problem {
    fn from(failure: &AnswerFailure) -> Self {
        let kind = match failure.code.as_str() {
            "timeout" => Kind::AnswerTimeout,
            "input_refused" => Kind::InputRefused,
            "cancelled" => Kind::Cancelled,
            "attempts_exhausted" => Kind::AttemptsExhausted,
            "gone" => Kind::Gone,
            code => {
                tracing::error!(code, "a request failed for a reason without a status");
                return Self::internal();
            }
        };
        Self::new(kind, failure.message.clone())
    }
}

#[cfg(test)]
mod tests;
