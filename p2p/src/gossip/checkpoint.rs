//! The newest checkpoint by signed announcements. Must stay true: only a delegated, unrevoked release key is
//! believed; the sequence never goes down while the keys stay the same; of two announcements under one
//! sequence the first is kept and a person is told; a revocation takes back what the revoked key said, so a
//! stolen key that announced the highest number there is does not lock the network out for good.

use std::collections::VecDeque;

use owm_proto::{
    Envelope, PublicKey, Sha256, SignatureCheck, SignerRule, UnixMillis,
    envelope::EnvelopeError,
    genesis::{DelegatedRole, TrustRoot},
    gossip::Checkpoint,
    limits::ENVELOPE_PAYLOAD_BYTES_MAX,
    statement::Statement as _,
};

use crate::{
    Moment,
    documents::holds_still,
    gossip::{IgnoreReason, RejectReason, Verdict, verdict::reject_reason},
};

/// Release keys whose newest announcement is kept: a network has one, two while it changes.
const SIGNERS_MAX: usize = 16;

/// Contradicting announcements that are known again without a signature check. A release key that makes more
/// costs us one check each.
const CONTRADICTING_MAX: usize = 16;

/// Bytes of an announcement's payload: a honest one has about 250.
const CHECKPOINT_BYTES_MAX: usize = 4 << 10;

/// An announced checkpoint whose signature has been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCheckpoint {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Its signed form.
    pub envelope: Envelope,
    /// Which peer told us first: it can be asked for the manifest.
    pub from: PublicKey,
    /// When.
    pub learnt: Moment,
}

/// What became of an announcement.
#[derive(Debug)]
pub enum Heard {
    /// It is the newest now.
    Newest,
    /// Dropped.
    Dropped(Verdict),
    /// Something else was announced under this sequence before; that is kept.
    Contradicts(Box<KnownCheckpoint>),
}

/// The newest announcement of each release key.
#[derive(Debug, Default)]
pub struct Checkpoints {
    known: Vec<KnownCheckpoint>,
    /// Payloads that contradict what is kept; the last few.
    contradicting: VecDeque<Sha256>,
}

impl Checkpoints {
    /// The newest.
    pub fn newest(&self) -> Option<&KnownCheckpoint> {
        self.known.iter().max_by_key(|k| k.checkpoint.sequence)
    }

    /// Judges an announcement and keeps it if it is the newest.
    pub fn hear(
        &mut self,
        at: Moment,
        from: &PublicKey,
        envelope: &Envelope,
        trust: &TrustRoot,
        check: &dyn SignatureCheck,
    ) -> Heard {
        let payload = envelope.unverified_payload();
        if payload.len() > CHECKPOINT_BYTES_MAX {
            return Heard::Dropped(Verdict::Reject(RejectReason::Malformed));
        }
        if let Some(known) = self.newest()
            && known.envelope.unverified_payload() == payload
        {
            return Heard::Dropped(Verdict::Ignore(IgnoreReason::Duplicate));
        }
        let sha256 = Sha256::of(payload);
        if self.contradicting.contains(&sha256) {
            return Heard::Dropped(Verdict::Ignore(IgnoreReason::Equivocation));
        }
        // An older sequence costs no signature check; the claim is not used for anything else.
        let claimed = serde_json::from_slice::<Claim>(payload).map(|claim| claim.sequence);
        let Ok(sequence) = claimed else {
            let opened = open(envelope, trust, at.wall, check);
            return Heard::Dropped(opened.err().unwrap_or(UNREADABLE));
        };
        if self
            .newest()
            .is_some_and(|k| sequence < k.checkpoint.sequence)
        {
            return Heard::Dropped(Verdict::Ignore(IgnoreReason::Stale));
        }
        let checkpoint = match open(envelope, trust, at.wall, check) {
            Ok(checkpoint) => checkpoint,
            Err(verdict) => return Heard::Dropped(verdict),
        };
        if let Some(known) = self.newest()
            && known.checkpoint.sequence == checkpoint.sequence
        {
            if known.checkpoint == checkpoint {
                return Heard::Dropped(Verdict::Ignore(IgnoreReason::Duplicate));
            }
            let first = Box::new(known.clone());
            self.contradict(sha256);
            return Heard::Contradicts(first);
        }
        self.keep(KnownCheckpoint {
            checkpoint,
            envelope: envelope.clone(),
            from: *from,
            learnt: at,
        });
        Heard::Newest
    }

