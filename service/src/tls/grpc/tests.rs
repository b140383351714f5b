//! gRPC channels over real TLS: the peer's key arrives, and each layer's failure is told apart.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{Request, Response};
use http_body_util::Full;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tower::ServiceExt;

use super::{super::*, *};
use crate::dialer::NetworkPolicy;

/// A server that answers every call with the caller's key in a header.
fn echo_key(request: &Request<tonic::body::Body>) -> Response<Full<Bytes>> {
    let key = request
        .extensions()
        .get::<PeerKey>()
        .expect("the listener puts it there");
    Response::builder()
        .header("content-type", "application/grpc")
        .header("x-peer", key.to_string())
        .body(Full::default())
        .unwrap()
}

type Incoming = BoxStream<'static, std::io::Result<TlsIo>>;

async fn listen(config: Arc<ServerConfig>) -> (String, Incoming) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    (
        target,
        serve_tls(listener, config, TlsLimits::default()).boxed(),
    )
}

fn start(incoming: Incoming) {
    let service = tower::service_fn(async |request: Request<tonic::body::Body>| {
        Ok::<_, Infallible>(echo_key(&request))
    });
    let server = tonic::transport::Server::builder().serve_with_incoming(service, incoming);
    tokio::spawn(server);
}

fn channel(target: &str, client: &Identity, pinned: [u8; 32]) -> Channel {
    let dialer = Dialer::new(NetworkPolicy::LoopbackOnly);
    grpc_channel(&dialer, target, client, pinned).unwrap()
}

async fn call(channel: Channel) -> Result<String, tonic::Status> {
    let request = Request::post("http://owm.invalid/owm.Test/Call")
        .body(tonic::body::Body::empty())
        .unwrap();
    let response = channel
        .oneshot(request)
        .await
        .map_err(|error| tonic::Status::from_error(Box::new(error)))?;
    Ok(response.headers()["x-peer"].to_str().unwrap().to_owned())
}

async fn failure(target: &str, pinned: [u8; 32]) -> ConnectFailure {
    let client = Identity::generate().unwrap();
    let status = call(channel(target, &client, pinned)).await.unwrap_err();
    connect_failure(&status).unwrap()
}

#[tokio::test]
async fn the_servers_handler_sees_the_callers_key() {
    let (server, client) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (target, incoming) = listen(server_config(&server)).await;
    start(incoming);
    let said = call(channel(&target, &client, server.public_key()))
        .await
        .unwrap();
    assert_eq!(said, PeerKey(client.public_key()).to_string());
}

#[tokio::test]
async fn a_wrong_pin_names_both_keys_and_the_target() {
    let server = Identity::generate().unwrap();
    let (target, incoming) = listen(server_config(&server)).await;
    start(incoming);
    let failure = failure(&target, [9; 32]).await;
    assert_eq!(failure.layer, Layer::Tls);
    for part in [
        &target,
        &PeerKey([9; 32]).to_string(),
        &PeerKey(server.public_key()).to_string(),
    ] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_closed_port_is_an_error_of_tcp() {
    let (target, incoming) = listen(server_config(&Identity::generate().unwrap())).await;
    drop(incoming);
    // Dropping the stream ends the accepting task, which closes the port; until then TLS breaks.
    loop {
        match failure(&target, [9; 32]).await.layer {
            Layer::Tls => tokio::task::yield_now().await,
            layer => break assert_eq!(layer, Layer::Tcp),
        }
    }
}

#[tokio::test]
async fn a_forbidden_target_is_an_error_of_policy() {
    assert_eq!(
        failure("coordinator.example:9000", [9; 32]).await.layer,
        Layer::Policy
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_http2_is_told_apart_from_tls() {
    let server = Identity::generate().unwrap();
    let (target, mut incoming) = listen(server_config(&server)).await;
    tokio::spawn(async move {
        while let Some(Ok(mut io)) = incoming.next().await {
            drop(io.write_all(b"220 this is another protocol\r\n").await);
            drop(io.shutdown().await);
        }
    });
    let failure = failure(&target, server.public_key()).await;
    assert_eq!(failure.layer, Layer::Http2, "{}", failure.message);
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_is_an_error_of_tls() {
    let server = Identity::generate().unwrap();
    let mut config = ServerConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(RefuseAll))
        .with_single_cert(vec![server.certificate().clone()], server.private_key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (target, incoming) = listen(Arc::new(config)).await;
    start(incoming);
    let failure = failure(&target, server.public_key()).await;
    assert_eq!(failure.layer, Layer::Tls, "{}", failure.message);
}

#[test]
fn an_answer_of_the_server_is_no_connection_failure() {
    assert_eq!(
        connect_failure(&tonic::Status::not_found("no such node")),
        None
    );
}

#[tokio::test]
async fn a_malformed_target_is_refused() {
    let (dialer, client) = (
        Dialer::new(NetworkPolicy::LoopbackOnly),
        Identity::generate().unwrap(),
    );
    for target in ["localhost", "localhost:", "::1:9000", "local host:1"] {
        let error = grpc_channel(&dialer, target, &client, [0; 32]).unwrap_err();
        assert!(error.to_string().contains(target));
    }
}

/// Refuses every client.
#[derive(Debug)]
struct RefuseAll;

impl ClientCertVerifier for RefuseAll {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(rustls::Error::InvalidCertificate(CertificateError::Revoked))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("unused".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("unused".to_owned()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
