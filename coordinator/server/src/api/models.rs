//! `GET /v1/models`: the sub-models of the current version, as OpenAI's clients list them. Also how a
//! `model` of theirs becomes a sub-model of ours.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use owm_coordinator_store::model::ModelVersion;
use owm_proto::{SubModelId, VersionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    caller::Caller,
    problem::{Kind, Problem, ProblemBody},
};
use crate::{app::App, ask::AskError};

/// The name that means "whatever this network serves".
const ANY: &str = "owm";

/// A list of models, in OpenAI's shape.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`.
    object: &'static str,
    /// The sub-models of the current version.
    data: Vec<Model>,
}

/// One model, in OpenAI's shape.
#[derive(Serialize, ToSchema)]
pub(super) struct Model {
    /// What a request names.
    #[schema(example = "owm-geo")]
    id: String,
    /// `model`.
    object: &'static str,
    /// When the version was made, in seconds since 1970.
    created: u64,
    /// `owm`.
    owned_by: &'static str,
    /// What OpenAI's shape has no place for.
    owm: ModelFacts,
}

/// What OpenAI's shape has no place for.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelFacts {
    /// The version.
    model_version: String,
    /// SHA-256 of the first weights file.
    sha256: Option<String>,
    /// What has to be said of the model.
    model_note: String,
    /// Whether the weights are attested by Bitcoin.
    ots_verified: bool,
}

impl Model {
    fn new(version: &ModelVersion, id: &SubModelId) -> Self {
        let manifest = &version.manifest;
        Self {
            id: id.to_string(),
            object: "model",
            created: manifest.created_at.0 / 1_000,
            owned_by: ANY,
            owm: ModelFacts {
                model_version: manifest.version.to_string(),
                sha256: manifest
                    .weights(id)
                    .next()
                    .map(|file| file.sha256.to_string()),
                model_note: manifest.note.clone(),
                ots_verified: false,
            },
        }
    }
}

async fn current(app: &App) -> Result<Arc<ModelVersion>, Problem> {
    Ok(app.current_model().await?.ok_or(AskError::NoModel)?)
}

/// The sub-model that `name` means: a sub-model, the current version, or `owm`.
pub(super) async fn resolve(app: &App, name: &str) -> Result<SubModelId, Problem> {
    resolve_in(&*current(app).await?, name)
}

fn resolve_in(version: &ModelVersion, name: &str) -> Result<SubModelId, Problem> {
    let manifest = &version.manifest;
    let is_version = name
        .parse::<VersionId>()
        .is_ok_and(|id| id == manifest.version);
    if name == ANY || is_version {
        return Ok(manifest.default_sub_model.clone());
    }
    if let Some((id, _)) = manifest
        .sub_models
        .iter()
        .find(|(id, _)| id.as_str() == name)
    {
        return Ok(id.clone());
    }
    let has: Vec<&str> = manifest.sub_models.keys().map(SubModelId::as_str).collect();
    let name: String = name.chars().take(80).collect();
    let detail = format!(
        "there is no model {name:?} here; use {}, {} or {ANY}",
        has.join(", "),
        manifest.version
    );
    Err(Problem::new(Kind::ModelNotFound, detail).about("model"))
}

/// List the models.
#[utoipa::path(
    get, path = "/v1/models", tag = "questions", security(("api_key" = [])),
    responses(
        (status = 200, description = "The sub-models of the current version", body = ModelList),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_models(
    State(api): State<Api>,
    _caller: Caller,
) -> Result<Json<ModelList>, Problem> {
    let version = api.app.current_model().await?;
    let data = version.map_or_else(Vec::new, |version| {
        version
            .manifest
            .sub_models
            .keys()
            .map(|id| Model::new(&version, id))
            .collect()
    });
    Ok(Json(ModelList {
        object: "list",
        data,
    }))
}

/// Show one model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "questions", security(("api_key" = [])),
    params(("id" = String, Path, description = "A sub-model, the current version, or `owm`")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_model(
    State(api): State<Api>,
    _caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Model>, Problem> {
    let version = current(&api.app).await?;
    let id = resolve_in(&version, &id)?;
    Ok(Json(Model::new(&version, &id)))
}
