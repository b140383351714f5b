//! `SubmitUpdate`: the signed result whose report names an update, then the update's bytes (spec §9, §10.3).
//! Must stay true: a commit that is on time comes before any byte is kept; what is kept has the hash that was committed
//! to; a node that repeats itself is answered as before and sends nothing twice.

use std::time::Duration;

use owm_proto::{
    PublicKey,
    wire::coordinator::{ResultAck, SubmitUpdateRequest, TaskResult, submit_update_request::Part},
};
use tonic::{Status, Streaming};

use super::{NodeService, verdict_status};
use crate::{
    spool::{Incoming, SpoolError},
    verdict::update::Announced,
};

/// Longest silence between two messages.
const STALL: Duration = Duration::from_secs(30);

/// An update takes at most this, and a second for every [`BYTES_PER_S_MIN`].
const RECEIVE_BASE: Duration = Duration::from_mins(1);

/// The slowest line that an update is taken from, on the average.
const BYTES_PER_S_MIN: u64 = 16 << 10;

impl NodeService {
    pub(super) async fn update_take(
        &self,
        key: PublicKey,
        mut parts: Streaming<SubmitUpdateRequest>,
    ) -> Result<ResultAck, Status> {
        let node = self.known_node(&key).await?;
        let Some(Part::Result(result)) = next(&mut parts).await? else {
            return Err(Status::invalid_argument(
                "the signed result comes first, then the update's bytes",
            ));
        };
        let (app, node) = (&self.app, node.node_id);
        let announced = app
            .update_announced(node, &key, &result)
            .await
            .map_err(verdict_status)?;
        if announced.is_wanted && !app.spool.has(&announced.sha256, announced.size) {
            let time = RECEIVE_BASE + Duration::from_secs(announced.size / BYTES_PER_S_MIN);
            let received = receive(self, &announced, &mut parts);
            let received = tokio::time::timeout(time, received).await;
            received.map_err(|_| too_slow())??;
        }
        self.update_judged(key, result, announced).await
    }

    async fn update_judged(
        &self,
        key: PublicKey,
        result: TaskResult,
        announced: Announced,
    ) -> Result<ResultAck, Status> {
        let judged = self.app.update_judge(&key, result, announced).await;
        judged.map_err(verdict_status)
    }
}

async fn receive(
    service: &NodeService,
    announced: &Announced,
    parts: &mut Streaming<SubmitUpdateRequest>,
) -> Result<(), Status> {
    let (spool, sha256, size) = (service.app.spool.clone(), announced.sha256, announced.size);
    let mut incoming = blocking(move || spool.begin(sha256, size)).await?;
    while let Some(part) = next(parts).await? {
        let Part::Chunk(bytes) = part else {
            return Err(Status::invalid_argument("a result comes once"));
        };
        if bytes.is_empty() {
            return Err(Status::invalid_argument("a chunk holds bytes"));
        }
        incoming = blocking(move || {
            let mut incoming: Incoming = incoming;
            incoming.write(&bytes)?;
            Ok(incoming)
        })
        .await?;
    }
    blocking(move || incoming.finish()).await.map(drop)
}

async fn next(parts: &mut Streaming<SubmitUpdateRequest>) -> Result<Option<Part>, Status> {
    let message = tokio::time::timeout(STALL, parts.message()).await;
    match message.map_err(|_| too_slow())?? {
        None => Ok(None),
        Some(SubmitUpdateRequest { part: Some(part) }) => Ok(Some(part)),
        Some(_) => Err(Status::invalid_argument("a message without a part")),
    }
}

fn too_slow() -> Status {
    Status::deadline_exceeded("the update comes too slowly; send it again on a better line")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| Status::internal("the coordinator stops; try again"))?;
    done.map_err(|error| match error {
        SpoolError::TooLong(_) | SpoolError::TooShort { .. } | SpoolError::WrongHash => {
            Status::invalid_argument(error.to_string())
        }
        SpoolError::Busy | SpoolError::Full => Status::resource_exhausted(error.to_string()),
        SpoolError::Folder { .. } => {
            tracing::error!(%error, "an update can't be kept");
            Status::unavailable("the coordinator cannot keep the update now; try again")
        }
    })
}
