//! What a daemon says of itself, signed in this process: its signature is not checked again before it goes out,
//! which an envelope from anywhere else is. [`Handle::announce_own`](crate::Handle::announce_own) takes it.

use owm_proto::{Envelope, NodeKey, PublicKey, Purpose, SignatureCheck, genesis::NetworkId};

/// A heartbeat or capability that was signed right here. Must stay true: it comes into being by signing only.
#[derive(Clone, Debug)]
pub struct OwnMessage {
    envelope: Envelope,
    network: NetworkId,
}

impl OwnMessage {
    /// Signs `payload` for `purpose` in `network`.
    pub fn sign(key: &NodeKey, purpose: Purpose, network: &NetworkId, payload: Vec<u8>) -> Self {
        Self {
            envelope: Envelope::sign(key, purpose, network, payload),
            network: *network,
        }
    }

    /// As it goes over the wire.
    pub fn into_envelope(self) -> Envelope {
        self.envelope
    }

    /// The network that it was signed for.
    pub(crate) fn network(&self) -> NetworkId {
        self.network
    }
}

/// Holds for what was signed in this process, for this network: nothing else is judged with it.
pub(crate) struct SignedHere;

impl SignatureCheck for SignedHere {
    fn holds(&self, _: &PublicKey, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}
