//! Receipts (spec §9): which request was answered by which nodes with which weights, signed by every
//! node for its share and countersigned by the coordinator's instance key. Verifying needs only the
//! network's [`TrustRoot`].

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, EnvelopeError, Purpose, SignerRule},
    genesis::{DelegatedRole, NetworkId, TrustRoot},
    hash::Sha256,
    id::{RequestId, TaskId},
    key::PublicKey,
    statement::{Segment, Statement as _, TaskResultStatement},
    task::{SubModelId, VersionId},
    time::UnixMillis,
};

/// The value of [`Receipt::format`].
pub const RECEIPT_FORMAT: &str = "owm-receipt/1";

/// Payload of `owm/receipt/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`RECEIPT_FORMAT`].
    pub format: String,
    /// The network.
    pub network: NetworkId,
    /// The request.
    pub request_id: RequestId,
    /// The task that answered it.
    pub task_id: TaskId,
    /// The model version.
    pub model_version: VersionId,
    /// The sub-model.
    pub sub_model: SubModelId,
    /// The weights files.
    pub files: Vec<ReceiptFile>,
    /// The sampling seed.
    pub seed: u64,
    /// SHA-256 of the task's payload, as the nodes saw it.
    pub input_sha256: Sha256,
    /// SHA-256 of the answer's UTF-8 text.
    pub output_sha256: Sha256,
    /// Hash of the answer's token ids ([`crate::statement::tokens_sha256`]).
    pub tokens_sha256: Sha256,
    /// Who computed what, in order, without gaps.
    pub segments: Vec<ReceiptStatement>,
    /// The finishing node's signed result.
    pub result: ReceiptStatement,
    /// When the coordinator accepted the answer.
    pub answered_at_ms: UnixMillis,
}

/// A weights file of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// Its name in the manifest.
    pub name: String,
    /// Its SHA-256, as `sha256sum` shows it.
    pub sha256: Sha256,
}

/// A node's statement inside a receipt: exact signed bytes and the detached signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptStatement {
    /// Who signed.
    pub node: PublicKey,
    /// First token of the share.
    pub from: u32,
    /// One past the last.
    pub to: u32,
    /// The exact JSON that was signed.
    pub statement: String,
    /// 128 hex digits.
    pub signature: String,
}

/// A receipt as `GET /v1/receipts/{id}` gives it: exact bytes with a detached signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// The exact JSON that was countersigned.
    pub receipt: String,
    /// `owm/receipt/v1`.
    pub purpose: String,
    /// The coordinator's instance key.
    pub key: PublicKey,
    /// 128 hex digits.
    pub signature: String,
}

/// Why a receipt proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// A signature or its signer does not hold.
    #[error("{what}: {source}")]
    Envelope {
        /// Whose.
        what: String,
        /// Why.
        source: EnvelopeError,
    },
    /// The parts do not add up.
    #[error("the receipt contradicts itself: {0}")]
    Inconsistent(String),
}

/// What a good receipt proves.
#[derive(Clone, Debug)]
pub struct VerifiedReceipt {
    /// The receipt itself.
    pub receipt: Receipt,
    /// Which coordinator countersigned.
    pub countersigned_by: PublicKey,
    /// The finishing node's statement.
    pub result: TaskResultStatement,
}

fn signature_bytes(hex: &str) -> Result<[u8; 64], EnvelopeError> {
    crate::hash::hex_array(hex, "128 hex digits")
        .map_err(|_| EnvelopeError::Malformed("a signature is not 128 hex digits"))
}

impl ReceiptStatement {
    /// Takes over a node's signed statement for tokens `[from, to)`. Must be a verified one.
    pub fn from_envelope(envelope: &Envelope, from: u32, to: u32) -> Self {
        Self {
            node: envelope.claimed_signer(),
            from,
            to,
            statement: String::from_utf8_lossy(envelope.unverified_payload()).into_owned(),
            signature: data_encoding::HEXLOWER.encode(envelope.signature()),
        }
    }

