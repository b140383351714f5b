//! Bringing a corpus into the cache folder and reading it from there. Called by the daemon's commands from
//! a blocking thread. Packages come through the registries' own clients, which the machine is set up
//! for (mirrors, proxies); an archive is under its name only if its SHA-256 is the listed one, and is
//! hashed again when it is read.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use crate::{ArchiveError, Client, Corpus, Document, Package, archive};

/// Largest archive, in bytes.
const ARCHIVE_BYTES_MAX: u64 = 256 << 20;

/// A corpus cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The cache cannot be used.
    #[error("the cache folder {path} cannot be used: free some space or name another one")]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The client is not installed.
    #[error(
        "{program} is not installed here, and {package} comes through it: install it, or put {file} into the cache folder"
    )]
    NoClient {
        /// The client.
        program: &'static str,
        /// The package.
        package: String,
        /// The archive's name in the cache.
        file: String,
    },
    /// The client failed.
    #[error(
        "{program} could not bring {package}: {message}; is the network there? try again, or put {file} into the cache folder"
    )]
    Client {
        /// The client.
        program: &'static str,
        /// The package.
        package: String,
        /// Its last words.
        message: String,
        /// The archive's name in the cache.
        file: String,
    },
    /// Another archive came than the listed one.
    #[error(
        "{package} has the SHA-256 {found}, listed is {listed}: it is not used; fetch the corpus again, and tell the maintainers if this stays so"
    )]
    Hash {
        /// The package.
        package: String,
        /// Of what came.
        found: String,
        /// Of the catalogue.
        listed: String,
    },
    /// Not fetched yet.
    #[error("{package} is not in the cache folder: fetch the corpus first")]
    Missing {
        /// The package.
        package: String,
    },
    /// No such shard.
    #[error("the corpus {corpus} has no shard {shard}: it has {known}")]
    NoShard {
        /// The corpus.
        corpus: String,
        /// What was asked for.
        shard: String,
        /// The first shards there are.
        known: String,
    },
    /// An archive is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Brings the packages that are not in the cache yet, or damaged there. `progress` hears how many of how many are there, and
/// which is next.
pub fn fetch(
    corpus: &Corpus,
    cache: &Path,
    progress: &mut dyn FnMut(usize, usize, &str),
) -> Result<(), FetchError> {
    fs::create_dir_all(cache).map_err(|source| cache_error(cache, source))?;
    let total = corpus.packages.len();
    for (at, package) in corpus.packages.iter().enumerate() {
        progress(at, total, &package.name);
        if read_checked(package, &cache.join(package.file_name())).is_err() {
            bring(package, cache)?;
        }
    }
    progress(total, total, "");
    Ok(())
}

/// The documents of a corpus by shard, from the cache. With `only`, these shards.
pub fn load(
    corpus: &Corpus,
    cache: &Path,
    only: &[String],
) -> Result<BTreeMap<String, Vec<Document>>, FetchError> {
    let mut shards: BTreeMap<String, Vec<Document>> = BTreeMap::new();
    for package in &corpus.packages {
        let is_code = package.client == Client::Cargo;
        if is_code && !only.is_empty() && !only.contains(&package.name) {
            continue;
        }
        let bytes = read_checked(package, &cache.join(package.file_name()))?;
        let source = |path: &Path| archive::is_source(path).then(|| package.name.clone());
        let shard: &dyn Fn(&Path) -> Option<String> =
            if is_code { &source } else { &archive::region };
        for (name, documents) in archive::read(&package.name, &bytes, shard)? {
            shards.entry(name).or_default().extend(documents);
        }
    }
    if let Some(shard) = only.iter().find(|shard| !shards.contains_key(*shard)) {
        let known: Vec<&str> = if corpus.packages.len() > 1 {
            corpus
                .packages
                .iter()
                .map(|package| package.name.as_str())
                .collect()
        } else {
            shards.keys().map(String::as_str).collect()
        };
        return Err(FetchError::NoShard {
            corpus: corpus.id.clone(),
            shard: shard.clone(),
            known: known[..known.len().min(12)].join(", "),
        });
    }
    if !only.is_empty() {
        shards.retain(|name, _| only.contains(name));
    }
    Ok(shards)
}

fn cache_error(path: &Path, source: io::Error) -> FetchError {
    FetchError::Cache {
        path: path.to_owned(),
        source,
    }
}

