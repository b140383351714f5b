//! Model manifests (spec §8): what a version consists of, signed by a release key and hashed as exact
//! bytes. Parsing bounds everything; a parsed manifest is consistent in itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    hash::Sha256,
    ladder::FileSpec,
    limits::{MANIFEST_FILES_MAX, SHORT_TEXT_BYTES_MAX},
    task::{SubModelId, VersionId},
    time::UnixMillis,
};

/// Payload of `owm/manifest/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Rises over releases and withdrawals.
    pub sequence: u64,
    /// `owm-v0.1.0`.
    pub version: VersionId,
    /// The federated round that made it; absent for an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// When it was made.
    pub created_at: UnixMillis,
    /// The version it came from; absent for an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<VersionId>,
    /// What a request gets that names no sub-model.
    pub default_sub_model: SubModelId,
    /// What it can do.
    pub sub_models: BTreeMap<SubModelId, SubModel>,
    /// All files, each once, also if several sub-models use it.
    pub files: Vec<ManifestFile>,
    /// How some of the files come from their parents': whoever holds a parent needs only the delta.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<ManifestDelta>,
    /// What has to be said wherever the model is shown: where the weights come from, what they are not.
    #[serde(default)]
    pub note: String,
    /// For people.
    #[serde(default)]
    pub release_notes: String,
}

/// One sub-model of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubModel {
    /// `llama`.
    pub architecture: String,
    /// The tokenizer's file.
    pub tokenizer: String,
    /// Names of all files it is loaded from, the tokenizer's too; two sub-models may name the same.
    pub files: Vec<String>,
}

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// A plain file name: ASCII letters, digits, `.`, `_`, `-`, not starting with a dot.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Of the whole file; `sha256sum` agrees.
    pub sha256: Sha256,
    /// Bytes of one piece of the exchange, a power of two from 256 KiB to 16 MiB; absent in manifests of
    /// the time before ladders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub piece_len: Option<u64>,
    /// Hash of the SHA-256 midstate ladder ([`crate::ladder`]); present iff the file has at least one full
    /// piece of `piece_len`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder_sha256: Option<Sha256>,
}

/// Parent ⊕ delta = checkpoint (docs/fl-protocol.md): the checkpoint's bytes without fetching them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestDelta {
    /// The delta, a file like any other, but of no sub-model.
    pub file: ManifestFile,
    /// SHA-256 of the file that it is added to.
    pub parent: Sha256,
    /// SHA-256 of what comes of it: one of the version's files.
    pub checkpoint: Sha256,
}

impl ManifestFile {
    /// Whether it holds weights: what is shown, stamped and named in receipts.
    pub fn is_weights(&self) -> bool {
        self.name.ends_with(".safetensors")
    }
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// It is no JSON of this shape.
    #[error("the manifest does not parse: {0}")]
    Malformed(String),
    /// It contradicts itself.
    #[error("the manifest of {version} contradicts itself: {reason}")]
    Inconsistent {
        /// Which version.
        version: VersionId,
        /// How.
        reason: String,
    },
}

