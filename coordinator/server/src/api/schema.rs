//! The API's description, put together from the endpoints' own. Snapshot-tested: a change of the API
//! is a change of a file that somebody looks at.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::{
    blobs, chat, genesis, models, nodes, page, problem::Kind, query, receipts, requests, root,
    stats, versions,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "OWM public API",
        version = "1",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        page::get_page,
        root::get_openapi,
        query::post_query,
        chat::post_chat,
        models::get_models,
        models::get_model,
        requests::get_request,
        receipts::get_receipt,
        versions::get_versions,
        versions::get_version,
        genesis::get_genesis,
        stats::get_stats,
        nodes::get_nodes,
        nodes::get_node,
        blobs::get_blob,
    ),
    tags(
        (name = "questions", description = "Ask, and read answers again. API key."),
        (name = "network", description = "What anyone may know. No key."),
    ),
    modifiers(&ApiKey, &Problems),
)]
struct Description;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.description = Some(
            "An API key of this coordinator (`owm_…`). A devnet with `api.open = true` answers \
             programs on its own machine without one."
                .to_owned(),
        );
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(http));
    }
}

struct Problems;

impl Modify for Problems {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let mut text = "Questions to an open network of nodes, answered with signed receipts.\n\n\
             Every fault is an `application/problem+json` (RFC 9457) with a member `error` for \
             OpenAI's clients:\n\n| status | code | title |\n|---|---|---|\n"
            .to_owned();
        for kind in Kind::ALL {
            let line = format!(
                "| {} | `{}` | {} |\n",
                kind.status().as_u16(),
                kind.code(),
                kind.title()
            );
            text.push_str(&line);
        }
        openapi.info.description = Some(text);
    }
}

/// The description.
pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}
