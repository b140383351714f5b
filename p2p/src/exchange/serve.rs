//! Answers those who fetch from us. One task accepts streams at once (libp2p drops what is not taken), each
//! accepted one has a task that reads a request, answers it, and reads the next: so a peer's thousand requests wait
//! in its own stream's window (256 KiB), not in our memory. Who is too many is told so and never queued.
//!
//! Must stay true: only files that were shared are served, and only to their audience; only proven bytes are read
//! (the store refuses others, and files that have changed); a peer that does not take what it asked for within
//! [`PROGRESS_TIMEOUT`] is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use owm_proto::{FileSpec, Sha256};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    behaviour::Streams,
    files::{FileError, Served, Shelf},
    rate::Rate,
    slots::{Busy, Slots},
    wire::{ANSWER_BYTES, Answer, Ask, NO_REQUEST, REQUEST_BYTES, Request, Status, WireError},
};
use crate::Clock;

/// Streams that are served at a time: each holds at most one range, 1 MiB.
pub const STREAMS_MAX: usize = 64;

/// Of one peer: one for bulk, and a few that end just now.
pub const STREAMS_PER_PEER: usize = 4;

/// A stream that asks nothing is closed after so long.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// A peer must take something of what it has asked for within this time.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Who finds all streams taken may try again after so long.
const FULL_RETRY_MS: u32 = 1_000;

/// Who may fetch a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Everybody in the network: it is announced in a manifest.
    Everyone,
    /// These peers; for all others it is not here.
    Named(BTreeSet<PeerId>),
}

/// What has been served, for people and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServedCounts {
    /// Bytes of files.
    pub bytes: u64,
    /// Streams open now.
    pub streams: usize,
    /// Streams turned away because there were too many.
    pub turned_away: u64,
    /// Requests answered with BUSY.
    pub busy: u64,
    /// Requests for what is not here, or not for who asked.
    pub missing: u64,
    /// Files that had changed on disk when they were read.
    pub changed: u64,
    /// Streams dropped because their peer took nothing, or did not keep to the protocol.
    pub dropped: u64,
}

/// The server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shelf: Arc<dyn Shelf>,
    clock: Arc<dyn Clock>,
    rate: Rate,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shared: BTreeMap<Sha256, Audience>,
    slots: Slots,
    streams: BTreeMap<PeerId, usize>,
    counts: ServedCounts,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("nothing was taken or asked in time")]
    Timeout,
}

impl Server {
    /// Serves what `shelf` has once it is shared, at `bytes_per_second` at most.
    pub fn new(
        shelf: Arc<dyn Shelf>,
        clock: Arc<dyn Clock>,
        seed: [u8; 32],
        bytes_per_second: Option<u64>,
    ) -> Self {
        let state = State {
            shared: BTreeMap::new(),
            slots: Slots::new(seed),
            streams: BTreeMap::new(),
            counts: ServedCounts::default(),
        };
        Self(Arc::new(Inner {
            shelf,
            clock,
            rate: Rate::new(bytes_per_second),
            state: Mutex::new(state),
        }))
    }

    /// Serves a file from now on, complete or as far as it is proven, and its ladder.
    pub fn share(&self, file: &FileSpec, audience: &Audience) {
        let mut state = self.state();
        for name in names(file) {
            state.shared.insert(name, audience.clone());
        }
    }

    /// Serves it no more.
    pub fn unshare(&self, file: &FileSpec) {
        let mut state = self.state();
        for name in names(file) {
            state.shared.remove(&name);
        }
    }

    /// What has been served.
    pub fn counts(&self) -> ServedCounts {
        let state = self.state();
        ServedCounts {
            streams: state.streams.values().sum(),
            ..state.counts
        }
    }

    /// Accepts until `stop`.
    pub async fn run(self, streams: Streams, stop: CancellationToken) {
        let Some(mut incoming) = streams.accept() else {
            tracing::warn!("this swarm serves files already; the second server ends");
            return;
        };
        let mut serving = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = incoming.next() => match next {
                    None => return,
                    Some((peer, stream)) => match self.enter(peer) {
                        Some(place) => {
                            serving.spawn(place.serve(stream));
                        }
                        None => turn_away(stream),
                    },
                },
                Some(_) = serving.join_next() => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, peer: PeerId) -> Option<Place> {
        let mut state = self.state();
        let all: usize = state.streams.values().sum();
        let own = state.streams.get(&peer).copied().unwrap_or(0);
        if all >= STREAMS_MAX || own >= STREAMS_PER_PEER {
            state.counts.turned_away += 1;
            return None;
        }
        state.streams.insert(peer, own + 1);
        let server = self.clone();
        Some(Place { server, peer })
    }

    /// The file, if it is shared with this peer.
    fn find(&self, file: &Sha256, peer: &PeerId) -> Option<Arc<dyn Served>> {
        let is_for = match self.state().shared.get(file)? {
            Audience::Everyone => true,
            Audience::Named(peers) => peers.contains(peer),
        };
        if is_for {
            self.0.shelf.find(file)
        } else {
            None
        }
    }
}

