//! Where a swarm may connect to; which behaviours exist follows from it.

use serde::{Deserialize, Serialize};

/// The network policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Anywhere: QUIC and TCP, AutoNAT, relays, hole punching, mDNS if asked for.
    #[default]
    Clearnet,
    /// Loopback addresses only (devnet, tests): as clearnet, but nothing else is dialled or announced.
    LoopbackOnly,
    /// Onion services only: a swarm without identify's observed addresses, AutoNAT, DCUtR, mDNS and QUIC.
    /// Its transport is passed in (`owm-tor`).
    OnionOnly,
}
