//! `GET /v1/model/versions[/{id}]`: published versions with their signed manifests. Needs no key:
//! a manifest proves itself.

use axum::{
    Json,
    extract::{Path, State},
};
use data_encoding::HEXLOWER;
use owm_coordinator_store::model::{ModelVersion, model_list, model_lookup};
use owm_proto::{Purpose, Sha256, VersionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Api,
    problem::{Kind, Problem, ProblemBody},
};

/// Versions listed at most: years of releases.
const LISTED_MAX: u32 = 500;

/// Published versions, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionList {
    /// Newest first, at most 500.
    versions: Vec<VersionSummary>,
}

/// A version in short.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionSummary {
    /// Its name.
    #[schema(example = "owm-v0.1.0")]
    version: String,
    /// Rises over releases and withdrawals.
    sequence: u64,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: u64,
    /// The version it came from.
    parent: Option<String>,
    /// The federated round that made it.
    round: Option<u64>,
    /// SHA-256 of the manifest's exact bytes.
    manifest_sha256: String,
    /// What has to be said of the model.
    note: String,
    /// For people.
    release_notes: String,
    /// Whether the weights are attested by Bitcoin.
    ots_verified: bool,
    /// The Bitcoin block that attests them, once there is one.
    btc_block: Option<u32>,
    /// Whether new questions use it.
    is_current: bool,
    /// Whether it was taken back.
    withdrawn: bool,
    /// What a request gets that names no sub-model.
    default_sub_model: String,
    /// What it can do, and with which weights.
    sub_models: Vec<SubModelSummary>,
}

/// A sub-model in short.
#[derive(Serialize, ToSchema)]
pub(super) struct SubModelSummary {
    /// Its name.
    id: String,
    /// `llama`.
    architecture: String,
    /// Its weights; `GET /v1/blobs/{sha256}` has them.
    weights: Vec<WeightsFile>,
}

/// A weights file.
#[derive(Serialize, ToSchema)]
pub(super) struct WeightsFile {
    /// Its name in the manifest.
    name: String,
    /// Bytes.
    size: u64,
    /// `sha256sum` of the file agrees.
    sha256: String,
}

/// A version with its signed manifest.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionDetail {
    /// The version in short.
    #[serde(flatten)]
    summary: VersionSummary,
    /// The manifest's exact bytes, as a text.
    manifest: String,
    /// `owm/manifest/v1`.
    purpose: &'static str,
    /// The release key that signed, 64 hex digits; `GET /v1/genesis` has its delegation.
    key: String,
    /// Ed25519 over purpose, a zero byte, the 32 bytes of the network id, and the manifest; 128 hex digits.
    signature: String,
    /// The network, 64 hex digits.
    network_id: String,
}

impl From<&ModelVersion> for VersionSummary {
    fn from(version: &ModelVersion) -> Self {
        let manifest = &version.manifest;
        let sub_model =
            |(id, sub_model): (&owm_proto::SubModelId, &owm_proto::manifest::SubModel)| {
                let file = |file: &owm_proto::manifest::ManifestFile| WeightsFile {
                    name: file.name.clone(),
                    size: file.size,
                    sha256: file.sha256.to_string(),
                };
                SubModelSummary {
                    id: id.to_string(),
                    architecture: sub_model.architecture.clone(),
                    weights: manifest.weights(id).map(file).collect(),
                }
            };
        Self {
            version: manifest.version.to_string(),
            sequence: manifest.sequence,
            created_at_ms: manifest.created_at.0,
            parent: manifest.parent.as_ref().map(ToString::to_string),
            round: manifest.round,
            manifest_sha256: Sha256::of(version.envelope.unverified_payload()).to_string(),
            note: manifest.note.clone(),
            release_notes: manifest.release_notes.clone(),
            // Nothing verifies timestamps yet.
            ots_verified: false,
            btc_block: version.btc_block,
            is_current: version.is_current,
            withdrawn: version.withdrawn,
            default_sub_model: manifest.default_sub_model.to_string(),
            sub_models: manifest.sub_models.iter().map(sub_model).collect(),
        }
    }
}

/// List the published versions.
#[utoipa::path(
    get, path = "/v1/model/versions", tag = "network",
    responses(
        (status = 200, description = "The versions, newest first", body = VersionList),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_versions(State(api): State<Api>) -> Result<Json<VersionList>, Problem> {
    let mut tx = api.app.store.begin("api.versions").await?;
    let versions = model_list(&mut tx, LISTED_MAX).await?;
    Ok(Json(VersionList {
        versions: versions.iter().map(VersionSummary::from).collect(),
    }))
}

/// Show a version and its signed manifest.
///
/// To check the signature by hand, write `manifest` and the bytes of `signature` and `key` to files;
/// the signed bytes are `purpose`, a zero byte, the 32 bytes of `network_id`, and the manifest:
///
/// ```sh
/// V=$(curl -s "$API/v1/model/versions/owm-v0.1.0"); f() { printf '%s' "$V" | jq -j ".$1"; }
/// f manifest > manifest.json; f signature | xxd -r -p > manifest.sig
/// { f purpose; printf '\000'; f network_id | xxd -r -p; cat manifest.json; } > signed.bin
/// { printf '302a300506032b6570032100'; f key; } | xxd -r -p > key.der
/// openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey key.der -in signed.bin -sigfile manifest.sig
/// ```
#[utoipa::path(
    get, path = "/v1/model/versions/{id}", tag = "network",
    params(("id" = String, Path, description = "A version, such as `owm-v0.1.0`")),
    responses(
        (status = 200, description = "The version", body = VersionDetail),
        (status = "default", description = "A problem", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_version(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<VersionDetail>, Problem> {
    let unknown = || {
        let detail = "there is no such version; /v1/model/versions lists all of them";
        Problem::new(Kind::NotFound, detail)
    };
    let id: VersionId = id.parse().map_err(|_| unknown())?;
    let mut tx = api.app.store.begin("api.version").await?;
    let version = model_lookup(&mut tx, Some(&id))
        .await?
        .ok_or_else(unknown)?;
    let envelope = &version.envelope;
    Ok(Json(VersionDetail {
        summary: VersionSummary::from(&version),
        manifest: String::from_utf8_lossy(envelope.unverified_payload()).into_owned(),
        purpose: Purpose::Manifest.as_str(),
        key: envelope.claimed_signer().to_string(),
        signature: HEXLOWER.encode(envelope.signature()),
        network_id: api.app.authority.network().to_string(),
    }))
}
