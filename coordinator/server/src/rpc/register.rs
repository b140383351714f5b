//! RegisterNode: a signed request, answered once per request id. **The pattern that other calls copy**:
//! open the envelope, parse at the door, ask the domain, write, answer.

use std::time::Duration;

use owm_coordinator_domain::node::{
    Applicant, Capabilities, Registration, StakePolicy, StakeView, decide_registration,
};
use owm_coordinator_store::{
    node::{Node, NodeRegistration, node_lookup_by_key, node_register},
    replay::{Remembered, request_recall, request_remember},
};
use owm_proto::{
    Envelope, NodeId, NodeStatus, Permille, PublicKey, Purpose, Sha256, SignerRule, Tier,
    UnixMillis,
    envelope::check_time,
    limits::SHORT_TEXT_BYTES_MAX,
    statement::{Membership, OwnerBinding, Statement as _},
    wire::coordinator as wire,
};
use prost::Message as _;
use rand::Rng as _;
use tonic::Status;

use super::{NodeService, clock_status, envelope_status, store_status};
use crate::failpoints::{REGISTER_AFTER_COMMIT, REGISTER_BEFORE_COMMIT};

/// A membership statement's life (spec §7).
const MEMBERSHIP_LIFE: Duration = Duration::from_hours(7 * 24);

/// A registration as it was signed, checked and parsed.
struct Said {
    request_id: [u8; 16],
    body_hash: Sha256,
    owner: PublicKey,
    capabilities: Capabilities,
    ln_node_uri: String,
    software_version: String,
}

impl NodeService {
    pub(super) async fn node_register(
        &self,
        key: PublicKey,
        request: wire::RegisterNodeRequest,
    ) -> Result<wire::RegisterNodeResponse, Status> {
        let envelope = Envelope::from_wire(request.request).map_err(envelope_status)?;
        let said = self.register_open(&key, &envelope)?;
        let now = self.app.now();
        let mut tx = self
            .app
            .store
            .begin("node.register")
            .await
            .map_err(store_status)?;
        let id = &said.request_id;
        let seen = request_recall(&mut tx, &key, Purpose::Register, id, &said.body_hash)
            .await
            .map_err(store_status)?;
        match seen {
            Remembered::New => {}
            Remembered::Answered(bytes) => {
                return wire::RegisterNodeResponse::decode(bytes.as_slice())
                    .map_err(|_| Status::internal("a stored answer does not decode"));
            }
            Remembered::Conflict => {
                return Err(Status::already_exists(
                    "this request id was used for another registration; make a new one",
                ));
            }
        }
        let known = node_lookup_by_key(&mut tx, &key)
            .await
            .map_err(store_status)?;
        let decision = self.register_decide(&said, known.as_ref());
        let answer = match registration_row(&key, &said, &decision, known.as_ref(), now) {
            None => refusal(&decision),
            Some(mut row) => {
                row.new_id = NodeId::from_random(self.app.request_rng().random());
                let node = node_register(&mut tx, &row, now)
                    .await
                    .map_err(store_status)?;
                self.app.sessions.refresh(&node);
                self.register_answer(&node, &decision, now)
            }
        };
        let bytes = answer.encode_to_vec();
        request_remember(
            &mut tx,
            &key,
            Purpose::Register,
            id,
            &said.body_hash,
            &bytes,
            now,
        )
        .await
        .map_err(store_status)?;
        owm_service::failpoint::hit(REGISTER_BEFORE_COMMIT);
        tx.commit().await.map_err(store_status)?;
        owm_service::failpoint::hit(REGISTER_AFTER_COMMIT);
        tracing::info!(node.key = key.short(), outcome = ?answer.outcome(), tier = answer.tier, "registration");
        Ok(answer)
    }

    fn register_open(&self, key: &PublicKey, envelope: &Envelope) -> Result<Said, Status> {
        let network = self.app.network();
        let verified = envelope
            .verify(Purpose::Register, &network, SignerRule::Exactly(key))
            .map_err(envelope_status)?;
        let body: wire::RegisterNodeBody = verified.protobuf().map_err(envelope_status)?;
        let (issued, expires) = (
            UnixMillis(body.issued_at_ms),
            UnixMillis(body.expires_at_ms),
        );
        let now = self.app.wall();
        check_time(issued, expires, now).map_err(|error| clock_status(error, issued, now))?;
        let binding: Vec<Envelope> = body
            .owner_binding
            .into_iter()
            .map(Envelope::try_from)
            .collect::<Result<_, _>>()
            .map_err(envelope_status)?;
        let owner = OwnerBinding::owner_of(key, &binding, &network).map_err(envelope_status)?;
        let malformed = |what: &str| Status::invalid_argument(what.to_owned());
        let caps = body.capabilities.as_ref();
        let texts = [&body.ln_node_uri, &body.software_version]
            .into_iter()
            .chain(caps.map(|c| &c.backend))
            .chain(caps.into_iter().flat_map(|c| &c.gpus));
        if texts
            .into_iter()
            .any(|text| text.chars().any(char::is_control))
        {
            return Err(malformed(
                "a text of the registration holds control characters",
            ));
        }
        if body.ln_node_uri.len().max(body.software_version.len()) > SHORT_TEXT_BYTES_MAX {
            return Err(malformed("a text of the registration is too long"));
        }
        Ok(Said {
            request_id: body
                .request_id
                .try_into()
                .map_err(|_| malformed("the request id is not 16 bytes"))?,
            body_hash: Sha256::of(verified.payload),
            owner,
            capabilities: body.capabilities.unwrap_or_default().try_into().map_err(
                |error: owm_coordinator_domain::node::CapabilityError| {
                    Status::invalid_argument(error.to_string())
                },
            )?,
            ln_node_uri: body.ln_node_uri,
            software_version: body.software_version,
        })
    }

