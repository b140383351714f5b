//! Users' text at rest: XChaCha20-Poly1305 under the coordinator's data key, bound to the row it
//! belongs to, so that ciphertexts can't be swapped between rows.

use chacha20poly1305::{
    AeadCore as _, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, OsRng, Payload},
};

use crate::error::StoreError;

/// Bytes of XChaCha20's nonce.
const NONCE_BYTES: usize = 24;

/// Encrypts and decrypts under the data key.
#[derive(Clone)]
pub struct Vault(XChaCha20Poly1305);

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// From the 32-byte data key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Nonce ‖ ciphertext; `row` (table, id) is authenticated.
    pub fn close(&self, row: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let sealed = self
            .0
            .encrypt(
                &nonce,
                Payload {
                    msg: plaintext,
                    aad: row,
                },
            )
            .expect("in-memory encryption of less than 256 GiB can't fail");
        [nonce.as_slice(), &sealed].concat()
    }

    /// What [`Vault::close`] was given; `what` names it in the error.
    pub fn open(
        &self,
        what: &'static str,
        row: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let (nonce, body) = sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(StoreError::Vault { what })?;
        self.0
            .decrypt(
                XNonce::from_slice(nonce),
                Payload {
                    msg: body,
                    aad: row,
                },
            )
            .map_err(|_| StoreError::Vault { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ciphertext_opens_only_in_its_own_row() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.close(b"row 1", b"text");
        assert_eq!(vault.open("test", b"row 1", &sealed).unwrap(), b"text");
        assert!(vault.open("test", b"row 2", &sealed).is_err());
        assert!(vault.open("test", b"row 1", &sealed[..23]).is_err());
        assert!(
            Vault::new(&[2; 32])
                .open("test", b"row 1", &sealed)
                .is_err()
        );
    }
}
