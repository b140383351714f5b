//! The listener over real sockets: who is cut off, and who is not.

use axum::{body::Bytes, routing::get};
use futures::{StreamExt as _, stream};
use owm_service::metrics::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Never over in these tests.
const LONG: Duration = Duration::from_hours(1);
const SHORT: Duration = Duration::from_millis(500);

const ROOMY: HttpLimits = HttpLimits {
    connections: GateLimits::new(64, 64),
    head_timeout: LONG,
    stall_timeout: LONG,
};

/// A server with `/` (a word), `/stream` (five words, each later than a head may be), `/large` (more
/// than any socket buffers) and `/wait` (a word, and another when the test says so).
struct Site {
    addr: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
    go_on: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), Infallible>>,
}

async fn site(limits: HttpLimits) -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let words = || async {
        let words = stream::iter(0..5).then(|n| async move {
            tokio::time::sleep(SHORT).await;
            Ok::<_, Infallible>(Bytes::from(format!("word{n} ")))
        });
        Body::from_stream(words)
    };
    let go_on = CancellationToken::new();
    let waiting = go_on.clone();
    let wait = move || {
        let waiting = waiting.clone();
        let begun = stream::iter(["begun"]);
        let waited = stream::once(async move {
            waiting.cancelled().await;
            "waited"
        });
        async { Body::from_stream(begun.chain(waited).map(Ok::<_, Infallible>)) }
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/stream", get(words))
        .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
        .route("/wait", get(wait));
    let (registry, stop) = (Registry::new(), CancellationToken::new());
    let metrics = GateMetrics::register(&registry);
    let served = tokio::spawn(serve(listener, router, limits, metrics, stop.clone()));
    Site {
        addr,
        registry,
        stop,
        go_on,
        served,
    }
}

impl Site {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test is the raw other side of the listener"
    )]
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// A connection that has sent `bytes`.
    async fn say(&self, bytes: &[u8]) -> TcpStream {
        let mut tcp = self.connect().await;
        tcp.write_all(bytes).await.unwrap();
        tcp
    }

    /// Waits until a metric's line begins with `line`.
    async fn counted(&self, line: &str) {
        let seen = async {
            while !self.registry.encode().contains(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(2), seen)
            .await
            .unwrap_or_else(|_| panic!("never {line}: {}", self.registry.encode()));
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

async fn read_all(mut tcp: TcpStream) -> String {
    let mut all = vec![];
    drop(tcp.read_to_end(&mut all).await);
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until `end` has come.
async fn read_until(tcp: &mut TcpStream, end: &str) -> String {
    let mut all = vec![];
    while !String::from_utf8_lossy(&all).contains(end) {
        assert!(tcp.read_buf(&mut all).await.unwrap() > 0, "it ended early");
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let limits = HttpLimits {
        head_timeout: SHORT,
        ..ROOMY
    };
    let site = site(limits).await;
    let silent = site.connect().await;
    let half = site.say(b"GET / HTTP/1.1\r\nHost: loc").await;
    assert!(!read_all(silent).await.contains("hello"));
    assert!(!read_all(half).await.contains("hello"));
    site.counted("connections_refused_total{listener=\"api\",reason=\"time_out\"}")
        .await;
    site.counted("owm_service_connections_open{listener=\"api\"} 0")
        .await;
}

#[tokio::test]
async fn a_streamed_answer_outlasts_the_time_for_heads() {
    let limits = HttpLimits {
        head_timeout: SHORT,
        stall_timeout: SHORT,
        ..ROOMY
    };
    let site = site(limits).await;
    let answer = read_all(site.say(&request("/stream")).await).await;
    assert!(answer.contains("word4"), "{answer}");
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let site = site(ROOMY).await;
    let mut tcp = site.say(&request("/")).await;
    read_until(&mut tcp, "hello").await;
    tcp.write_all(&request("/")).await.unwrap();
    read_until(&mut tcp, "hello").await;
}

#[tokio::test]
async fn idle_connections_make_room_and_those_in_use_do_not() {
    let limits = HttpLimits {
        connections: GateLimits::new(3, 3),
        ..ROOMY
    };
    let site = site(limits).await;
    let mut waiting = site.say(&request("/wait")).await;
    read_until(&mut waiting, "begun").await;
    let mut flood = vec![];
    for _ in 0..20 {
        flood.push(site.say(b"GET / HTTP/1.1\r\nHost: loc").await);
    }
    let mut honest = site.say(&request("/")).await;
    read_until(&mut honest, "hello").await;
    site.counted("reason=\"idle\"} 19").await;
    site.go_on.cancel();
    read_until(&mut waiting, "waited").await;
}

#[tokio::test]
async fn without_an_idle_connection_the_newcomer_is_turned_away() {
    let limits = HttpLimits {
        connections: GateLimits::new(1, 1),
        ..ROOMY
    };
    let site = site(limits).await;
    // A word has come, so it is in use.
    let mut streaming = site.say(&request("/stream")).await;
    read_until(&mut streaming, "200 OK").await;
    assert_eq!(read_all(site.say(&request("/")).await).await, "");
    site.counted("reason=\"per_address\"} 1").await;
    read_until(&mut streaming, "word4").await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let limits = HttpLimits {
        stall_timeout: SHORT,
        ..ROOMY
    };
    let site = site(limits).await;
    let held = site.say(&request("/large")).await;
    site.counted("reason=\"time_out\"} 1").await;
    site.counted("connections_open{listener=\"api\"} 0").await;
    drop(held);
}

#[tokio::test]
async fn heads_with_too_many_fields_or_bytes_are_refused() {
    let site = site(ROOMY).await;
    let many = "X-Field: 1\r\n".repeat(HEADERS_MAX + 1);
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let answer = read_all(site.say(head.as_bytes()).await).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // Of one that is too large not all is read, and the rest may cost the answer its way back.
    let large = "x".repeat(2 * BUFFER_BYTES_MAX);
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {large}\r\n\r\n");
    let mut tcp = site.connect().await;
    drop(tcp.write_all(head.as_bytes()).await);
    assert!(!read_all(tcp).await.contains("hello"));
    site.counted("reason=\"error\"} 2").await;
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_lets_requests_end() {
    let site = site(ROOMY).await;
    let mut idle = site.say(&request("/")).await;
    read_until(&mut idle, "hello").await;
    let mut waiting = site.say(&request("/wait")).await;
    read_until(&mut waiting, "begun").await;
    site.stop.cancel();
    assert_eq!(read_all(idle).await, "");
    site.go_on.cancel();
    read_until(&mut waiting, "waited").await;
    drop(waiting);
    site.served.await.unwrap().unwrap();
}
