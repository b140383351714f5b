//! `SubmitUpdate`: the signed result whose report names an update, then the update's bytes (spec §9, §10.3).
//! Must stay true: a commit that is on time comes before any byte is kept; what is kept has the hash that was committed
//! to; a node that repeats itself is answered as before and sends nothing twice.

mod pace;

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use owm_proto::{
    PublicKey,
    wire::coordinator::{ResultAck, SubmitUpdateRequest, TaskResult, submit_update_request::Part},
};
use tonic::Status;

use self::pace::Pace;
use super::{NodeService, verdict_status};
use crate::{
    app::App,
    spool::{Incoming, SpoolError},
    verdict::update::Announced,
};

/// How long the signed result may take after the call.
const RESULT_WITHIN: Duration = Duration::from_secs(30);

/// What a node sends.
trait Parts: Stream<Item = Result<SubmitUpdateRequest, Status>> + Unpin {}

impl<S: Stream<Item = Result<SubmitUpdateRequest, Status>> + Unpin> Parts for S {}

impl NodeService {
    pub(crate) async fn update_take(
        &self,
        key: PublicKey,
        mut parts: impl Stream<Item = Result<SubmitUpdateRequest, Status>> + Unpin,
    ) -> Result<ResultAck, Status> {
        let node = self.known_node(&key).await?;
        let first = tokio::time::timeout(RESULT_WITHIN, parts.next()).await;
        let first = first.map_err(|_| {
            Status::deadline_exceeded("no signed result came; it is the first message")
        })?;
        let Some(Part::Result(result)) = first.map(part).transpose()? else {
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
            receive(app, &announced, &mut parts).await?;
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

async fn receive(app: &App, announced: &Announced, parts: &mut impl Parts) -> Result<(), Status> {
    let (spool, sha256, size) = (app.spool.clone(), announced.sha256, announced.size);
    let mut incoming = blocking(move || spool.begin(sha256, size)).await?;
    let mut pace = Pace::new(&app.config.rounds, app.now(), announced.until);
    while let Some(part) = next(app, &mut pace, parts).await? {
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

/// The next message, as long as they come fast enough.
async fn next(app: &App, pace: &mut Pace, parts: &mut impl Parts) -> Result<Option<Part>, Status> {
    let too_slow = |why: pace::TooSlow| Status::deadline_exceeded(why.to_string());
    loop {
        let (now, due) = (app.now(), pace.next());
        let wait = Duration::from_millis(due.0.saturating_sub(now.0));
        let Ok(message) = tokio::time::timeout(wait, parts.next()).await else {
            // A timer may be a little ahead of the clock.
            pace.heard(app.now().max(due), 0).map_err(too_slow)?;
            continue;
        };
        let Some(part) = message.map(part).transpose()? else {
            return Ok(None);
        };
        let bytes = match &part {
            Part::Chunk(bytes) => bytes.len() as u64,
            Part::Result(_) => 0,
        };
        pace.heard(app.now(), bytes).map_err(too_slow)?;
        return Ok(Some(part));
    }
}

fn part(message: Result<SubmitUpdateRequest, Status>) -> Result<Part, Status> {
    let part = message?.part;
    part.ok_or_else(|| Status::invalid_argument("a message without a part"))
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
