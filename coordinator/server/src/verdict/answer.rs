//! The one answer of a request: receipt, exact JSON, both written in the transaction that accepts the
//! result.

use owm_coordinator_store::{
    StoreError, Tx,
    model::{ModelVersion, model_lookup},
    request::{OpenRequest, request_answer, request_open_of_task},
    task::finish_str,
};
use owm_proto::{
    Envelope, Purpose,
    receipt::{RECEIPT_FORMAT, Receipt, ReceiptFile, ReceiptStatement, SignedReceipt},
};

use super::{
    opened::{AnswerPart, Opened},
    result::Accepted,
};
use crate::{app::App, ask::Answer};

impl App {
    /// Answers the request behind an accepted result, if there is an open one.
    pub(super) async fn answer_write(
        &self,
        tx: &mut Tx,
        work: &Accepted<'_>,
        opened: &Opened,
    ) -> Result<Option<Answer>, StoreError> {
        let facts = &work.loaded.facts;
        let open = request_open_of_task(tx, &self.vault, facts.task_id).await?;
        let (Some(request), Some(part)) = (open, opened.answer()) else {
            return Ok(None);
        };
        let model = model_lookup(tx, Some(&facts.model_version)).await?;
        let (answer, receipt) = self.answer_make(work, (opened, part), &request, model.as_ref());
        let bytes = serde_json::to_vec(&answer).unwrap_or_default();
        let (id, output) = (&request.id, &opened.statement.output_sha256);
        request_answer(tx, &self.vault, id, &bytes, output, &receipt, self.now()).await?;
        Ok(Some(answer))
    }

    /// The answer and its countersigned receipt.
    pub(super) fn answer_make(
        &self,
        work: &Accepted<'_>,
        (opened, part): (&Opened, &AnswerPart),
        request: &OpenRequest,
        model: Option<&ModelVersion>,
    ) -> (Answer, Envelope) {
        let facts = &work.loaded.facts;
        let (said, now) = (&opened.statement, self.now());
        let names = |i: usize| {
            let manifest = model.map(|m| &m.manifest);
            manifest
                .and_then(|m| m.weights(&facts.sub_model).nth(i))
                .map(|f| f.name.clone())
        };
        let files = facts
            .model_sha256
            .iter()
            .enumerate()
            .map(|(i, sha256)| ReceiptFile {
                name: names(i).unwrap_or_else(|| format!("weights-{i}")),
                sha256: *sha256,
            });
        let receipt = Receipt {
            format: RECEIPT_FORMAT.to_owned(),
            network: self.network(),
            request_id: request.id,
            task_id: facts.task_id,
            model_version: facts.model_version.clone(),
            sub_model: facts.sub_model.clone(),
            files: files.collect(),
            seed: facts.seed,
            input_sha256: facts.input_sha256,
            output_sha256: said.output_sha256,
            tokens_sha256: said.tokens_sha256,
            segments: segments(work, part),
            result: ReceiptStatement::from_envelope(&opened.result_envelope, 0, said.output_tokens),
            answered_at_ms: now,
        };
        let payload = serde_json::to_vec(&receipt).unwrap_or_default();
        let instance = &self.authority.instance;
        let signed = Envelope::sign(instance, Purpose::Receipt, &self.network(), payload);
        let answer = Answer {
            answer: part.text.clone(),
            token_ids: part.tokens.clone(),
            sub_models_used: vec![facts.sub_model.clone()],
            model_version: facts.model_version.clone(),
            sha256: facts
                .model_sha256
                .first()
                .copied()
                .unwrap_or(facts.input_sha256),
            model_note: model.map(|m| m.manifest.note.clone()).unwrap_or_default(),
            ots_verified: model.is_some_and(|m| m.btc_block.is_some()),
            latency_ms: now.since(request.created_at).as_millis() as u64,
            cost_sats: 0,
            request_id: request.id,
            seed: facts.seed,
            prompt_tokens: said.prompt_tokens,
            output_tokens: said.output_tokens,
            finish_reason: finish_str(said.finish).to_owned(),
            receipt: SignedReceipt::from_envelope(&signed),
        };
        (answer, signed)
    }
}

/// The shares of all nodes: those of earlier attempts as delivered, then the finishing node's own.
fn segments(work: &Accepted<'_>, part: &AnswerPart) -> Vec<ReceiptStatement> {
    let earlier = work
        .delivered
        .segments
        .iter()
        .filter(|s| s.epoch < work.attempt.epoch);
    let own = &part.segment;
    earlier
        .map(|s| ReceiptStatement::from_envelope(&s.envelope, s.from, s.to))
        .chain([ReceiptStatement::from_envelope(
            &part.segment_envelope,
            own.from,
            own.to,
        )])
        .collect()
}
