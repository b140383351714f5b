//! What the swarm tells its daemon: each item has been verified and is new.

use owm_proto::{
    Envelope, PublicKey,
    gossip::Checkpoint,
    manifest::Manifest,
    wire::{coordinator::HeartbeatBody, gossip::CapabilityBody},
};

use crate::Documents;

/// Something verified and new.
#[derive(Clone, Debug)]
pub enum News {
    /// A node lives.
    Heartbeat {
        /// Which.
        node: PublicKey,
        /// What it says.
        body: HeartbeatBody,
    },
    /// A node says what it has, does and holds.
    Capability {
        /// Which.
        node: PublicKey,
        /// What it says.
        body: Box<CapabilityBody>,
    },
    /// A newer checkpoint, its manifest verified too.
    Checkpoint(Box<NewestCheckpoint>),
    /// Newer documents of the network (a revocation, other shards), verified.
    Documents(Box<Documents>),
}

/// The newest checkpoint with all that is needed to serve it on.
#[derive(Clone, Debug, PartialEq)]
pub struct NewestCheckpoint {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Its signed form.
    pub envelope: Envelope,
    /// What it names.
    pub manifest: Manifest,
    /// Its signed form.
    pub manifest_envelope: Envelope,
}
