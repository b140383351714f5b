//! Task payloads are sealed to one node: a libsodium-compatible sealed box (`crypto_box_seal`:
//! ephemeral X25519, XSalsa20-Poly1305, nonce = BLAKE2b of both public keys) to the X25519 form of
//! the node's Ed25519 identity key.

use crypto_box::aead::OsRng;

use crate::key::{NodeKey, PublicKey};

/// Why a box can't be sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The key is no point of the curve.
    #[error("{0} is no valid Ed25519 key, nothing can be sealed to it")]
    BadKey(PublicKey),
    /// Not sealed to this key, or changed on the way.
    #[error("the sealed payload does not open: it is for another key, or was changed")]
    DoesNotOpen,
}

/// Seals `plaintext` so that only `to` can open it. The ephemeral key's randomness is the operating
/// system's: it must be secret, so it is no parameter.
pub fn seal(to: &PublicKey, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let bad_key = |_| SealError::BadKey(*to);
    let point = ed25519_dalek::VerifyingKey::from_bytes(&to.0).map_err(bad_key)?;
    let montgomery = point.to_montgomery();
    crypto_box::PublicKey::from(*montgomery.as_bytes())
        .seal(&mut OsRng, plaintext)
        .map_err(|_| SealError::BadKey(*to))
}

/// Opens what was sealed to `key`.
pub fn open(key: &NodeKey, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let scalar = key.x25519_scalar();
    crypto_box::SecretKey::from(*scalar)
        .unseal(sealed)
        .map_err(|_| SealError::DoesNotOpen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addressee_opens_the_box() {
        let [addressee, other] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let sealed = seal(&addressee.public(), b"secret").unwrap();
        assert_eq!(open(&addressee, &sealed).unwrap(), b"secret");
        assert_eq!(open(&other, &sealed), Err(SealError::DoesNotOpen));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(&addressee, &changed), Err(SealError::DoesNotOpen));
        assert_eq!(open(&addressee, &sealed[..10]), Err(SealError::DoesNotOpen));
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
    }
}
