//! Accepting TLS connections without letting one slow client hold up the others.
//!
//! gRPC servers feed the stream to `serve_with_incoming`. Must stay true: a handshake has a time limit
//! and a place among a bounded number, in total and per address; when all are taken the oldest stalled
//! one goes, so that a flood of them locks nobody out; a failed one is logged without the address and
//! never ends the stream; dropping the stream stops accepting.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{PeerKey, verify::peer_key_from_cert};
use crate::{
    gate::{Gate, GateLimits, GateMetrics, InUse, Pass},
    report::Chain,
};

/// Time for one handshake: two round trips over Tor take under 2 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at the same time. Each costs about 0.5 ms of CPU and some 40 KB.
pub const HANDSHAKES_MAX: usize = 512;
/// Of these from one address: a household of nodes that come back at the same moment.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
/// Connections at the same time: 10,000 nodes with room to spare, at some 48 KB each.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Of these from one address: a data centre's nodes behind one NAT.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 512;
/// Ready connections waiting for the server to take them.
const READY_MAX: usize = 64;
/// Pause after a failed `accept` (out of file descriptors), in which others may close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of [`serve_tls`].
#[derive(Debug, Clone, Copy)]
pub struct TlsLimits {
    /// Time for one handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at the same time; beyond that the oldest one under way is thrown out.
    pub handshakes: GateLimits,
    /// Connections at the same time; beyond that new ones are closed.
    pub connections: GateLimits,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes: GateLimits::new(HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX),
            connections: GateLimits::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX),
        }
    }
}

/// An accepted connection whose peer proved its key.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    peer: PeerKey,
    remote: SocketAddr,
    // Its place among the connections, for as long as it lives.
    _place: (InUse, Pass),
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

/// As [`serve_tls_counted`], nobody reads the counts.
pub fn serve_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: TlsLimits,
) -> impl Stream<Item = io::Result<TlsIo>> + Send + Unpin + 'static {
    serve_tls_counted(listener, config, limits, GateMetrics::default())
}

/// Accepts on `listener` and yields connections whose handshake succeeded. Failed ones are not
/// yielded, so the items are never `Err`; the type is what servers expect of an incoming stream.
/// `metrics` counts who was turned away: `rpc_handshake` before a key was proved, `rpc` after.
///
/// Needs a tokio runtime. The stream ends only when the runtime does.
pub fn serve_tls_counted(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: TlsLimits,
    metrics: GateMetrics,
) -> impl Stream<Item = io::Result<TlsIo>> + Send + Unpin + 'static {
    let (ready, mut incoming) = mpsc::channel(READY_MAX);
    let accepting = Accepting {
        acceptor: TlsAcceptor::from(config),
        handshake_timeout: limits.handshake_timeout,
        handshakes: Gate::new("rpc_handshake", limits.handshakes, metrics.clone()),
        connections: Gate::new("rpc", limits.connections, metrics),
        ready,
    };
    drop(tokio::spawn(accept_all(listener, accepting)));
    futures::stream::poll_fn(move |cx| incoming.poll_recv(cx).map(|next| next.map(Ok)))
}

/// What every connection needs. Cheap to clone.
#[derive(Clone)]
struct Accepting {
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
    handshakes: Gate,
    connections: Gate,
    ready: mpsc::Sender<TlsIo>,
}

async fn accept_all(listener: TcpListener, accepting: Accepting) {
    loop {
        let accepted = tokio::select! {
            () = accepting.ready.closed() => return,
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
        // Without a place it is closed here.
        if let Some(pass) = accepting.handshakes.enter(remote.ip()) {
            drop(tokio::spawn(accept(accepting.clone(), pass, tcp, remote)));
        }
    }
}

async fn accept(accepting: Accepting, pass: Pass, tcp: TcpStream, remote: SocketAddr) {
    let limit = accepting.handshake_timeout;
    let handshake = tokio::time::timeout(limit, accepting.handshake(tcp, remote));
    let shaken = tokio::select! {
        () = pass.thrown_out() => return,
        shaken = handshake => shaken,
    };
    match shaken {
        // The place covers the wait for the server too: it bounds what is half done.
        Ok(Ok(Some(io))) => {
            let _in_use = pass.in_use();
            drop(accepting.ready.send(io).await);
        }
        Ok(Ok(None)) => tracing::debug!("too many connections from one address, or in total"),
        Ok(Err(error)) => {
            accepting.handshakes.refused("error");
            tracing::debug!(error = %Chain(&error), "TLS handshake refused");
        }
        Err(_) => {
            accepting.handshakes.refused("time_out");
            tracing::debug!("TLS handshake timed out");
        }
    }
}

impl Accepting {
    /// `None`: the peer is who it says, but there is no place for it.
    async fn handshake(&self, tcp: TcpStream, remote: SocketAddr) -> io::Result<Option<TlsIo>> {
        tcp.set_nodelay(true)?;
        let stream = self.acceptor.accept(tcp).await?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or_else(|| io::Error::other("the client showed no certificate"))?;
        let peer = PeerKey(peer_key_from_cert(certificate).map_err(io::Error::other)?);
        let place = self.connections.enter(remote.ip());
        let place = place.and_then(|pass| pass.in_use().map(|in_use| (in_use, pass)));
        Ok(place.map(|place| TlsIo {
            stream,
            peer,
            remote,
            _place: place,
        }))
    }
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
