//! The shape of the gossip: how many peers a message is forwarded to at once, who else learns of it, and how.
//! `assemble` tells gossipsub, `tests/sim` builds its model from the same numbers, so that what is simulated is
//! what runs. Must stay true: whatever gossipsub is told of its mesh stands here and nowhere else.

use std::time::Duration;

use crate::NetworkPolicy;

/// Below so many peers a mesh is filled up.
///
/// Fewest, wanted and most peers that every message is forwarded to at once: each peer less is a copy less of
/// every message. A random graph of degree three and more holds together at a thousand nodes per shard, the more
/// as whoever says something tells all its peers itself ([`floods`]), and whoever is missed all the same learns of
/// the message by gossip within a second, which is soon enough for heartbeats. With 50 peers half the bytes of
/// libp2p's 5, 6, 12 (docs/benchmarks.md).
pub const PEERS_LOW: usize = 3;

/// Peers that a mesh is filled up, or cut down, to.
pub const PEERS_WANTED: usize = 4;

/// With so many peers a mesh is cut down, and takes nobody who dialled us.
pub const PEERS_HIGH: usize = 5;

/// Peers of a mesh that we have dialled ourselves, at least: nobody fills it from outside alone.
pub const DIALLED_MIN: usize = 2;

/// Peers outside the mesh that are told the hashes of the last messages, at least; a quarter of them if that is
/// more.
pub const TOLD_MIN: usize = 4;

/// The part of the peers outside the mesh that are told: one of so many.
pub const TOLD_ONE_OF: usize = 4;

/// Between two looks at the meshes, two rounds of telling.
pub const ROUND: Duration = Duration::from_secs(1);

/// Rounds whose messages are told.
pub const ROUNDS_TOLD: usize = 3;

/// Rounds whose messages are kept for who asks.
pub const ROUNDS_KEPT: usize = 5;

/// Who was cut out of a mesh stays out for so long.
pub const BACKOFF: Duration = Duration::from_mins(1);

/// Who promised a message has so long to send it before that counts against it, and before another is asked:
/// Tor's round trips, and machines whose cores are busy, need more than libp2p's 3 s.
pub const PROMISE_TIME: Duration = Duration::from_secs(10);

/// A message is known by its hash for so long: the longest that one may be valid, about.
pub const KNOWN_TIME: Duration = Duration::from_mins(30);

/// Whether what we say ourselves goes to all connected peers that listen, not to the mesh only: one hop for most
/// of them. To be first with one's own messages tells that they are one's own, which on the clear net the
/// connection's identity says already; over onions it would, and each copy costs a circuit's bandwidth.
pub const fn floods(policy: NetworkPolicy) -> bool {
    match policy {
        NetworkPolicy::Clearnet | NetworkPolicy::LoopbackOnly => true,
        NetworkPolicy::OnionOnly => false,
    }
}
