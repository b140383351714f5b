//! What a network is: its genesis document, the root key's delegations and revocations, and the
//! [`TrustRoot`] that they add up to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, EnvelopeError, Purpose, SignerRule},
    hash::Sha256,
    key::{NodeKey, PublicKey},
    limits::{GENESIS_BYTES_MAX, SHORT_TEXT_BYTES_MAX},
    time::UnixMillis,
};

/// The SHA-256 of the genesis document's exact bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(pub Sha256);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The genesis document (UTF-8 JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The network's name, for people.
    pub name: String,
    /// `main`, `test`, `signet` or `regtest`.
    pub bitcoin_chain: String,
    /// The offline root key.
    pub root_public_key: PublicKey,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// What a delegated key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DelegatedRole {
    /// Signs manifests and withdrawals.
    Release,
    /// One coordinator process: TLS, membership, receipts.
    Instance,
}

/// Payload of `owm/delegation/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// What for.
    pub role: DelegatedRole,
    /// To whom.
    pub key: PublicKey,
    /// From when.
    pub issued_at_ms: UnixMillis,
    /// Until when; a year by default.
    pub expires_at_ms: UnixMillis,
}

/// Payload of `owm/revocation/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Whose delegation ends.
    pub key: PublicKey,
    /// Since when.
    pub revoked_at_ms: UnixMillis,
}

/// Why a network's documents can't be trusted.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// Another network.
    #[error(
        "this is the genesis document of network {got}, the invite is for {expected}; ask for an invite to this network"
    )]
    WrongNetwork {
        /// From the invite.
        expected: NetworkId,
        /// From the bytes.
        got: NetworkId,
    },
    /// It does not parse.
    #[error("the genesis document does not parse: {0}")]
    Malformed(String),
    /// A statement of the root key does not hold.
    #[error("a root statement does not hold: {0}")]
    Statement(#[from] EnvelopeError),
}

/// A network's genesis with the delegations that hold in it.
#[derive(Clone, Debug)]
pub struct TrustRoot {
    id: NetworkId,
    genesis: Genesis,
    delegations: Vec<Delegation>,
    revocations: Vec<Revocation>,
}

impl Genesis {
    /// The exact bytes to publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a genesis document is plain JSON")
    }
}

/// The network id of exact bytes.
pub fn network_id(genesis: &[u8]) -> NetworkId {
    NetworkId(Sha256::of(genesis))
}

impl TrustRoot {
    /// Checks the documents against `expected` (from an invite) and each statement against the root
    /// key. Statements that do not verify make the whole set untrusted.
    pub fn from_documents(
        expected: Option<NetworkId>,
        genesis: &[u8],
        delegations: &[Envelope],
        revocations: &[Envelope],
    ) -> Result<Self, GenesisError> {
        let id = network_id(genesis);
        if let Some(expected) = expected.filter(|expected| *expected != id) {
            return Err(GenesisError::WrongNetwork { expected, got: id });
        }
        if genesis.len() > GENESIS_BYTES_MAX {
            return Err(GenesisError::Malformed(format!(
                "over {GENESIS_BYTES_MAX} bytes"
            )));
        }
        let document: Genesis = serde_json::from_slice(genesis)
            .map_err(|error| GenesisError::Malformed(error.to_string()))?;
        if document.name.len() > SHORT_TEXT_BYTES_MAX {
            return Err(GenesisError::Malformed("the name is too long".into()));
        }
        let root = SignerRule::Exactly(&document.root_public_key);
        let delegations = delegations
            .iter()
            .map(|e| e.verify(Purpose::Delegation, &id, root)?.json())
            .collect::<Result<_, _>>()?;
        let revocations = revocations
            .iter()
            .map(|e| e.verify(Purpose::Revocation, &id, root)?.json())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id,
            genesis: document,
            delegations,
            revocations,
        })
    }

    /// The network.
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// The genesis document.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Whether `key` holds `role` at `now`: delegated, not expired, not revoked.
    pub fn is_delegated(&self, role: DelegatedRole, key: &PublicKey, now: UnixMillis) -> bool {
        self.keys(role, now).contains(key)
    }

    /// Whether the root key has taken back what it delegated to `key`. No time and no statement mends that.
    pub fn is_revoked(&self, key: &PublicKey, now: UnixMillis) -> bool {
        let of_key = |r: &Revocation| r.key == *key && r.revoked_at_ms <= now;
        self.revocations.iter().any(of_key)
    }

    /// When `role` was first delegated to `key`; what lies in the future means that a clock is wrong.
    pub fn delegated_since(&self, role: DelegatedRole, key: &PublicKey) -> Option<UnixMillis> {
        let of_key = |d: &&Delegation| d.role == role && d.key == *key;
        let issued = self.delegations.iter().filter(of_key);
        issued.map(|d| d.issued_at_ms).min()
    }

    /// All keys that hold `role` at `now`.
    pub fn keys(&self, role: DelegatedRole, now: UnixMillis) -> Vec<PublicKey> {
        self.delegations
            .iter()
            .filter(|d| {
                d.role == role && d.issued_at_ms <= now.after(crate::envelope::CLOCK_SKEW_MAX)
            })
            .filter(|d| now < d.expires_at_ms && !self.is_revoked(&d.key, now))
            .map(|d| d.key)
            .collect()
    }

    /// Until when `key` holds `role`, if it holds it at `now`: the latest of its delegations.
    pub fn delegated_until(
        &self,
        role: DelegatedRole,
        key: &PublicKey,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let of_key = |d: &&Delegation| d.role == role && d.key == *key;
        let latest = self.delegations.iter().filter(of_key);
        let latest = latest.map(|d| d.expires_at_ms).max();
        latest.filter(|_| self.is_delegated(role, key, now))
    }

    /// Keys that ever held `role` and were not revoked: durable messages outlive a delegation.
    pub fn keys_ever(&self, role: DelegatedRole) -> Vec<PublicKey> {
        self.delegations
            .iter()
            .filter(|d| d.role == role && !self.revocations.iter().any(|r| r.key == d.key))
            .map(|d| d.key)
            .collect()
    }
}

