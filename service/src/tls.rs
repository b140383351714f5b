//! Mutual TLS between OWM's own services: TLS 1.3 only, Ed25519 only, a key is an identity.
//!
//! Both sides show a self-signed certificate; names, validity and issuers in it mean nothing, the
//! Ed25519 key in it is everything. Clients pin the server's key; servers accept any client that
//! proves it holds its key and hand that key up ([`PeerKey`]): who may do what is decided above.
//! Must stay true: no session resumption (every connection proves its key again), no early data, a
//! client that stalls blocks nobody.

mod identity;
mod listener;
mod refusals;
mod verify;

#[cfg(feature = "grpc")]
mod grpc;

use std::{fmt, sync::Arc};

#[cfg(feature = "grpc")]
pub use grpc::{
    ConnectFailure, GrpcOptions, TargetError, connect_failure, grpc_channel, grpc_channel_with,
};
pub use identity::{Identity, IdentityError};
pub use listener::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, TlsIo, TlsLimits, serve_tls};
pub use refusals::{Refusals, refusals};
use rustls::{ClientConfig, ServerConfig};
pub use verify::{CERTIFICATE_BYTES_MAX, PeerKeyError, PinMismatch, peer_key_from_cert};

/// The only protocol spoken above this TLS.
const ALPN_H2: &[u8] = b"h2";

/// The Ed25519 public key that the other side of a connection proved to hold. On gRPC servers it is
/// found in the request's extensions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub [u8; 32]);

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({self})")
    }
}

/// TLS of a server: demands a client certificate with an Ed25519 key.
pub fn server_config(identity: &Identity) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports TLS 1.3")
        .with_client_cert_verifier(Arc::new(verify::AnyEd25519Client))
        .with_single_cert(vec![identity.certificate().clone()], identity.private_key())
        .expect("an Identity's certificate carries its own key");
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// TLS of a client that accepts exactly the server holding `pinned_server_key` (raw Ed25519).
pub fn client_config(identity: &Identity, pinned_server_key: [u8; 32]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring supports TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::PinnedServer(PeerKey(
            pinned_server_key,
        ))))
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.private_key())
        .expect("an Identity's certificate carries its own key");
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

#[cfg(test)]
mod tests;
