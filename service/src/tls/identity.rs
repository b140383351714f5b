//! An Ed25519 key and the self-signed certificate that shows it.
//!
//! Made by daemons at start from their key file. Must stay true: the certificate is a function of the
//! key alone (fixed serial and validity, deterministic signature), so that it never needs storing.

use std::fmt;

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519, PublicKeyData, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::PeerKey;
use crate::secret::Secret;

/// Years between which the certificate claims validity: always, as its dates mean nothing here.
const VALID_YEARS: (i32, i32) = (1975, 4096);
/// The serial number of every certificate: RFC 5280 wants a positive one, nobody reads it.
const SERIAL: u64 = 1;

/// Why a key is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no PKCS#8 private key.
    #[error("the identity key is no PKCS#8 private key: is it the right file, in DER?")]
    Key(#[source] rcgen::Error),
    /// The key is of another kind.
    #[error("the identity key is not Ed25519: OWM identities are Ed25519 keys only")]
    NotEd25519,
    /// The certificate could not be made.
    #[error("cannot make a certificate for the identity key")]
    Certificate(#[source] rcgen::Error),
}

/// A process's own key with its certificate.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Secret<Vec<u8>>,
    certificate: CertificateDer<'static>,
    public: PeerKey,
}

impl Identity {
    /// From an Ed25519 private key in PKCS#8 DER.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, IdentityError> {
        let key = KeyPair::try_from(der).map_err(IdentityError::Key)?;
        if key.algorithm() != &PKCS_ED25519 {
            return Err(IdentityError::NotEd25519);
        }
        let public =
            <[u8; 32]>::try_from(key.der_bytes()).map_err(|_| IdentityError::NotEd25519)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(SERIAL));
        params.not_before = rcgen::date_time_ymd(VALID_YEARS.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(VALID_YEARS.1, 1, 1);
        let certificate = params
            .self_signed(&key)
            .map_err(IdentityError::Certificate)?;
        Ok(Self {
            pkcs8: Secret::new(der.to_vec()),
            certificate: certificate.der().clone(),
            public: PeerKey(public),
        })
    }

    /// A fresh identity that nobody keeps: tests and throw-away clients.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(IdentityError::Key)?;
        Self::from_pkcs8_der(&key.serialize_der())
    }

    /// The raw Ed25519 public key: what others pin or know this process by.
    pub const fn public_key(&self) -> [u8; 32] {
        self.public.0
    }

    /// The self-signed certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.expose().clone()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