/// Whether `name` may be used as a file name on any node.
pub fn is_plain_file_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Manifest {
    /// The exact bytes to sign and publish.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain JSON")
    }

    /// Parses and checks. The bytes must come out of a verified envelope.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::Malformed(error.to_string()))?;
        match manifest.inconsistency() {
            None => Ok(manifest),
            Some(reason) => Err(ManifestError::Inconsistent {
                version: manifest.version,
                reason,
            }),
        }
    }

    fn inconsistency(&self) -> Option<String> {
        if self.files.is_empty() || self.files.len() > MANIFEST_FILES_MAX {
            return Some(format!(
                "{} files, 1 to {MANIFEST_FILES_MAX} allowed",
                self.files.len()
            ));
        }
        if self.note.len() > SHORT_TEXT_BYTES_MAX {
            return Some("the note is too long".into());
        }
        let mut names = BTreeSet::new();
        for file in &self.files {
            if !is_plain_file_name(&file.name) {
                return Some(format!("{:?} is no plain file name", file.name));
            }
            if !names.insert(file.name.as_str()) {
                return Some(format!("{} is named twice", file.name));
            }
            if let Err(error) = FileSpec::of(file) {
                return Some(format!("{}: {error}", file.name));
            }
        }
        if let Some(reason) = self.delta_fault(&mut names) {
            return Some(reason);
        }
        if !self.sub_models.contains_key(&self.default_sub_model) {
            return Some(format!(
                "default {} is no sub-model of it",
                self.default_sub_model
            ));
        }
        for (id, sub_model) in &self.sub_models {
            let missing = |name: &&String| !names.contains(name.as_str());
            if let Some(name) = sub_model.files.iter().find(missing) {
                return Some(format!("{id} names {name}, which is not among the files"));
            }
            if !sub_model.files.contains(&sub_model.tokenizer) {
                return Some(format!("{id}: the tokenizer is not among its files"));
            }
            if self.weights(id).next().is_none() {
                return Some(format!("{id} has no weights"));
            }
        }
        None
    }

    fn delta_fault<'a>(&'a self, names: &mut BTreeSet<&'a str>) -> Option<String> {
        if self.deltas.len() > MANIFEST_FILES_MAX {
            return Some(format!(
                "{} deltas, at most {MANIFEST_FILES_MAX} allowed",
                self.deltas.len()
            ));
        }
        for delta in &self.deltas {
            let name = &delta.file.name;
            if !is_plain_file_name(name) || !names.insert(name) {
                return Some(format!("{name:?} is no name of a delta, or is named twice"));
            }
            if let Err(error) = FileSpec::of(&delta.file) {
                return Some(format!("{name}: {error}"));
            }
            let is_its = |file: &ManifestFile| file.is_weights() && file.sha256 == delta.checkpoint;
            if !self.files.iter().any(is_its) {
                return Some(format!(
                    "{name} makes {}, which is no weights of it",
                    delta.checkpoint
                ));
            }
        }
        None
    }

    /// A file by name.
    pub fn file(&self, name: &str) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// The weights files of a sub-model, in manifest order.
    pub fn weights(&self, id: &SubModelId) -> impl Iterator<Item = &ManifestFile> {
        let wanted = self.sub_models.get(id).map_or(&[][..], |s| &s.files);
        self.files
            .iter()
            .filter(move |file| file.is_weights() && wanted.contains(&file.name))
    }

    /// SHA-256s of a sub-model's weights, in manifest order: the model's identity in tasks and receipts.
    pub fn weights_sha256(&self, id: &SubModelId) -> Vec<Sha256> {
        self.weights(id).map(|file| file.sha256).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let file = |name: &str| ManifestFile {
            name: name.into(),
            size: 3,
            sha256: Sha256::of(name.as_bytes()),
            piece_len: None,
            ladder_sha256: None,
        };
        let sub_model = SubModel {
            architecture: "llama".into(),
            tokenizer: "tokenizer.json".into(),
            files: vec!["model.safetensors".into(), "tokenizer.json".into()],
        };
        Manifest {
            sequence: 1,
            version: "owm-v0.1.0".parse().unwrap(),
            round: None,
            created_at: UnixMillis(1),
            parent: None,
            default_sub_model: "owm-geo".parse().unwrap(),
            sub_models: ["owm-code", "owm-geo"]
                .map(|id| (id.parse().unwrap(), sub_model.clone()))
                .into(),
            files: vec![file("model.safetensors"), file("tokenizer.json")],
            note: String::new(),
            deltas: Vec::new(),
            release_notes: String::new(),
        }
    }

    #[test]
    fn a_manifest_survives_its_bytes() {
        let manifest = sample();
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x.safetensors", "a/b", "", ".hidden", "a\0b", "ü"] {
            let mut manifest = sample();
            manifest.files[0].name = name.into();
            assert!(
                Manifest::from_bytes(&manifest.to_bytes()).is_err(),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_ladder_is_named_exactly_from_one_piece_on() {
        let hash = Some(Sha256::of(b"ladder"));
        let refused = |size, piece_len, ladder_sha256| {
            let mut manifest = sample();
            manifest.files[0] = ManifestFile {
                size,
                piece_len,
                ladder_sha256,
                ..manifest.files[0].clone()
            };
            Manifest::from_bytes(&manifest.to_bytes()).is_err()
        };
        let piece = 1 << 20;
        assert!(!refused(piece, Some(piece), hash));
        assert!(!refused(piece - 1, Some(piece), None));
        assert!(!refused(1 << 40, None, None), "from before ladders");
        assert!(refused(piece, Some(piece), None));
        assert!(refused(piece - 1, Some(piece), hash));
        assert!(refused(piece, None, hash));
        assert!(refused(piece, Some(piece - 1), hash));
        assert!(refused(piece, Some(1 << 17), hash));
        assert!(refused(1 << 30, Some(1 << 25), hash));
    }

    #[test]
    fn a_sub_model_without_its_files_is_refused() {
        let mut manifest = sample();
        manifest.files.remove(0);
        assert!(Manifest::from_bytes(&manifest.to_bytes()).is_err());
        let mut manifest = sample();
        manifest.default_sub_model = "owm-router".parse().unwrap();
        assert!(Manifest::from_bytes(&manifest.to_bytes()).is_err());
        let mut manifest = sample();
        manifest.files.push(manifest.files[0].clone());
        assert!(Manifest::from_bytes(&manifest.to_bytes()).is_err());
    }
}
