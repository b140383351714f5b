//! `GET /v1/receipts/{id}`: the countersigned receipt of an answer, for `owm-node verify-receipt`.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use owm_coordinator_store::request::RequestState;
use owm_proto::receipt::SignedReceipt;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    caller::Caller,
    problem::{Problem, ProblemBody},
    requests, waiting,
};

/// A receipt: exact bytes with a detached signature.
#[derive(Serialize, ToSchema)]
#[schema(as = SignedReceipt)]
pub(super) struct SignedReceiptBody {
    /// The exact JSON that was countersigned, as a text.
    receipt: String,
    /// `owm/receipt/v1`.
    purpose: String,
    /// The coordinator's instance key, 64 hex digits.
    key: String,
    /// Ed25519 over purpose, a zero byte, the 32 bytes of the network id, and the receipt; 128 hex digits.
    signature: String,
}

impl From<SignedReceipt> for SignedReceiptBody {
    fn from(signed: SignedReceipt) -> Self {
        let SignedReceipt {
            receipt,
            purpose,
            key,
            signature,
        } = signed;
        Self {
            receipt,
            purpose,
            key: key.to_string(),
            signature,
        }
    }
}

/// Read a receipt again.
///
/// Readable by the key that asked, for as long as the answer is.
#[utoipa::path(
    get, path = "/v1/receipts/{id}", tag = "questions", security(("api_key" = [])),
    params(("id" = String, Path, description = "The request id")),
    responses(
        (status = 200, description = "The receipt", body = SignedReceiptBody),
        (status = 202, description = "Not answered yet", body = requests::OpenRequest),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_receipt(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    match requests::find(&api, &caller, &id).await? {
        RequestState::Answered { receipt, .. } => {
            let signed = SignedReceipt::from_envelope(&receipt);
            Ok(Json(SignedReceiptBody::from(signed)).into_response())
        }
        other => waiting::without_answer(other),
    }
}
