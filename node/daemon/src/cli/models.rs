//! `owm-node models`: what is on the disk and what is loaded (`list`), getting a version now (`fetch`),
//! hashing everything again (`verify`), and what stays when room is needed (`pin`, `gc`).

mod fetch;
mod room;
mod verify;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use owm_proto::{Sha256, manifest::ManifestFile};
use owm_service::RunError;
use serde_json::{Value, json};

use super::{ConfigArg, Output, Told, block_on};
use crate::{
    control,
    home::Home,
    models::{Shelf, ShelfError, SignedManifest},
    network::Network,
};

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Lists the versions on this node, their files and what is loaded.
    #[command(after_help = "Example:\n  owm-node models list --json")]
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Fetches a version now, from other nodes and the coordinator's server, and repairs what is damaged.
    Fetch(fetch::FetchArgs),
    /// Hashes every model file again and compares it with its signed manifest; changes nothing.
    Verify(verify::VerifyArgs),
    /// Keeps a version, or one file, when room is needed.
    Pin(room::PinArgs),
    /// Lets a pinned version or file go when room is needed.
    Unpin(room::PinArgs),
    /// Takes away the files that nobody needs.
    Gc(room::GcArgs),
}

pub(super) fn run(arguments: &ModelsArgs, output: Output) -> Result<(), RunError> {
    match &arguments.command {
        ModelsCommand::List { config } => list(config, output),
        ModelsCommand::Fetch(arguments) => fetch::run(arguments, output),
        ModelsCommand::Verify(arguments) => verify::run(arguments, output),
        ModelsCommand::Pin(arguments) => room::pin(arguments, output),
        ModelsCommand::Unpin(arguments) => room::unpin(arguments, output),
        ModelsCommand::Gc(arguments) => room::gc(arguments, output),
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
    let Ok(network) = Network::load(&home.network(), None) else {
        return Ok(show(&[], &shelf, output)?);
    };
    let mut kept: Vec<SignedManifest> = SignedManifest::load(&shelf.newest(), &network.trust)?
        .into_iter()
        .collect();
    for path in shelf.manifests()? {
        // One that does not hold is `verify`'s to tell of.
        if let Ok(Some(other)) = SignedManifest::load(&path, &network.trust)
            && kept
                .iter()
                .all(|k| k.manifest.version != other.manifest.version)
            && other.manifest.files.iter().any(|file| shelf.has(file))
        {
            kept.push(other);
        }
    }
    let versions: Vec<_> = kept
        .iter()
        .map(|kept| {
            let is_loaded = loaded.as_deref() == Some(kept.manifest.version.as_str());
            (kept, is_loaded)
        })
        .collect();
    Ok(show(&versions, &shelf, output)?)
}

fn show(
    versions: &[(&SignedManifest, bool)],
    shelf: &Shelf,
    output: Output,
) -> Result<(), ShelfError> {
    let marks = Marks::of(shelf)?;
    let mut lines: Vec<String> = versions
        .iter()
        .flat_map(|(kept, is_loaded)| version_lines(kept, *is_loaded, shelf, &marks))
        .collect();
    if versions.is_empty() {
        let text = "no model on this node yet; get it: owm-node models fetch, or owm-node start";
        lines.push(text.to_owned());
    }
    let values: Vec<_> = versions
        .iter()
        .map(|(kept, is_loaded)| version_value(kept, *is_loaded, shelf, &marks))
        .collect();
    let value = json!({ "versions": values, "disk_bytes": shelf.used()? });
    output.answer(&value, &lines);
    Ok(())
}

/// What is known of the files beside their names.
struct Marks {
    pinned: BTreeSet<Sha256>,
    /// Verified, and not changed since: what is served to others.
    verified: BTreeSet<Sha256>,
}

impl Marks {
    fn of(shelf: &Shelf) -> Result<Self, ShelfError> {
        let store = shelf.store()?;
        Ok(Self {
            pinned: store.pinned()?,
            verified: store.verified()?,
        })
    }

    fn words(&self, file: &ManifestFile, shelf: &Shelf) -> String {
        let state = match (shelf.has(file), self.verified.contains(&file.sha256)) {
            (false, _) => "missing",
            (true, true) => "here",
            (true, false) => {
                "here, not verified since it changed or came (look: owm-node models verify; put right: \
                 owm-node models fetch)"
            }
        };
        let pin = if self.pinned.contains(&file.sha256) {
            ", pinned"
        } else {
            ""
        };
        format!("{state}{pin}")
    }
}

fn version_lines(
    kept: &SignedManifest,
    is_loaded: bool,
    shelf: &Shelf,
    marks: &Marks,
) -> Vec<String> {
    let manifest = &kept.manifest;
    let loaded = if is_loaded { " (loaded)" } else { "" };
    let mut lines = vec![format!(
        "{}{loaded} sequence {}",
        manifest.version, manifest.sequence
    )];
    if !kept.note.is_empty() {
        lines.push(format!("  {}", kept.note));
    }
    lines.extend(manifest.files.iter().map(|file| {
        let words = marks.words(file, shelf);
        format!(
            "  {} {} bytes {words} {}",
            file.sha256, file.size, file.name
        )
    }));
    lines
}

fn version_value(kept: &SignedManifest, is_loaded: bool, shelf: &Shelf, marks: &Marks) -> Value {
    let manifest = &kept.manifest;
    let file = |f: &ManifestFile| {
        let is_here = shelf.has(f);
        json!({
            "name": f.name, "size": f.size, "sha256": f.sha256, "here": is_here,
            "verified": is_here && marks.verified.contains(&f.sha256),
            "pinned": marks.pinned.contains(&f.sha256),
        })
    };
    json!({
        "version": manifest.version,
        "sequence": manifest.sequence,
        "loaded": is_loaded,
        "note": kept.note,
        "sub_models": manifest.sub_models.keys().collect::<Vec<_>>(),
        "files": manifest.files.iter().map(file).collect::<Vec<_>>(),
    })
}