/// The bytes of an archive, if they are the listed ones.
fn read_checked(package: &Package, path: &Path) -> Result<Vec<u8>, FetchError> {
    let missing = || FetchError::Missing {
        package: package.name.clone(),
    };
    let size = fs::metadata(path).map_err(|_| missing())?.len();
    if size > ARCHIVE_BYTES_MAX {
        return Err(missing());
    }
    let bytes = fs::read(path).map_err(|source| cache_error(path, source))?;
    let found = hex(&Sha256::digest(&bytes));
    if found != package.sha256 {
        return Err(FetchError::Hash {
            package: package.name.clone(),
            found,
            listed: package.sha256.clone(),
        });
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lets the package's client fetch it into a folder beside the cache's files, checks it, renames it.
fn bring(package: &Package, cache: &Path) -> Result<(), FetchError> {
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(cache)
        .map_err(|source| cache_error(cache, source))?;
    let found = match package.client {
        Client::Npm => npm(package, work.path())?,
        Client::Cargo => cargo(package, work.path())?,
    };
    let bytes = read_checked(package, &found)?;
    let partial = work.path().join("archive");
    let target = cache.join(package.file_name());
    let kept = write_through(&partial, &bytes).and_then(|()| fs::rename(&partial, &target));
    kept.and_then(|()| File::open(cache)?.sync_all())
        .map_err(|source| cache_error(&target, source))
}

/// Written, and on the disk: a name in the cache never stands for bytes that a power cut took.
fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn npm(package: &Package, work: &Path) -> Result<PathBuf, FetchError> {
    let wanted = format!("{}@{}", package.name, package.version);
    let mut command = Command::new("npm");
    command
        .args(["pack", "--loglevel=error", "--ignore-scripts", &wanted])
        .current_dir(work);
    run("npm", command, package)?;
    Ok(work.join(format!("{}-{}.tgz", package.name, package.version)))
}

fn cargo(package: &Package, work: &Path) -> Result<PathBuf, FetchError> {
    let archive = format!("{}-{}.crate", package.name, package.version);
    if let Some(found) = in_cargo_cache(package, &archive) {
        return Ok(found);
    }
    // A project that depends on nothing else: Cargo then brings it, and what it needs, into its cache.
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
         [dependencies.\"{}\"]\nversion = \"={}\"\ndefault-features = false\n",
        package.name, package.version
    );
    let prepared = fs::create_dir(work.join("src"))
        .and_then(|()| fs::write(work.join("src/lib.rs"), ""))
        .and_then(|()| fs::write(work.join("Cargo.toml"), manifest));
    prepared.map_err(|source| cache_error(work, source))?;
    let mut command = Command::new("cargo");
    command.args(["fetch", "--quiet"]).current_dir(work);
    run("cargo", command, package)?;
    in_cargo_cache(package, &archive).ok_or_else(|| FetchError::Client {
        program: "cargo",
        package: package.name.clone(),
        message: "the archive is not in its cache afterwards".to_owned(),
        file: package.file_name(),
    })
}

/// The archive in Cargo's own cache: of several registries' the one that is the listed one, if any is.
fn in_cargo_cache(package: &Package, archive: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    among_registries(package, &home.join("registry/cache"), archive)
}

fn among_registries(package: &Package, cache: &Path, archive: &str) -> Option<PathBuf> {
    let registries = fs::read_dir(cache).ok()?;
    let paths = registries.flatten().map(|entry| entry.path().join(archive));
    let mut found: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    let listed = found
        .iter()
        .position(|path| read_checked(package, path).is_ok());
    match listed {
        Some(at) => Some(found.swap_remove(at)),
        None => found.pop(),
    }
}

fn run(program: &'static str, mut command: Command, package: &Package) -> Result<(), FetchError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|_| FetchError::NoClient {
            program,
            package: package.name.clone(),
            file: package.file_name(),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(FetchError::Client {
        program,
        package: package.name.clone(),
        message: last
            .unwrap_or("it said nothing")
            .chars()
            .take(300)
            .collect(),
        file: package.file_name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(sha256: String) -> Corpus {
        Corpus {
            id: "test".into(),
            about: String::new(),
            shards: String::new(),
            packages: vec![Package {
                client: Client::Npm,
                name: "owm-no-such-package".into(),
                version: "1.0.0".into(),
                sha256,
                licence: "MIT".into(),
            }],
        }
    }

    #[test]
    fn an_archive_in_the_cache_is_used_only_if_its_hash_is_the_listed_one() {
        let dir = tempfile::tempdir().unwrap();
        let listed = hex(&Sha256::digest(b"x"));
        let corpus = package(listed);
        assert!(matches!(
            load(&corpus, dir.path(), &[]),
            Err(FetchError::Missing { .. })
        ));
        fs::write(dir.path().join("owm-no-such-package-1.0.0.tar.gz"), b"y").unwrap();
        assert!(matches!(
            load(&corpus, dir.path(), &[]),
            Err(FetchError::Hash { .. })
        ));
        // The right bytes, which are no archive.
        fs::write(dir.path().join("owm-no-such-package-1.0.0.tar.gz"), b"x").unwrap();
        fetch(&corpus, dir.path(), &mut |_, _, _| {}).unwrap();
        assert!(matches!(
            load(&corpus, dir.path(), &[]),
            Err(FetchError::Archive(_))
        ));
    }

    #[test]
    fn of_several_registries_the_listed_archive_is_taken() {
        let cache = tempfile::tempdir().unwrap();
        for (registry, bytes) in [("a", "old"), ("b", "listed"), ("c", "other")] {
            fs::create_dir(cache.path().join(registry)).unwrap();
            fs::write(cache.path().join(registry).join("x.crate"), bytes).unwrap();
        }
        let package = package(hex(&Sha256::digest(b"listed"))).packages.remove(0);
        let found = among_registries(&package, cache.path(), "x.crate").unwrap();
        assert_eq!(fs::read(found).unwrap(), b"listed");
        assert!(among_registries(&package, cache.path(), "y.crate").is_none());
    }
}
