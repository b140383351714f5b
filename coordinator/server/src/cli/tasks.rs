//! `owm-coordinator task evaluate`, `list`, `show`, `cancel`: what nodes find of a candidate. They speak to the database, so that
//! they work beside a running coordinator, which hands the tasks out.

mod show;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use owm_proto::{
    EvaluationId, SubModelId, UnixMillis, VersionId,
    evaluation::{ReferenceSteps, TextSource},
};
use owm_service::{Context, RunError, config::HumanDuration};
use serde_json::json;

use super::{
    ConfigArg,
    commands::{print, read_config},
};
use crate::{
    blobs::Blobs,
    evaluate::{
        EvaluationOrder,
        cancel::{self, Cancelled},
        evaluate,
    },
    identity::Authority,
    serve,
};

/// Verbs for tasks that operators hand out.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Let nodes of different owners measure how well a model foretells held-out text.
    #[command(
        after_help = "Examples:\n  owm-coordinator task evaluate --sub-model owm-geo --corpus owm-geo --shard europe --config coordinator.toml\n  owm-coordinator task evaluate --sub-model owm-code --file new.safetensors --corpus owm-code --nodes 5 --config coordinator.toml\n\nThe running coordinator hands it out; `task show` says what was found."
    )]
    Evaluate(Box<EvaluateArgs>),
    /// List evaluations, newest first.
    #[command(after_help = "Example: owm-coordinator task list --config coordinator.toml")]
    List(ConfigArg),
    /// Show one evaluation: its reports, what is wrong with them, the medians over different owners.
    #[command(
        after_help = "Example: owm-coordinator task show 0f2c… --config coordinator.toml --json"
    )]
    Show {
        /// Its id.
        id: EvaluationId,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// End what is open of an evaluation; reports that are there stay, and are owed.
    #[command(after_help = "Example: owm-coordinator task cancel 0f2c… --config coordinator.toml")]
    Cancel {
        /// Its id.
        id: EvaluationId,
        /// Where the configuration is.
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// What is measured, with what.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("text").required(true).args(["corpus", "local"]))]
pub struct EvaluateArgs {
    /// Which sub-model.
    #[arg(long)]
    sub_model: SubModelId,
    /// Of which released version [default: the current one].
    #[arg(long)]
    version: Option<VersionId>,
    /// A .safetensors file in place of the version's weights; nodes fetch it by its SHA-256, and no manifest names it.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// A public corpus: owm-code, owm-geo.
    #[arg(long, value_name = "ID")]
    corpus: Option<String>,
    /// Only this part of the corpus; may be repeated.
    #[arg(long, value_name = "NAME", requires = "corpus")]
    shard: Vec<String>,
    /// Each node's own folder, of which only figures come back.
    #[arg(long)]
    local: bool,
    /// Reports wanted, each of another owner.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Documents of held-out text at most.
    #[arg(long, default_value_t = 1_000)]
    documents: u32,
    /// Bytes of held-out text at most.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
    /// Tokens at most; whole documents are measured.
    #[arg(long, default_value_t = 262_144)]
    tokens: u64,
    /// Tokens at least; with fewer there is no report.
    #[arg(long, default_value_t = 64)]
    tokens_min: u64,
    /// Tokens that foretell one another.
    #[arg(long, default_value_t = 256)]
    window: u32,
    /// Chooses the documents where there are more [default: drawn].
    #[arg(long)]
    seed: Option<u64>,
    /// Train instead of measuring: a reference update of so many steps, from text that is not held out.
    #[arg(long, value_name = "STEPS", conflicts_with = "local")]
    reference: Option<u32>,
    /// Rows of one step of a reference update.
    #[arg(long, default_value_t = 4, requires = "reference")]
    batch: u32,
    /// Its learning rate.
    #[arg(long, default_value_t = 0.001, requires = "reference")]
    learning_rate: f32,
    /// The longest it may be, as a norm.
    #[arg(long, default_value_t = 1.0, requires = "reference")]
    clip_norm: f32,
    /// Of a million values, how many are sent.
    #[arg(long, default_value_t = 100_000, requires = "reference")]
    keep_ppm: u32,
    /// Bits of a value: 2 or 8.
    #[arg(long, default_value_t = 2, requires = "reference")]
    value_bits: u8,
    /// How long one node may take.
    #[arg(long, default_value = "30m")]
    lease: HumanDuration,
    /// When it ends, with the reports that are there.
    #[arg(long, default_value = "2h")]
    deadline: HumanDuration,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) async fn run(
    context: &Context,
    command: TaskCommand,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    match command {
        TaskCommand::Evaluate(args) => ask(context, *args, json, now).await,
        TaskCommand::List(config) => {
            let store = serve::store(&read_config(&config.config)?)?;
            show::list(&store, json, now).await
        }
        TaskCommand::Show { id, config } => {
            let store = serve::store(&read_config(&config.config)?)?;
            show::show(&store, id, json).await
        }
        TaskCommand::Cancel { id, config } => {
            let store = serve::store(&read_config(&config.config)?)?;
            let done = cancel::cancel(&store, id, now).await;
            cancelled(id, done.map_err(RunError::failed)?, json)
        }
    }
}

fn cancelled(id: EvaluationId, done: Cancelled, json: bool) -> Result<(), RunError> {
    let Cancelled {
        queued,
        leased,
        reported,
    } = done;
    let text = match queued + leased {
        0 => format!("evaluation {id} has no open task; {reported} reports are there"),
        _ => format!(
            "evaluation {id}: {queued} waiting tasks ended, {leased} nodes are told to stop, {reported} reports stay"
        ),
    };
    let value =
        json!({"evaluation_id": id, "queued": queued, "leased": leased, "reported": reported});
    print(json, &value, &text)
}

async fn ask(
    context: &Context,
    args: EvaluateArgs,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let config = read_config(&args.config.config)?;
    let authority = Authority::load(&config.identity.dir, now)?;
    let vault = authority.vault()?;
    let blobs = Blobs::in_folder(&config.blobs.dir)?;
    let text = match args.corpus {
        Some(id) => TextSource::Corpus {
            id,
            shards: args.shard,
        },
        None => TextSource::Local,
    };
    let order = EvaluationOrder {
        sub_model: args.sub_model,
        version: args.version,
        weights: args.file,
        text,
        documents_max: args.documents,
        bytes_max: args.bytes,
        tokens_min: args.tokens_min,
        tokens_max: args.tokens,
        window: args.window,
        seed: args.seed,
        reference: args.reference.map(|steps| ReferenceSteps {
            steps,
            batch: args.batch,
            learning_rate: args.learning_rate,
            clip_norm: args.clip_norm,
            keep_ppm: args.keep_ppm,
            value_bits: args.value_bits,
            round: 0,
            takes_part: false,
            lora: None,
        }),
        nodes: args.nodes,
        lease: args.lease.get(),
        deadline: args.deadline.get(),
    };
    let store = serve::store(&config)?;
    let rng = context.seed.rng("evaluate");
    let asked = evaluate(&store, &blobs, &vault, &order, rng, now).await;
    let (id, ask) = asked.map_err(RunError::failed)?;
    let text = format!(
        "evaluation {id}: {} nodes of different owners measure {} with {}\nowm-coordinator task show {id} --config {}",
        order.nodes,
        order.sub_model,
        ask.text,
        owm_service::doctor::shell(&args.config.config)
    );
    let value = json!({"evaluation_id": id, "candidate": ask.weights_sha256(), "nodes": order.nodes, "seed": ask.seed});
    print(json, &value, &text)
}
