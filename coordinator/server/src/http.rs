//! The public API's listener: HTTP/1.1 within bounds, over the router that `api` makes. Called by
//! `serve`; TLS and HTTP/2 are a proxy's business.
//!
//! Must stay true: a head that dribbles, an idle connection and a reader that takes nothing end by
//! themselves; a streamed answer lasts as long as its reader reads; a stop lets what is in work end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::ConnectInfo,
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use owm_service::{
    CancellationToken,
    gate::{Gate, GateLimits, GateMetrics, InUse, Pass},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Sleep,
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Bytes of a request's head, and of what is buffered of a body: twice what `api` lets pass, so that
/// most who send too much are told by a problem.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Header fields of a request; browsers send twenty.
const HEADERS_MAX: usize = 100;

/// Pause after a failed `accept` (out of file descriptors), in which others may close some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of [`serve`].
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at the same time.
    pub connections: GateLimits,
    /// For a request's head, and for nothing at all between two requests.
    pub head_timeout: Duration,
    /// For a reader to take anything of what is ready for him.
    pub stall_timeout: Duration,
}

/// Serves until `stop`; then idle connections close at once, and it returns when requests in work have
/// been answered. Handlers find `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    metrics: GateMetrics,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let gate = Gate::new("api", limits.connections, metrics);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
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
        let Some(pass) = gate.enter(remote.ip()) else {
            continue;
        };
        let connection = Connection {
            gate: gate.clone(),
            pass: Arc::new(pass),
            router: router.clone(),
            remote,
            limits,
        };
        connections.spawn(connection.serve(tcp, stop.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

struct Connection {
    gate: Gate,
    pass: Arc<Pass>,
    router: Router,
    remote: SocketAddr,
    limits: HttpLimits,
}

impl Connection {
    async fn serve(self, tcp: TcpStream, stop: CancellationToken) {
        // Small answers go out at once; where it can't be set they go out later.
        drop(tcp.set_nodelay(true));
        let io = TokioIo::new(Stalling::new(tcp, self.limits.stall_timeout));
        let service = service_fn(|request| self.respond(request));
        let mut served = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.head_timeout)
                .max_buf_size(BUFFER_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(io, service)
        );
        let mut stopping = false;
        let ended = loop {
            tokio::select! {
                ended = served.as_mut() => break ended,
                () = self.pass.thrown_out() => return,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            if let Some(reason) = reason(&error) {
                self.gate.refused(reason);
            }
            tracing::debug!(%error, "an API connection broke");
        }
    }

    /// The connection is in use until the last byte of the answer is on its way.
    async fn respond(&self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let Some(in_use) = self.pass.in_use() else {
            // Thrown out in this very moment: `serve` drops this future.
            return std::future::pending().await;
        };
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.remote));
        let response = self.router.clone().oneshot(request).await?;
        Ok(hold(response, in_use))
    }
}

/// What a connection that broke is counted as; `None`: the other side hung up, as it may.
fn reason(error: &hyper::Error) -> Option<&'static str> {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    let stalled = source.is_some_and(|e| e.kind() == io::ErrorKind::TimedOut);
    if error.is_timeout() || stalled {
        Some("time_out")
    } else if error.is_parse() {
        Some("error")
    } else {
        None
    }
}

fn hold(response: Response, in_use: InUse) -> Response {
    if response.body().is_end_stream() {
        return response;
    }
    // Its length, if known, stands in the headers already.
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &in_use;
            frame
        }))
    })
}

/// A connection whose writes fail when the other side takes nothing for too long.
struct Stalling<T> {
    io: T,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<T> Stalling<T> {
    fn new(io: T, limit: Duration) -> Self {
        Self {
            io,
            limit,
            stalled: None,
        }
    }

    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = self.limit;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
