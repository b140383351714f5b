//! The joining conversation: the signed body out, the parsed outcome back. `daemon` makes the call.
//! Must stay true: only an outcome that parses counts; the membership is kept only if it verifies.

use std::time::Duration;

use owm_proto::{
    Envelope, NodeKey, Purpose, SignerRule, Tier, UnixMillis,
    genesis::{DelegatedRole, TrustRoot},
    statement::{Membership, Statement as _},
    wire::coordinator::{
        Capabilities, RegisterNodeBody, RegisterNodeRequest, RegisterNodeResponse,
        RegistrationOutcome, SignedEnvelope,
    },
};
use prost::Message as _;

/// How long a registration request may be under way.
pub const REQUEST_TIME: Duration = Duration::from_mins(5);
/// What a coordinator may ask for between heartbeats, in seconds.
const HEARTBEAT_SECS: std::ops::RangeInclusive<u32> = 1..=600;
/// If it asks for nothing (spec §6).
const HEARTBEAT_DEFAULT: Duration = Duration::from_mins(1);
/// Reasons that are shown.
const REASONS_MAX: usize = 16;
/// Characters of each.
const REASON_CHARS_MAX: usize = 500;

/// What goes into a registration.
#[derive(Clone, Debug)]
pub struct Application {
    /// What this machine has, within the operator's caps.
    pub capabilities: Capabilities,
    /// Where it is paid; may be empty.
    pub ln_node_uri: String,
    /// Who owns it, signed by both; empty: itself.
    pub owner_binding: Vec<SignedEnvelope>,
}

impl Application {
    /// The signed request.
    pub fn sign(
        &self,
        key: &NodeKey,
        trust: &TrustRoot,
        request_id: [u8; 16],
        now: UnixMillis,
    ) -> RegisterNodeRequest {
        let body = RegisterNodeBody {
            request_id: request_id.to_vec(),
            issued_at_ms: now.0,
            expires_at_ms: now.after(REQUEST_TIME).0,
            capabilities: Some(self.capabilities.clone()),
            ln_node_uri: self.ln_node_uri.clone(),
            software_version: crate::VERSION.to_owned(),
            owner_binding: self.owner_binding.clone(),
        };
        let envelope = Envelope::sign(key, Purpose::Register, &trust.id(), body.encode_to_vec());
        RegisterNodeRequest {
            request: Some((&envelope).into()),
        }
    }
}

/// What the coordinator answered.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// In.
    Active {
        /// Our id in its database.
        node_id: String,
        /// As what.
        tier: Option<Tier>,
        /// Between heartbeats.
        heartbeat: Duration,
        /// What it says about stake.
        stake_policy: String,
        /// The verified statement and its envelope.
        membership: Option<Box<(Membership, Envelope)>>,
    },
    /// Something is missing.
    Pending {
        /// What, and what to do.
        reasons: Vec<String>,
    },
    /// Never.
    Refused {
        /// Why.
        reasons: Vec<String>,
    },
}

/// An answer that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// An outcome of a newer protocol.
    #[error(
        "the coordinator answered registration in a way this owm-node does not know; update it"
    )]
    UnknownOutcome,
    /// Its membership statement does not hold.
    #[error("the membership statement does not hold: {0}")]
    Membership(String),
}

/// Parses an answer.
pub fn outcome(
    answer: RegisterNodeResponse,
    key: &NodeKey,
    trust: &TrustRoot,
    now: UnixMillis,
) -> Result<Outcome, RegisterError> {
    let shorten = |text: &String| text.chars().take(REASON_CHARS_MAX).collect::<String>();
    let reasons: Vec<String> = answer
        .reasons
        .iter()
        .take(REASONS_MAX)
        .map(shorten)
        .collect();
    match answer.outcome() {
        RegistrationOutcome::Active => Ok(Outcome::Active {
            node_id: shorten(&answer.node_id),
            tier: answer.tier.parse().ok(),
            heartbeat: match answer.heartbeat_secs {
                0 => HEARTBEAT_DEFAULT,
                secs => Duration::from_secs(
                    secs.clamp(*HEARTBEAT_SECS.start(), *HEARTBEAT_SECS.end())
                        .into(),
                ),
            },
            stake_policy: shorten(&answer.stake_policy),
            membership: membership(answer.membership, key, trust, now)?.map(Box::new),
        }),
        RegistrationOutcome::Pending => Ok(Outcome::Pending { reasons }),
        RegistrationOutcome::Refused => Ok(Outcome::Refused { reasons }),
        RegistrationOutcome::Unspecified => Err(RegisterError::UnknownOutcome),
    }
}

