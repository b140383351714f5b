//! What comes in on a stream, put together: heads of answers and portions of their bodies. Nothing is lost when a
//! read is given up between two awaits: all state is here.

use std::{io, time::Duration};

use futures::{
    AsyncReadExt as _,
    io::{ReadHalf, WriteHalf},
};
use libp2p::Stream;
use tokio::time::{Instant, timeout_at};

use crate::exchange::wire::ANSWER_BYTES;

/// See the module.
pub(super) struct Incoming {
    stream: ReadHalf<Stream>,
    head: [u8; ANSWER_BYTES],
    /// Bytes that are there, of the head or of the portion.
    got: usize,
    /// Of the body, this portion included; `None`: a head is next.
    left: Option<usize>,
    portion_max: usize,
    /// The body is handed on in one piece or not at all.
    is_whole: bool,
    portion: Vec<u8>,
    /// When the portion is handed on as it is.
    due: Option<Instant>,
}

impl Incoming {
    pub(super) fn new(stream: Stream) -> (Self, WriteHalf<Stream>) {
        let (stream, writer) = stream.split();
        let incoming = Self {
            stream,
            head: [0; ANSWER_BYTES],
            got: 0,
            left: None,
            portion_max: 0,
            is_whole: false,
            portion: Vec::new(),
            due: None,
        };
        (incoming, writer)
    }

    /// A body of so many bytes (not 0) follows, in portions of at most so many; `whole`: never in less.
    pub(super) fn expect(&mut self, length: usize, portion_max: usize, whole: bool) {
        self.left = Some(length);
        self.is_whole = whole;
        self.portion_max = portion_max;
        self.portion.resize(length.min(portion_max), 0);
    }

    /// A buffer to read into again.
    pub(super) fn reuse(&mut self, buffer: Vec<u8>) {
        self.portion = buffer;
        // Its length stays until the next body is known: to fill it with zeros each time is a pass over a MiB.
        if let Some(left) = self.left {
            self.portion.resize(left.min(self.portion_max), 0);
        }
    }

    /// Reads until there is a head or a full portion, or a part of one for so long; of a body that is wanted whole,
    /// until there is a little more.
    pub(super) async fn fill(&mut self, patience: Duration) -> io::Result<()> {
        loop {
            let into = match self.left {
                None => &mut self.head[self.got..],
                Some(_) => &mut self.portion[self.got..],
            };
            if into.is_empty() {
                return Ok(());
            }
            let read = self.stream.read(into);
            let read = match (self.left, self.got) {
                (Some(_), 1..) if !self.is_whole => {
                    let due = *self.due.get_or_insert_with(|| Instant::now() + patience);
                    match timeout_at(due, read).await {
                        Ok(read) => read?,
                        Err(tokio::time::error::Elapsed { .. }) => return Ok(()),
                    }
                }
                _ => read.await?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.got += read;
            if self.left.is_some() && self.is_whole {
                return Ok(());
            }
        }
    }

    /// The head, if one is complete.
    pub(super) fn head(&mut self) -> Option<[u8; ANSWER_BYTES]> {
        let is_there = self.left.is_none() && self.got == ANSWER_BYTES;
        is_there.then(|| {
            self.got = 0;
            self.head
        })
    }

    /// What there is of the body, and whether it is its end.
    pub(super) fn portion(&mut self) -> Option<(Vec<u8>, bool)> {
        let left = self.left?;
        if self.got == 0 || self.is_whole && self.got < left {
            return None;
        }
        self.portion.truncate(self.got);
        let rest = left - self.got;
        self.got = 0;
        self.due = None;
        self.left = (rest > 0).then_some(rest);
        let next = vec![];
        let portion = std::mem::replace(&mut self.portion, next);
        Some((portion, rest == 0))
    }
}
