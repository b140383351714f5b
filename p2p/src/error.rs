//! What can go wrong, and on which layer.

use std::fmt;

use libp2p::Multiaddr;

/// Why the swarm can't be started or used.
#[derive(Debug, thiserror::Error)]
pub enum P2pError {
    /// An address can't be listened on.
    #[error(
        "the swarm cannot listen on {address}: {reason}; is the port taken by another program? Change [p2p] listen in the config"
    )]
    Listen {
        /// Which.
        address: Multiaddr,
        /// Why.
        reason: String,
    },
    /// A transport can't be made.
    #[error("the swarm's transport cannot be made: {0}")]
    Transport(String),
    /// A text is no multiaddress.
    #[error(
        "{text:?} is no peer address: {reason}; it looks like /ip4/203.0.113.7/udp/4001/quic-v1/p2p/12D3KooW…"
    )]
    Address {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A message that its sender should not have made.
    #[error("not sent: {0}")]
    Refused(String),
    /// Not now, but perhaps later: the documents that it is judged by are not all known yet.
    #[error("not sent yet: {0}")]
    NotYet(String),
    /// The service has ended.
    #[error("the swarm has been stopped")]
    Stopped,
}

/// The layer on which reaching a peer failed: people decide by it what to repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailedLayer {
    /// The policy forbids it.
    Policy,
    /// The name could not be resolved.
    Name,
    /// TCP or QUIC could not connect.
    Transport,
    /// Noise or TLS: another peer than expected answered, or no libp2p at all.
    Handshake,
    /// It speaks another network or another version.
    Version,
    /// Its clock and ours are too far apart.
    Clock,
    /// What it served does not verify.
    Documents,
    /// Time ran out.
    Timeout,
}

/// One way in that did not work: which layer failed for whom, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unavailable {
    /// The peer or name.
    pub target: String,
    /// Where it stopped.
    pub layer: FailedLayer,
    /// What was said.
    pub reason: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            layer,
            reason,
        } = self;
        write!(f, "{target}: {layer}: {reason}")
    }
}

impl FailedLayer {
    /// In a word or two, as shown and as a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Name => "name",
            Self::Transport => "tcp/quic",
            Self::Handshake => "handshake",
            Self::Version => "version",
            Self::Clock => "clock",
            Self::Documents => "documents",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for FailedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
