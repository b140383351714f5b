//! One Ed25519 key is a node's name, its certificate and its PeerId (spec §5).

use libp2p::{
    PeerId,
    identity::{self, Keypair},
};
use owm_proto::{NodeKey, PublicKey};

/// The key as libp2p takes it.
pub fn keypair(key: &NodeKey) -> Keypair {
    let mut seed = key.to_seed();
    Keypair::ed25519_from_bytes(&mut seed[..]).expect("a seed is 32 bytes")
}

/// The PeerId of a key; `None` if the bytes are no point of the curve.
pub fn peer_id(key: &PublicKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The key of a PeerId; `None` if it is not the identity multihash of an Ed25519 key: no peer of ours. Whether
/// it is a point of the curve is not looked at: that costs as much as a tenth of a signature, this is asked
/// for every message, and a connection has proved it already.
pub fn public_key(peer: &PeerId) -> Option<PublicKey> {
    /// Code of the identity multihash.
    const IDENTITY: u64 = 0;
    /// The protobuf of an Ed25519 public key up to its 32 bytes: type 1, then a field of that length.
    const HEAD: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = hash.digest().strip_prefix(&HEAD)?;
    Some(PublicKey(key.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_peer_id_lead_to_each_other() {
        let key = NodeKey::from_seed(&[7; 32]);
        let peer = peer_id(&key.public()).unwrap();
        assert_eq!(peer, keypair(&key).public().to_peer_id());
        assert_eq!(public_key(&peer), Some(key.public()));
        assert_eq!(public_key(&PeerId::random()), None);
        assert_eq!(peer_id(&PublicKey([2; 32])), None);
    }
}
