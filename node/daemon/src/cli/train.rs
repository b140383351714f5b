//! `owm-node train`: a human trains a model on a folder or a public corpus, here and now. The shell around
//! `train`: finds model and text, shows what happens, stops on Ctrl-C. No coordinator is asked.

mod show;
mod source;

use std::{
    io::IsTerminal as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{ArgGroup, Args, ValueEnum};
use nix::{sys::signal::Signal, unistd::Pid};
use owm_corpus::{HELD_OUT_PER_MILLE, Split, sample, split};
use owm_model::Base;
use owm_service::{RunError, config::HumanDuration};
use serde_json::{Value, json};

use super::{ConfigArg, Output, Told, output::raw};
use crate::train::{
    Done, Measured, TrainOrder, TrainOutcome,
    defaults::{Wishes, plan},
    state_file, train,
};
use show::Show;
pub(super) use source::cache_folder;

/// Text that is trained on at most, in bytes: more than two cores go through in a day.
const TEXT_BYTES: usize = 32 << 20;

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("text").required(true).args(["local", "corpus"]),
    after_help = "Examples:\n  owm-node train --local ~/notes\n  owm-node train --local ./src --model tiny --for 60s --out tiny-code\n  \
    owm-node train --corpus owm-geo --shard europe --steps 40 --prompt \"The capital of Norway is\"\n  \
    owm-node ask --folder trained \"What is a fjord?\"\n\nNothing of the text leaves this machine. A tenth of it is held out to measure \
    with. Ctrl-C saves; the same command goes on from there (a second Ctrl-C ends it at once). With --json a line of JSON per event, the result last. \
    Exit code 1: no result (failed or stopped)."
)]
pub(super) struct TrainArgs {
    /// Train on the text, source code and GeoJSON in this folder.
    #[arg(long, value_name = "FOLDER")]
    local: Option<PathBuf>,
    /// Train on a public corpus (owm-geo, owm-code), fetched once by npm or cargo.
    #[arg(long, value_name = "ID")]
    corpus: Option<String>,
    /// Only these shards of the corpus: a region, a package.
    #[arg(long, value_name = "NAME", requires = "corpus")]
    shard: Vec<String>,
    /// A sub-model on this node, a model's folder, or `tiny`: a small one that knows nothing yet
    /// [default: the newest version's default sub-model].
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Where the result goes: a new folder.
    #[arg(long, value_name = "FOLDER", default_value = "trained")]
    out: PathBuf,
    /// Train every weight, or low-rank updates that are then added to the weights [default: by the
    /// model's size].
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Rank of low-rank updates.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    rank: u16,
    /// Steps of the optimizer.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// End after this time (`60s`, `2h`) if the steps are not done by then.
    #[arg(long = "for", value_name = "TIME")]
    time: Option<HumanDuration>,
    /// Tokens of one row [default: 256].
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=8192))]
    sequence: Option<u16>,
    /// Rows of one step [default: by the model's size].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Option<u16>,
    /// The full learning rate [default: by model and mode].
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Of the data's order and everything else that is left to chance: the same seed gives the same result.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Bytes of held-out text that are measured with.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    held_out_bytes: usize,
    /// Show how this text is continued, before and after.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Where fetched corpora are kept [default: the user's cache folder].
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Every weight.
    Full,
    /// Low-rank updates.
    Lora,
}

pub(super) fn run(arguments: &TrainArgs, output: Output) -> Result<(), RunError> {
    let mut show = Show::new(output);
    let text = text(arguments, &mut show)?;
    let model = source::model(
        arguments.model.as_deref(),
        arguments.seed,
        &arguments.config,
    )?;
    let (parameters, context) = size(&model)?;
    let wishes = Wishes {
        low_rank: arguments.mode.map(|mode| matches!(mode, Mode::Lora)),
        rank: usize::from(arguments.rank),
        steps: arguments.steps,
        sequence: arguments.sequence.map(usize::from),
        batch: arguments.batch.map(usize::from),
        learning_rate: arguments.learning_rate,
        seed: arguments.seed,
        by_time: arguments.time.is_some(),
    };
    let order = TrainOrder {
        base_dir: model.folder.clone(),
        expected: model.expected.clone(),
        text,
        held_out_bytes: arguments.held_out_bytes,
        plan: plan(&wishes, parameters, context),
        time: arguments.time.map(HumanDuration::get),
        out: arguments.out.clone(),
        prompt: arguments.prompt.clone(),
    };
    show.begin(&model.name, parameters, &order);
    let stop = stop_on_signals()?;
    let outcome = train(&order, &stop, &mut |event| show.event(event));
    show.end();
    match outcome.map_err(RunError::failed)? {
        TrainOutcome::Done(done) => {
            show.result(&value(&done, &order), &lines(&done, &order));
            Ok(())
        }
        TrainOutcome::Stopped { step, is_measuring } => {
            let state = state_file(&order.out);
            let during = if is_measuring {
                "stopped while the model was measured"
            } else {
                "stopped"
            };
            let words = if step == 0 {
                format!("{during}, before the first step; nothing was kept")
            } else {
                format!(
                    "{during}; {step} of {} steps are done and saved in {}: the same command goes on from there",
                    order.plan.steps,
                    state.display()
                )
            };
            show.result(
                &json!({"event": "stopped", "step": step, "state": (step > 0).then_some(state)}),
                &[words],
            );
            Err(RunError::failed(Told))
        }
    }
}

