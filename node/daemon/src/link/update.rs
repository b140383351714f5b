//! `SubmitUpdate`: a result, then the bytes it names, as fast as the coordinator takes them.
//! Must stay true: the stream ends only after every byte; bytes that can't be read break the call off, so that the
//! coordinator never takes a part for the whole.

use std::{io, time::Duration};

use futures::{Stream, stream};
use owm_proto::wire::coordinator::{
    ResultAck, SubmitUpdateRequest, TaskResult, submit_update_request::Part,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::oneshot,
};
use tonic::Status;

use super::{CallError, Coordinator, SUBMIT_UPDATE};

/// Bytes of one message: large enough to be few, small enough to be buffered.
const CHUNK_BYTES: usize = 256 << 10;

/// An update takes at most this, and a second for every [`BYTES_PER_S_MIN`], as at the coordinator.
const SEND_BASE: Duration = Duration::from_mins(2);
const BYTES_PER_S_MIN: u64 = 16 << 10;

/// Why an update could not be handed in.
#[derive(Debug, thiserror::Error)]
pub enum UpdateSendError {
    /// The call.
    #[error(transparent)]
    Call(#[from] CallError),
    /// This node's disk; nothing is decided by it.
    #[error("the update cannot be read from the disk; it is tried again")]
    File(#[source] io::Error),
}

impl Coordinator {
    /// Hands in a result with the update that it names, `size` bytes of `file`.
    pub async fn submit_update(
        &self,
        result: TaskResult,
        file: impl AsyncRead + Send + Unpin + 'static,
        size: u64,
    ) -> Result<ResultAck, UpdateSendError> {
        let time = SEND_BASE + Duration::from_secs(size / BYTES_PER_S_MIN);
        let (parts, broken) = parts(result, file, size);
        let mut client = self.client();
        let call = tokio::time::timeout(time, client.submit_update(Box::pin(parts)));
        let outcome = tokio::select! {
            outcome = call => outcome,
            // Dropping the call resets the stream.
            error = broken => return Err(UpdateSendError::File(error)),
        };
        let status = match outcome {
            Ok(Ok(answer)) => match answer.into_inner().ack {
                Some(ack) => return Ok(ack),
                None => Status::internal("an acknowledgement without content"),
            },
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        Err(self.failed(SUBMIT_UPDATE, &status).into())
    }
}

/// The messages; and what ends the call if the bytes can't be read, which otherwise never comes. After that the stream
/// says nothing more, not even that it ended.
fn parts(
    result: TaskResult,
    file: impl AsyncRead + Send + Unpin,
    size: u64,
) -> (
    impl Stream<Item = SubmitUpdateRequest> + Send,
    impl Future<Output = io::Error>,
) {
    let (breaks, broken) = oneshot::channel();
    let state = (Some(result), file, size, Some(breaks));
    let parts = stream::unfold(state, |(result, mut file, left, mut breaks)| async move {
        let message = |part| SubmitUpdateRequest { part: Some(part) };
        if let Some(result) = result {
            return Some((message(Part::Result(result)), (None, file, left, breaks)));
        }
        if left == 0 {
            return None;
        }
        match chunk(&mut file, left).await {
            Ok(chunk) => {
                let left = left - chunk.len() as u64;
                Some((message(Part::Chunk(chunk)), (None, file, left, breaks)))
            }
            Err(error) => {
                if let Some(breaks) = breaks.take() {
                    // Without a receiver the call is over.
                    drop(breaks.send(error));
                }
                std::future::pending().await
            }
        }
    });
    let broken = async {
        match broken.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    };
    (parts, broken)
}

/// The next bytes, at least one of the `left` that there have to be.
async fn chunk(file: &mut (impl AsyncRead + Unpin), left: u64) -> io::Result<Vec<u8>> {
    let most = usize::try_from(left).unwrap_or(CHUNK_BYTES);
    let mut chunk = vec![0; most.min(CHUNK_BYTES)];
    let read = file.read(&mut chunk).await?;
    chunk.truncate(read);
    if chunk.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::{FutureExt as _, StreamExt as _};
    use tokio_util::io::StreamReader;

    use super::*;

    /// Bytes that come whole, or break off with an error.
    fn file(bytes: &'static [u8], is_broken: bool) -> impl AsyncRead + Send + Unpin {
        let error = is_broken.then(|| Err(io::Error::other("the disk")));
        StreamReader::new(stream::iter([Some(Ok(bytes)), error]).filter_map(std::future::ready))
    }

    #[tokio::test]
    async fn a_file_that_is_whole_is_sent_and_ends() {
        let (parts, broken) = parts(TaskResult::default(), file(b"12345", false), 5);
        let sent: Vec<SubmitUpdateRequest> = parts.collect().await;
        assert!(matches!(sent[0].part, Some(Part::Result(_))));
        assert_eq!(sent[1].part, Some(Part::Chunk(b"12345".to_vec())));
        assert_eq!(sent.len(), 2);
        assert!(broken.now_or_never().is_none());
        let (parts, _) = super::parts(TaskResult::default(), tokio::io::empty(), 0);
        assert_eq!(parts.count().await, 1, "the result alone");
    }

    #[tokio::test]
    async fn bytes_that_cannot_be_read_break_the_call_off_and_never_end_the_stream() {
        for (is_broken, kind) in [
            (true, io::ErrorKind::Other),
            (false, io::ErrorKind::UnexpectedEof),
        ] {
            let (parts, broken) = parts(TaskResult::default(), file(b"123", is_broken), 5);
            let mut parts = Box::pin(parts);
            assert!(parts.next().await.is_some());
            assert!(parts.next().await.is_some(), "what could be read");
            assert!(matches!(futures::poll!(parts.next()), Poll::Pending));
            assert_eq!(broken.await.kind(), kind);
            assert!(matches!(futures::poll!(parts.next()), Poll::Pending));
        }
    }
}
