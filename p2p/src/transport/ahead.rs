//! Reads more at once from a socket that is busy. Noise's framing asks for 8 KiB at a time, which makes 131,072 system
//! calls of a GiB; here a connection on which bulk comes in reads what is there, up to 128 KiB, and hands it out in
//! portions. A connection on which little comes in holds no buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Read at once.
const AHEAD: usize = 128 << 10;

/// A read of fewer bytes than this is no bulk: the buffer is given back.
const LITTLE: usize = 4 << 10;

/// A socket.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    inner: S,
    buffer: Vec<u8>,
    /// What of the buffer has not been handed out.
    from: usize,
    to: usize,
}

impl<S> Ahead<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            from: 0,
            to: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.from == this.to {
            if this.buffer.is_empty() {
                let read = ready!(Pin::new(&mut this.inner).poll_read(cx, into))?;
                if read == into.len() && read >= LITTLE {
                    this.buffer.resize(AHEAD, 0);
                }
                return Poll::Ready(Ok(read));
            }
            this.to = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut this.buffer))?;
            this.from = 0;
        }
        let read = into.len().min(this.to - this.from);
        into[..read].copy_from_slice(&this.buffer[this.from..this.from + read]);
        this.from += read;
        if this.from == this.to && this.to < LITTLE {
            (this.from, this.to) = (0, 0);
            this.buffer = Vec::new();
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt as _;

    use super::*;

    /// Gives at most so many bytes at a time and counts how often it is asked.
    struct Socket {
        bytes: futures::io::Cursor<Vec<u8>>,
        portion: usize,
        asked: usize,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.asked += 1;
            let most = into.len().min(self.portion);
            Pin::new(&mut self.bytes).poll_read(cx, &mut into[..most])
        }
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_and_bulk_with_few_calls() {
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| (n >> 3) as u8).collect();
        for (portion, calls_max) in [(1_000, 5_000), (usize::MAX, 40)] {
            let mut ahead = Ahead::new(Socket {
                bytes: futures::io::Cursor::new(bytes.clone()),
                portion,
                asked: 0,
            });
            let (mut got, mut buffer) = (Vec::<u8>::new(), [0; 8 << 10]);
            loop {
                let read = ahead.read(&mut buffer).await.unwrap();
                if read == 0 {
                    break;
                }
                got.extend(&buffer[..read]);
            }
            assert!(got == bytes);
            assert!(ahead.inner.asked <= calls_max, "{}", ahead.inner.asked);
            assert!(ahead.buffer.is_empty(), "it is given back in the end");
        }
    }
}
