//! Feeds arbitrary bytes to what comes out of the DHT and off the disk: stored envelopes (a record's value is one),
//! the checkpoint in them, the addresses of a provider, and an invite.
//!
//! Run with `deploy/fuzz.sh 60 record`. What must stay true: no panic, an envelope that is read is written the same,
//! nobody but the named signer's key opens it, and no address that is told to strangers is private.
#![no_main]

use libfuzzer_sys::fuzz_target;
use owm_p2p::{
    Multiaddr, NetworkPolicy,
    gossip::capability,
    peer::group::{Group, allowed, is_for_everybody, may_tell, name, peer_of, without_peer},
};
use owm_proto::{
    Envelope, PublicKey, Sha256, SignatureCheck, SignerRule, StrictEd25519, genesis::NetworkId,
    gossip::Checkpoint, invite::Invite, statement::Statement as _,
};

/// As if every message were signed.
struct Trusting;

impl SignatureCheck for Trusting {
    fn holds(&self, _: &PublicKey, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

fn addressed(address: &Multiaddr) {
    let group = Group::of(address);
    let told = may_tell(NetworkPolicy::Clearnet, Group::Other, address);
    // Whoever may be told of everything is nobody's neighbour in a private network.
    assert!(!(told && group.is_private()), "{address}");
    let _ = (
        allowed(NetworkPolicy::Clearnet, address),
        is_for_everybody(address),
    );
    let _ = (name(address), without_peer(address), peer_of(address));
}

fuzz_target!(|bytes: &[u8]| {
    let network = NetworkId(Sha256([1; 32]));
    if let Ok(envelope) = Envelope::from_stored(bytes) {
        assert_eq!(
            Envelope::from_stored(&envelope.to_stored()).as_ref(),
            Ok(&envelope)
        );
        let anyone = SignerRule::Anyone;
        let forged = Checkpoint::open_by(&envelope, &network, anyone, &StrictEd25519);
        assert!(forged.is_err(), "nobody has signed that");
        let other = [PublicKey([9; 32])];
        let rule = SignerRule::OneOf(&other);
        let opened = Checkpoint::open_by(&envelope, &network, rule, &Trusting);
        assert!(opened.is_err() || envelope.claimed_signer() == other[0]);
    }
    let payload = Envelope::from_parts(
        owm_proto::Purpose::Checkpoint,
        PublicKey([4; 32]),
        [5; 64],
        bytes.to_vec(),
    );
    let _ = Checkpoint::open_by(&payload, &network, SignerRule::Anyone, &Trusting);
    if let Ok(address) = Multiaddr::try_from(bytes.to_vec()) {
        addressed(&address);
    }
    if let Some(address) = capability::address(bytes) {
        addressed(&address);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(address) = text.parse::<Multiaddr>() {
            addressed(&address);
        }
        if let Ok(invite) = text.parse::<Invite>() {
            assert_eq!(invite.to_string().parse::<Invite>().as_ref(), Ok(&invite));
        }
    }
});