    fn register_decide(&self, said: &Said, known: Option<&Node>) -> Registration {
        let policy = &self.app.config.policy;
        let stake_policy = policy.stake_policy();
        let stake = match stake_policy {
            StakePolicy::NotRequired => StakeView::NotAsked,
            // The port's answer until a treasury is connected.
            StakePolicy::Required { .. } => StakeView::Unavailable,
        };
        let applicant = Applicant {
            capabilities: &said.capabilities,
            stake,
            known: known.map(|node| node.status),
            status_reason: known.map_or("", |node| &node.status_reason),
        };
        decide_registration(&applicant, &policy.admission(), &stake_policy)
    }

    fn register_answer(
        &self,
        node: &Node,
        decision: &Registration,
        now: UnixMillis,
    ) -> wire::RegisterNodeResponse {
        let (outcome, reasons) = match decision {
            Registration::Active { notes, .. } => {
                (wire::RegistrationOutcome::Active, notes.clone())
            }
            Registration::Pending { reasons, .. } => {
                (wire::RegistrationOutcome::Pending, reasons.clone())
            }
            Registration::Refused { reason, .. } => {
                (wire::RegistrationOutcome::Refused, vec![reason.clone()])
            }
        };
        let membership = Membership {
            node: node.public_key,
            node_id: node.node_id,
            owner: node.owner,
            tier: node.tier,
            issued_at_ms: now,
            expires_at_ms: now.after(MEMBERSHIP_LIFE),
        };
        let is_member = outcome == wire::RegistrationOutcome::Active;
        let signed = || membership.sign(&self.app.authority.instance, &self.app.network());
        wire::RegisterNodeResponse {
            outcome: outcome.into(),
            node_id: node.node_id.to_string(),
            tier: node.tier.to_string(),
            membership: is_member.then(|| (&signed()).into()),
            reasons,
            heartbeat_secs: self.app.config.scheduler.heartbeat.get().as_secs() as u32,
            stake_policy: self.app.stake_policy_str().to_owned(),
            coordinator_time_ms: self.app.wall().0,
        }
    }
}

/// What to write; `None`: leave everything as it is.
fn registration_row(
    key: &PublicKey,
    said: &Said,
    decision: &Registration,
    known: Option<&Node>,
    now: UnixMillis,
) -> Option<NodeRegistration> {
    let status = decision.status_after(known.map(|node| node.status))?;
    let (tier, cpu_only, stake_bonus, reasons) = match decision {
        Registration::Active {
            tier,
            cpu_only,
            stake_bonus,
            ..
        } => (*tier, *cpu_only, *stake_bonus, vec![]),
        Registration::Pending {
            tier,
            cpu_only,
            reasons,
        } => (
            tier.unwrap_or(Tier::T1),
            *cpu_only,
            Permille::ONE,
            reasons.clone(),
        ),
        Registration::Refused { .. } => return None,
    };
    Some(NodeRegistration {
        new_id: NodeId::from_random([0; 16]),
        public_key: *key,
        owner: said.owner,
        tier,
        cpu_only,
        status,
        status_reason: reasons.join("; "),
        capabilities: serde_json::to_value(&said.capabilities).unwrap_or_default(),
        vram_bytes: said.capabilities.vram_bytes,
        ram_bytes: said.capabilities.ram_bytes,
        bandwidth_kbps: said.capabilities.bandwidth_kbps,
        software_version: said.software_version.clone(),
        ln_node_uri: said.ln_node_uri.clone(),
        stake_bonus,
        membership_expires_at: (status == NodeStatus::Active).then(|| now.after(MEMBERSHIP_LIFE)),
    })
}

fn refusal(decision: &Registration) -> wire::RegisterNodeResponse {
    let reason = match decision {
        Registration::Refused { code, reason } => format!("{reason} ({code})"),
        _ => "the node's standing does not allow it".to_owned(),
    };
    wire::RegisterNodeResponse {
        outcome: wire::RegistrationOutcome::Refused.into(),
        reasons: vec![reason],
        ..wire::RegisterNodeResponse::default()
    }
}
