//! Answers those who fetch from us. One task accepts streams at once (libp2p drops what is not taken), each
//! accepted one has a task that reads a request, answers it, and reads the next: so a peer's thousand requests wait
//! in its own stream's window (256 KiB), not in our memory. Who is too many is told so and never queued; idle streams
//! give way to newcomers ([`seats`]).
//!
//! Must stay true: only files that were shared are served, and only to their audience; only proven bytes are read
//! (the store refuses others, and files that have changed); a peer that takes less than [`PROGRESS_BYTES`] of what it
//! asked for within [`PROGRESS_TIMEOUT`] is dropped; only what a stream has taken counts, for the cap and for slots.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use owm_proto::{FileSpec, Sha256};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use self::seats::{STREAMS_MAX, STREAMS_PER_PEER};
use self::seats::{SeatId, Seats};
use super::{
    behaviour::Streams,
    files::{FileError, Shelf},
    rate::Rate,
    slots::{Busy, Slots},
    wire::{ANSWER_BYTES, Answer, Ask, NO_REQUEST, REQUEST_BYTES, Request, Status, WireError},
};
use crate::Clock;

mod seats;

/// A stream that asks nothing is closed after so long, sooner if another peer needs its place.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// A peer must take [`PROGRESS_BYTES`] of what it has asked for within this time, the cap's waits not counted.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// 1 KiB a second: less holds a stream and an upload slot for nothing.
pub const PROGRESS_BYTES: usize = 30 << 10;

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
    /// Bytes of files that streams have taken.
    pub bytes: u64,
    /// Streams open now.
    pub streams: usize,
    /// Streams turned away because there were too many.
    pub turned_away: u64,
    /// Streams that had to give way to newcomers.
    pub displaced: u64,
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
    seats: Seats,
    counts: ServedCounts,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("too little was taken in time")]
    Timeout,
    #[error("it gave way to a newcomer")]
    Displaced,
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
            seats: Seats::default(),
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
            streams: state.seats.len(),
            displaced: state.seats.displaced(),
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
        let now = self.0.clock.monotonic();
        let mut state = self.state();
        let Some((seat, leave)) = state.seats.enter(peer, now) else {
            state.counts.turned_away += 1;
            return None;
        };
        let server = self.clone();
        Some(Place {
            server,
            peer,
            seat,
            leave,
        })
    }

    /// Whether the file is shared with this peer.
    fn is_for(&self, file: &Sha256, peer: &PeerId) -> bool {
        match self.state().shared.get(file) {
            None => false,
            Some(Audience::Everyone) => true,
            Some(Audience::Named(peers)) => peers.contains(peer),
        }
    }
}

fn names(file: &FileSpec) -> impl Iterator<Item = Sha256> {
    [Some(file.sha256()), file.ladder_sha256()]
        .into_iter()
        .flatten()
}

/// Says BUSY, if that can be done without waiting.
fn turn_away(mut stream: impl AsyncWrite + Unpin) {
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

/// Puts what was asked for behind the room for the head; `false`: it is not here. Blocks.
fn look(shelf: &dyn Shelf, request: &Request, buffer: &mut Vec<u8>) -> Result<bool, FileError> {
    let Some(file) = shelf.find(&request.file) else {
        return Ok(false);
    };
    match request.ask {
        Ask::Have => {
            buffer.resize(ANSWER_BYTES, 0);
            buffer.extend(file.have().to_bytes());
        }
        Ask::Range { offset, length } => {
            // What an earlier answer left there is written over; not to clear it first saves a pass over a MiB.
            buffer.resize(ANSWER_BYTES + length as usize, 0);
            file.read(offset, &mut buffer[ANSWER_BYTES..])?;
        }
    }
    Ok(true)
}

/// Only the room for the head.
fn nothing(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.resize(ANSWER_BYTES, 0);
    buffer
}

/// A stream's place among those that are served; free again when it is dropped.
struct Place {
    server: Server,
    peer: PeerId,
    seat: SeatId,
    leave: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.state().seats.free(self.seat);
    }
}

/// What a request leads to: the head's status, and the bytes behind the room for the head.
type Reply = (Status, Vec<u8>);

impl Place {
    async fn serve(self, mut stream: Stream) {
        match self.answer_all(&mut stream).await {
            Ok(()) => {}
            Err(error) => {
                if !matches!(error, Ended::Displaced) {
                    self.server.state().counts.dropped += 1;
                }
                tracing::debug!(peer = %self.peer, "a stream was dropped: {error}");
            }
        }
    }

