//! What the shell tells the fetch machine and what the machine tells the shell.

use std::{ops::Range, sync::Arc, time::Duration};

use libp2p::PeerId;
use owm_proto::{Ladder, Sha256};

use crate::exchange::PieceSet;

/// Where bytes may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A peer of the swarm.
    Peer(PeerId),
    /// A web seed, by the number that the shell gave it. Asked only where peers don't suffice.
    Web(u32),
}

/// One request of one machine; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// This file is wanted; `have` is proved and on the disk already. A file that several want is fetched
    /// once: it is told apart by its SHA-256 alone, and ends when all of them have stopped.
    Start {
        /// Its proven ladder.
        file: Arc<Ladder>,
        /// What is there.
        have: PieceSet,
    },
    /// One of those who wanted it no longer does (also after [`Effect::Complete`]).
    Stop {
        /// Which.
        file: Sha256,
    },
    /// A source says what it has of a wanted file. Replaces what it said of this file before.
    Offered {
        /// Who.
        source: Source,
        /// Of which file. One that is not wanted is ignored.
        file: Sha256,
        /// What; `None`: all of it.
        pieces: Option<PieceSet>,
        /// The round trip, if the shell has measured it. The machine measures too.
        rtt: Option<Duration>,
    },
    /// A source says that it has one more piece.
    Gained {
        /// Who.
        source: Source,
        /// Of which file.
        file: Sha256,
        /// Which.
        piece: u32,
    },
    /// A source cannot be reached any more; its requests have ended. What it gave stays.
    Gone {
        /// Who.
        source: Source,
    },
    /// A request has ended before all its bytes came. (One whose bytes have all been accepted ends by itself.)
    Ended {
        /// Which.
        request: RequestId,
        /// Why.
        how: Ended,
    },
    /// The answer to [`Effect::Check`].
    Checked {
        /// Which file.
        file: Sha256,
        /// Which piece.
        piece: u32,
        /// What the bytes on the disk are.
        found: Found,
    },
    /// The answer to [`Effect::Digest`].
    Digested {
        /// Which file.
        file: Sha256,
        /// Which piece.
        piece: u32,
        /// A SHA-256 for each of the ranges, in their order; none if others may have written there too.
        digests: Vec<Sha256>,
    },
    /// [`Machine::wake_at`] has come.
    Tick,
}

/// What a look at a piece has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is the piece.
    Right,
    /// It is not, and all its bytes are those that were accepted.
    Wrong,
    /// It is not, and others may have written there too: nobody is to blame. It is fetched again, from one source.
    Mixed,
}

impl From<bool> for Found {
    fn from(is_right: bool) -> Self {
        if is_right { Self::Right } else { Self::Wrong }
    }
}

/// How a request ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The source serves nobody else now.
    Busy {
        /// Not to be asked again before; [`Duration::ZERO`]: it said nothing.
        retry_after: Duration,
    },
    /// The source does not have what it said it had.
    Missing,
    /// The stream broke, or something came that the protocol does not allow.
    Failed,
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask for these bytes. What is asked of one source may be asked in one stream, in this order.
    Request {
        /// Whom.
        source: Source,
        /// Under this name.
        request: RequestId,
        /// Of which file.
        file: Sha256,
        /// Which bytes of the file, all within one piece.
        range: Range<u64>,
    },
    /// Nothing more of this request is wanted; [`Machine::accept`] answers [`Accept::Gone`] from now on, so
    /// the rest may be cut off or read and thrown away, whichever is cheaper.
    Cancel {
        /// Whose.
        source: Source,
        /// Which.
        request: RequestId,
    },
    /// All bytes of the piece have been accepted. When they are written (everything accepted before this
    /// effect), check them and answer [`Event::Checked`]. Nothing is written to the piece meanwhile.
    Check {
        /// Which file.
        file: Sha256,
        /// Which piece.
        piece: u32,
    },
    /// Hash these ranges of the file as they lie on the disk, each by itself, and answer
    /// [`Event::Digested`]. Nothing is written to them meanwhile. Happens only after a lie.
    Digest {
        /// Which file.
        file: Sha256,
        /// Which piece.
        piece: u32,
        /// Of the file.
        ranges: Vec<Range<u64>>,
    },
    /// This peer gave wrong bytes: proved. Cut it off; the machine asks it for nothing any more.
    Ban {
        /// Who.
        peer: PeerId,
        /// Of which file.
        file: Sha256,
        /// Which piece.
        piece: u32,
    },
    /// Nothing is asked of this source before `until` ([`Duration::MAX`]: ever); its requests are cancelled.
    /// No accusation. Its streams may be closed; the machine comes back to it by itself.
    Rest {
        /// Who.
        source: Source,
        /// For what.
        reason: RestReason,
        /// Until when, on the shell's clock.
        until: Duration,
    },
    /// Every piece is proved.
    Complete {
        /// Which file.
        file: Sha256,
    },
    /// Pieces are missing that nobody known can be asked for: look for more sources.
    Starved {
        /// Of which file.
        file: Sha256,
    },
}

/// Why a source is left alone for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestReason {
    /// It serves others now.
    Busy,
    /// It had requests and sent nothing.
    Stalled,
    /// Its requests failed.
    Failed,
    /// It is far slower than others that have the same.
    Slow,
    /// It said it has what it lacks.
    FalseClaims,
    /// A web seed whose bytes are wrong. (A peer is banned instead.)
    WrongBytes,
}

/// What to do with bytes that came in, told by [`Machine::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Write the first `bytes` of them at `offset` of the file, then ask again for the rest.
    Write {
        /// Which file.
        file: Sha256,
        /// Where.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// Throw the first `bytes` of them away (somebody else was faster), then ask again for the rest.
    Skip {
        /// How many.
        bytes: usize,
    },
    /// Nothing of this request is wanted any more: throw everything away.
    Gone,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its pieces.
    pub pieces: u32,
    /// Those proved.
    pub proved: u32,
    /// Bytes of the proved ones.
    pub proved_bytes: u64,
    /// Sources that may be asked for something of it now.
    pub sources: u32,
}

/// What one source has given, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRate {
    /// Who.
    pub source: Source,
    /// Bytes accepted from it.
    pub bytes: u64,
    /// Bytes per second of late.
    pub bytes_per_s: u64,
    /// Bytes asked of it that have not come yet.
    pub outstanding: u64,
    /// Why it is left alone at present.
    pub resting: Option<RestReason>,
}
