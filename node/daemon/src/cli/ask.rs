//! `owm-node ask`: the node's own model answers its user, with the coordinator or without. The running daemon
//! computes if there is one; otherwise the model is loaded here.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use owm_proto::{Sha256, SubModelId, limits::OUTPUT_TOKENS_MAX};
use owm_service::{RunError, report::Chain};
use serde_json::json;

use super::{ConfigArg, Output, block_on, output::raw, start};
use crate::{
    asking::{Answered, LocalQuestion, answer},
    config::NodeConfig,
    control::{self, ControlError},
    home::Home,
    models::{LoadedModel, LoadedSubModel, Shelf, SignedManifest, files_of, hash_file, wanted},
    network::Network,
};

/// Between two questions how far the answer is.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node ask \"What is a coastline?\"\n  owm-node ask --max-tokens 200 --temperature 0.7 \"Tell me a story\"\n  \
    owm-node ask --json \"Hi\" | jq -r .answer\n\nIt is answered on this machine by the newest model that lies here and was verified: no \
    coordinator is asked, nothing is paid, nothing leaves the machine. Exit code 1: no answer."
)]
pub(super) struct AskArgs {
    /// The question.
    question: String,
    /// Who is asked [default: the version's default sub-model].
    #[arg(long, value_name = "ID")]
    sub_model: Option<SubModelId>,
    /// Tokens of the answer at most.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=i64::from(OUTPUT_TOKENS_MAX)))]
    max_tokens: u32,
    /// 0: always the likeliest token; up to 2: freer.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// For the chance in it: the same seed gives the same answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Continue the text instead of answering it.
    #[arg(long)]
    raw: bool,
    /// Ask the model in this folder, such as `owm-node train` leaves, instead of the network's.
    #[arg(long, value_name = "FOLDER", conflicts_with = "sub_model")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

fn temperature(text: &str) -> Result<f64, String> {
    let temperature: f64 = text.parse().map_err(|_| "no number")?;
    if (0.0..=2.0).contains(&temperature) {
        Ok(temperature)
    } else {
        Err("0 to 2 is possible".into())
    }
}

pub(super) fn run(arguments: &AskArgs, output: Output) -> Result<(), RunError> {
    let question = LocalQuestion {
        text: arguments.question.clone(),
        sub_model: arguments.sub_model.clone(),
        max_tokens: arguments.max_tokens,
        // 0 to 2000.
        temperature_milli: (arguments.temperature * 1_000.0).round() as u32,
        seed: arguments.seed,
        raw: arguments.raw,
    };
    let mut text = String::new();
    let mut on_text = |new: &str| {
        text.push_str(new);
        if !output.json {
            raw(new.as_bytes());
        }
    };
    if let Some(folder) = &arguments.folder {
        let model = load_folder(folder)?;
        let mut on_text = |new: &str| {
            on_text(new);
            ControlFlow::Continue(())
        };
        let answered = answer(&model, &question, &mut on_text).map_err(RunError::failed)?;
        show(&answered, &text, "this command", output);
        return Ok(());
    }
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let asked = block_on(ask_daemon(&home, &question, &mut on_text))?;
    let (answered, by) = match asked {
        Err(AskFailure::Control(ControlError::NotRunning { .. })) => {
            let model = load(&config, &home)?;
            let mut on_text = |new: &str| {
                on_text(new);
                ControlFlow::Continue(())
            };
            let answered = answer(&model, &question, &mut on_text).map_err(RunError::failed)?;
            (answered, "this command")
        }
        asked => (asked.map_err(RunError::failed)?, "the running node"),
    };
    show(&answered, &text, by, output);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum AskFailure {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}")]
    Refused(String),
    #[error("the running node no longer works on this question; ask again")]
    Lost,
}

/// Asks the running daemon and hears the answer as it comes.
async fn ask_daemon(
    home: &Home,
    question: &LocalQuestion,
    on_text: &mut dyn FnMut(&str),
) -> Result<Answered, AskFailure> {
    let socket = home.control();
    let begun = control::begin_question(&socket, question.clone()).await?;
    let id = begun.map_err(AskFailure::Refused)?;
    let mut from = 0;
    loop {
        let so_far = control::answer_so_far(&socket, id, from).await?;
        let so_far = so_far.ok_or(AskFailure::Lost)?;
        on_text(&so_far.text);
        from += so_far.text.len();
        if let Some(error) = so_far.error {
            return Err(AskFailure::Refused(error));
        }
        if let Some(answered) = so_far.answered {
            return Ok(answered);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Loads the newest version that lies here whole; every byte is hashed on the way.
fn load(config: &NodeConfig, home: &Home) -> Result<LoadedModel, RunError> {
    let shelf = Shelf::new(home.models(), None);
    let none = || {
        RunError::failed(
            "no model on this node yet; get it: owm-node models fetch, or owm-node start",
        )
    };
    let network = Network::load(&home.network(), None).map_err(|_| none())?;
    let signed = SignedManifest::load(&shelf.newest(), &network.trust)?.ok_or_else(none)?;
    let manifest = &signed.manifest;
    let configured = config.model.sub_models.iter().map(|id| id.parse());
    let configured: Vec<_> = configured
        .collect::<Result<_, _>>()
        .map_err(RunError::usage)?;
    let ids = wanted(manifest, &configured)?;
    if let Some(file) = files_of(manifest, &ids)
        .into_iter()
        .find(|file| !shelf.has(file))
    {
        return Err(RunError::failed(format!(
            "{} of {} is not here whole; get it: owm-node models fetch",
            file.name, manifest.version
        )));
    }
    let (loader, _) = start::engine(config)?;
    let mut engines: BTreeMap<Vec<Sha256>, _> = BTreeMap::new();
    let mut sub_models = BTreeMap::new();
    for id in ids {
        let (folder, expected) = shelf.lay_out(manifest, &id)?;
        let set: Vec<Sha256> = expected.values().copied().map(Sha256).collect();
        let engine = match engines.get(&set) {
            Some(engine) => Arc::clone(engine),
            None => loader.load(&folder, &expected).map_err(|error| {
                RunError::failed(format!("{}; `owm-node models verify` looks", Chain(&error)))
            })?,
        };
        engines.insert(set, Arc::clone(&engine));
        let weights = manifest.weights_sha256(&id);
        sub_models.insert(
            id,
            LoadedSubModel {
                weights,
                files: vec![],
                engine,
            },
        );
    }
    Ok(LoadedModel {
        version: manifest.version.clone(),
        sequence: manifest.sequence,
        note: signed.note.clone(),
        default_sub_model: manifest.default_sub_model.clone(),
        sub_models,
    })
}

/// Loads a folder that no manifest speaks of; its files are hashed here, so that the answer can say them.
fn load_folder(folder: &Path) -> Result<LoadedModel, RunError> {
    let mut expected = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|error| {
        RunError::failed(format!("{} cannot be read ({error})", folder.display()))
    })? {
        let path = entry?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        if let (Some(name), true) = (name, path.is_file())
            && let Some(sha256) = hash_file(&path, &|_| {})?
        {
            expected.insert(name, sha256.0);
        }
    }
    let (loader, _) = start::engine(&NodeConfig::default())?;
    let engine = loader
        .load(folder, &expected)
        .map_err(|error| RunError::failed(Chain(&error).to_string()))?;
    // No network knows this model: version and name only fill their places, and the note says so.
    let id: SubModelId = "owm-router".parse().map_err(RunError::failed)?;
    let weights = expected
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"));
    let weights = weights.map(|(_, sha256)| Sha256(*sha256)).collect();
    Ok(LoadedModel {
        version: "owm-v0.0.0".parse().map_err(RunError::failed)?,
        sequence: 0,
        note: "a model of this folder; no release, signed by nobody".to_owned(),
        default_sub_model: id.clone(),
        sub_models: BTreeMap::from([(
            id,
            LoadedSubModel {
                weights,
                files: vec![],
                engine,
            },
        )]),
    })
}

fn show(answered: &Answered, text: &str, by: &str, output: Output) {
    let sha256: Vec<String> = answered
        .model_sha256
        .iter()
        .map(Sha256::to_string)
        .collect();
    let value = json!({
        "answer": text,
        "model_version": answered.version,
        "sub_model": answered.sub_model,
        "model_sha256": sha256,
        "note": answered.note,
        "prompt_tokens": answered.prompt_tokens,
        "tokens": answered.tokens,
        "finish": answered.finish,
        "by": by,
    });
    let mut lines = vec![
        String::new(),
        String::new(),
        format!(
            "{} {}, SHA-256 {} ({} tokens, computed by {by})",
            answered.version,
            answered.sub_model,
            sha256.join(", "),
            answered.tokens
        ),
    ];
    if !answered.note.is_empty() {
        lines.push(answered.note.clone());
    }
    output.answer(&value, &lines);
}
