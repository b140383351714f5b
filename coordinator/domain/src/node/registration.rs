//! What a registration is answered with. Forged requests and those of another network are refused
//! where envelopes are opened; here everything signed is true to its signer.

use owm_proto::{NodeStatus, Permille, Sats, Tier};
use serde::{Deserialize, Serialize};

use super::{AdmissionPolicy, Assessment, Capabilities, StatusEvent, assess, next_status};
use crate::{reward::stake_bonus, stored::stored_enum};

/// Whether a node must hold a Lightning channel to the treasury.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StakePolicy {
    /// No stake is looked at; shown wherever the network is shown.
    NotRequired,
    /// The tier's minimum must be staked.
    Required {
        /// Where to: pubkey@host:port.
        treasury_uri: String,
    },
}

impl StakePolicy {
    /// As config, status and API show it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotRequired => "not required",
            Self::Required { .. } => "required",
        }
    }
}

/// What the stake port answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StakeView {
    /// Nobody asked, because the policy needs none.
    NotAsked,
    /// No channel of this node's operator.
    NoChannel,
    /// A usable channel.
    Channel {
        /// Capacity less net outflow.
        stake: Sats,
    },
    /// The treasury did not answer.
    Unavailable,
}

stored_enum! {
    /// Why a registration is refused for good.
    RefusalCode, "refusal code" {
        /// A signature or binding is not what it says.
        Forged = "forged",
        /// The key is suspended.
        Banned = "banned",
        /// Signed for another network.
        WrongNetwork = "wrong_network",
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// What it says of its hardware.
    pub capabilities: &'a Capabilities,
    /// What the treasury says of its stake.
    pub stake: StakeView,
    /// Its standing, if the key is known.
    pub known: Option<NodeStatus>,
    /// Why it has that standing.
    pub status_reason: &'a str,
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// It gets work.
    Active {
        /// As what.
        tier: Tier,
        /// Only tasks that a CPU can do.
        cpu_only: bool,
        /// Factor on rewards and selection.
        stake_bonus: Permille,
        /// What keeps it from the next tier, for its operator.
        notes: Vec<String>,
    },
    /// Something is missing; it may ask again any time.
    Pending {
        /// What its hardware reaches.
        tier: Option<Tier>,
        /// Only tasks that a CPU can do.
        cpu_only: bool,
        /// What is missing and what to do.
        reasons: Vec<String>,
    },
    /// Asking again does not help.
    Refused {
        /// Machine-readable.
        code: RefusalCode,
        /// In words.
        reason: String,
    },
}

impl Registration {
    /// The status to store, from the one it had. `None`: leave everything as it is.
    pub fn status_after(&self, known: Option<NodeStatus>) -> Option<NodeStatus> {
        let event = match self {
            Self::Active { .. } => StatusEvent::Admitted,
            Self::Pending { .. } => StatusEvent::RequirementLost,
            Self::Refused { .. } => return None,
        };
        next_status(known.unwrap_or(NodeStatus::Pending), event).ok()
    }
}

/// Decides on a registration whose signatures hold.
pub fn decide_registration(
    applicant: &Applicant<'_>,
    policy: &AdmissionPolicy,
    stake_policy: &StakePolicy,
) -> Registration {
    if applicant.known == Some(NodeStatus::Suspended) {
        let why = if applicant.status_reason.is_empty() {
            "no reason was recorded"
        } else {
            applicant.status_reason
        };
        return Registration::Refused {
            code: RefusalCode::Banned,
            reason: format!("this key is suspended: {why}; ask the coordinator's operator"),
        };
    }
    let assessment = assess(applicant.capabilities, policy);
    let Assessment { tier, cpu_only, .. } = assessment;
    let notes = assessment.reasons();
    let Some(tier) = tier else {
        return Registration::Pending {
            tier: None,
            cpu_only: false,
            reasons: notes,
        };
    };
    match stake_missing(tier, applicant.stake, stake_policy) {
        Ok(stake_bonus) => Registration::Active {
            tier,
            cpu_only,
            stake_bonus,
            notes,
        },
        Err(reason) => Registration::Pending {
            tier: Some(tier),
            cpu_only,
            reasons: vec![reason],
        },
    }
}

/// The stake bonus, or what to do about the stake.
fn stake_missing(tier: Tier, view: StakeView, policy: &StakePolicy) -> Result<Permille, String> {
    let StakePolicy::Required { treasury_uri } = policy else {
        return Ok(Permille::ONE);
    };
    let need = tier.terms().stake_min;
    match view {
        StakeView::Channel { stake } if stake >= need => Ok(stake_bonus(stake, need)),
        StakeView::Channel { stake } => Err(format!(
            "{tier} needs a stake of {need}, your channel counts {stake}: open another Lightning channel of at least {} to {treasury_uri}, then register again",
            Sats(need.0 - stake.0)
        )),
        StakeView::NoChannel | StakeView::NotAsked => Err(format!(
            "{tier} needs a stake of {need}: open a Lightning channel of at least that capacity to {treasury_uri} (owm-node stake), then register again"
        )),
        StakeView::Unavailable => {
            Err("the treasury does not answer, so your stake can't be seen; the coordinator asks again by itself".to_owned())
        }
    }
}
