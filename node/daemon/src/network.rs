//! What network this is: genesis, delegations and revocations, from the coordinator or any peer, verified
//! against the invite and kept for starting and for checking receipts offline. `daemon` and `cli` call it.
//! Must stay true: nothing is kept or used that does not verify.

mod book;

use std::{collections::BTreeSet, path::Path, time::Duration};

pub use book::{Known, NetworkBook, Networks};
use owm_p2p::Documents;
use owm_proto::{
    Envelope, PublicKey, Sha256, UnixMillis,
    envelope::EnvelopeError,
    genesis::{DelegatedRole, GenesisError, NetworkId, Revocation, TrustRoot},
    invite::Invite,
    limits::SHORT_TEXT_BYTES_MAX,
    wire::coordinator::{GetNetworkResponse, SignedEnvelope},
};
use prost::Message as _;

use crate::home::{HomeError, read_small, write_atomically};

/// All documents together: genesis and a few hundred root statements.
const DOCUMENTS_BYTES_MAX: u64 = 1 << 20;
/// Root statements that are looked at: each costs a signature check.
const STATEMENTS_MAX: usize = 512;
const DOCUMENTS: &str = "documents.pb";
const GENESIS: &str = "genesis.json";

/// Why a network can't be trusted.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A document does not hold.
    #[error(transparent)]
    Documents(#[from] GenesisError),
    /// A statement is malformed.
    #[error("a root statement is malformed: {0}")]
    Statement(#[from] EnvelopeError),
    /// Too much of it.
    #[error("there are {0} root statements, more than {STATEMENTS_MAX}")]
    TooMany(usize),
    /// The server's key is no instance key (any more).
    #[error(
        "the invite's coordinator key is not delegated by the network's root key now (expired, \
         revoked, or this machine's clock is wrong): ask for a new invite"
    )]
    NotDelegated,
    /// The clock is wrong: the delegation is younger than now.
    #[error(
        "this machine's clock is at least {} min {} s behind: the network's root key made the \
         coordinator's key valid only after what the clock says; set it (timedatectl set-ntp true)",
        behind.as_secs() / 60, behind.as_secs() % 60
    )]
    ClockBehind {
        /// At least so far.
        behind: Duration,
    },
    /// The files can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The stored file is damaged.
    #[error("{file} does not decode; start the node once to fetch it again")]
    Damaged {
        /// Which file.
        file: String,
    },
    /// Nothing is stored.
    #[error(
        "no documents of the network are in {folder}; start the node once while the coordinator can be reached"
    )]
    Missing {
        /// Where they were looked for.
        folder: String,
    },
}

/// A verified network.
#[derive(Clone, Debug)]
pub struct Network {
    /// What everything is verified with.
    pub trust: TrustRoot,
    /// Where blobs are; may be empty.
    pub web_seed: String,
    documents: GetNetworkResponse,
}

impl Network {
    /// Verifies what a coordinator, a peer or a file says. A statement that is said twice counts once, and a
    /// web seed that is too long is as good as none.
    pub fn verify(
        expected: Option<NetworkId>,
        mut documents: GetNetworkResponse,
    ) -> Result<Self, NetworkError> {
        let delegations = each_once(&documents.delegations)?;
        let revocations = each_once(&documents.revocations)?;
        let count = delegations.len() + revocations.len();
        if count > STATEMENTS_MAX {
            return Err(NetworkError::TooMany(count));
        }
        let trust =
            TrustRoot::from_documents(expected, &documents.genesis, &delegations, &revocations)?;
        documents.delegations = delegations.iter().map(Into::into).collect();
        documents.revocations = revocations.iter().map(Into::into).collect();
        if documents.web_seed.len() > SHORT_TEXT_BYTES_MAX {
            documents.web_seed.clear();
        }
        Ok(Self {
            trust,
            web_seed: documents.web_seed.clone(),
            documents,
        })
    }

    /// What a peer has served.
    pub fn of_peer(documents: &Documents) -> Result<Self, NetworkError> {
        let wire = |all: &[Envelope]| all.iter().map(Into::into).collect();
        let response = GetNetworkResponse {
            genesis: documents.genesis.clone(),
            delegations: wire(&documents.delegations),
            revocations: wire(&documents.revocations),
            web_seed: documents.web_seed.clone(),
            bootstrap: documents.bootstrap.as_ref().map(Into::into),
            peers: Vec::new(),
        };
        Self::verify(Some(documents.trust().id()), response)
    }

    /// As the swarm takes and serves them.
    pub fn to_documents(&self, now: UnixMillis) -> Result<Documents, NetworkError> {
        let parse = |wire: &[SignedEnvelope]| {
            let envelopes = wire.iter().cloned().map(Envelope::try_from);
            envelopes.collect::<Result<Vec<_>, _>>()
        };
        let bootstrap = self.documents.bootstrap.clone();
        Ok(Documents::verify(
            Some(self.trust.id()),
            self.documents.genesis.clone(),
            parse(&self.documents.delegations)?,
            parse(&self.documents.revocations)?,
            // One that is malformed is as good as none.
            bootstrap.and_then(|wire| Envelope::try_from(wire).ok()),
            self.web_seed.clone(),
            now,
        )?)
    }

    /// Multiaddresses of peers, as the coordinator named them.
    pub fn peers(&self) -> &[String] {
        &self.documents.peers
    }

    /// Whether the root key has taken this key back, now or from a later time on.
    pub fn is_revoked(&self, key: &PublicKey) -> bool {
        let revocations = self.documents.revocations.iter().cloned();
        let mut keys = revocations.filter_map(|wire| {
            let envelope = Envelope::try_from(wire).ok()?;
            let said: Revocation = serde_json::from_slice(envelope.unverified_payload()).ok()?;
            Some(said.key)
        });
        keys.any(|revoked| revoked == *key)
    }

