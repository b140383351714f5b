//! Backup and restore of a node: its key, configuration, documents and task log; models only if asked, as
//! they are fetched again.
//!
//! `cli::backup` calls it. Must stay true: a backup is taken while the daemon runs, with every finished
//! result that is not acknowledged yet; every file of the data folder is either kept or named here as
//! not kept (an end-to-end test looks); a restored node has the same key and is the same node.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use owm_proto::{KeyError, NodeKey, Sha256, UnixMillis, invite::Invite};
use owm_service::{
    archive::{self, Archive, ArchiveError, Manifest, Plan, Staging, Written},
    config::{ConfigError, set},
};

use crate::{
    config::NodeConfig,
    home::Home,
    tasklog::{TaskLog, TaskLogError},
};

/// The name under which backups are known as ours.
pub const PROGRAM: &str = "owm-node";
/// The configuration's name in a backup and in a restored folder.
const CONFIG: &str = "owm.toml";
/// The data folder's name in a backup and in a restored folder.
const DATA: &str = "data";
/// The task log's name in the data folder.
const TASKS: &str = "tasks.sqlite";
/// The identity's name in the data folder.
const KEY: &str = "node.pem";
/// A configuration larger than this is none.
const CONFIG_BYTES_MAX: u64 = owm_service::config::CONFIG_BYTES_MAX;

/// What of the data folder is kept as it is, if it is there. The task log is kept as a snapshot.
pub const KEPT: &[&str] = &[
    KEY,
    "owner-binding.pb",
    "membership.pb",
    "network/genesis.json",
    "network/documents.pb",
    "models/newest.pb",
    "newest-checkpoint.pb",
    // A restored node finds its way back in, whoever is away.
    "peers.json",
    // A pause outlives a restart, and a restore.
    "paused.json",
];

/// What is not: of this process (lock, socket, how it ended), of the log's journal, or fetched again.
pub const NOT_KEPT: &[&str] = &[
    "lock",
    "control.sock",
    "last-exit.json",
    "tasks.sqlite-wal",
    "tasks.sqlite-shm",
    archive::LAST_BACKUP,
    "models",
];

/// Why there is no backup, or no restore.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file or a folder.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The task log.
    #[error(transparent)]
    TaskLog(#[from] TaskLogError),
    /// No invite, no network.
    #[error("[coordinator] invite is no invite ({0}); run owm-node config check")]
    Invite(String),
    /// The backup's own parts contradict each other.
    #[error("the backup contradicts itself: {0}; take another one")]
    Contradiction(String),
}

/// What a backup is made of.
#[derive(Debug)]
pub struct Job<'a> {
    /// The configuration.
    pub config: &'a NodeConfig,
    /// Where it was read from.
    pub config_path: &'a Path,
    /// The data folder.
    pub home: &'a Home,
    /// The new file.
    pub to: &'a Path,
    /// Whether the model files are in it.
    pub models: bool,
    /// Now.
    pub now: UnixMillis,
}

/// The configuration with the invite in use, which may have come from the environment: no backup holds
/// that. Refused if a restore would refuse it.
fn packed_config(job: &Job<'_>, network: &str) -> Result<String, BackupError> {
    let path = job.config_path;
    let text = fs::read_to_string(path).map_err(ArchiveError::io(path))?;
    let alone = owm_service::config::parse::<NodeConfig>(&text, "OWM", [])?;
    let invite = job.config.coordinator.invite.as_str();
    let text = if alone.coordinator.invite == invite {
        text
    } else {
        set(&text, &[("coordinator", "invite", invite)])?
    };
    // What restore will ask of it.
    new_config(&text, network)?;
    Ok(text)
}

