//! From libp2p's errors to the layer that failed, with one sentence for people: what happened, why, what to do.
//! The dialling plan and `join` put them into what the daemons show.
//!
//! libp2p boxes its transports' errors, so types are found by walking the chain where they can be named, and
//! by their texts where generics hide them; `tests/swarm/joining.rs` runs against real failures, so an update of
//! libp2p that changes either is noticed.

use std::{error::Error, io, time::Duration};

use libp2p::{
    Multiaddr, PeerId, TransportError, request_response::OutboundFailure, swarm::DialError,
};
use owm_proto::{UnixMillis, genesis::GenesisError};

use crate::{
    NetworkPolicy, Unavailable,
    error::FailedLayer,
    peer::group::{peer_of, without_peer},
};

/// Bytes of a foreign error's text that are repeated.
const DETAIL_BYTES_MAX: usize = 160;

/// One address that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialFailure {
    /// Without `/p2p`; absent: the dial never came as far as an address.
    pub address: Option<Multiaddr>,
    /// What to show.
    pub told: Unavailable,
}

/// What a dial's end says. Empty if nothing has failed: the peer is connected or being dialled already, or
/// the address turned out to be our own ([`is_ourselves`]).
pub fn dial(peer: Option<PeerId>, error: &DialError) -> Vec<DialFailure> {
    let one = |address: Option<&Multiaddr>, layer, reason: String| DialFailure {
        told: Unavailable {
            target: target(peer, address),
            layer,
            reason,
        },
        address: address.map(without_peer),
    };
    match error {
        DialError::LocalPeerId { .. } | DialError::DialPeerConditionFalse(_) => Vec::new(),
        DialError::Transport(failures) => {
            let told = |(address, error): &(Multiaddr, _)| {
                let (layer, reason) = transport(error);
                one(Some(address), layer, reason)
            };
            failures.iter().map(told).collect()
        }
        DialError::WrongPeerId { obtained, address } => {
            let expected = peer_of(address).or(peer);
            let expected = expected.map_or_else(|| "another".to_owned(), |p| p.to_string());
            vec![one(
                Some(&without_peer(address)),
                FailedLayer::Handshake,
                format!(
                    "peer {obtained} answered, not {expected}: the address is somebody else's now, or the peer \
                     has a new key; ask its operator for the address with the present key"
                ),
            )]
        }
        DialError::NoAddresses => vec![one(
            None,
            FailedLayer::Policy,
            "no address that may be dialled is known; give one with its port, \
             like /ip4/203.0.113.7/tcp/4001"
                .to_owned(),
        )],
        DialError::Aborted => vec![one(
            None,
            FailedLayer::Timeout,
            "the attempt was given up before it ended; it is tried again".to_owned(),
        )],
        DialError::Denied { cause } => vec![one(
            None,
            FailedLayer::Policy,
            format!(
                "our own limits or block list refuse it ({}); see [p2p] in the config",
                detail(cause)
            ),
        )],
    }
}

/// Whether the dial led to ourselves: the address is to be forgotten, nothing is wrong.
pub fn is_ourselves(error: &DialError) -> bool {
    matches!(error, DialError::LocalPeerId { .. })
}

/// Layer and sentence of one address's error.
pub fn transport(error: &TransportError<io::Error>) -> (FailedLayer, String) {
    let error: &(dyn Error + 'static) = match error {
        TransportError::MultiaddrNotSupported(_) => {
            return (
                FailedLayer::Policy,
                "this swarm has no transport for such an address (it speaks TCP and QUIC; onion addresses \
                 need Tor switched on); use another address of this peer"
                    .to_owned(),
            );
        }
        TransportError::Other(error) => error,
    };
    let layer = layer_of(error);
    let detail = detail(error);
    let reason = match layer {
        FailedLayer::Timeout => format!(
            "no answer in the time given ({detail}): the peer is down, a firewall drops the packets, or the \
             address is old; is its port open there for TCP and UDP?"
        ),
        FailedLayer::Handshake => format!(
            "something answers, but it completes no libp2p handshake ({detail}): another program's port, or \
             a peer that turns us away; check the address with its operator"
        ),
        _ => format!(
            "cannot connect ({detail}): nobody listens on this port or there is no route to it; is the peer \
             running, and is this machine online?"
        ),
    };
    (layer, reason)
}

fn layer_of(error: &(dyn Error + 'static)) -> FailedLayer {
    use io::ErrorKind as Kind;
    let chain = chain(error);
    for link in &chain {
        let Some(io) = link.downcast_ref::<io::Error>() else {
            continue;
        };
        match io.kind() {
            Kind::TimedOut => return FailedLayer::Timeout,
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof
            | Kind::InvalidData => return FailedLayer::Handshake,
            Kind::Other => {}
            _ => return FailedLayer::Transport,
        }
    }
    let text = chain.iter().map(|link| link.to_string().to_lowercase());
    let text = text.collect::<Vec<_>>().join(": ");
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["timeout", "timed out"]) {
        FailedLayer::Timeout
    } else if says(&["refused", "unreachable", "no route", "not available"]) {
        FailedLayer::Transport
    } else if says(&[
        "handshake",
        "negotiat",
        "multistream",
        "protocol",
        "noise",
        "decrypt",
        "decode",
        "input error",
        "authenticat",
        "public key",
        "payload",
        "crypto",
        "closed",
        "reset",
        "eof",
        "diffie",
        "state",
        "aborted",
        "frame",
        "yamux",
    ]) {
        FailedLayer::Handshake
    } else {
        FailedLayer::Transport
    }
}

