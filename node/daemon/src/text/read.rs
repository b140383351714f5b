//! Text from a folder or from archives of public packages, by way of `owm-corpus`.

use std::path::{Path, PathBuf};

use owm_corpus::{
    Client, Corpus, Document, FetchError, FolderLimits, HELD_OUT_PER_MILLE, deduplicate, fetch,
    load, read_folder, split,
};
use owm_proto::{Sha256, evaluation::TextSource, hash::Hasher};
use owm_service::{CancellationToken, report::Chain};

use super::{Side, TextError, Texts, Wanted};

/// The operator's text and the cache of public corpora.
#[derive(Clone, Debug)]
pub struct OwnTexts {
    /// The operator's folder.
    pub folder: Option<PathBuf>,
    /// Where archives are kept; `None`: nowhere is known.
    pub cache: Option<PathBuf>,
    /// Whether missing archives may be fetched.
    pub fetch: bool,
}

impl Texts for OwnTexts {
    fn why_none(&self) -> Option<String> {
        let has_folder = self.folder.as_ref().is_some_and(|folder| folder.is_dir());
        let is_cached = |corpus: Corpus| {
            let cache = self.cache.as_ref();
            let there = |folder: &PathBuf| {
                let mut packages = corpus.packages.iter();
                packages.any(|package| folder.join(package.file_name()).is_file())
            };
            cache.is_some_and(there)
        };
        let can_fetch = || {
            let found = |program| on_path(program).is_some();
            self.fetch && self.cache.is_some() && (found("npm") || found("cargo"))
        };
        if has_folder || can_fetch() || owm_corpus::catalogue().into_iter().any(is_cached) {
            return None;
        }
        let why = "there is no text to measure with: [text] folder is no folder, no public corpus is in the cache, and \
                   none can be fetched (npm or cargo, and [text] fetch = true)";
        Some(why.into())
    }

    fn documents(
        &self,
        wanted: &Wanted<'_>,
        stop: &CancellationToken,
        hears: &mut dyn FnMut(&str),
    ) -> Result<Vec<String>, TextError> {
        let documents = match wanted.source {
            TextSource::Local => self.own(hears)?,
            TextSource::Corpus { id, shards } => self.corpus(id, shards, stop, hears)?,
        };
        if stop.is_cancelled() {
            return Err(TextError::Stopped);
        }
        let sides = split(documents, HELD_OUT_PER_MILLE);
        let side = match wanted.side {
            Side::HeldOut => sides.held_out,
            Side::Train => sides.train,
        };
        let chosen = choose(side, wanted);
        if chosen.is_empty() {
            return Err(TextError::Nothing);
        }
        Ok(chosen)
    }
}

impl OwnTexts {
    fn own(&self, hears: &mut dyn FnMut(&str)) -> Result<Vec<Document>, TextError> {
        let folder = self.folder.as_deref().ok_or(TextError::NoFolder)?;
        hears("reading this node's own text");
        // What is wrong with it names paths, which are private.
        let text = read_folder(folder, FolderLimits::default(), &mut |_, _| {});
        text.map(|text| text.documents)
            .map_err(|_| TextError::Folder)
    }

    fn corpus(
        &self,
        id: &str,
        shards: &[String],
        stop: &CancellationToken,
        hears: &mut dyn FnMut(&str),
    ) -> Result<Vec<Document>, TextError> {
        let corpus = owm_corpus::corpus(id);
        let corpus = corpus.ok_or_else(|| TextError::UnknownCorpus(id.to_owned()))?;
        let cache = self.cache.as_deref();
        let cache = cache.ok_or_else(|| TextError::NotHere(id.to_owned()))?;
        let failed = |error: FetchError| {
            tracing::warn!(corpus = id, error = %Chain(&error), "a corpus cannot be had");
            TextError::Corpus {
                id: id.to_owned(),
                reason: told(&error),
            }
        };
        let corpus = only(corpus, shards);
        hears(&format!("reading the corpus {id}"));
        let loaded = match load(&corpus, cache, shards) {
            Err(FetchError::Missing { .. } | FetchError::Hash { .. }) if self.fetch => {
                let mut progress = |done: usize, total: usize, next: &str| {
                    hears(&format!(
                        "fetching the corpus {id}: {done} of {total} packages {next}"
                    ));
                };
                bring(&corpus, cache, stop, &mut progress).map_err(failed)?;
                load(&corpus, cache, shards)
            }
            Err(FetchError::Missing { .. }) => return Err(TextError::NotHere(id.to_owned())),
            loaded => loaded,
        };
        let mut documents: Vec<Document> =
            loaded.map_err(failed)?.into_values().flatten().collect();
        deduplicate(&mut documents);
        Ok(documents)
    }
}

