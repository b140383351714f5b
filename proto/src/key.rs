//! Ed25519 identities: network root, release, instance, node and owner keys share this shape and this
//! file format (PKCS#8 v1 PEM, RFC 8410, mode 0600), which `openssl pkey` reads too.

use std::{
    fmt,
    fs::OpenOptions,
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use data_encoding::HEXLOWER;
use ed25519_dalek::{
    Signer as _, SigningKey, VerifyingKey,
    pkcs8::{
        DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use crate::hash::{ParseError, hex_array};

/// A key file larger than this is none: a PKCS#8 Ed25519 key in PEM has about 120 bytes.
const KEY_FILE_BYTES_MAX: u64 = 4_096;

/// A 32-byte Ed25519 public key; shown as 64 lowercase hex digits, which is a node's name on the wire.
/// Not yet checked to be a point of the curve: verifying does that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// From the wire: exactly 32 bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, ParseError> {
        let expected = "32 bytes (an Ed25519 public key)";
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| ParseError::new(expected, &HEXLOWER.encode(bytes)))
    }

    /// The first eight hex digits, for people.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..4])
    }

    /// Strict verification (no malleable or small-order points), as RFC 8032 with cofactorless
    /// equation. `false` for any fault.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        hex_array(text, "64 lowercase hex digits (an Ed25519 public key)").map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What can be wrong with a key file; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or written.
    #[error("key file {path}: {source}; check that the folder exists and belongs to this user")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could read the key.
    #[error(
        "key file {path} has mode {mode:04o}, so others on this machine can read it; run: chmod 600 {path}"
    )]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no Ed25519 key.
    #[error(
        "key file {path} holds no Ed25519 private key in PKCS#8 PEM; restore it from a backup, or move it away to start with a new identity"
    )]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

/// An Ed25519 private key. Zeroized on drop, never shown.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// From the 32-byte RFC 8032 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed, for libraries that want the key themselves (libp2p).
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs exactly `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// PKCS#8 v1 DER, for certificates.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let pair = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        let document = pair
            .to_pkcs8_der()
            .expect("an Ed25519 key always has a PKCS#8 form");
        Zeroizing::new(document.as_bytes().to_vec())
    }

    /// The X25519 secret scalar of the same key (RFC 7748 clamping of the RFC 8032 hash).
    pub(crate) fn x25519_scalar(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    /// Reads a key file, refusing one that others can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(KEY_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|_| KeyError::Malformed {
                path: path.to_owned(),
            })?;
        SigningKey::from_pkcs8_pem(&text)
            .map(Self)
            .map_err(|_| KeyError::Malformed {
                path: path.to_owned(),
            })
    }

    /// Writes the key to a new file with mode 0600; an existing file is never touched. The bytes are
    /// on disk (fsync of file and folder) before this returns.
    pub fn create(&self, path: &Path) -> Result<(), KeyError> {
        let io = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let pair = KeypairBytes {
            secret_key: self.0.to_bytes(),
            public_key: None,
        };
        let pem = pair
            .to_pkcs8_pem(LineEnding::LF)
            .expect("an Ed25519 key always has a PEM form");
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(pem.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io)?;
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::File::open(folder)
                .and_then(|dir| dir.sync_all())
                .map_err(io)?;
        }
        Ok(())
    }

    /// Loads the key at `path`, or makes it from `seed` if there is no such file.
    pub fn load_or_create(path: &Path, seed: &[u8; 32]) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let key = Self::from_seed(seed);
                key.create(path)?;
                Ok(key)
            }
            other => other,
        }
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(public {})", self.public().short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        let key = NodeKey::load_or_create(&path, &[3; 32]).unwrap();
        assert_eq!(
            NodeKey::load_or_create(&path, &[4; 32]).unwrap().public(),
            key.public()
        );
        assert!(NodeKey::from_seed(&[4; 32]).create(&path).is_err());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        NodeKey::from_seed(&[3; 32]).create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::load(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn garbage_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        std::fs::write(&path, [0xff; 100]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            NodeKey::load(&path),
            Err(KeyError::Malformed { .. })
        ));
    }
}
