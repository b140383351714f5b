//! What a capability message may hold: bounds on every list and text, addresses that parse. Must stay true:
//! the bounds are constants (all honest peers refuse the same), and no text can move a terminal's cursor.

use libp2p::{Multiaddr, multiaddr::Protocol};
use owm_proto::{
    SessionId, Sha256,
    limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, GPUS_MAX, HOLDS_MAX, SHORT_TEXT_BYTES_MAX},
    wire::{
        coordinator::{Capabilities, HeartbeatBody},
        gossip::CapabilityBody,
    },
};

use crate::gossip::RejectReason;

/// Roles that a node may name: three exist, some may follow.
pub const ROLES_MAX: usize = 8;

/// Bytes of a role's or version's text.
pub const WORD_BYTES_MAX: usize = 64;

/// Checks a capability's parts, its membership aside.
pub fn check_capability(body: &CapabilityBody) -> Result<(), RejectReason> {
    let sound = SessionId::from_wire(&body.session_id).is_ok()
        && is_text(&body.software_version, WORD_BYTES_MAX)
        && body.roles.len() <= ROLES_MAX
        && body.roles.iter().all(|role| is_text(role, WORD_BYTES_MAX))
        && body.holds.len() <= HOLDS_MAX
        && body.holds.iter().all(|hash| hash.len() == 32)
        && body.addresses.len() <= ADDRESSES_MAX
        && body.addresses.iter().all(|bytes| address(bytes).is_some())
        && body.capabilities.as_ref().is_none_or(are_sound);
    sound.then_some(()).ok_or(RejectReason::Malformed)
}

/// Checks a heartbeat's parts.
pub fn check_heartbeat(body: &HeartbeatBody) -> Result<(), RejectReason> {
    let sound = SessionId::from_wire(&body.session_id).is_ok()
        && body.loaded_sha256.len() <= HOLDS_MAX
        && body.loaded_sha256.iter().all(|hash| is_hash(hash));
    sound.then_some(()).ok_or(RejectReason::Malformed)
}

/// An announced address: a multiaddress that does not end in its own peer's name (a relay's name inside is
/// fine). `None` if it is none.
pub fn address(bytes: &[u8]) -> Option<Multiaddr> {
    if bytes.is_empty() || bytes.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let address = Multiaddr::try_from(bytes.to_vec()).ok()?;
    let names_peer = matches!(address.iter().last(), Some(Protocol::P2p(_)) | None);
    (!names_peer).then_some(address)
}

/// The files that a capability names.
pub fn holds(body: &CapabilityBody) -> impl Iterator<Item = Sha256> + '_ {
    let bytes = body.holds.iter();
    bytes.filter_map(|hash| hash.as_slice().try_into().ok().map(Sha256))
}

fn are_sound(capabilities: &Capabilities) -> bool {
    capabilities.gpus.len() <= GPUS_MAX
        && capabilities
            .gpus
            .iter()
            .all(|gpu| is_text(gpu, SHORT_TEXT_BYTES_MAX))
        && is_text(&capabilities.backend, SHORT_TEXT_BYTES_MAX)
}

fn is_text(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.chars().any(char::is_control)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