/// Makes a backup.
pub fn backup(job: &Job<'_>) -> Result<Written, BackupError> {
    if job.to.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(job.to.to_owned()).into());
    }
    let key = NodeKey::load(&job.home.key())?.public();
    let invite: Result<Invite, _> = job.config.coordinator.invite.parse();
    let invite = invite.map_err(|error| BackupError::Invite(error.to_string()))?;
    let network = invite.genesis.to_string();
    let config = packed_config(job, &network)?;
    let mut members = Vec::new();
    for name in KEPT {
        let path = job.home.path().join(name);
        if path.is_file() {
            members.push((format!("{DATA}/{name}"), path));
        }
    }
    // Beside the backup: the room that is needed there anyway.
    let beside = std::path::absolute(job.to).map_err(ArchiveError::io(job.to))?;
    let beside = beside.parent().unwrap_or(Path::new("/")).to_owned();
    let scratch = tempfile::Builder::new()
        .prefix(".owm-log-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&beside)
        .map_err(ArchiveError::io(&beside))?;
    let packed = scratch.path().join(CONFIG);
    fs::write(&packed, config).map_err(ArchiveError::io(&packed))?;
    members.insert(0, (CONFIG.to_owned(), packed));
    let log = job.home.tasks();
    if log.exists() {
        let copy = scratch.path().join(TASKS);
        TaskLog::snapshot(&log, &copy)?;
        members.push((format!("{DATA}/{TASKS}"), copy));
    }
    if job.models {
        members.extend(model_files(&job.home.models())?);
    }
    let plan = Plan {
        program: PROGRAM,
        version: crate::VERSION,
        network,
        key: key.to_string(),
        created_at_ms: job.now.0,
        facts: BTreeMap::from([("models".to_owned(), job.models.to_string())]),
        members,
    };
    let written = archive::write(&plan, job.to)?;
    // The backup is whole and has its name: it must not count as failed.
    if let Err(error) = archive::note_last(job.home.path(), &written) {
        tracing::warn!(%error, "the backup is made, but doctor will not know of it");
    }
    Ok(written)
}

