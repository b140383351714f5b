//! `owm-node models`: what is on the disk and what is loaded (`list`), getting a version now (`fetch`),
//! hashing everything again (`verify`).

mod fetch;
mod verify;

use clap::{Args, Subcommand};
use owm_service::RunError;
use serde_json::json;

use super::{ConfigArg, Output, block_on};
use crate::{
    control,
    home::Home,
    models::{Shelf, SignedManifest},
    network::Network,
};

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Lists the version on this node, its files and what is loaded.
    #[command(after_help = "Example:\n  owm-node models list --json")]
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Downloads a version now, and repairs what is damaged; a running node loads it by itself.
    Fetch(fetch::FetchArgs),
    /// Hashes every model file again and compares it with its signed manifest; changes nothing.
    Verify(verify::VerifyArgs),
}

pub(super) fn run(arguments: &ModelsArgs, output: Output) -> Result<(), RunError> {
    match &arguments.command {
        ModelsCommand::List { config } => list(config, output),
        ModelsCommand::Fetch(arguments) => fetch::run(arguments, output),
        ModelsCommand::Verify(arguments) => verify::run(arguments, output),
    }
}

fn list(config: &ConfigArg, output: Output) -> Result<(), RunError> {
    let (path, config) = config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let shelf = Shelf::new(home.models(), None);
    let loaded = block_on(control::ask(&home.control()))?
        .ok()
        .and_then(|answer| answer.status.model)
        .map(|model| model.version);
    let kept = match Network::load(&home.network(), None) {
        Ok(network) => SignedManifest::load(&shelf.newest(), &network.trust)?,
        Err(_) => None,
    };
    let Some(kept) = kept else {
        output.answer(
            &json!({ "versions": [] }),
            &[
                "no model on this node yet; get it: owm-node models fetch, or owm-node start"
                    .to_owned(),
            ],
        );
        return Ok(());
    };
    let manifest = &kept.manifest;
    let is_loaded = loaded.as_deref() == Some(manifest.version.as_str());
    let mut lines = vec![format!(
        "{}{} sequence {}",
        manifest.version,
        if is_loaded { " (loaded)" } else { "" },
        manifest.sequence
    )];
    if !kept.note.is_empty() {
        lines.push(format!("  {}", kept.note));
    }
    lines.extend(manifest.files.iter().map(|file| {
        let state = if shelf.has(file) { "here" } else { "missing" };
        format!(
            "  {} {} bytes {state} {}",
            file.sha256, file.size, file.name
        )
    }));
    let files: Vec<_> = manifest
        .files
        .iter()
        .map(
            |f| json!({ "name": f.name, "size": f.size, "sha256": f.sha256, "here": shelf.has(f) }),
        )
        .collect();
    let version = json!({
        "version": manifest.version,
        "sequence": manifest.sequence,
        "loaded": is_loaded,
        "note": kept.note,
        "sub_models": manifest.sub_models.keys().collect::<Vec<_>>(),
        "files": files,
    });
    output.answer(
        &json!({ "versions": [version], "disk_bytes": shelf.used()? }),
        &lines,
    );
    Ok(())
}
