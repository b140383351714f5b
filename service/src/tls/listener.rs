//! Accepting TLS connections without letting one slow client hold up the others.
//!
//! gRPC servers feed the stream to `serve_with_incoming`. Must stay true: a handshake has a time limit
//! and a place among a bounded number; a failed one is logged without the address and never ends the
//! stream; dropping the stream stops accepting.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{PeerKey, verify::peer_key_from_cert};
use crate::report::Chain;

/// Time for one handshake: two round trips over Tor take under 2 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at the same time. Each costs about 0.5 ms of CPU and some 40 KB; stalled ones leave
/// after [`HANDSHAKE_TIMEOUT`], so 100 stalled clients per second are borne.
pub const HANDSHAKES_MAX: usize = 512;
/// Ready connections waiting for the server to take them.
const READY_MAX: usize = 64;
/// Pause after a failed `accept` (out of file descriptors), in which others may close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of [`serve_tls`].
#[derive(Debug, Clone, Copy)]
pub struct TlsLimits {
    /// Time for one handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at the same time; further clients wait in the kernel's queue.
    pub handshakes_max: usize,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
        }
    }
}

/// An accepted connection whose peer proved its key.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    peer: PeerKey,
    remote: SocketAddr,
}

impl TlsIo {
    /// The key that the client proved to hold.
    pub const fn peer_key(&self) -> PeerKey {
        self.peer
    }

    /// Where it came from: for limits, never for logs.
    pub const fn remote_addr(&self) -> SocketAddr {
        self.remote
    }
}

/// Accepts on `listener` and yields connections whose handshake succeeded. Failed ones are not
/// yielded, so the items are never `Err`; the type is what servers expect of an incoming stream.
///
/// Needs a tokio runtime. The stream ends only when the runtime does.
pub fn serve_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: TlsLimits,
) -> impl Stream<Item = io::Result<TlsIo>> + Send + Unpin + 'static {
    let (ready, mut incoming) = mpsc::channel(READY_MAX);
    drop(tokio::spawn(accept_all(
        listener,
        TlsAcceptor::from(config),
        limits,
        ready,
    )));
    futures::stream::poll_fn(move |cx| incoming.poll_recv(cx).map(|next| next.map(Ok)))
}

async fn accept_all(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: TlsLimits,
    ready: mpsc::Sender<TlsIo>,
) {
    let permits = Arc::new(Semaphore::new(limits.handshakes_max.max(1)));
    loop {
        let permit = tokio::select! {
            () = ready.closed() => return,
            permit = Arc::clone(&permits).acquire_owned() => {
                permit.expect("nobody closes this semaphore")
            }
        };
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        drop(tokio::spawn(async move {
            let handshake = handshake(&acceptor, tcp, remote);
            match tokio::time::timeout(limits.handshake_timeout, handshake).await {
                Ok(Ok(io)) => {
                    // The permit covers the wait for the server too: it bounds what is half done.
                    drop(ready.send(io).await);
                }
                Ok(Err(error)) => {
                    super::refusals::FAILED.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(error = %Chain(&error), "TLS handshake refused");
                }
                Err(_) => {
                    super::refusals::TIMED_OUT.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!("TLS handshake timed out");
                }
            }
            drop(permit);
        }));
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    remote: SocketAddr,
) -> io::Result<TlsIo> {
    tcp.set_nodelay(true)?;
    let stream = acceptor.accept(tcp).await?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the client showed no certificate"))?;
    let peer = PeerKey(peer_key_from_cert(certificate).map_err(io::Error::other)?);
    Ok(TlsIo {
        stream,
        peer,
        remote,
    })
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