fn names(file: &FileSpec) -> impl Iterator<Item = Sha256> {
    [Some(file.sha256()), file.ladder_sha256()]
        .into_iter()
        .flatten()
}

/// Says BUSY, if that can be done without waiting.
fn turn_away(mut stream: Stream) {
    let answer = Answer {
        id: NO_REQUEST,
        status: Status::Busy {
            retry_ms: FULL_RETRY_MS,
        },
        length: 0,
    };
    let said = async {
        stream.write_all(&answer.to_bytes()).await?;
        stream.close().await
    };
    // Who does not hear it sees a closed stream, which means the same.
    let _ = said.now_or_never();
}

/// A stream's place among those that are served; free again when it is dropped.
struct Place {
    server: Server,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.server.state();
        if let Some(own) = state.streams.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                state.streams.remove(&self.peer);
            }
        }
    }
}

/// What a request leads to: the head's status, and the bytes behind the room for the head.
type Reply = (Status, Vec<u8>);

impl Place {
    async fn serve(self, mut stream: Stream) {
        let ended = self.answer_all(&mut stream).await;
        if let Err(error) = ended {
            self.server.state().counts.dropped += 1;
            tracing::debug!(peer = %self.peer, "a stream was dropped: {error}");
        }
    }

    async fn answer_all(&self, stream: &mut Stream) -> Result<(), Ended> {
        let mut buffer = Vec::new();
        loop {
            let mut head = [0; REQUEST_BYTES];
            match timeout(IDLE_TIMEOUT, stream.read_exact(&mut head)).await {
                Ok(Ok(())) => {}
                // The usual end: the other side has closed it, or asks nothing any more.
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                Err(tokio::time::error::Elapsed { .. }) => return Ok(()),
            }
            let request = Request::parse(&head)?;
            let (status, mut bytes) = self.reply(&request, buffer).await;
            let length = bytes.len() - ANSWER_BYTES;
            self.count(status, length as u64);
            let answer = Answer {
                id: request.id,
                status,
                length: length as u32,
            };
            bytes[..ANSWER_BYTES].copy_from_slice(&answer.to_bytes());
            self.server.0.rate.take(length).await;
            write(stream, &bytes).await?;
            buffer = bytes;
        }
    }

    /// `buffer` is one that is no longer needed.
    async fn reply(&self, request: &Request, mut buffer: Vec<u8>) -> Reply {
        buffer.clear();
        buffer.resize(ANSWER_BYTES, 0);
        let Some(file) = self.server.find(&request.file, &self.peer) else {
            return (Status::Missing, buffer);
        };
        match request.ask {
            Ask::Have => buffer.extend(file.have().to_bytes()),
            Ask::Range { offset, length } => {
                let admitted = {
                    let now = self.server.0.clock.monotonic();
                    self.server.state().slots.admit(self.peer, now)
                };
                if let Err(Busy(wait)) = admitted {
                    let retry_ms = wait.as_millis().try_into().unwrap_or(u32::MAX);
                    return (Status::Busy { retry_ms }, buffer);
                }
                return self.read(file, request.file, offset, length, buffer).await;
            }
        }
        (Status::Ok, buffer)
    }

    async fn read(
        &self,
        file: Arc<dyn Served>,
        name: Sha256,
        offset: u64,
        length: u32,
        mut buffer: Vec<u8>,
    ) -> Reply {
        buffer.resize(ANSWER_BYTES + length as usize, 0);
        let read = tokio::task::spawn_blocking(move || {
            let read = file.read(offset, &mut buffer[ANSWER_BYTES..]);
            (read, buffer)
        });
        let nothing = || vec![0; ANSWER_BYTES];
        match read.await {
            Ok((Ok(()), buffer)) => (Status::Ok, buffer),
            Ok((Err(error), _)) => {
                if matches!(error, FileError::Changed) {
                    let mut state = self.server.state();
                    state.shared.remove(&name);
                    state.counts.changed += 1;
                    drop(state);
                    tracing::warn!(file = %name, "no longer served: {error}");
                }
                (Status::Missing, nothing())
            }
            // The runtime ends.
            Err(_) => (Status::Missing, nothing()),
        }
    }

    fn count(&self, status: Status, bytes: u64) {
        let mut state = self.server.state();
        match status {
            Status::Ok => state.counts.bytes += bytes,
            Status::Busy { .. } => state.counts.busy += 1,
            Status::Missing => state.counts.missing += 1,
        }
        state.slots.took(&self.peer, bytes);
    }
}

/// Writes all of it, as long as the other side takes something now and then.
async fn write(stream: &mut Stream, mut bytes: &[u8]) -> Result<(), Ended> {
    while !bytes.is_empty() {
        let written = timeout(PROGRESS_TIMEOUT, stream.write(bytes)).await;
        let written = written.map_err(|_| Ended::Timeout)??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        bytes = &bytes[written..];
    }
    let flushed = timeout(PROGRESS_TIMEOUT, stream.flush()).await;
    Ok(flushed.map_err(|_| Ended::Timeout)??)
}
