//! The verbs that do one thing and end.

use std::{io::Write as _, path::Path};

use clap::CommandFactory as _;
use owm_coordinator_domain::node::{StatusEvent, next_status};
use owm_coordinator_store::{
    Store,
    api_key::api_key_create,
    model::model_list,
    node::{Node, node_lookup, node_lookup_by_key, node_set_status},
};
use owm_proto::{NodeId, PublicKey, Sha256, UnixMillis};
use owm_service::{Context, RunError, progress::Progress};
use rand::Rng as _;
use serde_json::json;

use super::{
    ApiKeyCommand, Cli, Command, ConfigCommand, ModelCommand, NodeCommand, backup, config, invite,
    man, nodes,
};
use crate::{
    blobs::Blobs,
    config::Config,
    failpoints::INIT_CONFIG_WRITTEN,
    identity::{self, Authority, NewNetwork},
    publish::{Published, Release, publish},
    serve,
    tasks::outbox::Told,
};

/// A page of `node list` and `model list`.
pub(super) const LIST_MAX: u32 = 10_000;

/// Reads a configuration; what is wrong with it is a usage error.
pub(super) fn read_config(path: &Path) -> Result<Config, RunError> {
    let config = owm_service::config::load(Some(path), "OWM").map_err(RunError::usage)?;
    Ok(beside(path, config))
}

/// The configuration read from `path` with absolute paths.
pub(super) fn beside(path: &Path, mut config: Config) -> Config {
    config.resolve(path);
    config
}

/// Prints a line for people or JSON for programs.
pub(super) fn print(json: bool, value: &serde_json::Value, text: &str) -> Result<(), RunError> {
    let mut out = std::io::stdout().lock();
    let done = if json {
        writeln!(out, "{value}")
    } else {
        writeln!(out, "{text}")
    };
    done.map_err(RunError::failed)
}

pub(super) async fn run(context: &Context, command: Command, json: bool) -> Result<(), RunError> {
    let now = UnixMillis(context.clock.now_ms());
    match command {
        // `main` runs them.
        Command::Serve(_) | Command::Doctor(_) => Ok(()),
        Command::Init { dir, name, chain } => init(
            context,
            &dir,
            &NewNetwork {
                name,
                bitcoin_chain: chain,
            },
            json,
        ),
        Command::LogLevel(arguments) => super::log_level::run(arguments, json).await,
        Command::Migrate(config) => {
            let config = read_config(&config.config)?;
            serve::store(&config)?.migrate().await?;
            print(json, &json!({"migrated": true}), "the schema is up to date")
        }
        Command::Invite { config, qr } => {
            invite::run(&read_config(&config.config)?, qr, json, now).await
        }
        Command::Model(ModelCommand::Import {
            source,
            version,
            sub_models,
            default,
            sequence,
            config,
        }) => {
            let release = Release {
                source,
                version,
                sub_models,
                default_sub_model: default,
                sequence,
            };
            model_import(&read_config(&config.config)?, &release, json, now).await
        }
        Command::Model(ModelCommand::List(config)) => {
            models(&serve::store(&read_config(&config.config)?)?, json).await
        }
        Command::Node(NodeCommand::List(config)) => {
            nodes::list(&serve::store(&read_config(&config.config)?)?, json, now).await
        }
        Command::Node(NodeCommand::Show { node, config }) => {
            let store = serve::store(&read_config(&config.config)?)?;
            nodes::show(&store, &node, json, now).await
        }
        Command::Node(NodeCommand::Suspend {
            node,
            reason,
            config,
        }) => {
            suspend(
                &serve::store(&read_config(&config.config)?)?,
                &node,
                &reason,
                json,
                now,
            )
            .await
        }
        Command::Task(command) => super::tasks::run(context, command, json, now).await,
        Command::Round(command) => super::rounds::run(context, command, json, now).await,
        Command::ApiKey(ApiKeyCommand::Create { name, config }) => {
            api_key(context, &read_config(&config.config)?, &name, json, now).await
        }
        Command::Config(ConfigCommand::Check(path)) => config::run(&path.config, json, now),
        Command::Config(ConfigCommand::Sample) => {
            let sample = owm_service::config::sample::<Config>();
            print(json, &json!({"sample": sample}), &sample)
        }
        Command::Failpoints => {
            let names = owm_service::failpoint::known();
            print(json, &json!({ "failpoints": names }), &names.join("\n"))
        }
        Command::Backup(args) => backup::backup(&args, json, now).await,
        Command::Restore(args) => backup::restore(&args, json).await,
        Command::Man { dir } => {
            let pages = man::write(&dir)?;
            let text = format!("{pages} pages are in {}", dir.display());
            print(json, &json!({"dir": dir, "pages": pages}), &text)
        }
        Command::Completions { shell } => {
            let mut out = std::io::stdout();
            clap_complete::generate(shell, &mut Cli::command(), "owm-coordinator", &mut out);
            Ok(())
        }
    }
}