    async fn answer_all(&self, stream: &mut Stream) -> Result<(), Ended> {
        let mut buffer = Vec::new();
        while let Some(request) = self.question(stream).await? {
            let (status, mut bytes) = self.reply(&request, buffer).await;
            let length = bytes.len() - ANSWER_BYTES;
            self.count(status);
            let answer = Answer {
                id: request.id,
                status,
                length: length as u32,
            };
            bytes[..ANSWER_BYTES].copy_from_slice(&answer.to_bytes());
            self.write(stream, &bytes).await?;
            buffer = bytes;
        }
        Ok(())
    }

    /// The next request; `None`: there will be none.
    async fn question(&self, stream: &mut Stream) -> Result<Option<Request>, Ended> {
        let mut head = [0; REQUEST_BYTES];
        self.server.state().seats.set_idle(self.seat, true);
        let read = tokio::select! {
            read = timeout(IDLE_TIMEOUT, stream.read_exact(&mut head)) => read,
            () = self.leave.cancelled() => {
                turn_away(stream);
                return Err(Ended::Displaced);
            }
        };
        self.server.state().seats.set_idle(self.seat, false);
        match read {
            Ok(Ok(())) => Ok(Some(Request::parse(&head)?)),
            // The usual end: the other side has closed it, or asks nothing any more.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Ok(Err(error)) => Err(error.into()),
            Err(tokio::time::error::Elapsed { .. }) => Ok(None),
        }
    }

    /// `buffer` is one that is no longer needed.
    async fn reply(&self, request: &Request, mut buffer: Vec<u8>) -> Reply {
        if !self.server.is_for(&request.file, &self.peer) {
            return (Status::Missing, nothing(buffer));
        }
        if let Ask::Range { .. } = request.ask {
            let admitted = {
                let now = self.server.0.clock.monotonic();
                self.server.state().slots.admit(self.peer, now)
            };
            if let Err(Busy(wait)) = admitted {
                let retry_ms = wait.as_millis().try_into().unwrap_or(u32::MAX);
                return (Status::Busy { retry_ms }, nothing(buffer));
            }
        }
        // All that touches the disk, in one go: to find it, to read it, and to let go of it.
        let (shelf, request) = (Arc::clone(&self.server.0.shelf), *request);
        let looked = move || {
            let found = look(&*shelf, &request, &mut buffer);
            (found, buffer)
        };
        match tokio::task::spawn_blocking(looked).await {
            Ok((Ok(true), buffer)) => (Status::Ok, buffer),
            Ok((Ok(false), buffer)) => (Status::Missing, nothing(buffer)),
            Ok((Err(error), buffer)) => {
                self.not_read(request.file, &error);
                (Status::Missing, nothing(buffer))
            }
            // The runtime ends.
            Err(_) => (Status::Missing, nothing(Vec::new())),
        }
    }

    fn not_read(&self, file: Sha256, error: &FileError) {
        if matches!(error, FileError::Changed) {
            let mut state = self.server.state();
            state.shared.remove(&file);
            state.counts.changed += 1;
            drop(state);
            tracing::warn!(%file, "no longer served: {error}");
        }
    }

    fn count(&self, status: Status) {
        let mut state = self.server.state();
        match status {
            Status::Ok => {}
            Status::Busy { .. } => state.counts.busy += 1,
            Status::Missing => state.counts.missing += 1,
        }
    }

    /// Writes an answer, as long as the other side goes on taking it. What it has taken counts as it goes, so that
    /// neither who does not read nor a connection that breaks uses up the cap.
    async fn write(&self, stream: &mut Stream, bytes: &[u8]) -> Result<(), Ended> {
        let mut at = 0;
        let mut due = Instant::now() + PROGRESS_TIMEOUT;
        let mut enough = PROGRESS_BYTES;
        while at < bytes.len() {
            let written = self.in_time(due, stream.write(&bytes[at..])).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            let before = at.max(ANSWER_BYTES);
            at += written;
            let begun = Instant::now();
            self.took(at.saturating_sub(before)).await?;
            due += begun.elapsed();
            if at >= enough {
                enough = at + PROGRESS_BYTES;
                due = Instant::now() + PROGRESS_TIMEOUT;
            }
        }
        self.in_time(due, stream.flush()).await
    }

    async fn in_time<T>(
        &self,
        due: Instant,
        done: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Ended> {
        tokio::select! {
            done = timeout_at(due, done) => Ok(done.map_err(|_| Ended::Timeout)??),
            () = self.leave.cancelled() => Err(Ended::Displaced),
        }
    }

    /// So many bytes of files were taken; waits as the cap wants it.
    async fn took(&self, bytes: usize) -> Result<(), Ended> {
        {
            let now = self.server.0.clock.monotonic();
            let mut state = self.server.state();
            state.counts.bytes += bytes as u64;
            state.slots.took(&self.peer, bytes as u64);
            state.seats.took(self.seat, now);
        }
        tokio::select! {
            () = self.server.0.rate.take(bytes) => Ok(()),
            () = self.leave.cancelled() => Err(Ended::Displaced),
        }
    }
}
