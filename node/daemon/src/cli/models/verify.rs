//! `owm-node models verify`: every file on the shelf hashed again, each with its verdict.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;
use owm_service::{RunError, doctor::shell, progress::Progress, report::Chain};
use serde_json::json;

use super::{ConfigArg, Output, Told};
use crate::{
    home::Home,
    models::{Checked, Expected, FileState, Shelf, SignedManifest, check, plan},
    network::Network,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  owm-node models verify\n  owm-node models verify --json | jq '.files[] | select(.state != \"ok\")'\n\n\
    Exit codes: 0 all files are what their signed manifest says, 1 one is not. Nothing is changed or \
    deleted; `owm-node models fetch` repairs."
)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    config: ConfigArg,
}

/// Manifests whose signatures hold, and what is wrong with the others.
struct Kept {
    newest: Option<SignedManifest>,
    others: Vec<SignedManifest>,
    refused: Vec<(PathBuf, String)>,
}

pub(super) fn run(arguments: &VerifyArgs, output: Output) -> Result<(), RunError> {
    let (path, config) = arguments.config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let shelf = Shelf::new(home.models(), None);
    let kept = kept(&home, &shelf)?;
    let wanted: Vec<_> = config
        .model
        .sub_models
        .iter()
        .map(|id| id.parse())
        .collect();
    let wanted: Vec<_> = wanted
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(RunError::usage)?;
    let plan = plan(&shelf, kept.newest.as_ref(), &kept.others, &wanted)?;
    let checked = check_all(&shelf, plan);
    let (_, growing) = shelf.lying_here()?;
    let refused: Vec<String> = kept
        .refused
        .iter()
        .map(|(path, why)| format!("{}: {why}", path.display()))
        .collect();
    let wrong = checked.iter().filter(|c| c.state != FileState::Ok).count() + kept.refused.len();
    let mut lines: Vec<String> = checked.iter().map(line).collect();
    lines.extend(refused.iter().map(|why| format!("refused   {why}")));
    lines.extend(growing.iter().map(|(sha256, bytes)| {
        format!("partial   {sha256} {bytes} bytes so far; the next fetch goes on from there")
    }));
    if checked.is_empty() {
        lines.push("no model on this node yet; get it: owm-node models fetch".to_owned());
    }
    let value = json!({
        "ok": wrong == 0,
        "files": checked,
        "refused_manifests": refused,
        "partial": growing.iter().map(|(s, n)| json!({ "sha256": s, "size": n })).collect::<Vec<_>>(),
    });
    output.answer(&value, &lines);
    if wrong == 0 {
        return Ok(());
    }
    let newest = kept
        .newest
        .as_ref()
        .map(|kept| kept.manifest.version.as_str());
    let repairs = repairs(&shelf, &checked, newest, &kept.refused);
    output.complain(&format!(
        "{wrong} of the model's files are not what their manifest says; this puts them right: {} (if it \
         happens often, check the disk and the memory of this machine)",
        repairs.into_iter().collect::<Vec<_>>().join("; ")
    ));
    Err(RunError::failed(Told))
}

fn kept(home: &Home, shelf: &Shelf) -> Result<Kept, RunError> {
    let mut kept = Kept {
        newest: None,
        others: Vec::new(),
        refused: Vec::new(),
    };
    let manifests = shelf.manifests()?;
    if manifests.is_empty() && !shelf.newest().exists() {
        return Ok(kept);
    }
    let trust = Network::load(&home.network(), None)?.trust;
    let mut load = |path: &std::path::Path| match SignedManifest::load(path, &trust) {
        Ok(found) => found,
        Err(error) => {
            kept.refused
                .push((path.to_owned(), Chain(&error).to_string()));
            None
        }
    };
    let newest = load(&shelf.newest());
    let others = manifests.iter().filter_map(|path| load(path)).collect();
    (kept.newest, kept.others) = (newest, others);
    Ok(kept)
}

/// Commands after which all is well, each once.
fn repairs(
    shelf: &Shelf,
    checked: &[Checked],
    newest: Option<&str>,
    refused: &[(PathBuf, String)],
) -> BTreeSet<String> {
    let fetch = || "owm-node models fetch".to_owned();
    let wrong = checked.iter().filter(|c| c.state != FileState::Ok);
    let files = wrong.map(|Checked { file, .. }| match file.version.as_deref() {
        Some(version) if Some(version) == newest => fetch(),
        Some(version) => format!("owm-node models fetch {version}"),
        None => format!("rm {}", shell(&shelf.blob(&file.sha256))),
    });
    let manifests = refused.iter().map(|(path, _)| {
        if *path == shelf.newest() {
            fetch()
        } else {
            format!("rm {}", shell(path))
        }
    });
    files.chain(manifests).collect()
}

fn check_all(shelf: &Shelf, plan: Vec<Expected>) -> Vec<Checked> {
    let total = plan.iter().filter_map(|file| file.size).sum();
    let bar = Progress::bytes(total, "hashing");
    let mut before = 0;
    let checked = plan.into_iter().map(|file| {
        let size = file.size.unwrap_or_default();
        let checked = check(shelf, file, &|done| bar.set(before + done));
        before += size;
        checked
    });
    let checked = checked.collect();
    bar.clear();
    checked
}

fn line(checked: &Checked) -> String {
    let Checked { file, state } = checked;
    let name = match (&file.name, &file.version) {
        (Some(name), Some(version)) => format!("{version} {name}"),
        (Some(name), None) => name.clone(),
        _ => "(of no known version)".to_owned(),
    };
    let sha256 = file.sha256;
    match state {
        FileState::Ok => format!("ok        {sha256} {name}"),
        FileState::Missing => format!("missing   {sha256} {name}"),
        FileState::Corrupt {
            found_sha256,
            found_size,
        } => {
            let size = file
                .size
                .map_or(String::new(), |size| format!(" of {size}"));
            format!(
                "corrupt   {sha256} {name}: SHA-256 is {found_sha256} ({found_size}{size} bytes)"
            )
        }
        FileState::Unreadable { error } => format!("unreadable {sha256} {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::Sha256;

    use super::*;

    #[test]
    fn each_wrong_file_has_its_repair() {
        let shelf = Shelf::new("m".into(), None);
        let wrong = |version: Option<&str>| Checked {
            file: Expected {
                sha256: Sha256::of(b"x"),
                name: None,
                version: version.map(Into::into),
                size: None,
            },
            state: FileState::Missing,
        };
        let checked = [wrong(Some("v1")), wrong(Some("v2")), wrong(None)];
        let refused = [(shelf.newest(), "why".to_owned())];
        let said: Vec<_> = repairs(&shelf, &checked, Some("v2"), &refused)
            .into_iter()
            .collect();
        let blob = shelf.blob(&Sha256::of(b"x"));
        let rm = format!("rm {}", blob.display());
        let fetch = "owm-node models fetch";
        assert_eq!(said, [fetch, &format!("{fetch} v1"), &rm]);
    }
}
