//! Payloads of durable statements, as JSON whose exact bytes are signed: owner bindings, memberships,
//! commits, results and segments. (Delegations are in `genesis`, manifests and receipts have rooms of
//! their own.)

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, EnvelopeError, Purpose, SignatureCheck, SignerRule, StrictEd25519},
    genesis::NetworkId,
    hash::{Hasher, Sha256},
    id::{NodeId, TaskId},
    key::{NodeKey, PublicKey},
    tier::Tier,
    time::UnixMillis,
};

/// Payload of `owm/owner-binding/v1`; it counts only when signed by both keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerBinding {
    /// Who owns the node.
    pub owner: PublicKey,
    /// The node.
    pub node: PublicKey,
    /// When they agreed.
    pub issued_at_ms: UnixMillis,
}

/// Payload of `owm/membership/v1`: the coordinator says who is a member (spec §7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The node's identity.
    pub node: PublicKey,
    /// Its id in the coordinator's database.
    pub node_id: NodeId,
    /// Who owns it.
    pub owner: PublicKey,
    /// What it was admitted as.
    pub tier: Tier,
    /// From when.
    pub issued_at_ms: UnixMillis,
    /// Until when; seven days by default.
    pub expires_at_ms: UnixMillis,
}

/// Payload of `owm/commit/v1`: the hash of a result, handed in before the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Which task.
    pub task_id: TaskId,
    /// Under which lease.
    pub epoch: u64,
    /// SHA-256 of the result's exact payload bytes.
    pub result_sha256: Sha256,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model or a stop string ended it.
    Stop,
    /// The token limit ended it.
    Length,
}

/// Payload of `owm/result/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResultStatement {
    /// Which task.
    pub task_id: TaskId,
    /// Under which lease.
    pub epoch: u64,
    /// The weights files it was computed with.
    pub model_sha256: Vec<Sha256>,
    /// SHA-256 of the opened payload.
    pub input_sha256: Sha256,
    /// SHA-256 of the answer's UTF-8 text, forced prefix included.
    pub output_sha256: Sha256,
    /// [`tokens_sha256`] of all token ids, forced prefix included.
    pub tokens_sha256: Sha256,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, forced prefix included.
    pub output_tokens: u32,
    /// Why it ended.
    pub finish: Finish,
    /// The sampling seed.
    pub seed: u64,
    /// What computed it: `burn-flex/f32`.
    pub backend: String,
    /// Milliseconds of computing.
    pub exec_ms: u64,
}

/// Payload of `owm/segment/v1`: a node's share `[from, to)` of one answer's tokens. `prefix_sha256`
/// and `tokens_sha256` are hashes of all tokens before `from` and before `to`, so segments chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Which task.
    pub task_id: TaskId,
    /// Under which lease.
    pub epoch: u64,
    /// The weights files it was computed with.
    pub model_sha256: Vec<Sha256>,
    /// First token of the share.
    pub from: u32,
    /// One past the last.
    pub to: u32,
    /// [`tokens_sha256`] of tokens `[0, from)`.
    pub prefix_sha256: Sha256,
    /// [`tokens_sha256`] of tokens `[0, to)`.
    pub tokens_sha256: Sha256,
    /// The sampling seed.
    pub seed: u64,
}

/// The hash of token ids: SHA-256 over each as four little-endian bytes.
pub fn tokens_sha256(tokens: &[u32]) -> Sha256 {
    let mut hasher = Hasher::new();
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finish()
}

/// A JSON statement with a purpose of its own.
pub trait Statement: Serialize + serde::de::DeserializeOwned {
    /// What it is signed for.
    const PURPOSE: Purpose;

    /// Signs this statement's JSON.
    fn sign(&self, key: &NodeKey, network: &NetworkId) -> Envelope {
        let payload = serde_json::to_vec(self).expect("statements are plain JSON");
        Envelope::sign(key, Self::PURPOSE, network, payload)
    }

    /// Verifies an envelope and parses what it holds.
    fn open(
        envelope: &Envelope,
        network: &NetworkId,
        signer: SignerRule<'_>,
    ) -> Result<Self, EnvelopeError> {
        Self::open_by(envelope, network, signer, &StrictEd25519)
    }

    /// As [`Statement::open`], with the signature checked by `check`.
    fn open_by(
        envelope: &Envelope,
        network: &NetworkId,
        signer: SignerRule<'_>,
        check: &dyn SignatureCheck,
    ) -> Result<Self, EnvelopeError> {
        let verified = envelope.verify_by(Self::PURPOSE, network, signer, check)?;
        verified.json()
    }
}

macro_rules! statements {
    ($($type:ident = $purpose:ident),* $(,)?) => {$(
        impl Statement for $type {
            const PURPOSE: Purpose = Purpose::$purpose;
        }
    )*};
}

statements! {
    OwnerBinding = OwnerBinding,
    Membership = Membership,
    Commit = Commit,
    TaskResultStatement = Result,
    Segment = Segment,
}

impl OwnerBinding {
    /// The owner of `node`: itself without a binding, else the one both keys have signed for.
    pub fn owner_of(
        node: &PublicKey,
        binding: &[Envelope],
        network: &NetworkId,
    ) -> Result<PublicKey, EnvelopeError> {
        let (one, two) = match binding {
            [] => return Ok(*node),
            [one, two] => (one, two),
            _ => {
                return Err(EnvelopeError::Malformed(
                    "an owner binding has two signatures",
                ));
            }
        };
        if one.unverified_payload() != two.unverified_payload() {
            return Err(EnvelopeError::Malformed(
                "owner and node signed different bindings",
            ));
        }
        let (by_one, by_two) = (
            one.verify(Purpose::OwnerBinding, network, SignerRule::Anyone)?,
            two.verify(Purpose::OwnerBinding, network, SignerRule::Anyone)?,
        );
        let said: Self = by_one.json()?;
        let signers = [by_one.signer, by_two.signer];
        if said.node != *node || !signers.contains(&said.owner) || !signers.contains(&said.node) {
            return Err(EnvelopeError::Malformed(
                "the binding is not signed by owner and node",
            ));
        }
        Ok(said.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_counts_only_when_both_keys_say_so() {
        let network = NetworkId(Sha256::of(b"n"));
        let [owner, node, thief] = [1, 2, 3].map(|n| NodeKey::from_seed(&[n; 32]));
        let said = OwnerBinding {
            owner: owner.public(),
            node: node.public(),
            issued_at_ms: UnixMillis(5),
        };
        let of = |binding: &[Envelope]| OwnerBinding::owner_of(&node.public(), binding, &network);
        assert_eq!(of(&[]), Ok(node.public()));
        let both = [said.sign(&owner, &network), said.sign(&node, &network)];
        assert_eq!(of(&both), Ok(owner.public()));
        assert!(of(&both[..1]).is_err());
        assert!(of(&[said.sign(&node, &network), said.sign(&thief, &network)]).is_err());
        assert!(of(&[said.sign(&node, &network), said.sign(&node, &network)]).is_err());
        let stolen = OwnerBinding {
            node: thief.public(),
            ..said
        };
        assert!(of(&[stolen.sign(&owner, &network), stolen.sign(&thief, &network)]).is_err());
    }

    #[test]
    fn token_hashes_are_the_little_endian_bytes() {
        assert_eq!(
            tokens_sha256(&[1, 256]),
            Sha256::of(&[1, 0, 0, 0, 0, 1, 0, 0])
        );
    }
}