impl Delegation {
    /// Signs this statement with the root key.
    pub fn sign(&self, root: &NodeKey, network: &NetworkId) -> Envelope {
        let payload = serde_json::to_vec(self).expect("a delegation is plain JSON");
        Envelope::sign(root, Purpose::Delegation, network, payload)
    }
}

impl Revocation {
    /// Signs this statement with the root key.
    pub fn sign(&self, root: &NodeKey, network: &NetworkId) -> Envelope {
        let payload = serde_json::to_vec(self).expect("a revocation is plain JSON");
        Envelope::sign(root, Purpose::Revocation, network, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (NodeKey, NodeKey, Vec<u8>) {
        let root = NodeKey::from_seed(&[1; 32]);
        let genesis = Genesis {
            name: "test".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(1_000),
        };
        (root, NodeKey::from_seed(&[2; 32]), genesis.to_bytes())
    }

    #[test]
    fn a_delegation_holds_from_issue_to_expiry_unless_revoked() {
        let (root, instance, genesis) = setup();
        let id = network_id(&genesis);
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(1_000_000),
            expires_at_ms: UnixMillis(2_000_000),
        };
        let revocation = Revocation {
            key: instance.public(),
            revoked_at_ms: UnixMillis(1_500_000),
        };
        let signed = [delegation.sign(&root, &id)];
        let trust = TrustRoot::from_documents(Some(id), &genesis, &signed, &[]).unwrap();
        let holds = |t: &TrustRoot, at| {
            t.is_delegated(DelegatedRole::Instance, &instance.public(), UnixMillis(at))
        };
        assert!(!holds(&trust, 800_000));
        assert!(holds(&trust, 1_600_000));
        assert!(!holds(&trust, 2_000_000));
        assert!(!trust.is_delegated(
            DelegatedRole::Release,
            &instance.public(),
            UnixMillis(1_600_000)
        ));
        let revoked = [revocation.sign(&root, &id)];
        let trust = TrustRoot::from_documents(Some(id), &genesis, &signed, &revoked).unwrap();
        assert!(holds(&trust, 1_400_000));
        assert!(!holds(&trust, 1_600_000));
    }

    #[test]
    fn a_delegation_by_anyone_else_spoils_the_set() {
        let (_, instance, genesis) = setup();
        let id = network_id(&genesis);
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(u64::MAX),
        };
        let forged = [delegation.sign(&instance, &id)];
        assert!(TrustRoot::from_documents(None, &genesis, &forged, &[]).is_err());
    }

    #[test]
    fn another_networks_genesis_is_named_as_such() {
        let (_, _, genesis) = setup();
        let other = NetworkId(Sha256::of(b"other"));
        let error = TrustRoot::from_documents(Some(other), &genesis, &[], &[]).unwrap_err();
        assert!(matches!(error, GenesisError::WrongNetwork { .. }));
    }
}
