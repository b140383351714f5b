//! Peers: who we know, what they earned, when they leave. A peer is named by its Ed25519 key, which its
//! libp2p PeerId contains (an identity multihash).

pub mod ban;
pub mod book;
pub mod group;
pub mod identity;
pub mod rate;
pub mod score;

pub use book::{Book, Origin};
pub use group::Group;
pub use identity::{keypair, peer_id, public_key};
pub use score::{Action, Consequence, Scores};
