//! Where `owm-node train` finds its model and its text.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use owm_corpus::{Document, FetchError, FolderLimits, fetch, load, read_folder};
use owm_proto::SubModelId;
use owm_service::RunError;
use tempfile::TempDir;

use super::show::Show;
use crate::{
    cli::ConfigArg,
    home::Home,
    models::{Shelf, SignedManifest, files_of},
    network::Network,
};

/// A model to train.
pub(super) struct Model {
    /// What it is called.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// SHA-256 of its files, where a signed manifest says them.
    pub(super) expected: Option<BTreeMap<String, [u8; 32]>>,
    /// Keeps a folder that was made for this run.
    _made: Option<TempDir>,
}

/// The model of a name: `tiny`, a folder, or a sub-model that lies here.
pub(super) fn model(name: Option<&str>, seed: u64, config: &ConfigArg) -> Result<Model, RunError> {
    match name {
        Some("tiny") => {
            let made = tempfile::tempdir()?;
            owm_model::write_fresh(made.path(), seed)?;
            Ok(Model {
                name: "tiny (knows nothing yet)".to_owned(),
                folder: made.path().to_owned(),
                expected: None,
                _made: Some(made),
            })
        }
        Some(path) if Path::new(path).is_dir() => Ok(Model {
            name: path.to_owned(),
            folder: PathBuf::from(path),
            expected: None,
            _made: None,
        }),
        other => installed(other, config),
    }
}

/// A sub-model of the newest version on this node.
fn installed(name: Option<&str>, config: &ConfigArg) -> Result<Model, RunError> {
    let hint = "give --model FOLDER or --model tiny, or get one: owm-node models fetch";
    let wanted: Option<SubModelId> = match name {
        None => None,
        Some(name) => Some(name.parse().map_err(|_| {
            RunError::usage(format!(
                "{name} is neither a folder nor a sub-model's name; {hint}"
            ))
        })?),
    };
    let none = || RunError::failed(format!("no model on this node yet; {hint}"));
    let (path, config) = config.load()?;
    let home = Home::open(&config.data_folder(&path))?;
    let shelf = Shelf::new(home.models(), None);
    let network = Network::load(&home.network(), None).map_err(|_| none())?;
    let signed = SignedManifest::load(&shelf.newest(), &network.trust)?.ok_or_else(none)?;
    let manifest = &signed.manifest;
    let id = wanted.unwrap_or_else(|| manifest.default_sub_model.clone());
    if !manifest.sub_models.contains_key(&id) {
        return Err(RunError::failed(format!(
            "{} has no sub-model {id}; {hint}",
            manifest.version
        )));
    }
    let ids = [id.clone()];
    let files = files_of(manifest, &ids);
    if let Some(file) = files.into_iter().find(|file| !shelf.has(file)) {
        return Err(RunError::failed(format!(
            "{} of {} is not here whole; get it: owm-node models fetch",
            file.name, manifest.version
        )));
    }
    let (folder, expected) = shelf.lay_out(manifest, &id)?;
    Ok(Model {
        name: format!("{} {id}", manifest.version),
        folder,
        expected: Some(expected),
        _made: None,
    })
}

/// The documents of a folder.
pub(super) fn folder(folder: &Path, show: &mut Show) -> Result<Vec<Document>, RunError> {
    let mut progress = |files: usize, bytes: u64| {
        if files.is_multiple_of(500) {
            show.now(&format!(
                "reading: {files} files, {} kB of text",
                bytes / 1000
            ));
        }
    };
    let text =
        read_folder(folder, FolderLimits::default(), &mut progress).map_err(RunError::failed)?;
    let mut left_out: Vec<String> = text
        .skipped_counts
        .iter()
        .map(|(reason, count)| format!("{count} {}", reason.words()))
        .collect();
    if text.duplicates > 0 {
        left_out.push(format!("{} the same as another", text.duplicates));
    }
    let bytes: usize = text
        .documents
        .iter()
        .map(|document| document.text.len())
        .sum();
    let mut line = format!("{} documents, {} kB", text.documents.len(), bytes / 1000);
    if !left_out.is_empty() {
        line = format!("{line}; left out: {}", left_out.join(", "));
    }
    show.now(&line);
    Ok(text.documents)
}

/// The documents of a public corpus, fetched if they are not in the cache.
pub(super) fn corpus(
    id: &str,
    shards: &[String],
    cache: Option<&Path>,
    show: &mut Show,
) -> Result<Vec<Document>, RunError> {
    let Some(corpus) = owm_corpus::corpus(id) else {
        let known: Vec<String> = owm_corpus::catalogue()
            .into_iter()
            .map(|corpus| corpus.id)
            .collect();
        return Err(RunError::usage(format!(
            "there is no corpus {id}; known are {}",
            known.join(", ")
        )));
    };
    let cache = match cache {
        Some(cache) => cache.to_owned(),
        None => {
            cache_folder().ok_or_else(|| RunError::usage("HOME is not set; give --cache FOLDER"))?
        }
    };
    let documents = match load(&corpus, &cache, shards) {
        // Not there yet, or damaged there.
        Err(FetchError::Missing { .. } | FetchError::Hash { .. }) => {
            let mut progress = |done: usize, total: usize, next: &str| {
                show.now(&format!("fetching {id}: {done} of {total} packages {next}"));
            };
            let fetched = fetch(&corpus, &cache, &mut progress);
            fetched.and_then(|()| load(&corpus, &cache, shards))
        }
        loaded => loaded,
    };
    let documents = documents.map_err(RunError::failed)?;
    let mut documents: Vec<Document> = documents.into_values().flatten().collect();
    owm_corpus::deduplicate(&mut documents);
    let bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    show.now(&format!(
        "{id}: {} documents, {} kB",
        documents.len(),
        bytes / 1000
    ));
    Ok(documents)
}

/// Where archives of corpora are kept, if nothing else is said.
pub(in crate::cli) fn cache_folder() -> Option<PathBuf> {
    let named = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    Some(cache?.join("owm/corpora"))
}
