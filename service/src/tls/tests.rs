//! Mutual TLS end to end over loopback: who gets in, who does not, and what a stalled client does.

use std::{io, net::SocketAddr, time::Duration};

use futures::StreamExt;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    client::ResolvesClientCert,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::gate::GateLimits;

/// A certificate with an RSA key, made once with `openssl req -x509 -newkey rsa:2048`; its private
/// key was thrown away.
const RSA_CERTIFICATE: &[u8] = include_bytes!("rsa-certificate.pem");

struct TestServer {
    addr: SocketAddr,
    key: [u8; 32],
}

/// Sends every client its own key, as the server knows it.
async fn serve(limits: TlsLimits) -> TestServer {
    let identity = Identity::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut incoming = serve_tls(listener, server_config(&identity), limits);
    tokio::spawn(async move {
        while let Some(Ok(mut io)) = incoming.next().await {
            tokio::spawn(async move {
                let key = io.peer_key();
                io.write_all(&key.0).await.unwrap();
                io.shutdown().await.unwrap();
            });
        }
    });
    TestServer {
        addr,
        key: identity.public_key(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test is the raw other side of the listener"
)]
async fn tcp(server: &TestServer) -> TcpStream {
    TcpStream::connect(server.addr).await.unwrap()
}

/// Connects and reads what the server says about the client.
async fn whoami(server: &TestServer, config: Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let name = ServerName::try_from("owm.invalid").unwrap();
    let mut io = TlsConnector::from(config)
        .connect(name, tcp(server).await)
        .await?;
    let mut said = Vec::new();
    io.read_to_end(&mut said).await?;
    Ok(said)
}

fn signing_key(identity: &Identity) -> Arc<dyn SigningKey> {
    rustls::crypto::ring::sign::any_supported_type(&identity.private_key()).unwrap()
}

/// Shows whatever it is told to, without the checks that an honest client makes.
#[derive(Debug)]
struct Liar(Arc<CertifiedKey>);

impl ResolvesClientCert for Liar {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn lying_config(
    server: &TestServer,
    chain: Vec<CertificateDer<'static>>,
    signer: &Identity,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&client_config(signer, server.key));
    let shown = CertifiedKey::new(chain, signing_key(signer));
    config.client_auth_cert_resolver = Arc::new(Liar(Arc::new(shown)));
    Arc::new(config)
}

fn ecdsa_certificate() -> CertificateDer<'static> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    CertificateParams::default()
        .self_signed(&key)
        .unwrap()
        .der()
        .clone()
}

fn rsa_certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(RSA_CERTIFICATE).unwrap()
}

#[tokio::test]
async fn each_side_knows_the_others_key() {
    let server = serve(TlsLimits::default()).await;
    for _ in 0..2 {
        let client = Identity::generate().unwrap();
        let said = whoami(&server, client_config(&client, server.key))
            .await
            .unwrap();
        assert_eq!(said, client.public_key());
    }
}

#[tokio::test]
async fn a_server_with_another_key_is_refused_and_both_keys_are_named() {
    let server = serve(TlsLimits::default()).await;
    let client = Identity::generate().unwrap();
    let expected = PeerKey([7; 32]);
    let error = whoami(&server, client_config(&client, expected.0))
        .await
        .unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("PinMismatch"), "{text}");
    assert!(text.contains(&expected.to_string()), "{text}");
    assert!(text.contains(&PeerKey(server.key).to_string()), "{text}");
}

