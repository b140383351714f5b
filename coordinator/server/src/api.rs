//! The public HTTP API: the router is the table of contents, each endpoint has a file of its own
//! (request, response, handler), and every fault is a [`problem::Problem`]. Called by `serve`, which
//! adds the listener and `ConnectInfo<SocketAddr>`. Never true here: users' text, answers or request
//! ids in a log. Conventions: `docs/api-design.md`.

mod blobs;
mod body;
mod caller;
mod chat;
mod genesis;
mod guard;
mod limit;
mod models;
mod nodes;
mod page;
mod problem;
mod query;
mod receipts;
mod requests;
mod root;
mod schema;
mod sse;
mod stats;
mod versions;
mod waiting;

use std::{sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tokio::sync::Semaphore;

use crate::{app::App, config::ApiSection};

/// Bytes of a request's body: four times the longest question, so that JSON escapes fit.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long a body may take to arrive: the largest one at 35 kB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's target and headers: ten times what browsers send.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// Requests in work at once, streamed answers and downloads included: what 2 GB of memory and the
/// default limit of open files carry with room to spare. The configuration may set another.
pub(crate) const REQUESTS_MAX: u32 = 512;

/// Questions of one asker: 20 at once, then 5 a second. The configuration may set others.
pub(crate) const QUESTIONS: limit::Rate = limit::Rate {
    burst: 20,
    per_second: 5,
};

/// All bounds of the HTTP side in one place, so that tests can lower them.
#[derive(Clone, Copy, Debug)]
struct Limits {
    body_bytes: usize,
    body_timeout: Duration,
    header_bytes: usize,
    requests: usize,
    questions: limit::Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: BODY_BYTES_MAX,
            body_timeout: BODY_TIMEOUT,
            header_bytes: HEADER_BYTES_MAX,
            requests: REQUESTS_MAX as usize,
            questions: QUESTIONS,
        }
    }
}

impl Limits {
    fn configured(config: &ApiSection) -> Self {
        Self {
            requests: config.requests_max as usize,
            questions: limit::Rate {
                burst: config.questions_burst,
                per_second: config.questions_per_second,
            },
            ..Self::default()
        }
    }
}

/// What every handler gets. Cheap to clone.
#[derive(Clone)]
struct Api {
    app: App,
    limits: Limits,
    questions: Arc<limit::Limiter>,
    permits: Arc<Semaphore>,
    stats: stats::StatsCache,
}

/// The whole public API. The server has to provide `ConnectInfo<SocketAddr>`
/// (`into_make_service_with_connect_info`): without it an open API refuses everybody.
pub fn router(app: App) -> Router {
    let limits = Limits::configured(&app.config.api);
    router_within(app, limits)
}

/// The API's description, as served at `/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    schema::openapi()
}

impl Api {
    fn new(app: App, limits: Limits) -> Self {
        Self {
            app,
            limits,
            questions: Arc::new(limit::Limiter::new(limits.questions)),
            permits: Arc::new(Semaphore::new(limits.requests)),
            stats: stats::StatsCache::default(),
        }
    }
}

fn router_within(app: App, limits: Limits) -> Router {
    let api = Api::new(app, limits);
    Router::new()
        .route("/", get(page::get_page))
        .route("/openapi.json", get(root::get_openapi))
        // Questions and answers: API key.
        .route("/v1/query", post(query::post_query))
        .route("/v1/chat/completions", post(chat::post_chat))
        .route("/v1/models", get(models::get_models))
        .route("/v1/models/{id}", get(models::get_model))
        .route("/v1/requests/{id}", get(requests::get_request))
        .route("/v1/receipts/{id}", get(receipts::get_receipt))
        // What anyone may know: no key.
        .route("/v1/model/versions", get(versions::get_versions))
        .route("/v1/model/versions/{id}", get(versions::get_version))
        .route("/v1/genesis", get(genesis::get_genesis))
        .route("/v1/network/stats", get(stats::get_stats))
        .route("/v1/network/nodes", get(nodes::get_nodes))
        .route("/v1/nodes/{id}/status", get(nodes::get_node))
        .route("/v1/blobs/{sha256}", get(blobs::get_blob))
        .merge(page::routes())
        .fallback(guard::no_such_path)
        .method_not_allowed_fallback(guard::no_such_method)
        .layer(middleware::from_fn_with_state(api.clone(), guard::guard))
        .with_state(api)
}

#[cfg(test)]
mod tests;
