//! What a node has learnt: verified, and new to it. `watch` holds it against the truth.

use owm_p2p::gossip::Heard;
use owm_proto::{PublicKey, Sha256, UnixMillis};
use prost::Message as _;

/// Something verified and new that a node has learnt.
#[derive(Clone)]
pub enum Learnt {
    /// A node lives.
    Heartbeat {
        /// Which.
        node: PublicKey,
        /// Of the message.
        sequence: u64,
        /// Of the message.
        expires: UnixMillis,
        /// The signed bytes.
        payload: Vec<u8>,
    },
    /// What a node has.
    Capability {
        /// Which.
        node: PublicKey,
        /// Of the message.
        sequence: u64,
        /// Of the message.
        expires: UnixMillis,
        /// The signed bytes.
        payload: Vec<u8>,
    },
    /// A newer checkpoint was announced.
    Checkpoint {
        /// Who signed.
        signer: PublicKey,
        /// Its number.
        sequence: u64,
        /// The signed bytes.
        payload: Vec<u8>,
    },
}

impl std::fmt::Debug for Learnt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (purpose, signer) = (self.purpose(), self.signer().short());
        let payload = Sha256::of(self.payload()).short();
        write!(f, "{purpose} {} by {signer} ({payload})", self.sequence())
    }
}

impl From<Heard> for Learnt {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Heartbeat { node, body } => Self::Heartbeat {
                node,
                sequence: body.sequence,
                expires: UnixMillis(body.expires_at_ms),
                payload: body.encode_to_vec(),
            },
            Heard::Capability { node, body } => Self::Capability {
                node,
                sequence: body.sequence,
                expires: UnixMillis(body.expires_at_ms),
                payload: body.encode_to_vec(),
            },
            Heard::Checkpoint(known) => Self::Checkpoint {
                signer: known.envelope.claimed_signer(),
                sequence: known.checkpoint.sequence,
                payload: known.envelope.unverified_payload().to_vec(),
            },
        }
    }
}

impl Learnt {
    /// Of what was said.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Heartbeat { sequence, .. }
            | Self::Capability { sequence, .. }
            | Self::Checkpoint { sequence, .. } => *sequence,
        }
    }
}