fn init(context: &Context, dir: &Path, new: &NewNetwork, json: bool) -> Result<(), RunError> {
    let now = UnixMillis(context.clock.now_ms());
    identity::prepare(dir)?;
    let config = dir.join("coordinator.toml");
    if !config.exists() {
        std::fs::write(&config, owm_service::config::sample::<Config>())?;
    }
    owm_service::failpoint::hit(INIT_CONFIG_WRITTEN);
    identity::create(dir, new, &context.seed, now)?;
    let network = Authority::load(dir, now)?.network();
    let text = format!(
        "network {network} is made in {0}\n\
         - keep {0}/offline/root.pem offline: it is the network, and nothing here needs it to run\n\
         - edit {1}, then: owm-coordinator serve --config {1}",
        dir.display(),
        config.display()
    );
    print(json, &json!({"network": network, "config": config}), &text)
}

async fn model_import(
    config: &Config,
    release: &Release,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let authority = Authority::load(&config.identity.dir, now)?;
    let (store, blobs) = (serve::store(config)?, Blobs::in_folder(&config.blobs.dir)?);
    store.migrate().await?;
    let bar: std::sync::Mutex<Option<(owm_model_import::Step, Progress)>> =
        std::sync::Mutex::default();
    let mut report = |p: owm_model_import::Progress| {
        let Ok(mut bar) = bar.lock() else { return };
        if bar.as_ref().is_none_or(|(step, _)| *step != p.step) {
            *bar = Some((
                p.step,
                Progress::bytes(p.total, format!("{:?}", p.step).to_lowercase()),
            ));
        }
        if let Some((_, bar)) = &*bar {
            bar.set(p.done);
        }
    };
    let published = publish(&store, &blobs, &authority, release, now, &mut report).await?;
    let (manifest, new) = match published {
        Published::New(manifest) => (manifest, true),
        Published::Already(manifest) => (manifest, false),
    };
    let sha256 = manifest.weights_sha256(&manifest.default_sub_model);
    let said = if new {
        "is published"
    } else {
        "was published already, nothing changed"
    };
    let text = format!(
        "{} {said}: weights {sha256:?}\n{}",
        manifest.version, manifest.note
    );
    print(
        json,
        &json!({"version": manifest.version, "new": new, "sha256": sha256, "note": manifest.note}),
        &text,
    )
}

async fn models(store: &Store, json: bool) -> Result<(), RunError> {
    let mut tx = store.begin("model.list").await?;
    let versions = model_list(&mut tx, LIST_MAX).await?;
    let values: Vec<_> = versions
        .iter()
        .map(|v| {
            let weights = v.manifest.weights_sha256(&v.manifest.default_sub_model);
            json!({"version": v.manifest.version, "current": v.is_current, "withdrawn": v.withdrawn,
                   "sha256": weights, "note": v.manifest.note})
        })
        .collect();
    let lines: Vec<String> = versions
        .iter()
        .map(|v| {
            let mark = if v.is_current { "*" } else { " " };
            let weights = v.manifest.weights_sha256(&v.manifest.default_sub_model);
            let hash = weights.first().map(Sha256::to_string).unwrap_or_default();
            format!(
                "{mark} {:<14} {hash}  {}",
                v.manifest.version.as_str(),
                v.manifest.note
            )
        })
        .collect();
    print(json, &json!(values), &lines.join("\n"))
}

pub(super) async fn find(store: &Store, name: &str) -> Result<Node, RunError> {
    let mut tx = store.begin("node.find").await?;
    let found = if let Ok(key) = name.parse::<PublicKey>() {
        node_lookup_by_key(&mut tx, &key).await?
    } else {
        let id: NodeId = name.parse().map_err(RunError::usage)?;
        node_lookup(&mut tx, id).await?
    };
    let missing = format!("there is no node {name}; `owm-coordinator node list` shows all");
    found.ok_or_else(|| RunError::failed(missing))
}

async fn suspend(
    store: &Store,
    name: &str,
    reason: &str,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let node = find(store, name).await?;
    let status = next_status(node.status, StatusEvent::Suspended)?;
    let mut tx = store.begin("node.suspend").await?;
    node_set_status(&mut tx, node.node_id, status, reason, now).await?;
    Told::NodeStatus { node: node.node_id }
        .add(&mut tx, now)
        .await?;
    tx.commit().await?;
    let text = format!(
        "{} is suspended; its leases move on to others",
        node.public_key
    );
    print(
        json,
        &json!({"node": node.public_key, "status": status}),
        &text,
    )
}

async fn api_key(
    context: &Context,
    config: &Config,
    name: &str,
    json: bool,
    now: UnixMillis,
) -> Result<(), RunError> {
    let mut rng = context.seed.rng("api-key");
    let secret: [u8; 32] = rng.random();
    let key = format!("owm_{}", data_encoding::HEXLOWER.encode(&secret));
    let id = uuid::Builder::from_random_bytes(rng.random()).into_uuid();
    let store = serve::store(config)?;
    let mut tx = store.begin("api_key.create").await?;
    api_key_create(&mut tx, id, &Sha256::of(key.as_bytes()), name, now).await?;
    tx.commit().await?;
    print(
        json,
        &json!({"key": key, "name": name}),
        &format!("{key}\nkeep it: only its hash is stored here"),
    )
}
