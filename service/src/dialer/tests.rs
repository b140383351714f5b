//! The dialer: every layer's error, the policy, and HTTP against a server of the test's own.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

const SECOND: Duration = Duration::from_secs(5);

/// A connector that never answers.
#[derive(Debug)]
struct Silence;

impl Connector for Silence {
    fn connect<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, Result<BoxedIo, DialError>> {
        Box::pin(std::future::pending())
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Answers every connection with `answer` and closes it; returns the port.
async fn server(answer: &'static str) -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn localhost_is_reached_under_both_policies() {
    let (_listener, port) = listener().await;
    for policy in [NetworkPolicy::Clearnet, NetworkPolicy::LoopbackOnly] {
        for host in ["127.0.0.1", "localhost"] {
            Dialer::new(policy).dial(host, port, SECOND).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_closed_port_is_an_error_of_tcp() {
    let (listener, port) = listener().await;
    drop(listener);
    let error = Dialer::new(NetworkPolicy::Clearnet)
        .dial("127.0.0.1", port, SECOND)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.layer(), Layer::Tcp);
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
}

#[tokio::test]
async fn an_unresolvable_name_is_an_error_of_the_name() {
    // A label of more than 63 bytes can never resolve, with or without a network.
    let host = "a".repeat(70);
    let dialer = Dialer::new(NetworkPolicy::Clearnet);
    let error = dialer
        .dial(&host, 443, Duration::from_secs(30))
        .await
        .unwrap_err();
    assert_eq!(error.layer(), Layer::Name, "{error}");
    assert!(error.to_string().contains(&host));
}

#[tokio::test]
async fn loopback_only_refuses_everything_else_before_resolving() {
    let dialer = Dialer::new(NetworkPolicy::LoopbackOnly);
    for host in [
        "192.0.2.1",
        "example.com",
        "[2001:db8::1]",
        "::ffff:192.0.2.1",
    ] {
        let error = dialer.dial(host, 80, SECOND).await.unwrap_err();
        assert_eq!(error.layer(), Layer::Policy, "{error}");
    }
}

#[tokio::test]
async fn an_onion_name_is_never_resolved() {
    let dialer = Dialer::new(NetworkPolicy::Clearnet);
    for host in ["abc.onion", "ABC.Onion", "abc.onion."] {
        let error = dialer.dial(host, 80, SECOND).await.unwrap_err();
        assert_eq!(error.layer(), Layer::Policy, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_a_timeout() {
    let dialer = Dialer::with_connector(Arc::new(Silence));
    let error = dialer.dial("node.example", 9000, SECOND).await.unwrap_err();
    assert_eq!(error.layer(), Layer::Timeout);
    assert!(
        error
            .to_string()
            .starts_with("node.example:9000: no connection within 5000 ms")
    );
}

#[tokio::test]
async fn http_gets_a_page_and_does_not_follow_redirects() {
    let port = server(
        "HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 5\r\n\r\nhello",
    )
    .await;
    let client = Dialer::new(NetworkPolicy::LoopbackOnly).http();
    let url = format!("http://127.0.0.1:{port}/page");
    let response = client.get(&url, ::http::HeaderMap::new()).await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(
        HttpClient::read_body(&url, response, 5).await.unwrap(),
        "hello"
    );
    let response = client.get(&url, ::http::HeaderMap::new()).await.unwrap();
    let error = HttpClient::read_body(&url, response, 4).await.unwrap_err();
    assert!(matches!(error, HttpError::Body { limit: 4, .. }), "{error}");
}

#[tokio::test]
async fn http_errors_name_the_layer() {
    let client = Dialer::new(NetworkPolicy::LoopbackOnly).http();
    let get = async |url: &str| client.get(url, ::http::HeaderMap::new()).await.unwrap_err();
    let error = get("https://example.com/").await;
    assert_eq!(
        error.dial_error().map(DialError::layer),
        Some(Layer::Policy),
        "{error}"
    );
    let port = server("this is no TLS").await;
    let error = get(&format!("https://localhost:{port}/")).await;
    assert_eq!(
        error.dial_error().map(DialError::layer),
        Some(Layer::Tls),
        "{error}"
    );
    for url in ["ftp://localhost/", "/path", "http://", "not a url"] {
        let error = get(url).await;
        assert!(matches!(error, HttpError::Url { .. }), "{url}: {error}");
    }
}

#[tokio::test]
async fn an_unanswered_request_ends_in_a_timeout() {
    let (_listener, port) = listener().await;
    let options = HttpOptions {
        head_timeout: Duration::from_millis(50),
        ..HttpOptions::default()
    };
    let client = Dialer::new(NetworkPolicy::LoopbackOnly).http_with(options);
    let url = format!("http://127.0.0.1:{port}/");
    let error = client
        .get(&url, ::http::HeaderMap::new())
        .await
        .unwrap_err();
    assert!(matches!(error, HttpError::Timeout { .. }), "{error}");
}

#[test]
fn host_and_port_are_split() {
    assert_eq!(
        split_host_port("node.example:9000"),
        Some(("node.example", 9000))
    );
    assert_eq!(split_host_port("[::1]:9000"), Some(("::1", 9000)));
    for wrong in [
        "::1:9000",
        "node",
        "node:",
        "node:0",
        "node:70000",
        ":9000",
        "[::1:9000",
    ] {
        assert_eq!(split_host_port(wrong), None, "{wrong}");
    }
}
