//! Signed envelopes (spec §5): payload bytes, purpose, public key, signature. The preimage is
//! ASCII purpose ‖ 0x00 ‖ 32 bytes network id ‖ payload. Bytes are verified as received, never
//! re-encoded, and a payload is reachable only through [`Envelope::verify`].

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    genesis::NetworkId,
    hash::{ParseError, Sha256},
    key::{NodeKey, PublicKey},
    limits::ENVELOPE_PAYLOAD_BYTES_MAX,
    time::UnixMillis,
};

/// What kind of promise a message is (spec §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Carries issue time, expiry and a rising sequence.
    State,
    /// Idempotent by a request id; a repeat returns the first answer.
    Request,
    /// Never expires; a version, sequence or lease epoch orders it.
    Durable,
}

macro_rules! purposes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $class:ident;)*) => {
        /// What a signature is for. Append only: a purpose is part of the signed bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Purpose { $($(#[$doc])* $variant),* }

        impl Purpose {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The ASCII text that is signed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// How it is ordered and when it ends.
            pub const fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class),* }
            }
        }

        impl FromStr for Purpose {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(ParseError::new("a known purpose (owm/<purpose>/v1)", text)),
                }
            }
        }
    };
}

purposes! {
    /// A node's registration.
    Register = "owm/register/v1", Request;
    /// A node's sign of life.
    Heartbeat = "owm/heartbeat/v1", State;
    /// What a node has, does and holds, told to its peers.
    Capability = "owm/capability/v1", State;
    /// The newest model version, in a few bytes.
    Checkpoint = "owm/checkpoint/v1", Durable;
    /// What every peer has to know to take part: shards and periods.
    Bootstrap = "owm/bootstrap/v1", Durable;
    /// The root key names a release or instance key.
    Delegation = "owm/delegation/v1", Durable;
    /// The root key takes a delegation back.
    Revocation = "owm/revocation/v1", Durable;
    /// Owner and node name each other.
    OwnerBinding = "owm/owner-binding/v1", Durable;
    /// The coordinator says who is a member.
    Membership = "owm/membership/v1", Durable;
    /// A model version.
    Manifest = "owm/manifest/v1", Durable;
    /// A model version taken back.
    Withdrawal = "owm/withdrawal/v1", Durable;
    /// The hash of a result, before the result.
    Commit = "owm/commit/v1", Durable;
    /// A finished task.
    Result = "owm/result/v1", Durable;
    /// A node's share of one answer.
    Segment = "owm/segment/v1", Durable;
    /// The coordinator's countersigned account of an answer.
    Receipt = "owm/receipt/v1", Durable;
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A signed message whose signature has not been looked at yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(crate) payload: Vec<u8>,
    pub(crate) purpose: String,
    pub(crate) key: PublicKey,
    pub(crate) signature: [u8; 64],
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (purpose, key) = (&self.purpose, self.key.short());
        write!(f, "Envelope({purpose}, {} B, by {key})", self.payload.len())
    }
}

/// Why an envelope is worth nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// A part is missing or of the wrong size.
    #[error("the envelope is malformed: {0}")]
    Malformed(&'static str),
    /// Larger than any honest message.
    #[error("the payload has {bytes} bytes, the limit is {ENVELOPE_PAYLOAD_BYTES_MAX}")]
    Oversize {
        /// How many bytes came.
        bytes: usize,
    },
    /// Signed for something else.
    #[error("expected purpose {expected}, the envelope says {got:?}")]
    WrongPurpose {
        /// What the caller wanted.
        expected: Purpose,
        /// What it says (at most 80 characters).
        got: String,
    },
    /// A key that may not say this.
    #[error("signed by {got}, which may not sign {purpose} here")]
    WrongSigner {
        /// Who signed.
        got: PublicKey,
        /// What for.
        purpose: Purpose,
    },
    /// The bytes, the key or the network are not the signed ones.
    #[error("the signature does not verify: changed bytes, another key, or another network")]
    BadSignature,
    /// A state message outside its time.
    #[error("the message is out of its time ({0}); check the clocks")]
    OutOfTime(&'static str),
    /// The payload is not what the purpose promises.
    #[error("the payload of {purpose} does not parse: {reason}")]
    BadPayload {
        /// Which purpose.
        purpose: Purpose,
        /// What is wrong with it.
        reason: String,
    },
}

/// Who may sign.
#[derive(Clone, Copy, Debug)]
pub enum SignerRule<'a> {
    /// Exactly this key.
    Exactly(&'a PublicKey),
    /// One of these.
    OneOf(&'a [PublicKey]),
    /// Anyone: the signer is what the message establishes.
    Anyone,
}

impl SignerRule<'_> {
    fn admits(self, key: &PublicKey) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == key,
            Self::OneOf(wanted) => wanted.contains(key),
            Self::Anyone => true,
        }
    }
}

/// A payload whose signature, purpose, network and signer have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    /// The exact signed bytes.
    pub payload: &'a [u8],
    /// Who signed.
    pub signer: PublicKey,
    /// What for.
    pub purpose: Purpose,
}

