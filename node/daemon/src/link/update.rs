//! `SubmitUpdate`: a result, then the bytes it names, as fast as the coordinator takes them.

use std::time::Duration;

use futures::stream;
use owm_proto::wire::coordinator::{
    ResultAck, SubmitUpdateRequest, TaskResult, submit_update_request::Part,
};
use tokio::{fs::File, io::AsyncReadExt as _};
use tonic::Status;

use super::{CallError, Coordinator, SUBMIT_UPDATE};

/// Bytes of one message: large enough to be few, small enough to be buffered.
const CHUNK_BYTES: usize = 256 << 10;

/// An update takes at most this, and a second for every [`BYTES_PER_S_MIN`], as at the coordinator.
const SEND_BASE: Duration = Duration::from_mins(2);
const BYTES_PER_S_MIN: u64 = 16 << 10;

impl Coordinator {
    /// Hands in a result with the update that it names.
    pub async fn submit_update(
        &self,
        result: TaskResult,
        file: File,
    ) -> Result<ResultAck, CallError> {
        let size = file.metadata().await.map_or(0, |found| found.len());
        let time = SEND_BASE + Duration::from_secs(size / BYTES_PER_S_MIN);
        let parts = stream::unfold((Some(result), file), |(result, mut file)| async {
            let part = if let Some(result) = result {
                Part::Result(result)
            } else {
                let mut chunk = vec![0; CHUNK_BYTES];
                // One that can't be read on is too short, and is refused as such.
                let read = file.read(&mut chunk).await.unwrap_or(0);
                chunk.truncate(read);
                if read == 0 {
                    return None;
                }
                Part::Chunk(chunk)
            };
            let message = SubmitUpdateRequest { part: Some(part) };
            Some((message, (None, file)))
        });
        let mut client = self.client();
        let call = client.submit_update(Box::pin(parts));
        let status = match tokio::time::timeout(time, call).await {
            Ok(Ok(answer)) => match answer.into_inner().ack {
                Some(ack) => return Ok(ack),
                None => Status::internal("an acknowledgement without content"),
            },
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        Err(CallError::from_status(SUBMIT_UPDATE, &status))
    }
}
