//! JSON bodies: bounded in size and time, and refused with the place of the fault. The extractor of
//! every endpoint that takes a body.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::JsonRejection},
};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{
    Api,
    problem::{Kind, Problem},
};

/// A parsed body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send the body as JSON, with the header `Content-Type: application/json`";
            return Err(Problem::new(Kind::NotJson, detail));
        }
        let bytes = read(
            request.into_body(),
            api.limits.body_bytes,
            api.limits.body_timeout,
        )
        .await?;
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read(body: Body, max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body has more than {max} bytes; ask a shorter question");
        Problem::new(Kind::BodyTooLarge, detail)
    };
    let collecting = Limited::new(body, max).collect();
    match tokio::time::timeout(timeout, collecting).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(
            Kind::InvalidBody,
            "the body broke off; send it again",
        )),
        Err(_) => {
            let seconds = timeout.as_secs();
            let detail = format!("the body was not complete after {seconds} s; send it again");
            Err(Problem::new(Kind::BodyTimeout, detail))
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Err(Problem::new(
            Kind::InvalidBody,
            "the body is empty; it has to be a JSON object",
        ));
    }
    match Json::<T>::from_bytes(bytes) {
        Ok(Json(value)) => Ok(value),
        Err(JsonRejection::JsonDataError(error)) => Err(misfit(&innermost(&error))),
        Err(error) => {
            let detail = format!("the body is not JSON: {}", innermost(&error));
            Err(Problem::new(Kind::InvalidBody, detail))
        }
    }
}

/// The error that says what and where, below the wrappers that only say "failed".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        let inner = source.to_string();
        // The path of the field is said by the wrapper of the last one.
        if text.ends_with(&inner) && !text.starts_with("Failed") {
            break;
        }
        (error, text) = (source, inner);
    }
    text
}

/// JSON of another shape: names the field, which is either the path before the message or the name
/// that serde quotes.
fn misfit(message: &str) -> Problem {
    let is_path = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.[]".contains(&b))
    };
    let path = message
        .split_once(": ")
        .map(|(path, _)| path)
        .filter(|path| is_path(path));
    let quoted = ["unknown field `", "missing field `"]
        .iter()
        .find_map(|start| message.split_once(start))
        .and_then(|(_, rest)| rest.split_once('`'))
        .map(|(name, _)| name);
    let problem = Problem::new(Kind::InvalidBody, message);
    match quoted.or(path) {
        Some(field) => problem.about(field.chars().take(80).collect::<String>()),
        None => problem,
    }
}

#[cfg(test)]
mod tests;