fn membership(
    wire: Option<SignedEnvelope>,
    key: &NodeKey,
    trust: &TrustRoot,
    now: UnixMillis,
) -> Result<Option<(Membership, Envelope)>, RegisterError> {
    let Some(wire) = wire else { return Ok(None) };
    let wrong = |error: &dyn std::fmt::Display| RegisterError::Membership(error.to_string());
    let envelope = Envelope::try_from(wire).map_err(|error| wrong(&error))?;
    let instances = trust.keys(DelegatedRole::Instance, now);
    let said = Membership::open(&envelope, &trust.id(), SignerRule::OneOf(&instances))
        .map_err(|error| wrong(&error))?;
    if said.node != key.public() {
        return Err(wrong(&"it names another node"));
    }
    Ok(Some((said, envelope)))
}

/// The line that says it worked, as the founding design has it.
pub fn active_line(tier: Option<Tier>, stake_policy: &str) -> String {
    let (name, multiplier) = tier.map_or(("?".into(), "?".into()), |tier| {
        let permille = tier.terms().reward_multiplier.0;
        let name = tier.as_str().to_uppercase();
        (
            name,
            format!("{}.{}x", permille / 1_000, permille % 1_000 / 100),
        )
    });
    let stake = if stake_policy.is_empty() {
        "unknown"
    } else {
        stake_policy
    };
    format!("Node active ✓ | Tier {name} | Multiplier {multiplier} | stake: {stake}")
}

#[cfg(test)]
mod tests {
    use owm_proto::{
        NodeId,
        genesis::{Delegation, Genesis, network_id},
    };

    use super::*;

    #[test]
    fn the_line_is_the_one_of_the_founding_design() {
        assert_eq!(
            active_line(Some(Tier::T2), "not required"),
            "Node active ✓ | Tier T2 | Multiplier 2.5x | stake: not required"
        );
    }

    struct World {
        trust: TrustRoot,
        instance: NodeKey,
        node: NodeKey,
    }

    fn world() -> World {
        let [root, instance, node] = [1, 2, 3].map(|n| NodeKey::from_seed(&[n; 32]));
        let genesis = Genesis {
            name: "t".into(),
            bitcoin_chain: "regtest".into(),
            root_public_key: root.public(),
            created_at: UnixMillis(0),
        }
        .to_bytes();
        let delegation = Delegation {
            role: DelegatedRole::Instance,
            key: instance.public(),
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(1_000),
        }
        .sign(&root, &network_id(&genesis));
        let trust = TrustRoot::from_documents(None, &genesis, &[delegation], &[]).unwrap();
        World {
            trust,
            instance,
            node,
        }
    }

    fn answer(world: &World, signer: &NodeKey, node: &NodeKey) -> RegisterNodeResponse {
        let said = Membership {
            node: node.public(),
            node_id: NodeId::from_random([1; 16]),
            owner: node.public(),
            tier: Tier::T1,
            issued_at_ms: UnixMillis(0),
            expires_at_ms: UnixMillis(9),
        };
        RegisterNodeResponse {
            outcome: RegistrationOutcome::Active.into(),
            tier: "t1".into(),
            membership: Some((&said.sign(signer, &world.trust.id())).into()),
            heartbeat_secs: 1_000_000,
            ..RegisterNodeResponse::default()
        }
    }

    #[test]
    fn a_membership_counts_only_from_the_coordinator_and_for_this_node() {
        let world = world();
        let read = |answer| outcome(answer, &world.node, &world.trust, UnixMillis(5));
        let good = read(answer(&world, &world.instance, &world.node)).unwrap();
        let Outcome::Active {
            membership,
            heartbeat,
            ..
        } = good
        else {
            panic!("{good:?}")
        };
        assert_eq!(membership.unwrap().0.node, world.node.public());
        assert_eq!(
            heartbeat,
            Duration::from_mins(10),
            "an unreasonable wish is bounded"
        );
        let stranger = NodeKey::from_seed(&[9; 32]);
        for wrong in [
            answer(&world, &stranger, &world.node),
            answer(&world, &world.instance, &stranger),
        ] {
            assert!(matches!(read(wrong), Err(RegisterError::Membership(_))));
        }
    }

    #[test]
    fn an_outcome_of_the_future_is_no_outcome() {
        let world = world();
        let answer = RegisterNodeResponse {
            outcome: 77,
            ..RegisterNodeResponse::default()
        };
        let read = outcome(answer, &world.node, &world.trust, UnixMillis(5));
        assert!(matches!(read, Err(RegisterError::UnknownOutcome)));
    }
}
