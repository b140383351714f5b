//! `GET /openapi.json`, and what `GET /` tells programs: where a stranger's program finds out what
//! this is. For people `page` answers.

use std::sync::LazyLock;

use axum::response::{IntoResponse as _, Response};
use http::header;
use serde::Serialize;
use utoipa::ToSchema;

/// Made once: it never changes while the process runs.
static OPENAPI: LazyLock<String> = LazyLock::new(|| {
    super::openapi()
        .to_json()
        .expect("a document of plain structs serialises")
});

/// Where to read on.
#[derive(Serialize, ToSchema)]
pub(super) struct Pointer {
    /// `OWM coordinator`.
    name: &'static str,
    /// `/openapi.json`.
    docs: &'static str,
}

/// What this is.
pub(super) fn pointer() -> Pointer {
    Pointer {
        name: "OWM coordinator",
        docs: "/openapi.json",
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "network",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn get_openapi() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        OPENAPI.as_str(),
    )
        .into_response()
}