/// Why, for others to hear: without this machine's paths, nor what a program on it has said.
fn told(error: &FetchError) -> String {
    match error {
        FetchError::Cache { .. } => "the node's cache folder cannot be used".into(),
        FetchError::NoClient { program, .. } => format!("the node has no {program}"),
        FetchError::Client {
            program, package, ..
        } => format!("{program} could not bring {package} to the node"),
        FetchError::Hash { .. } | FetchError::Missing { .. } | FetchError::NoShard { .. } => {
            error.to_string()
        }
        _ => "an archive in the node's cache is damaged".into(),
    }
}

/// One package after the other, so that it can be stopped between two.
fn bring(
    corpus: &Corpus,
    cache: &Path,
    stop: &CancellationToken,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<(), FetchError> {
    let total = corpus.packages.len();
    for (at, package) in corpus.packages.iter().enumerate() {
        if stop.is_cancelled() {
            return Ok(());
        }
        progress(at, total, &package.name);
        let one = Corpus {
            packages: vec![package.clone()],
            ..corpus.clone()
        };
        fetch(&one, cache, &mut |_, _, _| {})?;
    }
    Ok(())
}

/// The packages that the shards come from: of source code each package is one, so that no other has to be here.
fn only(mut corpus: Corpus, shards: &[String]) -> Corpus {
    let is_needed = |client: Client, name: &String| {
        shards.is_empty() || client != Client::Cargo || shards.contains(name)
    };
    // With a shard of no package the whole corpus stays, and says what it has.
    let known = |shard: &String| corpus.packages.iter().any(|package| package.name == *shard);
    let is_code = corpus
        .packages
        .iter()
        .all(|package| package.client == Client::Cargo);
    if !is_code || shards.iter().all(known) {
        corpus
            .packages
            .retain(|package| is_needed(package.client, &package.name));
    }
    corpus
}

/// The first documents in the order of SHA-256(seed, 8 bytes little-endian ‖ the text's SHA-256), as many as fit; a
/// first one that is too long is cut at the end of a line.
fn choose(documents: Vec<Document>, wanted: &Wanted<'_>) -> Vec<String> {
    let mut keyed: Vec<(Sha256, String)> = documents
        .into_iter()
        .map(|document| {
            let mut key = Hasher::new();
            key.update(&wanted.seed.to_le_bytes());
            key.update(&document.sha256());
            (key.finish(), document.text)
        })
        .collect();
    keyed.sort();
    let mut left = usize::try_from(wanted.bytes_max).unwrap_or(usize::MAX);
    let mut chosen = Vec::new();
    for (_, mut text) in keyed {
        if chosen.len() >= wanted.documents_max as usize {
            break;
        }
        if text.len() > left {
            if !chosen.is_empty() {
                continue;
            }
            let end = text.as_bytes()[..left]
                .iter()
                .rposition(|byte| *byte == b'\n');
            text.truncate(end.map_or(0, |at| at + 1));
        }
        left -= text.len();
        if !text.is_empty() {
            chosen.push(text);
        }
    }
    chosen
}

/// Where a program lies.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(source: &TextSource) -> Wanted<'_> {
        Wanted {
            source,
            side: Side::HeldOut,
            seed: 7,
            documents_max: 100,
            bytes_max: 1 << 20,
        }
    }

    fn own(folder: &Path) -> OwnTexts {
        OwnTexts {
            folder: Some(folder.to_owned()),
            cache: None,
            fetch: false,
        }
    }

    fn read(texts: &OwnTexts, wanted: &Wanted<'_>) -> Result<Vec<String>, TextError> {
        texts.documents(wanted, &CancellationToken::new(), &mut |_| {})
    }

    #[test]
    fn a_folder_is_read_in_two_sides_that_share_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..60 {
            std::fs::write(dir.path().join(format!("{n}.txt")), format!("text {n}\n")).unwrap();
        }
        let texts = own(dir.path());
        assert_eq!(texts.why_none(), None);
        let held_out = read(&texts, &wanted(&TextSource::Local)).unwrap();
        let train = Wanted {
            side: Side::Train,
            ..wanted(&TextSource::Local)
        };
        let train = read(&texts, &train).unwrap();
        assert_eq!(held_out.len() + train.len(), 60);
        assert!(held_out.iter().all(|text| !train.contains(text)));
    }

    #[test]
    fn the_seed_chooses_and_the_bounds_hold() {
        let documents = |n: usize| -> Vec<Document> {
            let document = |i| Document::new(format!("{i}"), &format!("document number {i}\n"));
            (0..n).map(document).collect()
        };
        let source = TextSource::Local;
        let few = |seed, documents_max, bytes_max| {
            let wanted = Wanted {
                seed,
                documents_max,
                bytes_max,
                ..wanted(&source)
            };
            choose(documents(50), &wanted)
        };
        assert_eq!(few(1, 5, 1_000), few(1, 5, 1_000));
        assert_ne!(few(1, 5, 1_000), few(2, 5, 1_000));
        assert_eq!(few(1, 5, 1_000).len(), 5);
        let bytes: usize = few(1, 50, 100).iter().map(String::len).sum();
        assert!((80..=100).contains(&bytes), "{bytes}");
        let long = vec![Document::new("long", "one\ntwo\nthree\n")];
        let cut = Wanted {
            bytes_max: 9,
            ..wanted(&source)
        };
        assert_eq!(choose(long, &cut), ["one\ntwo\n"]);
    }

    #[test]
    fn what_is_wrong_with_a_private_folder_names_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("canary-folder");
        let error = read(&own(&missing), &wanted(&TextSource::Local)).unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
        assert!(own(&missing).why_none().is_some());
    }

    #[test]
    fn what_is_wrong_with_a_corpus_names_no_place_on_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("canary-cache");
        std::fs::write(&cache, b"a file, no folder").unwrap();
        let texts = OwnTexts {
            folder: None,
            cache: Some(cache),
            fetch: true,
        };
        let source = TextSource::Corpus {
            id: "owm-code".into(),
            shards: vec!["serde".into()],
        };
        let error = read(&texts, &wanted(&source)).unwrap_err().to_string();
        assert!(error.contains("cache folder"), "{error}");
        let client = told(&FetchError::Client {
            program: "npm",
            package: "world".into(),
            message: "EACCES: /home/canary/.npmrc".into(),
            file: "world.tgz".into(),
        });
        assert!(client.contains("npm could not bring world"), "{client}");
        for said in [error, client] {
            assert!(!said.contains("canary") && !said.contains('/'), "{said}");
        }
    }

    #[test]
    fn a_corpus_that_is_not_here_is_not_fetched_against_the_operators_will() {
        let dir = tempfile::tempdir().unwrap();
        let texts = OwnTexts {
            folder: None,
            cache: Some(dir.path().to_owned()),
            fetch: false,
        };
        let ask = |id: &str, shard: &str| {
            let source = TextSource::Corpus {
                id: id.into(),
                shards: vec![shard.into()],
            };
            read(&texts, &wanted(&source)).unwrap_err()
        };
        assert!(matches!(ask("owm-geo", "europe"), TextError::NotHere(_)));
        assert!(matches!(ask("owm-code", "serde"), TextError::NotHere(_)));
        assert!(matches!(ask("owm-sci", "x"), TextError::UnknownCorpus(_)));
        let code = owm_corpus::corpus("owm-code").unwrap();
        assert_eq!(only(code.clone(), &["serde".into()]).packages.len(), 1);
        assert_eq!(
            only(code.clone(), &["no-such".into()]).packages.len(),
            code.packages.len()
        );
    }
}
