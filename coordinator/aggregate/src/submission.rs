//! Who handed an update in: what gates and weights need to know besides its numbers.

use owm_proto::{Permille, PublicKey, Sha256, UnixMillis};
use serde::{Deserialize, Serialize};

/// One node's part in a round. Submissions stand in the order of the spool's updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Whose update it is.
    pub node: PublicKey,
    /// The same for all nodes of one operator; a node without one is its own ([`Submission::alone`]).
    pub owner: Sha256,
    /// When the signed hash came in: of two copies the later one loses.
    pub committed_at: UnixMillis,
    /// Training samples, at most what the lease's steps allow.
    pub samples: u64,
    /// The reward multiplier of the tier in effect.
    pub tier: Permille,
    /// 1 to 2, from its stake.
    pub stake_bonus: Permille,
    /// Whether it has passed an audit in the last seven days.
    pub audited: bool,
}

impl Submission {
    /// The owner of a node that names none: itself.
    pub const fn alone(node: PublicKey) -> Sha256 {
        Sha256(node.0)
    }
}
