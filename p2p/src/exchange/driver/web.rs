//! A web seed: the same bytes by HTTP, from who published them. Who can do HTTP passes it in; here it is one more
//! source of the machine, which asks it only where peers lack something or are too slow.

use std::{fmt, io, ops::Range, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream};
use owm_proto::{FileSpec, Ladder, Sha256};
use tokio::{sync::mpsc, time::timeout};

use super::Shared;
use crate::exchange::machine::{Ended, Event, RequestId, Source};

/// Requests under way at once.
const PARALLEL: usize = 4;

/// Requests that may wait: what the machine asks of one source at most.
const WAITING: usize = 1_024;

/// Time for one request, of 1 MiB at most.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Gets bytes of files by HTTP.
pub trait WebSeed: Send + Sync + fmt::Debug {
    /// These bytes of a file; 1 MiB at most.
    fn range(&self, file: Sha256, range: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>>;

    /// A file's ladder.
    fn ladder(&self, file: &FileSpec) -> BoxFuture<'static, io::Result<Vec<u8>>>;
}

/// What the web seed is told to get.
pub(super) struct Orders(mpsc::Sender<(RequestId, Sha256, Range<u64>)>);

impl Orders {
    pub(super) fn give(&self, request: RequestId, file: Sha256, range: Range<u64>) -> bool {
        self.0.try_send((request, file, range)).is_ok()
    }
}

/// What the machine is told of a web seed: it has everything.
pub(super) fn offer(ladder: &Ladder) -> Event {
    Event::Offered {
        source: Source::Web(0),
        file: ladder.spec().sha256(),
        pieces: None,
        rtt: None,
    }
}

/// Starts it; it ends when its orders are dropped.
pub(super) fn start(shared: &Arc<Shared>, seed: Arc<dyn WebSeed>) -> Orders {
    let (orders, taken) = mpsc::channel(WAITING);
    let for_task = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let taken = stream::unfold(taken, |mut taken| async move {
            let order = taken.recv().await?;
            Some((order, taken))
        });
        let each = taken.for_each_concurrent(PARALLEL, |(request, file, range)| {
            get(&for_task, &*seed, request, file, range)
        });
        tokio::select! {
            () = for_task.stop.cancelled() => {}
            () = each => {}
        }
    });
    Orders(orders)
}

async fn get(
    shared: &Arc<Shared>,
    seed: &dyn WebSeed,
    request: RequestId,
    file: Sha256,
    range: Range<u64>,
) {
    let length = range.end - range.start;
    shared.download.take(length as usize).await;
    match timeout(TIMEOUT, seed.range(file, range)).await {
        Ok(Ok(bytes)) if bytes.len() as u64 == length => {
            shared.deliver(request, bytes).await;
        }
        _ => {
            let how = Ended::Failed;
            shared.handle(Event::Ended { request, how });
        }
    }
}
