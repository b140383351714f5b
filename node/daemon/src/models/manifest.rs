//! A version's manifest as this node keeps it: the signed envelope and the note that comes with it.

use std::path::Path;

use owm_proto::{
    Envelope, EnvelopeError, Purpose, SignerRule, UnixMillis,
    genesis::{DelegatedRole, TrustRoot},
    manifest::{Manifest, ManifestError},
    wire::coordinator::GetModelVersionResponse,
};
use prost::Message as _;

use crate::home::{HomeError, read_small, write_atomically};

/// The kept file: a manifest and its signature.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// Characters of a note that are shown.
const NOTE_CHARS_MAX: usize = 1_000;

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestRefused {
    /// Not signed by a release key.
    #[error("the manifest's signature does not hold: {0}")]
    Envelope(#[from] EnvelopeError),
    /// It contradicts itself.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Older than what this node has.
    #[error(
        "the manifest of {version} has sequence {offered}, this node has {known}: a node never goes back by itself"
    )]
    Older {
        /// Which version.
        version: String,
        /// Its sequence.
        offered: u64,
        /// Ours.
        known: u64,
    },
    /// The kept file is damaged.
    #[error("the kept manifest does not decode; it is fetched again")]
    Damaged,
    /// The file can't be used.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// A manifest whose signature holds.
#[derive(Clone, Debug)]
pub struct SignedManifest {
    /// Parsed.
    pub manifest: Manifest,
    /// What has to be said wherever the model is shown: the manifest's, and the coordinator's.
    pub note: String,
    wire: GetModelVersionResponse,
}

impl SignedManifest {
    /// Verifies an answer: signed by a release key that holds now, consistent, not below `known`.
    pub fn verify(
        wire: GetModelVersionResponse,
        trust: &TrustRoot,
        now: UnixMillis,
        known: Option<u64>,
    ) -> Result<Self, ManifestRefused> {
        let keys = trust.keys(DelegatedRole::Release, now);
        Self::verify_with(wire, trust, &keys, known)
    }

    fn verify_with(
        wire: GetModelVersionResponse,
        trust: &TrustRoot,
        keys: &[owm_proto::PublicKey],
        known: Option<u64>,
    ) -> Result<Self, ManifestRefused> {
        let envelope = Envelope::from_wire(wire.manifest.clone())?;
        let verified = envelope.verify(Purpose::Manifest, &trust.id(), SignerRule::OneOf(keys))?;
        let manifest = Manifest::from_bytes(verified.payload)?;
        if let Some(known) = known.filter(|known| manifest.sequence < *known) {
            let (version, offered) = (manifest.version.to_string(), manifest.sequence);
            return Err(ManifestRefused::Older {
                version,
                offered,
                known,
            });
        }
        let mut note = manifest.note.trim().to_owned();
        let said = wire.note.trim();
        if !said.is_empty() && !note.contains(said) {
            note = if note.is_empty() {
                said.to_owned()
            } else {
                format!("{note} {said}")
            };
        }
        let note = note
            .chars()
            .filter(|c| !c.is_control())
            .take(NOTE_CHARS_MAX)
            .collect();
        Ok(Self {
            manifest,
            note,
            wire,
        })
    }

    /// Keeps it.
    pub fn store(&self, path: &Path) -> Result<(), ManifestRefused> {
        Ok(write_atomically(path, &self.wire.encode_to_vec())?)
    }

    /// Reads a kept one; a release key that has expired since does not matter, a revoked one does.
    pub fn load(path: &Path, trust: &TrustRoot) -> Result<Option<Self>, ManifestRefused> {
        let Some(bytes) = read_small(path, FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let wire = GetModelVersionResponse::decode(bytes.as_slice())
            .map_err(|_| ManifestRefused::Damaged)?;
        let keys = trust.keys_ever(DelegatedRole::Release);
        Self::verify_with(wire, trust, &keys, None).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::{
        NodeKey, Sha256,
        genesis::{Delegation, Genesis, network_id},
        manifest::{ManifestFile, SubModel},
    };

    use super::*;

    struct World {
        trust: TrustRoot,
        release: NodeKey,
    }

    fn world() -> World {
        let [root, release] = [1, 2].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "t".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let delegation = Delegation {
            role: DelegatedRole::Release,
            key: release.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(1_000),
        }
        .sign(&root, &network_id(&genesis));
        let trust = TrustRoot::from_documents(None, &genesis, &[delegation], &[]).unwrap();
        World { trust, release }
    }

    fn answer(world: &World, signer: &NodeKey, sequence: u64) -> GetModelVersionResponse {
        let file = |name: &str| ManifestFile {
            name: name.into(),
            size: 1,
            sha256: Sha256::of(name.as_bytes()),
            piece_len: None,
            ladder_sha256: None,
        };
        let sub_model = SubModel {
            architecture: "llama".into(),
            tokenizer: "tokenizer.json".into(),
            files: vec!["model.safetensors".into(), "tokenizer.json".into()],
        };
        let manifest = Manifest {
            sequence,
            version: "owm-v0.1.0".parse().unwrap(),
            round: None,
            created_at: UnixMillis(1),
            parent: None,
            default_sub_model: "owm-geo".parse().unwrap(),
            sub_models: [("owm-geo".parse().unwrap(), sub_model)].into(),
            files: vec![file("model.safetensors"), file("tokenizer.json")],
            note: "tiny".into(),
            deltas: Vec::new(),
            release_notes: String::new(),
        };
        let id = world.trust.id();
        let envelope = Envelope::sign(signer, Purpose::Manifest, &id, manifest.to_bytes());
        GetModelVersionResponse {
            manifest: Some((&envelope).into()),
            note: "no quality".into(),
        }
    }

    #[test]
    fn a_node_never_goes_back_to_a_lower_sequence() {
        let world = world();
        let offered = |sequence, known| {
            let answer = answer(&world, &world.release, sequence);
            SignedManifest::verify(answer, &world.trust, UnixMillis(5), known)
        };
        assert!(offered(3, None).is_ok() && offered(3, Some(3)).is_ok());
        let error = offered(3, Some(4)).unwrap_err();
        assert!(
            matches!(
                error,
                ManifestRefused::Older {
                    offered: 3,
                    known: 4,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn only_a_release_key_that_holds_now_counts() {
        let world = world();
        let stranger = NodeKey::from_seed(&[9; 32]);
        let verify = |signer, now| {
            SignedManifest::verify(
                answer(&world, signer, 1),
                &world.trust,
                UnixMillis(now),
                None,
            )
        };
        assert!(verify(&world.release, 5).is_ok());
        assert!(matches!(
            verify(&stranger, 5),
            Err(ManifestRefused::Envelope(_))
        ));
        assert!(matches!(
            verify(&world.release, 1_000),
            Err(ManifestRefused::Envelope(_))
        ));
    }

    #[test]
    fn a_kept_manifest_says_what_has_to_be_said_and_outlives_its_keys_time() {
        let world = world();
        let answer = answer(&world, &world.release, 1);
        let signed = SignedManifest::verify(answer, &world.trust, UnixMillis(5), None).unwrap();
        assert_eq!(signed.note, "tiny no quality");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("newest.pb");
        assert!(SignedManifest::load(&path, &world.trust).unwrap().is_none());
        signed.store(&path).unwrap();
        let again = SignedManifest::load(&path, &world.trust).unwrap().unwrap();
        assert_eq!((again.manifest, again.note), (signed.manifest, signed.note));
    }
}
