//! `owm-coordinator round start`, `list`, `show`, `replay`, `abandon`. They speak to the database and to the folders beside
//! it, so that they work beside a running coordinator, which drives what is open.

mod show;

use clap::{Args, Subcommand};
use owm_aggregate::StrategyName;
use owm_coordinator_domain::round::{Phase, deadline::Deadline};
use owm_coordinator_store::round::{StoredRound, round_computed, round_read};
use owm_proto::{Permille, SubModelId, UnixMillis, VersionId, evaluation::TextSource};
use owm_service::{Context, RunError, config::HumanDuration};
use serde_json::json;

use super::{
    ConfigArg,
    commands::{print, read_config},
};
use crate::{
    blobs::Blobs,
    config::Config,
    identity::Authority,
    round::{
        archive::Archive,
        config::{Reading, Training},
        open::{RoundOrder, abandon, open},
        replay::{measurements, replay},
    },
    serve,
};

/// Verbs for federated rounds.
#[derive(Debug, Subcommand)]
pub enum RoundCommand {
    /// Open a round: nodes train the sub-model, and what they hand in becomes the next version, if it is no worse.
    #[command(
        after_help = "Examples:\n  owm-coordinator round start --sub-model owm-geo --corpus owm-geo --config coordinator.toml\n  owm-coordinator round start --sub-model owm-code --local --evaluate-corpus owm-code --reference-corpus owm-code --nodes 20 --config coordinator.toml\n\nThe running coordinator drives it; `round show` says how far it is."
    )]
    Start(Box<StartArgs>),
    /// List rounds, newest first.
    #[command(after_help = "Example: owm-coordinator round list --config coordinator.toml")]
    List(ConfigArg),
    /// Show one round: its phase, each node's part with the gates' reasons and its weight, what was measured.
    #[command(
        after_help = "Example: owm-coordinator round show 4 --config coordinator.toml --json"
    )]
    Show(RoundArg),
    /// Compute a round once more from its archive and compare, byte for byte.
    #[command(
        after_help = "Example: owm-coordinator round replay 4 --config coordinator.toml\n\nExit codes: 0 all bytes are the same, 1 something differs or is missing."
    )]
    Replay(RoundArg),
    /// Give a round up that is not over: nothing is published, the server's residue stays as it was.
    #[command(after_help = "Example: owm-coordinator round abandon 4 --config coordinator.toml")]
    Abandon(RoundArg),
}

/// Which round.
#[derive(Debug, Args)]
pub struct RoundArg {
    /// Its number.
    round: u64,
    /// Where the configuration is.
    #[command(flatten)]
    config: ConfigArg,
}