/// The bytes that are signed.
pub fn preimage(purpose: &str, network: &NetworkId, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(purpose.len() + 1 + 32 + payload.len());
    bytes.extend_from_slice(purpose.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(network.0.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// How a signature is checked: [`StrictEd25519`], or what a test counts or remembers with.
pub trait SignatureCheck {
    /// Whether `signature` is `key`'s over exactly `message`.
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool;
}

/// The real one: [`PublicKey::verifies`].
#[derive(Clone, Copy, Debug, Default)]
pub struct StrictEd25519;

impl SignatureCheck for StrictEd25519 {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
        key.verifies(message, signature)
    }
}

impl Envelope {
    /// Signs `payload` for `purpose` in `network`.
    pub fn sign(key: &NodeKey, purpose: Purpose, network: &NetworkId, payload: Vec<u8>) -> Self {
        let signature = key.sign(&preimage(purpose.as_str(), network, &payload));
        Self {
            payload,
            purpose: purpose.as_str().to_owned(),
            key: key.public(),
            signature,
        }
    }

    /// Puts an exported document and its detached signature together again.
    pub fn from_parts(
        purpose: Purpose,
        key: PublicKey,
        signature: [u8; 64],
        payload: Vec<u8>,
    ) -> Self {
        Self {
            payload,
            purpose: purpose.as_str().to_owned(),
            key,
            signature,
        }
    }

    /// The only way to the payload: checks size, purpose, signer and signature, in this order.
    pub fn verify(
        &self,
        expected: Purpose,
        network: &NetworkId,
        signer: SignerRule<'_>,
    ) -> Result<Verified<'_>, EnvelopeError> {
        self.verify_by(expected, network, signer, &StrictEd25519)
    }

    /// As [`Envelope::verify`], with the signature checked by `check`: a simulation remembers what it has
    /// checked, a test counts.
    pub fn verify_by(
        &self,
        expected: Purpose,
        network: &NetworkId,
        signer: SignerRule<'_>,
        check: &dyn SignatureCheck,
    ) -> Result<Verified<'_>, EnvelopeError> {
        if self.payload.len() > ENVELOPE_PAYLOAD_BYTES_MAX {
            return Err(EnvelopeError::Oversize {
                bytes: self.payload.len(),
            });
        }
        if self.purpose != expected.as_str() {
            let got = self.purpose.chars().take(80).collect();
            return Err(EnvelopeError::WrongPurpose { expected, got });
        }
        if !signer.admits(&self.key) {
            return Err(EnvelopeError::WrongSigner {
                got: self.key,
                purpose: expected,
            });
        }
        let message = preimage(&self.purpose, network, &self.payload);
        if !check.holds(&self.key, &message, &self.signature) {
            return Err(EnvelopeError::BadSignature);
        }
        Ok(Verified {
            payload: &self.payload,
            signer: self.key,
            purpose: expected,
        })
    }

    /// Who claims to have signed; unproven until [`Envelope::verify`].
    pub fn claimed_signer(&self) -> PublicKey {
        self.key
    }

    /// Whether it says to be for `purpose`; unproven until [`Envelope::verify`].
    pub fn claims(&self, purpose: Purpose) -> bool {
        self.purpose == purpose.as_str()
    }

    /// The detached signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The payload bytes *before* any check: for storing and forwarding only.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The hash of the whole envelope: a gossip message's id.
    pub fn id(&self) -> Sha256 {
        let mut hasher = crate::hash::Hasher::new();
        hasher.update(self.purpose.as_bytes());
        hasher.update(&[0]);
        hasher.update(&self.key.0);
        hasher.update(&self.signature);
        hasher.update(&self.payload);
        hasher.finish()
    }
}

impl Verified<'_> {
    /// Parses a JSON payload.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, EnvelopeError> {
        serde_json::from_slice(self.payload).map_err(|error| self.bad_payload(&error))
    }

    /// Parses a protobuf payload.
    pub fn protobuf<T: prost::Message + Default>(&self) -> Result<T, EnvelopeError> {
        T::decode(self.payload).map_err(|error| self.bad_payload(&error))
    }

    fn bad_payload(&self, error: &dyn fmt::Display) -> EnvelopeError {
        EnvelopeError::BadPayload {
            purpose: self.purpose,
            reason: error.to_string(),
        }
    }
}

/// A state or request message may be from this far in the future: clocks differ.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(2);

/// Checks the times that state and request bodies carry against `now`.
pub fn check_time(
    issued_at: UnixMillis,
    expires_at: UnixMillis,
    now: UnixMillis,
) -> Result<(), EnvelopeError> {
    if issued_at > now.after(CLOCK_SKEW_MAX) {
        return Err(EnvelopeError::OutOfTime("issued in the future"));
    }
    if expires_at <= now || expires_at < issued_at {
        return Err(EnvelopeError::OutOfTime("expired"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
