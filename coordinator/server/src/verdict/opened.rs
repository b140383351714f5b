//! Work that came back, opened, beside what it is held against: the task, its attempt, what was delivered, what was
//! asked. `result` and `desk` judge it.
//! Must stay true: nothing is read before its signature holds.

use owm_coordinator_domain::{
    check::{Expected, Fault, Given, GivenReport, check_inference, check_report},
    task::{Attempt, CommitDecision, GivenResult},
};
use owm_coordinator_store::{
    StoreError, Tx,
    chunk::{Delivered, chunk_load},
    evaluation::evaluation_ask,
    task::LoadedTask,
};
use owm_proto::{
    Envelope, PublicKey, Sha256, SignerRule, TaskType, UnixMillis,
    evaluation::EvaluationAsk,
    genesis::NetworkId,
    statement::{Commit as CommitStatement, Segment, Statement as _, TaskResultStatement},
    wire::coordinator as wire,
};

use super::VerdictError;
use crate::app::App;

/// A node's work, opened: every signature verified.
pub(super) struct Opened {
    pub(super) commit: CommitStatement,
    pub(super) commit_envelope: Envelope,
    pub(super) statement: TaskResultStatement,
    pub(super) result_envelope: Envelope,
    pub(super) product: Product,
    /// Of an update: whether its bytes, which are here, are what was asked for.
    pub(super) update: Option<Result<(), String>>,
}

/// What was computed.
pub(super) enum Product {
    /// An answer for a model user.
    Answer(Box<AnswerPart>),
    /// An evaluation's report: its exact bytes.
    Report(Vec<u8>),
}

/// An answer with the share of the node that finished it.
pub(super) struct AnswerPart {
    pub(super) segment: Segment,
    pub(super) segment_envelope: Envelope,
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
}

impl Opened {
    pub(super) fn open(
        app: &App,
        key: &PublicKey,
        wire: wire::TaskResult,
    ) -> Result<Self, VerdictError> {
        let (network, signer) = (app.network(), SignerRule::Exactly(key));
        let output = wire
            .output
            .ok_or(VerdictError::Malformed("the output is missing"))?;
        let commit_envelope = Envelope::from_wire(wire.commit)?;
        let result_envelope = Envelope::from_wire(wire.result)?;
        Ok(Self {
            commit: CommitStatement::open(&commit_envelope, &network, signer)?,
            statement: TaskResultStatement::open(&result_envelope, &network, signer)?,
            commit_envelope,
            result_envelope,
            product: Product::open(output, &network, signer)?,
            update: None,
        })
    }

    pub(super) fn answer(&self) -> Option<&AnswerPart> {
        match &self.product {
            Product::Answer(answer) => Some(answer),
            Product::Report(_) => None,
        }
    }
}

impl Product {
    fn open(
        output: wire::Output,
        network: &NetworkId,
        signer: SignerRule<'_>,
    ) -> Result<Self, VerdictError> {
        if !output.report.is_empty() {
            let is_alone =
                output.text.is_empty() && output.tokens.is_empty() && output.segment.is_none();
            return if is_alone {
                Ok(Self::Report(output.report))
            } else {
                Err(VerdictError::Malformed("a report comes with an answer"))
            };
        }
        let segment_envelope = Envelope::from_wire(output.segment)?;
        Ok(Self::Answer(Box::new(AnswerPart {
            segment: Segment::open(&segment_envelope, network, signer)?,
            segment_envelope,
            text: output.text,
            tokens: output.tokens,
        })))
    }
}

/// What a result is held against beside its task.
#[derive(Default)]
pub(super) struct Asked {
    /// What the user has been sent already.
    pub(super) delivered: Delivered,
    /// Of an evaluation, what was asked for.
    pub(super) evaluation: Option<EvaluationAsk>,
}

impl Asked {
    pub(super) async fn load(
        app: &App,
        tx: &mut Tx,
        loaded: &LoadedTask,
    ) -> Result<Self, StoreError> {
        let (facts, mut asked) = (&loaded.facts, Self::default());
        if facts.streaming {
            asked.delivered = chunk_load(tx, &app.vault, facts.task_id).await?;
        }
        if matches!(facts.task_type, TaskType::Evaluate | TaskType::FlRound) {
            asked.evaluation = evaluation_ask(tx, facts.task_id).await?;
        }
        Ok(asked)
    }
}

/// A result beside what it is held against: its attempt with the commit that stands, and what was
/// delivered of it.
pub(super) struct GivenWork {
    pub(super) decided: CommitDecision,
    pub(super) attempt: Attempt,
    pub(super) delivered: Delivered,
    pub(super) given: GivenResult,
}

impl GivenWork {
    /// A result that arrives with its commit is a commit first; on time is what was received on time
    /// (`at`), however long it then waited to be judged.
    pub(super) fn new(
        loaded: &LoadedTask,
        found: &Attempt,
        asked: Asked,
        opened: &Opened,
        at: UnixMillis,
    ) -> Self {
        let decided = found.commit(opened.commit.result_sha256, at);
        let attempt = Attempt {
            commit: Some(*decided.standing()),
            ..found.clone()
        };
        let given = GivenResult {
            hash: Sha256::of(opened.result_envelope.unverified_payload()),
            checked: check(loaded, found.epoch, &asked, opened),
        };
        Self {
            decided,
            attempt,
            delivered: asked.delivered,
            given,
        }
    }
}

fn check(loaded: &LoadedTask, epoch: u64, asked: &Asked, opened: &Opened) -> Result<(), Fault> {
    let (facts, delivered) = (&loaded.facts, &asked.delivered);
    let expected = Expected {
        task_id: facts.task_id,
        epoch,
        model_sha256: &facts.model_sha256,
        input_sha256: facts.input_sha256,
        seed: facts.seed,
        max_tokens: facts.max_tokens,
        context_tokens: None,
        share_from: share_from(delivered, epoch),
        delivered_tokens: &delivered.tokens,
        delivered_text: &delivered.text,
    };
    let statement = &opened.statement;
    match (&opened.product, &asked.evaluation, facts.task_type) {
        (Product::Answer(answer), _, TaskType::Inference) => {
            let given = Given {
                statement,
                text: &answer.text,
                tokens: &answer.tokens,
                segment: &answer.segment,
            };
            check_inference(&expected, &given)
        }
        (Product::Report(report), Some(ask), TaskType::Evaluate | TaskType::FlRound) => {
            let given = GivenReport { statement, report };
            check_report(&expected, ask, &given)?;
            match &opened.update {
                Some(Err(why)) => Err(Fault::Update(why.clone())),
                Some(Ok(())) | None => Ok(()),
            }
        }
        (.., asked) => Err(Fault::WrongKind {
            asked: asked.as_str(),
        }),
    }
}

/// Where the share of the attempt under `epoch` begins: after what earlier attempts had delivered.
pub(crate) fn share_from(delivered: &Delivered, epoch: u64) -> u32 {
    delivered
        .segments
        .iter()
        .filter(|s| s.epoch < epoch)
        .map(|s| s.to)
        .max()
        .unwrap_or(0)
}
