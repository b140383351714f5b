//! What becomes of a message. Reject only for what its forwarder could have seen to be wrong; everything that
//! an honest peer can forward by being slow or ignorant is ignored.

use owm_proto::EnvelopeError;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Believed, told to the daemon, forwarded.
    Accept,
    /// Not forwarded; nobody is blamed.
    Ignore(IgnoreReason),
    /// Not forwarded; counts against the peer it came from.
    Reject(RejectReason),
}

/// Why a message is dropped without blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IgnoreReason {
    /// Its sequence has been seen.
    Duplicate,
    /// A later one has been seen.
    Stale,
    /// Its time is over.
    Expired,
    /// Its issuer's clock is ahead, or ours behind.
    Future,
    /// Its issuer has used up its allowance.
    TooManyOfKey,
    /// The peer that forwarded it has used up its allowance.
    TooManyOfPeer,
    /// The topic's allowance is used up.
    TooManyOfTopic,
    /// There is no room for its issuer among the known nodes: all places of its kind (member, stranger) are
    /// held by living ones.
    Full,
    /// Its issuer has said two things under one sequence.
    Equivocation,
    /// Its issuer is a release key of which no delegation is known here (yet), or whose delegation ended.
    UnknownSigner,
    /// A key of the network has signed it, in a form that we can't read: we may be an old version.
    Unreadable,
    /// Its issuer belongs here under another number of shards: it, or its forwarder, has other parameters.
    OtherShards,
}

/// Why a message is held against its forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// Over 64 KiB.
    Oversize,
    /// No envelope, or a payload that is not what its purpose promises.
    Malformed,
    /// Signed for another purpose than the topic's.
    WrongPurpose,
    /// The signature does not hold in this network.
    BadSignature,
    /// Its issuer belongs to another shard.
    WrongShard,
    /// Issue and expiry contradict each other, or a span is longer than allowed.
    BadTimes,
}

impl IgnoreReason {
    /// A stable word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::TooManyOfKey => "too_many_of_key",
            Self::TooManyOfPeer => "too_many_of_peer",
            Self::TooManyOfTopic => "too_many_of_topic",
            Self::Full => "full",
            Self::Equivocation => "equivocation",
            Self::UnknownSigner => "unknown_signer",
            Self::Unreadable => "unreadable",
            Self::OtherShards => "other_shards",
        }
    }
}

impl RejectReason {
    /// A stable word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oversize => "oversize",
            Self::Malformed => "malformed",
            Self::WrongPurpose => "wrong_purpose",
            Self::BadSignature => "bad_signature",
            Self::WrongShard => "wrong_shard",
            Self::BadTimes => "bad_times",
        }
    }
}

/// What a fault of an envelope means on the gossip's door, where anybody may sign.
pub(crate) fn reject_reason(error: &EnvelopeError) -> RejectReason {
    match error {
        EnvelopeError::Oversize { .. } => RejectReason::Oversize,
        EnvelopeError::WrongPurpose { .. } => RejectReason::WrongPurpose,
        EnvelopeError::BadSignature => RejectReason::BadSignature,
        EnvelopeError::OutOfTime(_) => RejectReason::BadTimes,
        EnvelopeError::Malformed(_)
        | EnvelopeError::WrongSigner { .. }
        | EnvelopeError::BadPayload { .. } => RejectReason::Malformed,
    }
}
