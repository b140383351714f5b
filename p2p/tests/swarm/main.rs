//! Real peers in one process, over TCP and QUIC on loopback. Waits for conditions; nothing sleeps.
#![expect(clippy::unwrap_used, reason = "tests")]

mod crowd;
mod gossip;
mod joining;
mod outside;
mod ways;
mod world;