/// The text of a folder or a corpus, without duplicates, in two sides.
fn text(arguments: &TrainArgs, show: &mut Show) -> Result<Split, RunError> {
    let documents = match (&arguments.local, &arguments.corpus) {
        (Some(folder), _) => source::folder(folder, show)?,
        (None, Some(id)) => source::corpus(id, &arguments.shard, arguments.cache.as_deref(), show)?,
        (None, None) => return Err(RunError::usage("give --local FOLDER or --corpus ID")),
    };
    let mut text = split(documents, HELD_OUT_PER_MILLE);
    text.train = sample(text.train, TEXT_BYTES);
    Ok(text)
}

/// Weights and context, which the plan depends on.
fn size(model: &source::Model) -> Result<(u64, usize), RunError> {
    let base = Base::load(&model.folder, model.expected.as_ref()).map_err(RunError::failed)?;
    Ok((base.parameters(), base.config().context))
}

/// Becomes true with the first Ctrl-C or SIGTERM; the second ends the process, whatever it is doing. What was
/// saved by then stays, and what is half written is removed by the next run.
fn stop_on_signals() -> Result<Arc<AtomicBool>, RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let told = Arc::clone(&stop);
    let mut next = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            next();
            told.store(true, Ordering::Relaxed);
            next();
            if std::io::stdout().is_terminal() {
                // The curve hides the cursor.
                raw(b"\x1b[?25h\n");
            }
            let _is_sent = nix::sys::signal::kill(Pid::this(), Signal::SIGKILL);
        })?;
    Ok(stop)
}

fn figures(measured: &Measured) -> Value {
    json!({
        "held_out": measured.held_out.map(|held_out| json!({
            "nats_per_token": held_out.loss,
            "bits_per_byte": held_out.bits_per_byte,
            "tokens": held_out.tokens,
            "bytes": held_out.bytes,
        })),
        "sample": measured.sample,
    })
}

fn hex(bytes: &[u8; 32]) -> String {
    owm_proto::Sha256(*bytes).to_string()
}

fn value(done: &Done, order: &TrainOrder) -> Value {
    json!({
        "event": "done",
        "out": order.out,
        "weights_sha256": hex(&done.written.weights_sha256),
        "changed": done.written.changed,
        "weights": done.written.total,
        "steps": done.steps,
        "tokens": done.tokens,
        "loss_first": done.losses.first(),
        "loss_last": done.losses.last(),
        "before": figures(&done.before),
        "after": done.after.as_ref().map(figures),
    })
}

fn lines(done: &Done, order: &TrainOrder) -> Vec<String> {
    let mut lines = vec![format!(
        "{} steps, {} tokens; {:.1} % of the weights have another stored value",
        done.steps,
        done.tokens,
        100.0 * done.written.changed as f64 / done.written.total.max(1) as f64
    )];
    lines.extend(compared(done, order.prompt.as_deref()));
    lines.push(format!(
        "{}, SHA-256 {}",
        order.out.join("model.safetensors").display(),
        hex(&done.written.weights_sha256)
    ));
    lines.push(format!(
        "ask it: owm-node ask --folder {} \"…\"",
        order.out.display()
    ));
    lines
}

/// The figures before and after, in words.
fn compared(done: &Done, prompt: Option<&str>) -> Vec<String> {
    let Some(after) = &done.after else {
        return vec!["stopped before the result was measured".to_owned()];
    };
    let mut lines = Vec::new();
    if let (Some(before), Some(after)) = (&done.before.held_out, &after.held_out) {
        lines.push(format!(
            "held-out text: {:.4} -> {:.4} bits per byte ({:.4} -> {:.4} nats per token, {} tokens)",
            before.bits_per_byte, after.bits_per_byte, before.loss, after.loss, after.tokens
        ));
    } else {
        lines.push("held-out text: none, the text is too short to hold any out".to_owned());
    }
    if let (Some(prompt), Some(before), Some(after)) = (prompt, &done.before.sample, &after.sample)
    {
        lines.push(format!("before: {prompt}{before}"));
        lines.push(format!("after:  {prompt}{after}"));
    }
    lines
}
