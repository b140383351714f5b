#![doc = include_str!("../README.md")]

pub mod envelope;
pub mod evaluation;
pub mod genesis;
pub mod gossip;
pub mod hash;
pub mod id;
pub mod invite;
pub mod key;
pub mod ladder;
pub mod limits;
pub mod manifest;
pub mod money;
pub mod receipt;
pub mod seal;
pub mod statement;
pub mod task;
pub mod tier;
pub mod time;
pub mod wire;

pub use envelope::{
    Envelope, EnvelopeError, Purpose, SignatureCheck, SignerRule, StrictEd25519, Verified,
};
pub use hash::Sha256;
pub use id::{EvaluationId, NodeId, RequestId, SessionId, TaskId};
pub use key::{KeyError, NodeKey, PublicKey};
pub use ladder::{FileSpec, Ladder, LadderBuilder, PieceCheck, PieceLen};
pub use money::{Msat, Permille, Sats};
pub use task::{Role, SubModelId, TaskType, VersionId};
pub use tier::{NodeStatus, Tier};
pub use time::UnixMillis;
