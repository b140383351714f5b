//! The two certificate verifiers: "any client with an Ed25519 key" and "this server's key".
//!
//! rustls calls them during handshakes; `peer_key_from_cert` also serves the listener. Must stay true:
//! exactly one certificate, its SPKI is Ed25519 (OID 1.3.101.112), and the handshake's signature is
//! checked against that very key by ring. What else the certificate says is not looked at, its own
//! signature included: the handshake's signature proves the key.

use std::sync::Arc;

use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::PeerKey;

/// Largest certificate looked at, in bytes: ours have about 250.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Ed25519 in a SubjectPublicKeyInfo (RFC 8410).
const OID_ED25519: &str = "1.3.101.112";

/// Why a certificate shows no peer key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerKeyError {
    /// Too many bytes.
    #[error("the certificate has {len} bytes, more than {CERTIFICATE_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// Not a certificate, or something follows it.
    #[error("the certificate is not well-formed X.509")]
    Malformed,
    /// Another kind of key.
    #[error("the certificate's key is of kind {oid}; only Ed25519 ({OID_ED25519}) is accepted")]
    NotEd25519 {
        /// The algorithm's object identifier.
        oid: String,
    },
    /// Ed25519, but not 32 bytes.
    #[error("the certificate's Ed25519 key is malformed")]
    BadKey,
    /// More or fewer than one certificate.
    #[error("the peer sent {count} certificates; exactly one is accepted")]
    Count {
        /// How many it sent.
        count: usize,
    },
}

/// The server showed another key than the pinned one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's key is {found}, but {expected} is pinned")]
pub struct PinMismatch {
    /// The pinned key.
    pub expected: PeerKey,
    /// The key shown.
    pub found: PeerKey,
}

/// The Ed25519 public key in a certificate (raw, 32 bytes). Proves nothing by itself.
pub fn peer_key_from_cert(certificate: &CertificateDer<'_>) -> Result<[u8; 32], PeerKeyError> {
    let der: &[u8] = certificate.as_ref();
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(PeerKeyError::TooLarge { len: der.len() });
    }
    let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| PeerKeyError::Malformed)?;
    if !rest.is_empty() {
        return Err(PeerKeyError::Malformed);
    }
    let spki = parsed.public_key();
    let oid = spki.algorithm.algorithm.to_id_string();
    if oid != OID_ED25519 {
        return Err(PeerKeyError::NotEd25519 { oid });
    }
    let key = &spki.subject_public_key;
    if spki.algorithm.parameters.is_some() || key.unused_bits != 0 {
        return Err(PeerKeyError::BadKey);
    }
    key.data
        .as_ref()
        .try_into()
        .map_err(|_| PeerKeyError::BadKey)
}

/// ring, handed to every configuration explicitly.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn refuse(reason: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

fn only_key(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<PeerKey, Error> {
    if !intermediates.is_empty() {
        return Err(refuse(PeerKeyError::Count {
            count: 1 + intermediates.len(),
        }));
    }
    peer_key_from_cert(end_entity).map(PeerKey).map_err(refuse)
}

fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = Error::InvalidCertificate(CertificateError::BadSignature);
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(bad);
    }
    let key = peer_key_from_cert(certificate).map_err(refuse)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, signed.signature())
        .map(|()| HandshakeSignatureValid::assertion())
        .map_err(|_| bad)
}

fn refuse_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// Accepts every client that holds the Ed25519 key it shows.
#[derive(Debug)]
pub(super) struct AnyEd25519Client;

impl ClientCertVerifier for AnyEd25519Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        only_key(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Accepts exactly one server key.
#[derive(Debug)]
pub(super) struct PinnedServer(pub(super) PeerKey);

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = only_key(end_entity, intermediates)?;
        if found != self.0 {
            return Err(refuse(PinMismatch {
                expected: self.0,
                found,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
