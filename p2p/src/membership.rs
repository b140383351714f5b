//! Who is a member, without asking the coordinator: its signed statements, what they are worth when, and what
//! happens to them while no coordinator can be reached. `gossip::rules` calls it. Must stay true: a statement
//! counts only for the node it names, and never after its instance key was revoked.
//!
//! A statement lasts seven days and is renewed when the node registers again. While the coordinator is away
//! nobody can renew, so an expired statement is worth nothing only if somebody else's has been issued after it
//! could have been renewed ([`RENEWAL_TIME`]): then the coordinator was there, and this node was not renewed.
//! Until that is seen it is [`Standing::Lapsed`], for [`LAPSED_MAX`] at most: the node keeps its place in the
//! directory and the tier that is shown, and gets a stranger's allowance.

use std::time::Duration;

use owm_proto::{
    Envelope, PublicKey, Purpose, Sha256, SignatureCheck, SignerRule, Tier, UnixMillis,
    envelope::CLOCK_SKEW_MAX,
    genesis::{DelegatedRole, NetworkId, TrustRoot},
    statement::Membership,
};

use crate::gossip::RejectReason;

/// After its statement's end a node has this long to register again before it counts as not renewed.
pub const RENEWAL_TIME: Duration = Duration::from_hours(24);

/// So long a statement that nobody could renew keeps a node from becoming a stranger.
pub const LAPSED_MAX: Duration = Duration::from_hours(30 * 24);

/// A statement that claims to last longer counts for nothing: seven days are the default, and what a stolen
/// instance key signs must end some day.
pub const MEMBERSHIP_LIFE_MAX: Duration = Duration::from_hours(35 * 24);

/// What a node is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A statement holds.
    Member(Tier),
    /// A statement ended, and no coordinator seems to be there to renew it.
    Lapsed(Tier),
    /// Nobody speaks for it.
    Stranger,
}

impl Standing {
    /// The tier to show, if any.
    pub const fn tier(self) -> Option<Tier> {
        match self {
            Self::Member(tier) | Self::Lapsed(tier) => Some(tier),
            Self::Stranger => None,
        }
    }

    /// Whether it has a member's place in the directory.
    pub const fn has_seat(self) -> bool {
        !matches!(self, Self::Stranger)
    }
}

/// A verified statement about one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// What it says.
    pub said: Membership,
    /// The instance key that signed.
    pub signer: PublicKey,
    /// Signature and SHA-256 of the payload, by which a statement that comes again is known again.
    signature: [u8; 64],
    sha256: Sha256,
}

/// What a membership field turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Of a key that this network trusts.
    Known(Box<Admission>),
    /// Well made, by a key that no delegation known here names, or in a form that we can't read: its node is a
    /// stranger (until we learn more).
    UnknownSigner,
}

fn is_instance(trust: &TrustRoot, key: &PublicKey) -> bool {
    trust.keys_ever(DelegatedRole::Instance).contains(key)
}

/// When the newest statement was issued: a sign that a coordinator was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewals {
    newest: UnixMillis,
}

impl Renewals {
    /// Takes note of a verified statement. One that was dated ahead (a clock that was wrong, a stolen key) says
    /// nothing of when a coordinator was there: it would make strangers of all who can't renew.
    pub fn saw(&mut self, admission: &Admission, now: UnixMillis) {
        if !admission.is_ahead(now) {
            self.newest = self.newest.max(admission.said.issued_at_ms);
        }
    }
}

impl Admission {
    /// Reads what `node` shows as its membership. The signature is checked whoever signed, so that a forged
    /// statement can be held against whoever forwards it; then the signer must be an instance key of the
    /// network that is not revoked.
    pub fn read(
        envelope: &Envelope,
        node: &PublicKey,
        network: &NetworkId,
        trust: Option<&TrustRoot>,
        check: &dyn SignatureCheck,
    ) -> Result<Reading, RejectReason> {
        let verified = envelope
            .verify_by(Purpose::Membership, network, SignerRule::Anyone, check)
            .map_err(|error| crate::gossip::verdict::reject_reason(&error))?;
        let said: Membership = match verified.json() {
            Ok(said) => said,
            // By a newer coordinator, perhaps: not the forwarder's fault.
            Err(_) if trust.is_some_and(|t| is_instance(t, &verified.signer)) => {
                return Ok(Reading::UnknownSigner);
            }
            Err(_) => return Err(RejectReason::Malformed),
        };
        if said.node != *node {
            return Err(RejectReason::Malformed);
        }
        if said.expires_at_ms.since(said.issued_at_ms) > MEMBERSHIP_LIFE_MAX {
            return Err(RejectReason::BadTimes);
        }
        let admission = Self {
            said,
            signer: verified.signer,
            signature: *envelope.signature(),
            sha256: Sha256::of(verified.payload),
        };
        Ok(if trust.is_some_and(|trust| admission.is_trusted(trust)) {
            Reading::Known(Box::new(admission))
        } else {
            Reading::UnknownSigner
        })
    }

    /// Whether `envelope` is the one that this was read from.
    pub fn is_of(&self, envelope: &Envelope) -> bool {
        envelope.claims(Purpose::Membership)
            && envelope.claimed_signer() == self.signer
            && *envelope.signature() == self.signature
            && Sha256::of(envelope.unverified_payload()) == self.sha256
    }

    /// Whether its signer was an instance of the network when it signed, and is not revoked. (A delegation
    /// that has ended since takes nobody's membership away.)
    pub fn is_trusted(&self, trust: &TrustRoot) -> bool {
        let instance = DelegatedRole::Instance;
        trust.is_delegated(instance, &self.signer, self.said.issued_at_ms)
            && is_instance(trust, &self.signer)
    }

    /// Whether it is dated later than clocks may differ.
    fn is_ahead(&self, now: UnixMillis) -> bool {
        self.said.issued_at_ms > now.after(CLOCK_SKEW_MAX)
    }

    /// What it is worth at `now`: nothing yet before it was issued, or a stolen key could sign what outlives its
    /// delegation by far.
    pub fn standing(&self, now: UnixMillis, renewals: Renewals) -> Standing {
        let (tier, ended) = (self.said.tier, self.said.expires_at_ms);
        if self.is_ahead(now) {
            return Standing::Stranger;
        }
        if now < ended {
            return Standing::Member(tier);
        }
        let renewable = renewals.newest > ended.after(RENEWAL_TIME);
        if renewable || now >= ended.after(LAPSED_MAX) {
            Standing::Stranger
        } else {
            Standing::Lapsed(tier)
        }
    }
}
