//! GetModelVersion: the signed manifest of a version.

use owm_coordinator_store::model::model_lookup;
use owm_proto::{VersionId, wire::coordinator as wire};
use tonic::Status;

use super::{NodeService, store_status};

impl NodeService {
    pub(super) async fn model_show(
        &self,
        request: wire::GetModelVersionRequest,
    ) -> Result<wire::GetModelVersionResponse, Status> {
        let wanted: Option<VersionId> = match request.version.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error: owm_proto::hash::ParseError| {
                Status::invalid_argument(error.to_string())
            })?),
        };
        let mut tx = self
            .app
            .store
            .begin("model.show")
            .await
            .map_err(store_status)?;
        let found = model_lookup(&mut tx, wanted.as_ref())
            .await
            .map_err(store_status)?;
        let model = found.ok_or_else(|| match wanted {
            Some(version) => Status::not_found(format!("there is no version {version}")),
            None => Status::not_found("no model is published on this network yet; the coordinator's operator publishes one with `owm-coordinator model import`, nodes fetch it by themselves"),
        })?;
        Ok(wire::GetModelVersionResponse {
            manifest: Some((&model.envelope).into()),
            note: model.manifest.note,
        })
    }
}
