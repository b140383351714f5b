//! The invite string: everything a newcomer needs to find and verify a network, in one line that
//! survives chat programs and fits a QR code (`owm1`, then lowercase base32 of the JSON and the first
//! four bytes of its SHA-256).

use std::{fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, Encoding};
use serde::{Deserialize, Serialize};

use crate::{genesis::NetworkId, hash::Sha256, key::PublicKey, limits::INVITE_CHARS_MAX};

const PREFIX: &str = "owm1";
const CHECKSUM_BYTES: usize = 4;

/// What an invite says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The network: the SHA-256 of its genesis document.
    #[serde(rename = "g")]
    pub genesis: NetworkId,
    /// The coordinator instance's key: what TLS is pinned to.
    #[serde(rename = "k")]
    pub instance_key: PublicKey,
    /// `host:port` of the coordinator's gRPC.
    #[serde(rename = "a")]
    pub addresses: Vec<String>,
    /// `….onion:port`, if it has one.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub onion: Option<String>,
    /// Multiaddresses of peers.
    #[serde(rename = "p", default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Base URL of `GET /v1/blobs/{sha256}`.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub web_seed: Option<String>,
}

/// Why a string is no invite.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InviteError {
    /// It starts otherwise.
    #[error(
        "an invite starts with `{PREFIX}`; copy the whole line that `owm-coordinator invite` prints"
    )]
    NotAnInvite,
    /// Characters are missing or changed.
    #[error("the invite is damaged: characters are missing or changed; copy the whole line again")]
    Damaged,
    /// Made by other software.
    #[error(
        "the invite is made by a version of OWM that this one does not understand: {0}; update owm-node"
    )]
    Unknown(String),
}

fn base32() -> Encoding {
    BASE32_NOPAD
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = serde_json::to_vec(self).expect("an invite is plain JSON");
        let checksum = Sha256::of(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        write!(
            f,
            "{PREFIX}{}",
            base32().encode(&bytes).to_ascii_lowercase()
        )
    }
}

impl FromStr for Invite {
    type Err = InviteError;
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim().to_ascii_lowercase();
        let body = text.strip_prefix(PREFIX).ok_or(InviteError::NotAnInvite)?;
        if body.len() > INVITE_CHARS_MAX {
            return Err(InviteError::Damaged);
        }
        let bytes = base32()
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| InviteError::Damaged)?;
        let split = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(InviteError::Damaged)?;
        let (json, checksum) = bytes.split_at(split);
        if Sha256::of(json).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(InviteError::Damaged);
        }
        serde_json::from_slice(json).map_err(|error| InviteError::Unknown(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_survives_shouting_and_spaces_but_no_typing_error() {
        let invite = Invite {
            genesis: NetworkId(Sha256::of(b"g")),
            instance_key: PublicKey([7; 32]),
            addresses: vec!["127.0.0.1:9000".into()],
            onion: None,
            peers: vec![],
            web_seed: Some("http://127.0.0.1:8080".into()),
        };
        let text = invite.to_string();
        assert_eq!(text.parse(), Ok(invite.clone()));
        assert_eq!(
            format!(" {} \n", text.to_ascii_uppercase()).parse(),
            Ok(invite)
        );
        assert_eq!("owm2abc".parse::<Invite>(), Err(InviteError::NotAnInvite));
        let cut = &text[..text.len() - 3];
        assert_eq!(cut.parse::<Invite>(), Err(InviteError::Damaged));
        let mut changed = text.into_bytes();
        changed[20] = if changed[20] == b'a' { b'b' } else { b'a' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(changed.parse::<Invite>(), Err(InviteError::Damaged));
    }
}