#[tokio::test]
async fn a_client_with_a_key_of_another_kind_is_refused() {
    let server = serve(TlsLimits::default()).await;
    let client = Identity::generate().unwrap();
    for certificate in [ecdsa_certificate(), rsa_certificate()] {
        let config = lying_config(&server, vec![certificate], &client);
        whoami(&server, config).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_client_with_two_certificates_is_refused() {
    let server = serve(TlsLimits::default()).await;
    let client = Identity::generate().unwrap();
    let own = client.certificate().clone();
    whoami(&server, lying_config(&server, vec![own.clone()], &client))
        .await
        .unwrap();
    let config = lying_config(&server, vec![own.clone(), own], &client);
    whoami(&server, config).await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_shows_a_key_it_does_not_hold_is_refused() {
    let server = serve(TlsLimits::default()).await;
    let (victim, thief) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let config = lying_config(&server, vec![victim.certificate().clone()], &thief);
    whoami(&server, config).await.unwrap_err();
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let server = serve(TlsLimits::default()).await;
    let config = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::PinnedServer(PeerKey(server.key))))
        .with_no_client_auth();
    whoami(&server, Arc::new(config)).await.unwrap_err();
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = serve(TlsLimits::default()).await;
    let roots = rustls::RootCertStore::empty();
    let config = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let error = whoami(&server, Arc::new(config)).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[tokio::test]
async fn stalled_clients_do_not_block_another() {
    let server = serve(TlsLimits::default()).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = tcp(&server).await;
        // The head of a TLS record, and never its body.
        stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap();
        stalled.push(stream);
    }
    let client = Identity::generate().unwrap();
    whoami(&server, client_config(&client, server.key))
        .await
        .unwrap();
    drop(stalled);
}

#[tokio::test]
async fn stalled_clients_that_fill_every_place_are_thrown_out() {
    let limits = TlsLimits {
        handshake_timeout: Duration::from_secs(3),
        handshakes: GateLimits::new(2, 1),
        ..TlsLimits::default()
    };
    let server = serve(limits).await;
    let stalled = [tcp(&server).await, tcp(&server).await];
    let client = Identity::generate().unwrap();
    whoami(&server, client_config(&client, server.key))
        .await
        .unwrap();
    for mut stream in stalled {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn a_flood_of_half_open_handshakes_pushes_out_its_own() {
    // Nobody is thrown out by time in this test.
    let limits = TlsLimits {
        handshake_timeout: Duration::from_hours(1),
        handshakes: GateLimits::new(8, 8),
        ..TlsLimits::default()
    };
    let server = serve(limits).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        stalled.push(tcp(&server).await);
    }
    let client = Identity::generate().unwrap();
    for _ in 0..3 {
        whoami(&server, client_config(&client, server.key))
            .await
            .unwrap();
    }
    for stream in stalled.iter_mut().take(30) {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn an_address_with_too_many_connections_gets_no_more_until_one_ends() {
    let mut connections = GateLimits::new(64, 64);
    connections.per_loopback = 2;
    let limits = TlsLimits {
        connections,
        ..TlsLimits::default()
    };
    let identity = Identity::generate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = TestServer {
        addr: listener.local_addr().unwrap(),
        key: identity.public_key(),
    };
    let mut incoming = serve_tls(listener, server_config(&identity), limits);
    let client = Identity::generate().unwrap();
    let name = ServerName::try_from("owm.invalid").unwrap();
    let connector = TlsConnector::from(client_config(&client, server.key));
    let mut held = Vec::new();
    for _ in 0..2 {
        let connected = connector.connect(name.clone(), tcp(&server).await);
        let (ours, theirs) = tokio::join!(connected, incoming.next());
        held.push((ours.unwrap(), theirs.unwrap().unwrap()));
    }
    let refused = async {
        let mut io = connector.connect(name.clone(), tcp(&server).await).await?;
        io.read_u8().await
    };
    tokio::select! {
        refused = refused => drop(refused.unwrap_err()),
        next = incoming.next() => panic!("a third one came through: {next:?}"),
    }
    held.pop();
    let connected = connector.connect(name, tcp(&server).await);
    let (ours, theirs) = tokio::join!(connected, incoming.next());
    ours.unwrap();
    theirs.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let server = serve(TlsLimits::default()).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
    ] {
        let mut stream = tcp(&server).await;
        stream.write_all(garbage).await.unwrap();
        // Its end may be a reset; that it ends is the point.
        drop(stream.read_to_end(&mut Vec::new()).await);
    }
    let client = Identity::generate().unwrap();
    whoami(&server, client_config(&client, server.key))
        .await
        .unwrap();
}

#[test]
fn the_certificate_is_a_function_of_the_key() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .unwrap()
        .serialize_der();
    let (one, two) = (
        Identity::from_pkcs8_der(&key).unwrap(),
        Identity::from_pkcs8_der(&key).unwrap(),
    );
    assert_eq!(one.certificate(), two.certificate());
    assert_eq!(peer_key_from_cert(one.certificate()), Ok(one.public_key()));
    assert!(!format!("{one:?}").contains("pkcs8"));
}

#[test]
fn only_ed25519_keys_are_identities() {
    let ecdsa = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .unwrap()
        .serialize_der();
    assert!(matches!(
        Identity::from_pkcs8_der(&ecdsa),
        Err(IdentityError::NotEd25519)
    ));
    assert!(matches!(
        Identity::from_pkcs8_der(b"no key"),
        Err(IdentityError::Key(_))
    ));
}

#[test]
fn foreign_certificates_show_no_peer_key() {
    let not_ed25519 = |oid: &str| {
        Err::<[u8; 32], _>(PeerKeyError::NotEd25519 {
            oid: oid.to_owned(),
        })
    };
    assert_eq!(
        peer_key_from_cert(&ecdsa_certificate()),
        not_ed25519("1.2.840.10045.2.1")
    );
    assert_eq!(
        peer_key_from_cert(&rsa_certificate()),
        not_ed25519("1.2.840.113549.1.1.1")
    );
    let own = Identity::generate().unwrap().certificate().to_vec();
    let malformed = [
        Vec::new(),
        vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        own[..own.len() - 1].to_vec(),
        [own.clone(), vec![0]].concat(),
    ];
    for bytes in malformed {
        let certificate = CertificateDer::from(bytes);
        assert_eq!(
            peer_key_from_cert(&certificate),
            Err(PeerKeyError::Malformed)
        );
    }
    let large = CertificateDer::from(vec![0; CERTIFICATE_BYTES_MAX + 1]);
    assert!(matches!(
        peer_key_from_cert(&large),
        Err(PeerKeyError::TooLarge { .. })
    ));
}