/// What a round is opened with.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("text").required(true).args(["corpus", "local"]))]
pub struct StartArgs {
    /// Which sub-model is trained.
    #[arg(long)]
    sub_model: SubModelId,
    /// From which released version [default: the current one].
    #[arg(long)]
    version: Option<VersionId>,
    /// A public corpus to train on: owm-code, owm-geo.
    #[arg(long, value_name = "ID")]
    corpus: Option<String>,
    /// Only this part of the corpus; may be repeated.
    #[arg(long, value_name = "NAME", requires = "corpus")]
    shard: Vec<String>,
    /// Deal the named parts out, so that no two nodes have the same.
    #[arg(long, requires = "shard")]
    deal_shards: bool,
    /// Each node trains on its own folder, which never leaves it.
    #[arg(long)]
    local: bool,
    /// The public corpus that candidate and parent are measured on [default: the one that is trained on].
    #[arg(long, value_name = "ID", required_if_eq("local", "true"))]
    evaluate_corpus: Option<String>,
    /// Only this part of it; may be repeated.
    #[arg(long, value_name = "NAME")]
    evaluate_shard: Vec<String>,
    /// The public corpus of a reference update, which a round of fewer than 6 needs [default: the one it is measured on].
    #[arg(long, value_name = "ID")]
    reference_corpus: Option<String>,
    /// Only this part of it; may be repeated.
    #[arg(long, value_name = "NAME")]
    reference_shard: Vec<String>,
    /// Documents at most, for each text.
    #[arg(long, default_value_t = 1_000)]
    documents: u32,
    /// Bytes at most, for each text.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u64,
    /// Tokens at most, for each text.
    #[arg(long, default_value_t = 262_144)]
    tokens: u64,
    /// Tokens at least; a node with fewer hands its lease back.
    #[arg(long, default_value_t = 64)]
    tokens_min: u64,
    /// Tokens of a row.
    #[arg(long, default_value_t = 256)]
    window: u32,
    /// Chooses the held-out documents; rounds of one seed can be compared, and are held against the best of the last ten.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps of each node.
    #[arg(long, default_value_t = 30)]
    steps: u32,
    /// Rows of one step.
    #[arg(long, default_value_t = 4)]
    batch: u32,
    /// Learning rate.
    #[arg(long, default_value_t = 0.001)]
    learning_rate: f32,
    /// The longest an update may be, as a norm.
    #[arg(long, default_value_t = 1.0)]
    clip_norm: f32,
    /// Of a million values, how many are sent.
    #[arg(long, default_value_t = 100_000)]
    keep_ppm: u32,
    /// Bits of a value: 2 or 8.
    #[arg(long, default_value_t = 2)]
    value_bits: u8,
    /// Nodes that are asked at most.
    #[arg(long, default_value_t = 20)]
    nodes: u32,
    /// Whole updates that are needed.
    #[arg(long, default_value_t = 3)]
    updates_min: u32,
    /// How long nodes that could train are waited for, if they are fewer than are asked for.
    #[arg(long, default_value = "1m")]
    gather: HumanDuration,
    /// No round ends sooner, unless all have handed in.
    #[arg(long, default_value = "30m")]
    min: HumanDuration,
    /// No round takes updates for longer.
    #[arg(long, default_value = "6h")]
    max: HumanDuration,
    /// How long after the end the bytes of a commit may come.
    #[arg(long, default_value = "2m")]
    grace: HumanDuration,
    /// In thousandths, the share of those asked that must have committed before it ends early.
    #[arg(long, default_value_t = 700)]
    quorum: u32,
    /// Reports on the candidate that are wanted, each of another owner.
    #[arg(long, default_value_t = 3)]
    evaluators: u32,
    /// How long a reference update, or an evaluation, may take.
    #[arg(long, default_value = "1h")]
    evaluation_time: HumanDuration,
    /// The rule: owm_robust, fedavg, clip_mean, trimmed_mean, median, krum, multi_krum.
    #[arg(long, default_value = "owm_robust")]
    strategy: StrategyName,
    /// Let one or two updates make a version, which protects from nobody: for a devnet.
    #[arg(long)]
    allow_tiny: bool,
    #[command(flatten)]
    config: ConfigArg,
}

impl StartArgs {
    fn reading(&self, id: Option<&String>, shards: &[String], seed: u64) -> Reading {
        let text = match id {
            Some(id) => TextSource::Corpus {
                id: id.clone(),
                shards: shards.to_vec(),
            },
            None => TextSource::Local,
        };
        Reading {
            text,
            documents_max: self.documents,
            bytes_max: self.bytes,
            tokens_min: self.tokens_min,
            tokens_max: self.tokens,
            window: self.window,
            seed,
        }
    }

    fn order(&self) -> RoundOrder {
        let trained = (self.corpus.as_ref(), &self.shard);
        let or = |id: &'_ Option<String>| id.clone();
        let measured = match or(&self.evaluate_corpus) {
            Some(id) => (Some(id), &self.evaluate_shard),
            None => (trained.0.cloned(), trained.1),
        };
        let reference = match or(&self.reference_corpus) {
            Some(id) => (Some(id), &self.reference_shard),
            None => (measured.0.clone(), measured.1),
        };
        RoundOrder {
            sub_model: self.sub_model.clone(),
            version: self.version.clone(),
            training: Training {
                reading: self.reading(trained.0, trained.1, self.seed),
                deal_shards: self.deal_shards,
                steps: self.steps,
                batch: self.batch,
                learning_rate: self.learning_rate,
                clip_norm: self.clip_norm,
                keep_ppm: self.keep_ppm,
                value_bits: self.value_bits,
            },
            reference: Some(self.reading(reference.0.as_ref(), reference.1, self.seed)),
            evaluation: self.reading(measured.0.as_ref(), measured.1, self.seed),
            places: self.nodes,
            updates_min: self.updates_min,
            gather: self.gather.get(),
            deadline: Deadline {
                min: self.min.get(),
                max: self.max.get(),
                quorum: Permille(self.quorum),
                grace: self.grace.get(),
            },
            evaluators: self.evaluators,
            evaluation_time: self.evaluation_time.get(),
            strategy: self.strategy,
            allow_tiny: self.allow_tiny,
        }
    }
}