/// An error and all that caused it. What an [`io::Error`] wraps is a link too: its `source` skips it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    /// No honest chain is longer.
    const LINKS_MAX: usize = 16;
    let mut links = Vec::new();
    let mut next = Some(error);
    while let Some(link) = next.filter(|_| links.len() < LINKS_MAX) {
        links.push(link);
        let wrapped = link
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => link.source(),
        };
    }
    links
}

fn detail(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in chain(error).iter().map(ToString::to_string) {
        if !text.is_empty() && !texts.iter().any(|told| told.contains(&text)) {
            texts.push(text);
        }
    }
    let mut text = texts.join(": ");
    let mut end = DETAIL_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn target(peer: Option<PeerId>, address: Option<&Multiaddr>) -> String {
    match (address, peer) {
        (Some(address), Some(peer)) if peer_of(address).is_none() => {
            format!("{address}/p2p/{peer}")
        }
        (Some(address), _) => address.to_string(),
        (None, Some(peer)) => peer.to_string(),
        (None, None) => "a peer without address".to_owned(),
    }
}

/// The policy does not allow `address`.
pub fn forbidden(address: &Multiaddr, policy: NetworkPolicy) -> Unavailable {
    let allows = match policy {
        NetworkPolicy::Clearnet => {
            "IP addresses and names with a port (/ip4/…/tcp/4001, /dns4/…/udp/4001/quic-v1)"
        }
        NetworkPolicy::LoopbackOnly => "addresses of this machine only (a local network)",
        NetworkPolicy::OnionOnly => "onion services only (/onion3/…)",
    };
    Unavailable {
        target: address.to_string(),
        layer: FailedLayer::Policy,
        reason: format!(
            "not dialled: the network policy allows {allows}; correct the address, or change [p2p] network"
        ),
    }
}

/// A name has no address.
pub fn unresolved(name: &str, error: &io::Error) -> Unavailable {
    let layer = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => FailedLayer::Policy,
        _ => FailedLayer::Name,
    };
    Unavailable {
        target: name.to_owned(),
        layer,
        reason: format!(
            "the name was not resolved ({}); is it spelled right, does DNS work here? An address with \
             /ip4 or /ip6 needs no name",
            detail(error)
        ),
    }
}

/// A source or peer took longer than `after`.
pub fn too_slow(target: impl Into<String>, after: Duration) -> Unavailable {
    Unavailable {
        target: target.into(),
        layer: FailedLayer::Timeout,
        reason: format!(
            "no answer within {} s: down, overloaded or behind a firewall; it is asked again later",
            after.as_secs_f32()
        ),
    }
}

/// The connection stands, but Meet was not answered.
pub fn meet(target: impl Into<String>, error: &OutboundFailure) -> Unavailable {
    let (layer, reason) = match error {
        OutboundFailure::UnsupportedProtocols => {
            return other_network(target);
        }
        OutboundFailure::Timeout => (
            FailedLayer::Timeout,
            "it is connected but answered nothing in the time given: overloaded, or it keeps us waiting; \
             try another peer"
                .to_owned(),
        ),
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => (
            FailedLayer::Handshake,
            "it closed the connection before it answered: it is full, or it blocks us; try another peer"
                .to_owned(),
        ),
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => (
            FailedLayer::Documents,
            format!(
                "its answer does not decode ({}): another version, or a faulty peer; try another peer",
                detail(error)
            ),
        ),
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => (
            FailedLayer::Handshake,
            "it refuses to answer: it is busy, or was asked too often; try another peer, or later"
                .to_owned(),
        ),
        OutboundFailure::Io(error) => (
            FailedLayer::Handshake,
            format!(
                "the connection broke while it answered ({}); try another peer",
                detail(error)
            ),
        ),
    };
    Unavailable {
        target: target.into(),
        layer,
        reason,
    }
}

/// A libp2p peer that does not speak our network's protocol.
pub fn other_network(target: impl Into<String>) -> Unavailable {
    Unavailable {
        target: target.into(),
        layer: FailedLayer::Version,
        reason: "a peer answers, but not in our network's protocol: it belongs to another network, or runs \
                 another version; compare network and version of both (`owm-node status`)"
            .to_owned(),
    }
}

/// What it served does not verify.
pub fn unverified(target: impl Into<String>, error: &GenesisError) -> Unavailable {
    let layer = match error {
        GenesisError::WrongNetwork { .. } => FailedLayer::Version,
        GenesisError::Malformed(_) | GenesisError::Statement(_) => FailedLayer::Documents,
    };
    let reason =
        format!("what it served was refused ({error}); it is faulty or lies: try another peer");
    Unavailable {
        target: target.into(),
        layer,
        reason,
    }
}

/// Something it served does not hold, in words.
pub fn bad_document(target: impl Into<String>, what: &str) -> Unavailable {
    Unavailable {
        target: target.into(),
        layer: FailedLayer::Documents,
        reason: format!("{what}; it is faulty or lies: try another peer"),
    }
}

/// Its documents do not hold at our time, but at its own.
pub fn clock(target: impl Into<String>, ours: UnixMillis, theirs: UnixMillis) -> Unavailable {
    let (apart, word) = if ours > theirs {
        (ours.since(theirs), "ahead of")
    } else {
        (theirs.since(ours), "behind")
    };
    Unavailable {
        target: target.into(),
        layer: FailedLayer::Clock,
        reason: format!(
            "our clock is {} s {word} the peer's, and what it served does not hold at our time; \
             set this machine's clock (`timedatectl`, an NTP service)",
            apart.as_secs()
        ),
    }
}
