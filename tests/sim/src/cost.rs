//! What a peer has sent, received and computed.

use std::time::Duration;

/// One peer's account since it was last emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes on the wire.
    pub bytes_in: u64,
    /// Bytes on the wire.
    pub bytes_out: u64,
    /// Frames of any kind.
    pub frames_in: u64,
    /// Frames of any kind.
    pub frames_out: u64,
    /// Gossip messages, duplicates included.
    pub messages_in: u64,
    /// Messages that the rules judged (the rest were duplicates).
    pub judged: u64,
    /// Signatures asked for, remembered ones included: a lone peer computes each of them.
    pub signatures: u64,
}

/// A peer's account as a rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Bytes each second.
    pub bytes_in: f64,
    /// Bytes each second.
    pub bytes_out: f64,
    /// Frames each second, in and out.
    pub frames: f64,
    /// Gossip messages each second, duplicates included.
    pub messages_in: f64,
    /// Judgements each second.
    pub judged: f64,
    /// Signature checks each second.
    pub signatures: f64,
}

impl Cost {
    /// Per second of `span`.
    pub fn rates(&self, span: Duration) -> Rates {
        let per_second = |count: u64| count as f64 / span.as_secs_f64();
        Rates {
            bytes_in: per_second(self.bytes_in),
            bytes_out: per_second(self.bytes_out),
            frames: per_second(self.frames_in + self.frames_out),
            messages_in: per_second(self.messages_in),
            judged: per_second(self.judged),
            signatures: per_second(self.signatures),
        }
    }
}