pub(super) async fn run(
    context: &Context,
    command: RoundCommand,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    match command {
        RoundCommand::Start(args) => start(context, &args, json, now).await,
        RoundCommand::List(config) => {
            let store = serve::store(&read_config(&config.config)?)?;
            show::list(&store, json, now).await
        }
        RoundCommand::Show(arg) => {
            let store = serve::store(&read_config(&arg.config.config)?)?;
            show::show(&store, arg.round, json).await
        }
        RoundCommand::Replay(arg) => again(&arg, json, now).await,
        RoundCommand::Abandon(arg) => stop(&arg, json, now).await,
    }
}

async fn start(
    context: &Context,
    args: &StartArgs,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let config = read_config(&args.config.config)?;
    let blobs = Blobs::in_folder(&config.blobs.dir)?;
    let store = serve::store(&config)?;
    let rng = context.seed.rng("round");
    let order = args.order();
    let opened = open(&store, &blobs, &order, rng, now).await;
    let (number, opened) = opened.map_err(RunError::failed)?;
    let text = format!(
        "round {number} of {} is open: up to {} nodes train on {}\nowm-coordinator round show {number} --config {}",
        order.sub_model,
        order.places,
        order.training.reading.text,
        owm_service::doctor::shell(&args.config.config)
    );
    let value = json!({
        "round": number, "sub_model": order.sub_model, "parent": opened.weights().map(|file| file.sha256),
        "nodes": order.places, "draw_seed": opened.draw_seed,
    });
    print(json, &value, &text)
}

fn none(round: u64) -> RunError {
    RunError::failed(format!(
        "there is no round {round}; `owm-coordinator round list` shows all"
    ))
}

async fn again(arg: &RoundArg, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let config: Config = read_config(&arg.config.config)?;
    let network = Authority::load(&config.identity.dir, now)?.network();
    let blobs = Blobs::in_folder(&config.blobs.dir)?;
    let archive = Archive::in_folder(&config.rounds.archive);
    let store = serve::store(&config)?;
    let mut tx = store.begin("round.replay").await?;
    let stored = round_read(&mut tx, arg.round).await?;
    let stored: StoredRound = stored.ok_or_else(|| none(arg.round))?;
    let computed = round_computed(&mut tx, arg.round).await?;
    let measured = measurements(&mut tx, arg.round, &computed).await?;
    drop(tx);
    if computed.is_empty() {
        return Err(RunError::failed(format!(
            "round {} is {} and has computed nothing yet",
            arg.round, stored.round.phase
        )));
    }
    let replaying = tokio::task::spawn_blocking(move || {
        let recorded = (&computed[..], &measured);
        replay(network, &blobs, &archive, &stored, recorded)
    });
    let replayed = replaying.await.map_err(RunError::failed)?;
    let replayed = replayed.map_err(RunError::failed)?;
    let rows = replayed.iter().map(|one| {
        json!({"attempt": one.attempt.as_str(), "identical": one.differs.is_empty(), "differs": one.differs})
    });
    let is_same = replayed.iter().all(|one| one.differs.is_empty());
    let lines: Vec<String> = replayed
        .iter()
        .map(|one| {
            if one.differs.is_empty() {
                format!(
                    "{}: decision, delta, checkpoint and residue are the same, byte for byte",
                    one.attempt
                )
            } else {
                format!("{}: differs in {}", one.attempt, one.differs.join(", "))
            }
        })
        .collect();
    let value =
        json!({"round": arg.round, "identical": is_same, "attempts": rows.collect::<Vec<_>>()});
    print(json, &value, &lines.join("\n"))?;
    if is_same {
        Ok(())
    } else {
        Err(RunError::failed(format!(
            "round {} does not come out as it is on record: compare [rounds] archive with a backup",
            arg.round
        )))
    }
}

async fn stop(arg: &RoundArg, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let store = serve::store(&read_config(&arg.config.config)?)?;
    let phase = abandon(&store, arg.round, now).await;
    let phase = phase
        .map_err(RunError::failed)?
        .ok_or_else(|| none(arg.round))?;
    if phase != Phase::Abandoned {
        return Err(RunError::failed(format!(
            "round {} is {phase} and cannot be given up any more; withdraw its version instead",
            arg.round
        )));
    }
    let value = json!({"round": arg.round, "phase": phase.as_str()});
    print(json, &value, &format!("round {} is given up", arg.round))
}
