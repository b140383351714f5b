//! Updates (spec §10.2, §10.4): local steps on a text, packed as a round asks for it, kept on the disk until the coordinator
//! has them. A reference update is of a named text; a part in a round takes the node's residue in and leaves one.
//! Must stay true: the bytes and the residue are on the disk before the result that names them is in the log, and the
//! residue counts from then on; on a private text only parts are trained, within `private`'s bounds and in its orders,
//! and only round figures of it are told.

use owm_update::{
    Codec, Keep, Layout, LoraEpoch, Mode, Origin, Residue, Subject, Targets, ValueWidth,
    encode_update,
};

use super::{
    Arc, CancellationToken, ControlFlow, EvaluateJob, ExactF64, Finding, JobContext, LaidOut,
    Outcome, Progress, Read, Refusal, Sha256, Side, TextError, TextSource, Tools, Wanted,
    hand_over, private, room, told,
};
use crate::{
    engine::{Measurement, TrainJob, TrainedSoFar, TrainedStep},
    residue::Absorbed,
};
use owm_proto::evaluation::ReferenceSteps;
use owm_service::report::Chain;

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
    if job.ask.text == TextSource::Local && !steps.takes_part {
        return Err(Refusal::input(
            "a reference update is made on a public corpus, not on a node's own text",
        ));
    }
    let Some(documents) = documents(job, context, tools, stop)? else {
        return Ok(None);
    };
    let order = TrainJob {
        documents,
        tokens_max: private::Bounds::of(&job.ask).tokens,
        sequence: job.ask.window,
        rows: steps.batch,
        steps: steps.steps,
        learning_rate: steps.learning_rate,
        low_rank: steps.lora.map(|lora| (lora.rank, lora.seed)),
        seed: private::rows(&job.ask, &context.node, steps.round),
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
    let needed = tools.loader.training_bytes(folder, &order);
    let needed = needed.map_err(|error| Refusal::cannot(told(&error, laid_out)))?;
    room::check(tools.ram, "this training", needed)?;
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
    let bounds = private::Bounds::of(&job.ask);
    let wanted = Wanted {
        source: &job.ask.text,
        side: Side::Train,
        seed: private::order(&job.ask, &context.node),
        documents_max: bounds.documents,
        bytes_max: bounds.bytes,
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
    let (read, losses) = shown(job, steps, context, &trained)?;
    let backend = trained.backend.clone();
    let step = Step::new(job, steps, context, &trained)?;
    let (residue, absorbed) = if steps.takes_part {
        residue(job, context, tools, &step.subject)?
    } else {
        (None, Absorbed::default())
    };
    let subject = step.subject.clone();
    let encoded = encode_update(step.subject, step.codec, trained.step, residue);
    let encoded = encoded.map_err(|error| Refusal::failed(error.to_string()))?;
    let (sha256, size) = (encoded.sha256, encoded.bytes.len() as u64);
    let kept = tools.updates.keep(job.key, &encoded.bytes);
    kept.map_err(|error| Refusal::on_this_machine("the update cannot be kept", &error))?;
    if steps.takes_part {
        let prepared = tools.residues.prepare(&subject, &encoded, absorbed);
        prepared.map_err(|error| Refusal::on_this_machine("the residue cannot be kept", &error))?;
    }
    let finding = Finding::Update {
        sha256,
        size,
        losses,
    };
    let handed = hand_over(job, context, (read, finding), (backend, exec_ms))?;
    if steps.takes_part {
        // In the log it is committed; if this fails, the next start says so again.
        if let Err(error) = tools.residues.committed(&subject, sha256) {
            tracing::warn!(error = %Chain(&error), "the new residue is not in its place yet");
        }
    }
    Ok(handed)
}

/// The residue that goes in, after the lease's word on the node's former parts.
fn residue(
    job: &EvaluateJob,
    context: &JobContext,
    tools: &Tools,
    subject: &Subject,
) -> Result<(Option<Residue>, Absorbed), Refusal> {
    let logged = context.log.updates();
    let logged = logged.map_err(|error| Refusal::failed(error.to_string()))?;
    let loaded = tools.residues.heard(&job.former).and_then(|back| {
        if back > 0 {
            tracing::info!(lease = %job.key, updates = back, "what former parts carried did not count and comes back");
        }
        let is_committed = |update: Sha256| logged.contains(&update);
        tools.residues.load(subject, &is_committed)
    });
    loaded.map_err(|error| {
        Refusal::on_this_machine("the residue of the rounds before cannot be used", &error)
    })
}

/// What is told of the text and of the losses: of a private one, round figures.
fn shown(
    job: &EvaluateJob,
    steps: ReferenceSteps,
    context: &JobContext,
    trained: &TrainedStep,
) -> Result<(Read, [ExactF64; 2]), Refusal> {
    let told = |loss: f64| {
        let found = Measurement {
            documents: trained.documents,
            bytes: trained.bytes,
            tokens: trained.tokens,
            tokens_sha256: trained.tokens_sha256,
            loss,
            bits_per_byte: 0.0,
        };
        private::told(&job.ask, &context.node, found)
    };
    let [first, last] = private::losses(&job.ask, steps, &trained.losses);
    let (first, last) = (told(first)?, told(last)?);
    let losses = [ExactF64(first.loss), ExactF64(last.loss)];
    let read = Read {
        documents: first.documents,
        bytes: first.bytes,
        tokens: first.tokens,
        tokens_sha256: first.tokens_sha256,
    };
    Ok((read, losses))
}

/// What an update is of, and how it is packed.
struct Step {
    subject: Subject,
    codec: Codec,
}

impl Step {
    fn new(
        job: &EvaluateJob,
        steps: ReferenceSteps,
        context: &JobContext,
        trained: &TrainedStep,
    ) -> Result<Self, Refusal> {
        let layout = Layout::parse(&trained.header);
        let layout = layout.map_err(|error| Refusal::failed(error.to_string()))?;
        let mode = match steps.lora {
            None => Mode::Full,
            Some(lora) => {
                let targets = Targets::new(trained.tensors, trained.adapted.iter().copied());
                Mode::Lora(LoraEpoch {
                    epoch: lora.epoch,
                    rank: lora.rank,
                    seed: lora.seed,
                    targets: targets.ok_or_else(|| Refusal::failed("no matrix is adapted"))?,
                })
            }
        };
        let [base] = job.ask.weights_sha256()[..] else {
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
        Ok(Self { subject, codec })
    }
}
