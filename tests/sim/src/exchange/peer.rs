//! One simulated source: a queue of requests that it answers in order, at its rate, in its manner.

use std::{collections::VecDeque, ops::Range, time::Duration};

use owm_p2p::{
    PeerId,
    exchange::machine::{RequestId, Source},
};

use super::scenario::{Kind, Spec};

/// A request on its way or being answered.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) request: RequestId,
    /// What is still to be sent.
    pub(super) range: Range<u64>,
    pub(super) is_lie: bool,
    /// Breaks off when so many bytes are left.
    pub(super) breaks_at: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) source: Source,
    pub(super) spec: Spec,
    pub(super) queue: VecDeque<Job>,
    pub(super) is_up: bool,
    /// Rises when it goes away: what was on its way before is lost.
    pub(super) epoch: u32,
    pub(super) is_serving: bool,
    /// Sent a wrong byte that was taken.
    pub(super) has_lied: bool,
    /// A wrong byte of it was in a piece that was checked.
    pub(super) was_caught: bool,
    pub(super) is_banned: bool,
    /// Bytes that came from it.
    pub(super) sent: u64,
}

impl Peer {
    pub(super) fn new(n: u32, spec: Spec) -> Self {
        let source = match spec.kind {
            Kind::Web { .. } => Source::Web(n),
            _ => Source::Peer(peer_id(n)),
        };
        Self {
            source,
            spec,
            queue: VecDeque::new(),
            is_up: true,
            epoch: 0,
            is_serving: false,
            has_lied: false,
            was_caught: false,
            is_banned: false,
            sent: 0,
        }
    }

    /// Bytes that it sends at once, and how long that takes.
    pub(super) fn step(&self, left: u64) -> (u64, Duration) {
        let rate = if self.spec.kind == Kind::Trickle {
            1
        } else {
            self.spec.rate
        };
        let bytes = (rate / 20).clamp(1, 64 << 10).min(left);
        (bytes, Duration::from_nanos(bytes * 1_000_000_000 / rate))
    }
}

/// The identity of the `n`th source: an Ed25519 key in the form that peer ids have, which nobody holds.
fn peer_id(n: u32) -> PeerId {
    let mut bytes = vec![0x00, 36, 0x08, 0x01, 0x12, 0x20];
    bytes.extend_from_slice(&[7; 28]);
    bytes.extend_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(&bytes).expect("the form of an Ed25519 peer id")
}
