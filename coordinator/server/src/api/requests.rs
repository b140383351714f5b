//! `GET /v1/requests/{id}`: what became of a question. Exactly one answer, the same bytes for every
//! reading, until it is deleted.

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::header;
use owm_coordinator_store::request::RequestState;
use owm_proto::RequestId;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    caller::Caller,
    problem::{Kind, Problem, ProblemBody},
    query::QueryAnswer,
    waiting,
};

/// A question without an answer yet.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenRequest {
    /// `open`.
    status: String,
}

/// The request's state, if it is this caller's to see. Unknown ids and those of others look the same.
pub(super) async fn find(api: &Api, caller: &Caller, id: &str) -> Result<RequestState, Problem> {
    let unknown = || {
        let detail = "there is no such request of yours; the id is the answer's `request_id`, and only \
                      the API key that asked may read it";
        Problem::new(Kind::NotFound, detail)
    };
    let id: RequestId = id.parse().map_err(|_| unknown())?;
    let request = api.app.request_show(id, caller.api_key).await?;
    Ok(request.ok_or_else(unknown)?.state)
}

/// Read an answer again.
///
/// Always the same bytes, until the answer is deleted ten minutes after it was first delivered. A
/// question that failed gives its problem again.
#[utoipa::path(
    get, path = "/v1/requests/{id}", tag = "questions", security(("api_key" = [])),
    params(("id" = String, Path, description = "The request id")),
    responses(
        (status = 200, description = "The answer, token ids included", body = QueryAnswer),
        (status = 202, description = "Not answered yet", body = OpenRequest),
        (status = 410, description = "Answered once, deleted since", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_request(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    match find(&api, &caller, &id).await? {
        RequestState::Answered { answer, .. } => {
            Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
        }
        other => waiting::without_answer(other),
    }
}