    /// That the invite's coordinator may speak for the network now.
    pub fn check_instance(&self, invite: &Invite, now: UnixMillis) -> Result<(), NetworkError> {
        if self
            .trust
            .is_delegated(DelegatedRole::Instance, &invite.instance_key, now)
        {
            return Ok(());
        }
        let (role, key) = (DelegatedRole::Instance, &invite.instance_key);
        match self.trust.delegated_since(role, key) {
            Some(since) if since > now => Err(NetworkError::ClockBehind {
                behind: since.since(now),
            }),
            _ => Err(NetworkError::NotDelegated),
        }
    }

    /// Keeps the documents: the genesis as exact bytes for `sha256sum`, and all of it.
    pub fn store(&self, folder: &Path) -> Result<(), NetworkError> {
        write_atomically(&folder.join(GENESIS), &self.documents.genesis)?;
        write_atomically(&folder.join(DOCUMENTS), &self.documents.encode_to_vec())?;
        Ok(())
    }

    /// Reads what [`Network::store`] kept.
    pub fn load(folder: &Path, expected: Option<NetworkId>) -> Result<Self, NetworkError> {
        let path = folder.join(DOCUMENTS);
        let bytes =
            read_small(&path, DOCUMENTS_BYTES_MAX)?.ok_or_else(|| NetworkError::Missing {
                folder: folder.display().to_string(),
            })?;
        let documents =
            GetNetworkResponse::decode(bytes.as_slice()).map_err(|_| NetworkError::Damaged {
                file: path.display().to_string(),
            })?;
        Self::verify(expected, documents)
    }
}

/// Decoded, in their order, without repetitions.
fn each_once(wire: &[SignedEnvelope]) -> Result<Vec<Envelope>, EnvelopeError> {
    let (mut ids, mut all) = (BTreeSet::<Sha256>::new(), Vec::new());
    for statement in wire {
        let envelope = Envelope::try_from(statement.clone())?;
        if ids.insert(envelope.id()) {
            all.push(envelope);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use owm_proto::{
        NodeKey,
        genesis::{Delegation, Genesis, network_id},
    };

    use super::*;

    fn documents(expires: u64) -> (GetNetworkResponse, Invite) {
        let [root, instance] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "t".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let id = network_id(&genesis);
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(expires),
        };
        let delegations = vec![SignedEnvelope::from(&delegation.sign(&root, &id))];
        let invite = Invite {
            genesis: id,
            instance_key: instance.public(),
            addresses: vec![],
            onion: None,
            peers: vec![],
            web_seed: None,
        };
        let web_seed = "http://127.0.0.1:1".into();
        (
            GetNetworkResponse {
                genesis,
                delegations,
                revocations: vec![],
                web_seed,
                ..GetNetworkResponse::default()
            },
            invite,
        )
    }

    #[test]
    fn documents_survive_the_disk_and_name_the_instance() {
        let (documents, invite) = documents(1_000);
        let network = Network::verify(Some(invite.genesis), documents).unwrap();
        network.check_instance(&invite, UnixMillis(10)).unwrap();
        let late = network.check_instance(&invite, UnixMillis(1_000));
        assert!(matches!(late, Err(NetworkError::NotDelegated)));
        let folder = tempfile::tempdir().unwrap();
        network.store(folder.path()).unwrap();
        let again = Network::load(folder.path(), Some(invite.genesis)).unwrap();
        assert_eq!(again.trust.id(), invite.genesis);
        assert_eq!(again.web_seed, "http://127.0.0.1:1");
    }

    #[test]
    fn a_clock_that_is_behind_is_told_by_how_much() {
        let (mut documents, invite) = documents(u64::MAX);
        let [root, instance] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(10_000_000),
            expires_at_ms: UnixMillis(u64::MAX),
        };
        let signed = delegation.sign(&root, &invite.genesis);
        documents.delegations = vec![(&signed).into()];
        let network = Network::verify(Some(invite.genesis), documents).unwrap();
        let hour_ago = UnixMillis(10_000_000 - 3_600_000);
        let error = network.check_instance(&invite, hour_ago).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("60 min 0 s behind"), "{text}");
        assert!(text.contains("timedatectl"), "{text}");
    }

    #[test]
    fn a_statement_that_is_said_a_thousand_times_counts_once() {
        let (mut documents, invite) = documents(1_000);
        documents.delegations = vec![documents.delegations[0].clone(); 2 * STATEMENTS_MAX];
        let network = Network::verify(Some(invite.genesis), documents).unwrap();
        network.check_instance(&invite, UnixMillis(10)).unwrap();
        assert_eq!(network.documents.delegations.len(), 1, "and is kept once");
    }

    #[test]
    fn a_web_seed_of_any_length_is_not_kept() {
        let (mut documents, invite) = documents(1_000);
        documents.web_seed = "h".repeat(SHORT_TEXT_BYTES_MAX + 1);
        let network = Network::verify(Some(invite.genesis), documents).unwrap();
        assert_eq!(network.web_seed, "");
        assert_eq!(network.documents.web_seed, "");
    }

    #[test]
    fn another_network_or_a_changed_statement_is_refused() {
        let (mut documents, invite) = documents(1_000);
        let other = NetworkId(owm_proto::Sha256::of(b"other"));
        assert!(Network::verify(Some(other), documents.clone()).is_err());
        documents.delegations[0].payload[0] ^= 1;
        assert!(Network::verify(Some(invite.genesis), documents).is_err());
    }
}
