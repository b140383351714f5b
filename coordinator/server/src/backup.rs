//! Backup and restore of a coordinator: keys, documents, configuration, database, published files.
//!
//! `cli::backup` calls it. Must stay true: a backup is taken while the coordinator serves, the database at
//! one instant and the published files after it, so that no row names a file that is missing; a restore
//! writes nothing before the backup, the folder and the database have been looked at; the ledger after a
//! restore is the backup's, no more and no less.

pub mod postgres;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use owm_coordinator_store::{Store, StoreError, database::schema_known};
use owm_proto::{KeyError, NodeKey, Sha256, UnixMillis, genesis::network_id};
use owm_service::{
    archive::{self, Archive, ArchiveError, Manifest, Plan, Staging, Written},
    config::{ConfigError, set},
    secret,
};
use zeroize::Zeroizing;

use self::postgres::{Login, PostgresError, Programs};
use crate::config::Config;

/// The name under which backups are known as ours.
pub const PROGRAM: &str = "owm-coordinator";
/// The configuration's name in a backup and in a restored folder.
const CONFIG: &str = "coordinator.toml";
/// The dump's name in a backup.
const DUMP: &str = "database.dump";
/// The file with the database's URL in a restored folder.
const URL_FILE: &str = "database.url";
/// Without one of these there is no coordinator.
const NEEDED: [&str; 3] = ["genesis.json", "instance.pem", "data.key"];
/// Kept elsewhere by careful operators; and the peers that were met, by which a restored coordinator finds the
/// swarm again while nobody can name it.
const OPTIONAL: [&str; 3] = ["release.pem", "offline/root.pem", crate::swarm::PEERS_FILE];
/// Folders of signed statements.
const STATEMENTS: [&str; 2] = ["delegations", "revocations"];
/// A configuration larger than this is none.
const CONFIG_BYTES_MAX: u64 = owm_service::config::CONFIG_BYTES_MAX;

/// Facts in the manifest that a restore needs.
const POSTGRES_MAJOR: &str = "postgres_major";
const SCHEMA: &str = "schema";

/// Why there is no backup, or no restore.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file or a folder.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The database's programs.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file with the database's URL.
    #[error("the database's URL: {0}")]
    UrlFile(#[from] secret::SecretFileError),
    /// No text in it.
    #[error("{} holds no UTF-8 text; it should hold one line, postgres://user:password@host/database", .0.display())]
    UrlText(PathBuf),
    /// Something without which there is no coordinator.
    #[error("{} is missing; without it there is nothing to back up: is [identity] dir right?", .0.display())]
    Missing(PathBuf),
    /// The backup's own parts contradict each other.
    #[error("the backup contradicts itself: {0}; take another one")]
    Contradiction(String),
    /// The backup's schema is newer.
    #[error(
        "the backup's database has schema {found}, this program knows up to {known}: restore it with \
         version {version} or newer"
    )]
    NewerSchema {
        /// The backup's.
        found: i64,
        /// This program's.
        known: i64,
        /// The program that made the backup.
        version: String,
    },
    /// The new server is older.
    #[error(
        "the backup is from Postgres {dumped}, this server is {server}: an older server may not take \
         it; restore into Postgres {dumped} or newer"
    )]
    OlderServer {
        /// The backup's.
        dumped: u32,
        /// The target's.
        server: u32,
    },
    /// Somebody's data is in the database.
    #[error(
        "the database is not empty ({0} tables and other objects): a restore overwrites nothing; make \
         a new one (`createdb owm_restored`) and name it in the file for --database-url-file"
    )]
    DatabaseNotEmpty(i64),
    /// It is not said where the database is.
    #[error(
        "the backup's configuration reads its database URL from a file, which is not in the backup: \
         write the URL of a new, empty database to a file (mode 0600) and give --database-url-file"
    )]
    NoUrl,
    /// The last steps failed when the database was filled already.
    #[error(
        "the database was restored, but then this failed: {0}; drop and create the database, then \
         restore again"
    )]
    HalfWay(Box<BackupError>),
}

