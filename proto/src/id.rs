//! The append-only list of typed ids. No bare `Uuid` or `String` id crosses a function.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

use crate::hash::{ParseError, Sha256, hex_array};

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// An id made of 16 random bytes (RFC 9562, version 4).
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                Uuid::parse_str(text).map(Self).map_err(|_| ParseError::new("a UUID", text))
            }
        }
    )*};
}

uuid_ids! {
    /// A node in the database (`nodes.node_id`); on the wire a node is named by its public key.
    NodeId,
    /// A task (`tasks.task_id`).
    TaskId,
    /// A look at one candidate by several nodes (`evaluations.evaluation_id`).
    EvaluationId,
}

/// A public request: 128 random bits that are the *capability* to read its answer (spec §9).
/// `Debug` and `Display` show only [`RequestId::log_id`]; the id itself is [`RequestId::reveal`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// From 16 random bytes.
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The secret itself, `req_` and 32 hex digits, for the one who asked.
    pub fn reveal(&self) -> String {
        format!("req_{}", HEXLOWER.encode(&self.0))
    }

    /// What the database keys by: the id can't be had back from it.
    pub fn key(&self) -> Sha256 {
        Sha256::of(&self.0)
    }

    /// What logs and task lists may show.
    pub fn log_id(&self) -> String {
        self.key().short()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.log_id())
    }
}

impl FromStr for RequestId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = "a request id (req_ and 32 hex digits)";
        // The wrong text may be a mistyped secret: it is not repeated.
        let hex = text
            .strip_prefix("req_")
            .ok_or(ParseError::new(expected, "something else"))?;
        hex_array(hex, expected)
            .map(Self)
            .map_err(|_| ParseError::new(expected, "something else"))
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// One run of a node's process: 16 random bytes made at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// From the wire: exactly 16 bytes.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, ParseError> {
        let expected = "16 bytes (a session id)";
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| ParseError::new(expected, "another length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_never_shows_itself_in_debug() {
        let id = RequestId::from_random([7; 16]);
        assert!(!format!("{id:?}").contains("0707"));
        assert_eq!(id.reveal().parse::<RequestId>(), Ok(id));
        assert!("req_07".parse::<RequestId>().is_err());
    }
}