    fn envelope(&self, purpose: Purpose) -> Result<Envelope, EnvelopeError> {
        let signature = signature_bytes(&self.signature)?;
        Ok(Envelope::from_parts(
            purpose,
            self.node,
            signature,
            self.statement.clone().into_bytes(),
        ))
    }
}

impl SignedReceipt {
    /// From the countersigned envelope.
    pub fn from_envelope(envelope: &Envelope) -> Self {
        Self {
            receipt: String::from_utf8_lossy(envelope.unverified_payload()).into_owned(),
            purpose: Purpose::Receipt.as_str().to_owned(),
            key: envelope.claimed_signer(),
            signature: data_encoding::HEXLOWER.encode(envelope.signature()),
        }
    }

    /// Checks every signature and that the shares chain without gaps to the answer's hashes.
    pub fn verify(&self, trust: &TrustRoot) -> Result<VerifiedReceipt, ReceiptError> {
        let fault = |what: &str| {
            let what = what.to_owned();
            move |source| ReceiptError::Envelope { what, source }
        };
        let signature = signature_bytes(&self.signature).map_err(fault("the countersignature"))?;
        let payload = self.receipt.clone().into_bytes();
        let envelope = Envelope::from_parts(Purpose::Receipt, self.key, signature, payload);
        let instances = trust.keys_ever(DelegatedRole::Instance);
        let receipt: Receipt = envelope
            .verify(Purpose::Receipt, &trust.id(), SignerRule::OneOf(&instances))
            .and_then(|verified| verified.json())
            .map_err(fault("the coordinator's countersignature"))?;
        if receipt.format != RECEIPT_FORMAT || receipt.network != trust.id() {
            return Err(ReceiptError::Inconsistent(
                "another format or network".into(),
            ));
        }
        receipt.verify_segments(&trust.id())?;
        let result = receipt.verify_result(&trust.id())?;
        Ok(VerifiedReceipt {
            receipt,
            countersigned_by: self.key,
            result,
        })
    }
}

impl Receipt {
    fn weights(&self) -> Vec<Sha256> {
        self.files.iter().map(|file| file.sha256).collect()
    }

    fn verify_segments(&self, network: &NetworkId) -> Result<(), ReceiptError> {
        let (mut at, mut hash) = (0, crate::statement::tokens_sha256(&[]));
        for (i, share) in self.segments.iter().enumerate() {
            let fault = |source| ReceiptError::Envelope {
                what: format!("segment {i}"),
                source,
            };
            let envelope = share.envelope(Purpose::Segment).map_err(fault)?;
            let said = Segment::open(&envelope, network, SignerRule::Exactly(&share.node))
                .map_err(fault)?;
            let holds = said.task_id == self.task_id
                && said.seed == self.seed
                && said.model_sha256 == self.weights()
                && (said.from, said.to) == (share.from, share.to)
                && said.from == at
                && said.to >= said.from
                && said.prefix_sha256 == hash;
            if !holds {
                return Err(ReceiptError::Inconsistent(format!(
                    "segment {i} does not fit"
                )));
            }
            (at, hash) = (said.to, said.tokens_sha256);
        }
        if hash == self.tokens_sha256 {
            Ok(())
        } else {
            Err(ReceiptError::Inconsistent(
                "the segments do not end in the answer".into(),
            ))
        }
    }

    fn verify_result(&self, network: &NetworkId) -> Result<TaskResultStatement, ReceiptError> {
        let fault = |source| ReceiptError::Envelope {
            what: "the result".into(),
            source,
        };
        let envelope = self.result.envelope(Purpose::Result).map_err(fault)?;
        let signer = SignerRule::Exactly(&self.result.node);
        let said = TaskResultStatement::open(&envelope, network, signer).map_err(fault)?;
        let holds = said.task_id == self.task_id
            && said.model_sha256 == self.weights()
            && said.input_sha256 == self.input_sha256
            && said.output_sha256 == self.output_sha256
            && said.tokens_sha256 == self.tokens_sha256
            && said.seed == self.seed;
        if holds {
            Ok(said)
        } else {
            Err(ReceiptError::Inconsistent("the result does not fit".into()))
        }
    }
}

#[cfg(test)]
mod tests;
