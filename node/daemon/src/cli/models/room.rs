//! `owm-node models pin`, `unpin` and `gc`: which files stay when room is needed, and taking the others away.

use std::collections::BTreeSet;

use clap::Args;
use owm_p2p::exchange::store::Idle;
use owm_proto::Sha256;
use owm_service::RunError;
use serde_json::json;

use super::{ConfigArg, Output};
use crate::{
    home::Home,
    models::{Shelf, SignedManifest},
    network::Network,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node models pin owm-v0.1.0\n  owm-node models unpin owm-v0.1.0\n\n\
    Pinned files are never removed to make room ([caps] disk, owm-node models gc). The version a node works \
    with stays by itself."
)]
pub(super) struct PinArgs {
    /// A version on this node, or the SHA-256 of one file.
    what: String,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node models gc --dry-run\n  owm-node models gc --json\n\n\
    What stays: the newest version, what is pinned, and what a running node has loaded or fetches."
)]
pub(super) struct GcArgs {
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// The shelf, and the manifests on it whose signatures hold; whether the newest is among them, and then the first.
fn open(config: &ConfigArg) -> Result<(Shelf, Vec<SignedManifest>, bool), RunError> {
    let (path, config) = config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let shelf = Shelf::new(home.models(), None);
    let (mut kept, mut is_newest_known) = (Vec::new(), false);
    if let Ok(network) = Network::load(&home.network(), None) {
        let load = |path: &std::path::PathBuf| SignedManifest::load(path, &network.trust).ok()?;
        kept.extend(load(&shelf.newest()));
        is_newest_known = !kept.is_empty();
        kept.extend(shelf.manifests()?.iter().filter_map(load));
    }
    Ok((shelf, kept, is_newest_known))
}

/// The files that `what` names: of a version, or one.
fn files(what: &str, kept: &[SignedManifest]) -> Result<BTreeSet<Sha256>, RunError> {
    if let Ok(sha256) = what.parse() {
        return Ok([sha256].into());
    }
    let manifest = kept.iter().find(|k| k.manifest.version.as_str() == what);
    let manifest = manifest.ok_or_else(|| {
        let there: BTreeSet<_> = kept.iter().map(|k| k.manifest.version.as_str()).collect();
        let there: Vec<_> = there.into_iter().collect();
        let there = match there.join(", ") {
            none if none.is_empty() => "there is none yet (owm-node models fetch)".to_owned(),
            there => format!("there is: {there} (owm-node models list)"),
        };
        RunError::usage(format!(
            "{what} is no version on this node and no SHA-256; {there}"
        ))
    })?;
    let files = manifest.manifest.files.iter();
    Ok(files.map(|file| file.sha256).collect())
}

pub(super) fn pin(arguments: &PinArgs, output: Output) -> Result<(), RunError> {
    let (shelf, kept, _) = open(&arguments.config)?;
    let (store, files) = (shelf.store()?, files(&arguments.what, &kept)?);
    for sha256 in &files {
        store.pin(sha256)?;
    }
    let lines = [format!(
        "{} files of {} stay until they are unpinned",
        files.len(),
        arguments.what
    )];
    output.answer(&json!({ "pinned": files }), &lines);
    Ok(())
}

pub(super) fn unpin(arguments: &PinArgs, output: Output) -> Result<(), RunError> {
    let (shelf, kept, _) = open(&arguments.config)?;
    let store = shelf.store()?;
    let mut ended = BTreeSet::new();
    for sha256 in files(&arguments.what, &kept)? {
        if store.unpin(&sha256)? {
            ended.insert(sha256);
        }
    }
    let line = if ended.is_empty() {
        format!("nothing of {} was pinned", arguments.what)
    } else {
        format!(
            "{} files of {} may go when room is needed",
            ended.len(),
            arguments.what
        )
    };
    output.answer(&json!({ "unpinned": ended }), &[line]);
    Ok(())
}

fn unreadable(path: &std::path::Path) -> RunError {
    RunError::failed(format!(
        "{} can't be read, or no release key of this network has signed it (was one revoked?), so nobody knows which \
         files the newest version needs: nothing is deleted. Start the node, or run owm-node models fetch, and try again",
        path.display()
    ))
}

pub(super) fn gc(arguments: &GcArgs, output: Output) -> Result<(), RunError> {
    let (shelf, kept, is_newest_known) = open(&arguments.config)?;
    let Some(_writer) = shelf.writer()? else {
        return Err(RunError::failed(
            "the running node fetches into this folder just now; try again when it has finished",
        ));
    };
    let store = shelf.store()?;
    // The newest stands first. Without knowing what it names nothing may be deleted.
    let newest = kept.first().filter(|_| is_newest_known);
    if newest.is_none() && shelf.newest().exists() {
        return Err(unreadable(&shelf.newest()));
    }
    let files = newest.into_iter().flat_map(|kept| &kept.manifest.files);
    let names = files.flat_map(|file| [Some(file.sha256), file.ladder_sha256]);
    store.keep(names.flatten().collect());
    let gone = if arguments.dry_run {
        store.idle()?
    } else {
        store.gc()?
    };
    let name = |sha256: &Sha256| {
        let files = kept.iter().flat_map(|k| {
            let version = &k.manifest.version;
            k.manifest.files.iter().map(move |file| (version, file))
        });
        let mut named = files.filter(|(_, file)| file.sha256 == *sha256);
        named
            .next()
            .map(|(version, file)| format!("{version} {}", file.name))
    };
    let bytes: u64 = gone.iter().map(|file| file.bytes).sum();
    let verb = if arguments.dry_run {
        "would go"
    } else {
        "gone"
    };
    let line = |file: &Idle| {
        let name = name(&file.sha256).unwrap_or_else(|| "of no version here".into());
        let half = if file.whole { "" } else { ", half fetched" };
        format!(
            "{verb}: {} {} bytes ({name}{half})",
            file.sha256, file.bytes
        )
    };
    let mut lines: Vec<String> = gone.iter().map(line).collect();
    lines.push(format!("{verb}: {} files, {bytes} bytes", gone.len()));
    let value = |file: &Idle| json!({ "sha256": file.sha256, "bytes": file.bytes, "whole": file.whole, "name": name(&file.sha256) });
    output.answer(
        &json!({
            "dry_run": arguments.dry_run,
            "bytes": bytes,
            "files": gone.iter().map(value).collect::<Vec<_>>(),
        }),
        &lines,
    );
    Ok(())
}
