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

/// The key of a PeerId; `None` if it is not the identity multihash of an Ed25519 key: no peer of ours.
pub fn public_key(peer: &PeerId) -> Option<PublicKey> {
    /// Code of the identity multihash.
    const IDENTITY: u64 = 0;
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(PublicKey(key.try_into_ed25519().ok()?.to_bytes()))
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
