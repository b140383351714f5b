//! Yamux with larger frames than libp2p's wrapper sends: the protocol and the crate below are the same, and so is what
//! any peer understands (frames of up to 1 MiB). libp2p does not let one set the size.
//!
//! Why: yamux flushes after each frame, so a frame is a noise message, a system call and a wake-up at either end. With
//! 16 KiB that is 65,536 of each per GiB; one that fills a noise message is four times fewer (docs/benchmarks.md). On a
//! slow line a frame of bulk then delays what comes behind it by four times as much, 64 KiB instead of 16: less than
//! the kernel's send buffer does anyway.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io, iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite, ready as ready_or_return};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use yamux::{Connection, ConnectionError, Mode};

/// With its header of 12 bytes a frame fills the largest message that libp2p's noise makes, 64,511 bytes.
const FRAME_BYTES: usize = 64_511 - 12;

/// Streams that the other side has opened and nobody has taken yet; more are dropped. As many as it may open
/// without an answer.
const WAITING_MAX: usize = 256;

/// The upgrade.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Yamux;

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(io, Mode::Client)))
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    /// Opened by the other side, not taken yet.
    waiting: VecDeque<yamux::Stream>,
    /// Who waits for one.
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(io: C, mode: Mode) -> Self {
        let mut config = yamux::Config::default();
        config.set_split_send_size(FRAME_BYTES);
        Self {
            connection: Connection::new(io, config, mode),
            waiting: VecDeque::new(),
            taker: None,
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        let next = ready_or_return!(self.connection.poll_next_inbound(cx));
        let closed = || as_io(ConnectionError::Closed);
        Poll::Ready(next.ok_or_else(closed)?.map_err(as_io))
    }
}

fn as_io(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.next(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(as_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(as_io)
    }

    /// Everything moves in here; a stream that is opened meanwhile waits until it is asked for.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        loop {
            let stream = ready_or_return!(self.next(cx))?;
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(stream);
            }
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        }
    }
}