    /// Whether an announcement may be believed whose manifest is at hand, verified, while that of the newest
    /// is not. If it is of the same sequence as the newest, it takes its place: an announcement without a
    /// manifest is worth nothing to anybody, and a stolen key that made one must not keep us from the release.
    pub fn hear_whole(
        &mut self,
        at: Moment,
        from: &PublicKey,
        envelope: &Envelope,
        trust: &TrustRoot,
        check: &dyn SignatureCheck,
    ) -> bool {
        let payload = envelope.unverified_payload();
        if payload.len() > CHECKPOINT_BYTES_MAX {
            return false;
        }
        let newest = self.newest();
        if newest.is_some_and(|known| known.envelope.unverified_payload() == payload) {
            return true;
        }
        let Ok(checkpoint) = open(envelope, trust, at.wall, check) else {
            return false;
        };
        let newest = newest.map(|known| {
            (
                known.checkpoint.sequence,
                Sha256::of(known.envelope.unverified_payload()),
            )
        });
        let sequence = checkpoint.sequence;
        if newest.is_some_and(|(newest, _)| newest > sequence) {
            return true;
        }
        if let Some((newest, sha256)) = newest
            && newest == sequence
        {
            self.known
                .retain(|known| known.checkpoint.sequence != sequence);
            self.contradict(sha256);
        }
        let own = Sha256::of(payload);
        self.contradicting.retain(|sha256| *sha256 != own);
        self.keep(KnownCheckpoint {
            checkpoint,
            envelope: envelope.clone(),
            from: *from,
            learnt: at,
        });
        true
    }

    /// Forgets what keys said that are no release keys (any more): after a revocation.
    pub fn recheck(&mut self, trust: &TrustRoot) {
        self.contradicting.clear();
        let keys = trust.keys_ever(DelegatedRole::Release);
        self.known
            .retain(|known| keys.contains(&known.envelope.claimed_signer()));
    }

    fn contradict(&mut self, payload: Sha256) {
        if self.contradicting.len() >= CONTRADICTING_MAX {
            self.contradicting.pop_front();
        }
        self.contradicting.push_back(payload);
    }

    fn keep(&mut self, known: KnownCheckpoint) {
        let signer = known.envelope.claimed_signer();
        self.known.retain(|k| k.envelope.claimed_signer() != signer);
        if self.known.len() >= SIGNERS_MAX {
            let oldest = self.known.iter().map(|k| k.checkpoint.sequence).min();
            self.known.retain(|k| Some(k.checkpoint.sequence) != oldest);
        }
        self.known.push(known);
    }
}

/// A release key has signed it, and we can't read it: perhaps we are an old version. Nobody is to blame.
const UNREADABLE: Verdict = Verdict::Ignore(IgnoreReason::Unreadable);

/// As much of an unverified announcement as decides whether it is worth a signature check.
#[derive(serde::Deserialize)]
struct Claim {
    sequence: u64,
}

fn open(
    envelope: &Envelope,
    trust: &TrustRoot,
    now: UnixMillis,
    check: &dyn SignatureCheck,
) -> Result<Checkpoint, Verdict> {
    let release = DelegatedRole::Release;
    let keys = trust.keys_ever(release);
    let opened = Checkpoint::open_by(envelope, &trust.id(), SignerRule::OneOf(&keys), check);
    let checkpoint = opened.map_err(|error| match error {
        // Its forwarder may know of a delegation that we don't, or not of a revocation that we do.
        EnvelopeError::WrongSigner { .. } => Verdict::Ignore(IgnoreReason::UnknownSigner),
        EnvelopeError::BadPayload { .. } => UNREADABLE,
        error => Verdict::Reject(reject_reason(&error)),
    })?;
    let signer = envelope.claimed_signer();
    if !holds_still(trust, release, &signer, checkpoint.created_at_ms, now) {
        return Err(Verdict::Ignore(IgnoreReason::UnknownSigner));
    }
    if checkpoint.manifest_bytes > ENVELOPE_PAYLOAD_BYTES_MAX as u64 {
        return Err(UNREADABLE);
    }
    Ok(checkpoint)
}
