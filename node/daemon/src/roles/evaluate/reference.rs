//! A reference update (spec §10.4): local steps on a named text, packed as a round's update, kept on the disk until
//! the coordinator has it.
//! Must stay true: the bytes are on the disk before the result that names them is in the log; a private text is never
//! trained on here.

use owm_update::{
    Codec, Keep, Layout, LoraEpoch, Mode, Origin, Subject, Targets, ValueWidth, encode_update,
};

use super::{
    Arc, CancellationToken, ControlFlow, EvaluateJob, ExactF64, Finding, JobContext, LaidOut,
    Outcome, Progress, Read, Refusal, Sha256, Side, TextError, TextSource, Tools, Wanted,
    hand_over, told,
};
use crate::engine::{TrainJob, TrainedSoFar, TrainedStep};
use owm_proto::evaluation::ReferenceSteps;

/// Trains and packs. Blocks.
pub(super) fn trained(
    job: &EvaluateJob,
    steps: ReferenceSteps,
    context: &JobContext,
    tools: &Tools,
    laid_out: &LaidOut,
    stop: &CancellationToken,
) -> Outcome {
    let started = context.clock.monotonic();
    if job.ask.text == TextSource::Local {
        return Err(Refusal::input(
            "a reference update is made on a public corpus, not on a node's own text",
        ));
    }
    let Some(documents) = documents(job, context, tools, stop)? else {
        return Ok(None);
    };
    let order = TrainJob {
        documents,
        tokens_max: job.ask.tokens_max,
        sequence: job.ask.window,
        rows: steps.batch,
        steps: steps.steps,
        learning_rate: steps.learning_rate,
        low_rank: steps.lora.map(|lora| (lora.rank, lora.seed)),
        seed: job.ask.seed,
    };
    let (activity, clock) = (&context.activity, Arc::clone(&context.clock));
    let mut on_trained = |so_far: TrainedSoFar| {
        let progress = Progress {
            done: u64::from(so_far.step),
            of: u64::from(so_far.steps),
            unit: "steps",
            tokens: so_far.tokens,
            loss: so_far.loss.map(f64::from),
        };
        activity.progressed(job.key, progress, clock.monotonic());
        if stop.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let (folder, expected) = (&laid_out.folder, &laid_out.expected);
    let trained = tools
        .loader
        .train(folder, expected, &order, &mut on_trained);
    let trained = trained.map_err(|error| Refusal::failed(told(&error, laid_out)))?;
    let Some(trained) = trained.filter(|_| !stop.is_cancelled()) else {
        return Ok(None);
    };
    let exec = context.clock.monotonic().saturating_sub(started);
    finish(job, steps, context, tools, trained, exec.as_millis() as u64).map(Some)
}

fn documents(
    job: &EvaluateJob,
    context: &JobContext,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Option<Vec<String>>, Refusal> {
    let wanted = Wanted {
        source: &job.ask.text,
        side: Side::Train,
        seed: job.ask.seed,
        documents_max: job.ask.documents_max,
        bytes_max: job.ask.bytes_max,
    };
    let mut tell = |what: &str| {
        let now = context.clock.monotonic();
        context.activity.doing(job.key, what, now);
    };
    match tools.texts.documents(&wanted, stop, &mut tell) {
        Ok(documents) => Ok(Some(documents)),
        Err(TextError::Stopped) => Ok(None),
        Err(error) => Err(Refusal::cannot(error.to_string())),
    }
}

fn finish(
    job: &EvaluateJob,
    steps: ReferenceSteps,
    context: &JobContext,
    tools: &Tools,
    trained: TrainedStep,
    exec_ms: u64,
) -> Result<(super::TaskResult, u32), Refusal> {
    let read = Read {
        documents: trained.documents,
        bytes: trained.bytes,
        tokens: trained.tokens,
        tokens_sha256: trained.tokens_sha256,
    };
    let loss = |loss: Option<&f32>| ExactF64(f64::from(loss.copied().unwrap_or(0.0)));
    let losses = [loss(trained.losses.first()), loss(trained.losses.last())];
    let backend = trained.backend.clone();
    let bytes = pack(job, steps, context, trained)?;
    let sha256 = Sha256::of(&bytes);
    let kept = tools.updates.keep(job.key, &bytes);
    kept.map_err(|error| Refusal::on_this_machine("the update cannot be kept", &error))?;
    let finding = Finding::Update {
        sha256,
        size: bytes.len() as u64,
        losses,
    };
    hand_over(job, context, (read, finding), (backend, exec_ms))
}

/// The canonical bytes of the update.
fn pack(
    job: &EvaluateJob,
    steps: ReferenceSteps,
    context: &JobContext,
    trained: TrainedStep,
) -> Result<Vec<u8>, Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal::failed(error.to_string());
    let layout = Layout::parse(&trained.header).map_err(|error| failed(&error))?;
    let mode = match steps.lora {
        None => Mode::Full,
        Some(lora) => {
            let targets = Targets::new(trained.tensors, trained.adapted);
            Mode::Lora(LoraEpoch {
                epoch: lora.epoch,
                rank: lora.rank,
                seed: lora.seed,
                targets: targets.ok_or_else(|| Refusal::failed("no matrix is adapted"))?,
            })
        }
    };
    let base = job.ask.weights_sha256();
    let [base] = base[..] else {
        return Err(Refusal::cannot(
            "updates are of models whose weights are one file",
        ));
    };
    let codec = Codec {
        keep: Keep::from_ppm(steps.keep_ppm).ok_or_else(|| Refusal::input("keep_ppm"))?,
        values: ValueWidth::from_bits(steps.value_bits)
            .ok_or_else(|| Refusal::input("value_bits"))?,
        ..Codec::DEFAULT
    };
    let subject = Subject {
        network: context.network,
        round: steps.round,
        sub_model: job.sub_model.clone(),
        base,
        layout: layout.id(),
        mode,
        origin: Origin::Node {
            node: context.node.public(),
            samples: u64::from(steps.steps) * u64::from(steps.batch),
            steps: steps.steps,
            clip: steps.clip_norm,
        },
    };
    let encoded = encode_update(subject, codec, trained.step, None);
    encoded
        .map(|encoded| encoded.bytes)
        .map_err(|error| failed(&error))
}