/// Whole model files, by their SHA-256.
fn model_files(models: &Path) -> Result<Vec<(String, PathBuf)>, ArchiveError> {
    let folder = models.join("blobs");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(ArchiveError::io(&folder))? {
        let entry = entry.map_err(ArchiveError::io(&folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Others are downloads under way.
        if name.parse::<Sha256>().is_ok() {
            found.push((format!("{DATA}/models/blobs/{name}"), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Checks a backup and says what it is; writes nothing.
pub fn check(from: &Path) -> Result<Archive, BackupError> {
    let mut archive = Archive::open(from, PROGRAM)?;
    let key = format!("{DATA}/{KEY}");
    for name in [CONFIG, &key] {
        let members = &archive.manifest().members;
        if !members.iter().any(|entry| entry.name == name) {
            return Err(BackupError::Contradiction(format!("{name} is not in it")));
        }
    }
    restored_config(&mut archive)?;
    Ok(archive)
}

/// The configuration that a restore of it writes.
fn restored_config(archive: &mut Archive) -> Result<String, BackupError> {
    let config = archive.read(CONFIG, CONFIG_BYTES_MAX)?;
    let config = String::from_utf8(config)
        .map_err(|_| BackupError::Contradiction(format!("{CONFIG} is no text")))?;
    new_config(&config, &archive.manifest().network)
}

/// Restores the backup `from` to the empty folder `dir`.
pub fn restore(from: &Path, dir: &Path) -> Result<Manifest, BackupError> {
    Staging::check(dir)?;
    let mut archive = check(from)?;
    let manifest = archive.manifest().clone();
    let config = restored_config(&mut archive)?;
    let staging = Staging::new(dir)?;
    archive.unpack(staging.path(), |name| name.into())?;
    staging.add(CONFIG, config.as_bytes())?;
    let data = staging.path().join(DATA);
    if NodeKey::load(&data.join(KEY))?.public().to_string() != manifest.key {
        let what = "its key is another one than its manifest says";
        return Err(BackupError::Contradiction(what.to_owned()));
    }
    let log = data.join(TASKS);
    if log.exists() {
        // Opens, and so is of no newer program.
        drop(TaskLog::open(&log)?);
        fs::set_permissions(&log, fs::Permissions::from_mode(0o600))
            .map_err(ArchiveError::io(&log))?;
    }
    staging.commit()?;
    Ok(manifest)
}

/// The configuration with its data folder beside it, wherever that was.
fn new_config(text: &str, network: &str) -> Result<String, BackupError> {
    let read = |text: &str| owm_service::config::parse::<NodeConfig>(text, "OWM", []);
    let config = read(text)?;
    let invite: Result<Invite, _> = config.coordinator.invite.parse();
    if !invite.is_ok_and(|invite| invite.genesis.to_string() == network) {
        let what = "its configuration is for another network than its manifest says";
        return Err(BackupError::Contradiction(what.to_owned()));
    }
    if config.node.data == Path::new(DATA) {
        return Ok(text.to_owned());
    }
    let text = set(text, &[("node", "data", DATA)])?;
    read(&text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use owm_proto::genesis::NetworkId;

    use super::*;

    /// A backup of a node whose manifest names `key` and whose configuration has this data folder.
    fn packed(folder: &Path, key: &str, data: &str) -> PathBuf {
        let network = NetworkId(Sha256::of(b"network"));
        let node = NodeKey::from_seed(&[1; 32]);
        let invite = Invite {
            genesis: network,
            instance_key: node.public(),
            addresses: vec!["127.0.0.1:1".into()],
            onion: None,
            peers: vec![],
            web_seed: None,
        };
        let (pem, config) = (folder.join("node.pem"), folder.join("owm.toml"));
        drop(fs::remove_file(&pem));
        node.create(&pem).unwrap();
        let text =
            format!("# mine\n[coordinator]\ninvite = \"{invite}\"\n[node]\ndata = \"{data}\"\n");
        fs::write(&config, text).unwrap();
        let to = folder.join("b.tar");
        drop(fs::remove_file(&to));
        let plan = Plan {
            program: PROGRAM,
            version: "0.1.0",
            network: network.to_string(),
            key: key.to_owned(),
            created_at_ms: 0,
            facts: BTreeMap::new(),
            members: vec![(CONFIG.into(), config), (format!("{DATA}/{KEY}"), pem)],
        };
        archive::write(&plan, &to).unwrap().path
    }

    #[test]
    fn a_data_folder_elsewhere_comes_home_to_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let key = NodeKey::from_seed(&[1; 32]).public().to_string();
        let backup = packed(folder.path(), &key, "/elsewhere/data");
        let target = folder.path().join("new");
        restore(&backup, &target).unwrap();
        let text = fs::read_to_string(target.join(CONFIG)).unwrap();
        assert!(
            text.starts_with("# mine\n") && text.ends_with("[node]\ndata = \"data\"\n"),
            "{text}"
        );
        assert!(target.join("data/node.pem").is_file());
    }

    #[test]
    fn an_invite_from_the_environment_is_in_the_backup() {
        let folder = tempfile::tempdir().unwrap();
        let key = NodeKey::from_seed(&[1; 32]).public().to_string();
        // Only for its configuration with an invite.
        packed(folder.path(), &key, "data");
        let path = folder.path().join("owm.toml");
        let text = fs::read_to_string(&path).unwrap();
        let config = owm_service::config::parse::<NodeConfig>(&text, "OWM", []).unwrap();
        fs::write(&path, "# mine\n").unwrap();
        let home = Home::open(&folder.path().join("data")).unwrap();
        NodeKey::from_seed(&[1; 32]).create(&home.key()).unwrap();
        let job = Job {
            config: &config,
            config_path: &path,
            home: &home,
            to: &folder.path().join("c.tar"),
            models: false,
            now: UnixMillis(0),
        };
        backup(&job).unwrap();
        check(job.to).unwrap();
        let target = folder.path().join("new");
        restore(job.to, &target).unwrap();
        let text = fs::read_to_string(target.join(CONFIG)).unwrap();
        assert!(text.contains(&config.coordinator.invite), "{text}");
    }

    #[test]
    fn a_key_that_is_not_the_manifest_s_is_refused_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let other = NodeKey::from_seed(&[2; 32]).public().to_string();
        let backup = packed(folder.path(), &other, "data");
        let error = restore(&backup, &folder.path().join("new")).unwrap_err();
        assert!(matches!(error, BackupError::Contradiction(_)), "{error}");
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["b.tar", "node.pem", "owm.toml"]);
    }
}