/// What a backup is made of.
#[derive(Debug)]
pub struct Job<'a> {
    /// The configuration, its paths absolute.
    pub config: &'a Config,
    /// Where it was read from.
    pub config_path: &'a Path,
    /// The new file.
    pub to: &'a Path,
    /// Whether published files are in it.
    pub blobs: bool,
    /// Now.
    pub now: UnixMillis,
}

/// Makes a backup; the second are published files that are damaged on this disk, by name.
pub async fn backup(job: &Job<'_>, store: &Store) -> Result<(Written, Vec<String>), BackupError> {
    if job.to.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(job.to.to_owned()).into());
    }
    let identity = &job.config.identity.dir;
    let mut members = vec![(CONFIG.to_owned(), job.config_path.to_owned())];
    members.extend(identity_files(identity)?);
    let genesis_path = identity.join("genesis.json");
    let genesis = fs::read(&genesis_path).map_err(ArchiveError::io(&genesis_path))?;
    let key = NodeKey::load(&identity.join("instance.pem"))?.public();
    let major = store.server_major().await?;
    let schema = store.schema().await?;
    // Beside the backup: the room that is needed there anyway.
    let beside = std::path::absolute(job.to).map_err(ArchiveError::io(job.to))?;
    let beside = beside.parent().unwrap_or(Path::new("/")).to_owned();
    let scratch = tempfile::Builder::new()
        .prefix(".owm-dump-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in(&beside)
        .map_err(ArchiveError::io(&beside))?;
    let dump = scratch.path().join(DUMP);
    let login = Login::parse(&database_url(job.config)?)?;
    Programs::find(major)?.dump(&login, &dump).await?;
    members.push((DUMP.to_owned(), dump));
    if job.blobs {
        members.extend(blob_files(&job.config.blobs.dir)?);
    }
    let facts = [
        (POSTGRES_MAJOR, major.to_string()),
        (SCHEMA, schema.to_string()),
        ("blobs", job.blobs.to_string()),
    ];
    let plan = Plan {
        program: PROGRAM,
        version: env!("CARGO_PKG_VERSION"),
        network: network_id(&genesis).to_string(),
        key: key.to_string(),
        created_at_ms: job.now.0,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
        members,
    };
    let written = archive::write(&plan, job.to)?;
    // The backup is whole and has its name: it must not count as failed.
    if let Err(error) = archive::note_last(identity, &written) {
        tracing::warn!(%error, "the backup is made, but doctor will not know of it");
    }
    let damaged = damaged_blobs(&written.manifest);
    Ok((written, damaged))
}

/// The URL of the configured database, password included.
pub fn database_url(config: &Config) -> Result<Zeroizing<String>, BackupError> {
    match &config.database.url_file {
        None => Ok(Zeroizing::new(config.database.url.clone())),
        Some(path) => read_url(path),
    }
}

