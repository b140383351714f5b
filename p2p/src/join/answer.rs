//! What a peer has answered to Meet, verified: documents first, then the checkpoint with them.

use std::collections::BTreeSet;

use libp2p::{Multiaddr, PeerId};
use owm_proto::{
    Envelope, PublicKey, Sha256, SignerRule, UnixMillis,
    envelope::{CLOCK_SKEW_MAX, Purpose},
    genesis::{DelegatedRole, NetworkId},
    gossip::Checkpoint,
    limits::{ADDRESSES_MAX, MEET_NODES_MAX},
    manifest::Manifest,
    statement::Statement as _,
    wire::{
        coordinator::SignedEnvelope,
        gossip::{CapabilityBody, MeetResponse},
    },
};

use super::Joined;
use crate::{Documents, NetworkPolicy, NewestCheckpoint, Unavailable, bootstrap::diagnose, peer};

/// Candidates taken from one answer.
const PEERS_MAX: usize = 64;

/// Verifies an answer of `from`, who was reached at `address`.
pub(super) fn verified(
    response: MeetResponse,
    network: NetworkId,
    from: PeerId,
    address: Multiaddr,
    policy: NetworkPolicy,
    now: UnixMillis,
) -> Result<Joined, Unavailable> {
    let target = address.to_string();
    let bad = |what: &str| diagnose::bad_document(target.clone(), what);
    if response.genesis.is_empty() {
        return Err(bad("it has no documents to give (it is a newcomer itself)"));
    }
    let documents = Documents::verify(
        Some(network),
        response.genesis,
        all(response.delegations).ok_or_else(|| bad("a delegation does not decode"))?,
        all(response.revocations).ok_or_else(|| bad("a revocation does not decode"))?,
        Envelope::from_wire(response.bootstrap).ok(),
        response.web_seed,
        now,
    );
    let documents = documents.map_err(|error| diagnose::unverified(target.clone(), &error))?;
    let theirs = UnixMillis(response.now_ms);
    let mut failures = Vec::new();
    let apart = now.since(theirs).max(theirs.since(now));
    if theirs.0 != 0 && apart > CLOCK_SKEW_MAX {
        let clock = diagnose::clock(target.clone(), now, theirs);
        let trust = documents.trust();
        let holds = |at| !trust.keys(DelegatedRole::Instance, at).is_empty();
        if holds(theirs) && !holds(now) {
            return Err(clock);
        }
        failures.push(clock);
    }
    let newest = match (response.checkpoint, response.manifest) {
        (Some(checkpoint), Some(manifest)) => {
            let newest = newest(&documents, checkpoint, manifest);
            Some(newest.map_err(bad)?)
        }
        _ => None,
    };
    let (nodes, peers) = nodes(response.capabilities, &network, from, policy);
    Ok(Joined {
        documents,
        newest,
        from,
        address,
        peers,
        nodes,
        failures,
    })
}

/// Decoded, each once: who repeats a statement must not make the rest of us refuse them all.
fn all(wire: Vec<SignedEnvelope>) -> Option<Vec<Envelope>> {
    let envelopes = wire.into_iter().map(Envelope::try_from);
    let mut envelopes: Vec<Envelope> = envelopes.collect::<Result<_, _>>().ok()?;
    let mut ids = BTreeSet::new();
    envelopes.retain(|envelope| ids.insert(envelope.id()));
    Some(envelopes)
}

/// A checkpoint outlives the delegation of the key that signed it (spec §5), not its revocation.
fn newest(
    documents: &Documents,
    checkpoint: SignedEnvelope,
    manifest: SignedEnvelope,
) -> Result<NewestCheckpoint, &'static str> {
    let trust = documents.trust();
    let releases = trust.keys_ever(DelegatedRole::Release);
    let signer = SignerRule::OneOf(&releases);
    let envelope =
        Envelope::try_from(checkpoint).map_err(|_| "its newest checkpoint does not decode")?;
    let checkpoint = Checkpoint::open(&envelope, &trust.id(), signer)
        .map_err(|_| "its newest checkpoint is not signed by a release key of this network")?;
    let manifest_envelope =
        Envelope::try_from(manifest).map_err(|_| "its manifest does not decode")?;
    let signed = manifest_envelope
        .verify(Purpose::Manifest, &trust.id(), signer)
        .map_err(|_| "its manifest is not signed by a release key of this network")?;
    let manifest =
        Manifest::from_bytes(signed.payload).map_err(|_| "its manifest contradicts itself")?;
    let same = checkpoint.manifest_sha256 == Sha256::of(signed.payload)
        && manifest.sequence == checkpoint.sequence
        && manifest.version == checkpoint.version;
    if !same {
        return Err("its manifest is not the one that its newest checkpoint names");
    }
    Ok(NewestCheckpoint {
        checkpoint,
        envelope,
        manifest,
        manifest_envelope,
    })
}

/// Nodes with a valid signature of their own, and where they say they are.
fn nodes(
    capabilities: Vec<SignedEnvelope>,
    network: &NetworkId,
    from: PeerId,
    policy: NetworkPolicy,
) -> (Vec<PublicKey>, Vec<Multiaddr>) {
    let (mut nodes, mut peers) = (Vec::new(), Vec::new());
    for wire in capabilities.into_iter().take(MEET_NODES_MAX) {
        let Ok(envelope) = Envelope::try_from(wire) else {
            continue;
        };
        let verified = envelope.verify(Purpose::Capability, network, SignerRule::Anyone);
        let Ok(verified) = verified else {
            continue;
        };
        let (key, body) = (verified.signer, verified.protobuf::<CapabilityBody>());
        let (Ok(body), Some(peer)) = (body, peer::peer_id(&key)) else {
            continue;
        };
        nodes.push(key);
        if peer == from || peers.len() >= PEERS_MAX {
            continue;
        }
        let addresses = body.addresses.into_iter().take(ADDRESSES_MAX);
        let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok());
        let allowed = addresses.filter(|address| peer::group::allowed(policy, address));
        peers.extend(allowed.filter_map(|address| address.with_p2p(peer).ok()));
    }
    peers.truncate(PEERS_MAX);
    (nodes, peers)
}
