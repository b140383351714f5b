//! The newest checkpoint on the disk: a node that starts while everybody else is away still knows the newest
//! version, and serves it to newcomers. `swarm` loads it and keeps newer ones.
//! Must stay true: nothing is used that is not signed by a release key; one whose key has expired since still
//! counts, one whose key was revoked does not.

use std::path::Path;

use owm_p2p::news::NewestCheckpoint;
use owm_proto::{
    Envelope, EnvelopeError, Purpose, Sha256, SignerRule,
    genesis::{DelegatedRole, TrustRoot},
    gossip::Checkpoint,
    manifest::{Manifest, ManifestError},
    statement::Statement as _,
    wire::gossip::MeetResponse,
};
use prost::Message as _;

use crate::home::{HomeError, read_small, write_atomically};

/// A checkpoint and a manifest with its signature.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// Why a kept checkpoint is not used. It comes again by gossip.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    /// The file.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Its form.
    #[error("the kept checkpoint does not decode; it comes again by gossip")]
    Damaged,
    /// A signature.
    #[error("the kept checkpoint's signature does not hold: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The two are not of each other.
    #[error("the kept checkpoint names another manifest than the one beside it")]
    Contradiction,
}

/// Keeps it. Blocks on the disk.
pub(crate) fn store(path: &Path, newest: &NewestCheckpoint) -> Result<(), HomeError> {
    let wire = MeetResponse {
        checkpoint: Some((&newest.envelope).into()),
        manifest: Some((&newest.manifest_envelope).into()),
        ..MeetResponse::default()
    };
    write_atomically(path, &wire.encode_to_vec())
}

/// Reads what [`store`] kept. Blocks on the disk.
pub(super) fn load(path: &Path, trust: &TrustRoot) -> Result<Option<NewestCheckpoint>, KeptError> {
    let Some(bytes) = read_small(path, FILE_BYTES_MAX)? else {
        return Ok(None);
    };
    let wire = MeetResponse::decode(bytes.as_slice()).map_err(|_| KeptError::Damaged)?;
    let envelope = Envelope::from_wire(wire.checkpoint)?;
    let manifest_envelope = Envelope::from_wire(wire.manifest)?;
    let keys = trust.keys_ever(DelegatedRole::Release);
    let (id, rule) = (trust.id(), SignerRule::OneOf(&keys));
    let checkpoint = Checkpoint::open(&envelope, &id, rule)?;
    let verified = manifest_envelope.verify(Purpose::Manifest, &id, rule)?;
    let manifest = Manifest::from_bytes(verified.payload)?;
    let is_named = Sha256::of(verified.payload) == checkpoint.manifest_sha256
        && manifest.sequence == checkpoint.sequence;
    if !is_named {
        return Err(KeptError::Contradiction);
    }
    Ok(Some(NewestCheckpoint {
        checkpoint,
        envelope,
        manifest,
        manifest_envelope,
    }))
}
