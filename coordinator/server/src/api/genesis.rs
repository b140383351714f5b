//! `GET /v1/genesis`: what the network is and who may speak for it, as signed documents. Needs no key:
//! everything here proves itself.

use axum::{Json, extract::State};
use data_encoding::HEXLOWER;
use owm_proto::{Envelope, Purpose};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, problem::ProblemBody};

/// The network's documents.
#[derive(Serialize, ToSchema)]
pub(super) struct GenesisBody {
    /// The genesis document's exact bytes, as a text; its SHA-256 is the network id.
    genesis: String,
    /// 64 hex digits.
    network_id: String,
    /// The root key's delegations.
    delegations: Vec<SignedText>,
    /// The root key's revocations.
    revocations: Vec<SignedText>,
}

/// A signed JSON document: exact bytes with a detached signature.
#[derive(Serialize, ToSchema)]
pub(super) struct SignedText {
    /// The exact JSON that was signed, as a text.
    payload: String,
    /// Who signed, 64 hex digits.
    key: String,
    /// Ed25519 over purpose, a zero byte, the 32 bytes of the network id, and the payload; 128 hex digits.
    signature: String,
    /// `owm/delegation/v1` or `owm/revocation/v1`.
    purpose: &'static str,
}

impl SignedText {
    fn new(purpose: Purpose, envelope: &Envelope) -> Self {
        Self {
            payload: String::from_utf8_lossy(envelope.unverified_payload()).into_owned(),
            key: envelope.claimed_signer().to_string(),
            signature: HEXLOWER.encode(envelope.signature()),
            purpose: purpose.as_str(),
        }
    }
}

/// The network's genesis document and its root key's statements.
#[utoipa::path(
    get, path = "/v1/genesis", tag = "network",
    responses(
        (status = 200, description = "The documents", body = GenesisBody),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_genesis(State(api): State<Api>) -> Json<GenesisBody> {
    let authority = &api.app.authority;
    let statements = authority.statements();
    let signed = |purpose, all: &[Envelope]| {
        all.iter()
            .map(|envelope| SignedText::new(purpose, envelope))
            .collect()
    };
    Json(GenesisBody {
        genesis: String::from_utf8_lossy(&authority.genesis).into_owned(),
        network_id: statements.trust.id().to_string(),
        delegations: signed(Purpose::Delegation, &statements.delegations),
        revocations: signed(Purpose::Revocation, &statements.revocations),
    })
}