fn read_url(path: &Path) -> Result<Zeroizing<String>, BackupError> {
    let bytes = secret::read_file(path)?;
    let text =
        std::str::from_utf8(bytes.expose()).map_err(|_| BackupError::UrlText(path.to_owned()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Keys and documents, by their names below the identity's folder.
fn identity_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    for name in NEEDED {
        let path = dir.join(name);
        if !path.is_file() {
            return Err(BackupError::Missing(path));
        }
        found.push((name.to_owned(), path));
    }
    for name in OPTIONAL {
        let path = dir.join(name);
        if path.is_file() {
            found.push((name.to_owned(), path));
        }
    }
    for folder in STATEMENTS {
        for (name, path) in files_in(&dir.join(folder))? {
            if Path::new(&name).extension().is_some_and(|end| end == "bin") {
                found.push((format!("{folder}/{name}"), path));
            }
        }
    }
    Ok(found)
}

fn blob_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    // Others are uploads under way.
    let whole = |name: &str| name.parse::<Sha256>().is_ok();
    let files = files_in(dir)?.into_iter().filter(|(name, _)| whole(name));
    Ok(files
        .map(|(name, path)| (format!("blobs/{name}"), path))
        .collect())
}

/// Ordinary files, sorted by name; none if there is no such folder.
fn files_in(dir: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(ArchiveError::io(dir))? {
        let entry = entry.map_err(ArchiveError::io(dir))?;
        let path = entry.path();
        if let (Ok(name), true) = (entry.file_name().into_string(), path.is_file()) {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

fn damaged_blobs(manifest: &Manifest) -> Vec<String> {
    let blobs = manifest
        .members
        .iter()
        .filter_map(|entry| Some((entry.name.strip_prefix("blobs/")?, entry)));
    blobs
        .filter(|(name, entry)| *name != entry.sha256)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Checks a backup and says what it is; writes nothing.
pub fn check(from: &Path) -> Result<Archive, BackupError> {
    let archive = Archive::open(from, PROGRAM)?;
    let manifest = archive.manifest();
    let found: i64 = fact(manifest, SCHEMA)?;
    if found > schema_known() {
        return Err(BackupError::NewerSchema {
            found,
            known: schema_known(),
            version: manifest.version.clone(),
        });
    }
    let has = |name: &str| manifest.members.iter().any(|entry| entry.name == name);
    for name in NEEDED.into_iter().chain([CONFIG, DUMP]) {
        if !has(name) {
            return Err(BackupError::Contradiction(format!("{name} is not in it")));
        }
    }
    Ok(archive)
}

fn fact<T: std::str::FromStr>(manifest: &Manifest, name: &str) -> Result<T, BackupError> {
    let found = manifest.facts.get(name).and_then(|text| text.parse().ok());
    found.ok_or_else(|| BackupError::Contradiction(format!("`{name}` is not in its manifest")))
}

/// Restores the backup `from` to the empty folder `dir` and an empty database: the one whose URL is in
/// `url_file`, else the one that the backup's configuration names without a file.
pub async fn restore(
    from: &Path,
    dir: &Path,
    url_file: Option<&Path>,
) -> Result<Manifest, BackupError> {
    Staging::check(dir)?;
    let mut archive = check(from)?;
    let manifest = archive.manifest().clone();
    let config = archive.read(CONFIG, CONFIG_BYTES_MAX)?;
    let config = String::from_utf8(config)
        .map_err(|_| BackupError::Contradiction(format!("{CONFIG} is no text")))?;
    let url = match url_file {
        Some(path) => read_url(path)?,
        None => configured_url(&config)?,
    };
    let store = Store::connect(&url, 2)?;
    let server = store.server_major().await?;
    let dumped: u32 = fact(&manifest, POSTGRES_MAJOR)?;
    if server < dumped {
        return Err(BackupError::OlderServer { dumped, server });
    }
    let objects = store.objects().await?;
    if objects > 0 {
        return Err(BackupError::DatabaseNotEmpty(objects));
    }
    let programs = Programs::find(server)?;
    let staging = Staging::new(dir)?;
    archive.unpack(staging.path(), |name| name.into())?;
    check_identity(staging.path(), &manifest)?;
    let text = new_config(&config, url_file.is_some())?;
    staging.add(CONFIG, text.as_bytes())?;
    if url_file.is_some() {
        staging.add(URL_FILE, url.as_bytes())?;
    }
    let dump = staging.path().join(DUMP);
    programs.restore(&Login::parse(&url)?, &dump).await?;
    let finish = async {
        store.migrate().await?;
        fs::remove_file(&dump).map_err(ArchiveError::io(&dump))?;
        staging.commit()?;
        Ok(())
    };
    finish
        .await
        .map_err(|error| BackupError::HalfWay(Box::new(error)))?;
    Ok(manifest)
}

/// The URL in the configuration, if it has no file for it.
fn configured_url(text: &str) -> Result<Zeroizing<String>, BackupError> {
    let config: Config = owm_service::config::parse(text, "OWM", [])?;
    match config.database.url_file {
        Some(_) => Err(BackupError::NoUrl),
        None => Ok(Zeroizing::new(config.database.url)),
    }
}

/// The configuration with everything in its own folder, wherever that is.
fn new_config(text: &str, own_url_file: bool) -> Result<String, BackupError> {
    let mut changes = vec![("identity", "dir", "."), ("blobs", "dir", "blobs")];
    if own_url_file {
        changes.push(("database", "url_file", URL_FILE));
    }
    let text = set(text, &changes)?;
    // Whatever this program could not start with is refused before the database is touched.
    let _: Config = owm_service::config::parse(&text, "OWM", BTreeMap::new())?;
    Ok(text)
}

/// The unpacked keys are those that the manifest speaks of.
fn check_identity(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let path = folder.join("genesis.json");
    let genesis = fs::read(&path).map_err(ArchiveError::io(&path))?;
    if network_id(&genesis).to_string() != manifest.network {
        let what = "its genesis document is of another network";
        return Err(BackupError::Contradiction(what.to_owned()));
    }
    let key = NodeKey::load(&folder.join("instance.pem"))?.public();
    if key.to_string() != manifest.key {
        let what = "its instance key is another one";
        return Err(BackupError::Contradiction(what.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_configuration_stays_in_its_folder_and_keeps_the_rest() {
        let text = "# ours\n[identity]\ndir = \"/old\"\n[database]\nurl_file = \"/old/url\"\n[api]\nopen = false\n";
        let config = new_config(text, true).unwrap();
        assert!(config.starts_with("# ours\n"), "{config}");
        let read: Config = owm_service::config::parse(&config, "OWM", []).unwrap();
        assert_eq!(read.identity.dir, Path::new("."));
        assert_eq!(read.blobs.dir, Path::new("blobs"));
        assert_eq!(read.database.url_file.as_deref(), Some(Path::new(URL_FILE)));
        assert!(matches!(configured_url(text), Err(BackupError::NoUrl)));
        assert_eq!(configured_url("").unwrap().as_str(), "postgres:///owm");
    }

    /// A backup with these facts and members, all of them empty.
    fn forged(folder: &Path, schema: i64, names: &[&str]) -> PathBuf {
        let empty = folder.join("empty");
        fs::write(&empty, b"").unwrap();
        let to = folder.join(format!("{schema}-{}.tar", names.len()));
        let plan = Plan {
            program: PROGRAM,
            version: "9.0.0",
            network: String::new(),
            key: String::new(),
            created_at_ms: 0,
            facts: [(SCHEMA.to_owned(), schema.to_string())].into(),
            members: names
                .iter()
                .map(|name| ((*name).to_owned(), empty.clone()))
                .collect(),
        };
        archive::write(&plan, &to).unwrap().path
    }

    #[test]
    fn a_newer_schema_and_a_missing_part_are_refused_before_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let all = ["genesis.json", "instance.pem", "data.key", CONFIG, DUMP];
        check(&forged(folder.path(), schema_known(), &all)).unwrap();
        let error = check(&forged(folder.path(), schema_known() + 1, &all)).unwrap_err();
        assert!(
            error.to_string().contains("version 9.0.0 or newer"),
            "{error}"
        );
        let error = check(&forged(folder.path(), schema_known(), &all[..4])).unwrap_err();
        assert!(
            error.to_string().contains("database.dump is not in it"),
            "{error}"
        );
    }

    #[test]
    fn keys_statements_and_remembered_peers_are_taken_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for name in ["delegations", "offline", "blobs"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let files = [
            "genesis.json",
            "instance.pem",
            "release.pem",
            "offline/root.pem",
            "swarm-peers.json",
            "delegations/a.bin",
            "old-backup.tar",
            "delegations/notes.txt",
            "database.url",
        ];
        for name in files {
            fs::write(dir.join(name), b"x").unwrap();
        }
        assert!(matches!(identity_files(dir), Err(BackupError::Missing(_))));
        fs::write(dir.join("data.key"), b"x").unwrap();
        let names: Vec<String> = identity_files(dir)
            .unwrap()
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(
            names,
            [
                "genesis.json",
                "instance.pem",
                "data.key",
                "release.pem",
                "offline/root.pem",
                "swarm-peers.json",
                "delegations/a.bin"
            ]
        );
    }
}
