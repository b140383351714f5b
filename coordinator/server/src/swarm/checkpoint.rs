//! Signed checkpoints: made when a version is published (`publish`), made up for versions published before
//! there were any, and told to the swarm (`tasks::announce`).

use owm_coordinator_store::{
    StoreError,
    checkpoint::{checkpoint_add, checkpoint_of},
    model::ModelVersion,
};
use owm_p2p::{P2pError, news::NewestCheckpoint};
use owm_proto::{
    Envelope, NodeKey, Sha256, SignerRule,
    genesis::{DelegatedRole, NetworkId},
    gossip::Checkpoint,
    manifest::Manifest,
    statement::Statement as _,
};

use crate::app::App;

/// Signs that `manifest`, as it was signed in `envelope`, is the newest.
pub fn sign(
    key: &NodeKey,
    network: &NetworkId,
    manifest: &Manifest,
    envelope: &Envelope,
) -> (Checkpoint, Envelope) {
    let bytes = envelope.unverified_payload();
    let checkpoint = Checkpoint {
        sequence: manifest.sequence,
        version: manifest.version.clone(),
        manifest_sha256: Sha256::of(bytes),
        manifest_bytes: bytes.len() as u64,
        created_at_ms: manifest.created_at,
    };
    let signed = checkpoint.sign(key, network);
    (checkpoint, signed)
}

/// Tells the swarm of `version`; makes up the checkpoint if there is none. `false`: not told, try again; what
/// peers refuse they refuse for as long as the network's documents stay as they are, so that is told once.
pub(crate) async fn announce(app: &App, version: &ModelVersion) -> Result<bool, StoreError> {
    let mut tx = app.store.begin("checkpoint.announce").await?;
    let signed = if let Some(signed) = checkpoint_of(&mut tx, version).await? {
        signed
    } else {
        let Some((checkpoint, signed)) = made_up(app, version) else {
            return Ok(true);
        };
        checkpoint_add(&mut tx, &checkpoint, &signed, app.now()).await?;
        signed
    };
    tx.commit().await?;
    let Some(handle) = app.swarm.handle() else {
        return Ok(true);
    };
    let statements = app.authority.statements();
    let trust = &statements.trust;
    let release_keys = trust.keys(DelegatedRole::Release, app.wall());
    let signer = SignerRule::OneOf(&release_keys);
    let checkpoint = match Checkpoint::open(&signed, &app.network(), signer) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let version = version.manifest.version.as_str();
            tracing::error!(%error, version, "the stored checkpoint does not verify: peers are not told of this version; delegate the release key anew with the root key");
            return Ok(true);
        }
    };
    let newest = NewestCheckpoint {
        checkpoint,
        envelope: signed,
        manifest: version.manifest.clone(),
        manifest_envelope: version.envelope.clone(),
    };
    match handle.announce_checkpoint(newest).await {
        Ok(()) => Ok(true),
        Err(P2pError::Refused(why)) => {
            let known = handle
                .view()
                .borrow()
                .checkpoint
                .as_ref()
                .map(|c| c.sequence);
            let (ours, version) = (version.manifest.sequence, version.manifest.version.as_str());
            let free = known.unwrap_or(0).max(ours) + 1;
            tracing::warn!(
                version,
                sequence = ours,
                peers_hold = known,
                "the swarm is not told of this version: {why}. Peers hold a newer checkpoint, or another one under this sequence: this database is an older copy. Publish the next version with `owm-coordinator model import … --sequence {free}` or higher"
            );
            Ok(true)
        }
        // The reconciler asks again in a second; the swarm's own log says what it waits for.
        Err(P2pError::NotYet(why)) => {
            tracing::debug!(why, "the swarm is told of the newest checkpoint later");
            Ok(false)
        }
        Err(error) => {
            tracing::warn!(%error, "the swarm was not told of the newest checkpoint");
            Ok(false)
        }
    }
}

/// The checkpoint of a version that was published without one, if the release key is here.
fn made_up(app: &App, version: &ModelVersion) -> Option<(Checkpoint, Envelope)> {
    let name = version.manifest.version.as_str();
    let key = match app.authority.release_key() {
        Ok(key) => key,
        Err(error) => {
            let folder = app.authority.dir.display();
            tracing::warn!(%error, version = name, "this version has no signed checkpoint, so peers can't learn of it by gossip: put release.pem into {folder} for one start, or publish the next version with this release");
            return None;
        }
    };
    let statements = app.authority.statements();
    let trust = &statements.trust;
    if !trust.is_delegated(DelegatedRole::Release, &key.public(), app.wall()) {
        tracing::warn!(
            version = name,
            "this version has no signed checkpoint and the release key here is not delegated (any more): delegate it anew with the root key"
        );
        return None;
    }
    tracing::info!(
        version = name,
        "a checkpoint is signed for a version that was published without one"
    );
    Some(sign(
        &key,
        &app.network(),
        &version.manifest,
        &version.envelope,
    ))
}
