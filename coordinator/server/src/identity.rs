//! The coordinator's documents and keys on disk: the genesis document, delegations, and the keys that
//! `owm-coordinator init` makes. The root key is written to `offline/` and never read again by a
//! running coordinator.

mod learnt;

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use owm_coordinator_store::Vault;
use owm_proto::{
    Envelope, EnvelopeError, KeyError, NodeKey, UnixMillis,
    genesis::{DelegatedRole, Delegation, Genesis, GenesisError, NetworkId, TrustRoot, network_id},
};
use owm_service::{rng::Seed, secret};
use rand::Rng as _;
use zeroize::Zeroizing;

use crate::failpoints::{INIT_MOVED, INIT_STAGED};

pub use learnt::Learnt;

/// A delegation's default life: a year (spec §5).
pub const DELEGATION_LIFE: Duration = Duration::from_hours(365 * 24);

/// What a coordinator acts with.
#[derive(Debug)]
pub struct Authority {
    /// The genesis document's exact bytes.
    pub genesis: Vec<u8>,
    /// What the root key has said so far; `learnt` adds to it.
    statements: RwLock<Arc<Statements>>,
    /// This process's key: TLS, memberships, receipts.
    pub instance: NodeKey,
    /// Where all of it is.
    pub dir: PathBuf,
}

/// The root key's statements, and what they add up to.
#[derive(Clone, Debug)]
pub struct Statements {
    /// The network and who may speak for it.
    pub trust: TrustRoot,
    /// The root key's delegations, as signed.
    pub delegations: Vec<Envelope>,
    /// The root key's revocations, as signed.
    pub revocations: Vec<Envelope>,
}

/// Why the documents or keys can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is a network here already.
    #[error("{0} holds a network already; `init` never overwrites one. Choose another --dir")]
    Exists(PathBuf),
    /// A key is here without its network.
    #[error(
        "{0} is there already, without a network (no genesis.json), and is not overwritten: it may be \
         the only copy. Choose another --dir, or move it away"
    )]
    Leftover(PathBuf),
    /// No network is here.
    #[error("{0} holds no network (no genesis.json); run `owm-coordinator init --dir {0}` first")]
    Missing(PathBuf),
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The data key.
    #[error("data key: {0}")]
    Secret(#[from] secret::SecretFileError),
    /// The data key has a wrong length.
    #[error(
        "data key {0} does not hold 32 bytes; restore it from a backup, without it stored answers can't be read"
    )]
    DataKey(PathBuf),
    /// A document of the network.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A stored statement.
    #[error("{path}: {source}")]
    Statement {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: EnvelopeError,
    },
    /// The instance key may not speak for the network.
    #[error(
        "the instance key {0} is not delegated by the root key, or its delegation has expired; delegate it anew with the root key"
    )]
    NotDelegated(owm_proto::PublicKey),
    /// The root key has taken the instance key's delegation back.
    #[error(
        "the root key has revoked the instance key {0}: whatever this coordinator signs counts for nothing, and starting again changes nothing. Make a new instance key, delegate it with the root key, and start then"
    )]
    Revoked(owm_proto::PublicKey),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

/// What a new network is called.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// For people.
    pub name: String,
    /// `main`, `test`, `signet` or `regtest`.
    pub bitcoin_chain: String,
}

/// Where `init` makes everything before any of it has its final name.
const STAGING: &str = ".init";

/// What moves from there into place, in this order. The genesis document is the last: its presence says
/// that the rest is complete.
const MEMBERS: [&str; 6] = [
    "offline",
    "delegations",
    "release.pem",
    "instance.pem",
    "data.key",
    "genesis.json",
];

fn make_folder(folder: &Path) -> Result<(), IdentityError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).map_err(io(folder))
}

/// Makes the folder of a network to be; one that holds a network is refused.
pub fn prepare(dir: &Path) -> Result<(), IdentityError> {
    if dir.join("genesis.json").exists() {
        return Err(IdentityError::Exists(dir.to_owned()));
    }
    make_folder(dir)
}

/// Makes a network in `dir`: genesis, root, release and instance keys, delegations, data key. May be
/// run again after it was interrupted anywhere: keys that are complete are then put in place, an
/// incomplete set, which nobody has seen, is made anew. No existing key is ever overwritten.
pub fn create(
    dir: &Path,
    new: &NewNetwork,
    seed: &Seed,
    now: UnixMillis,
) -> Result<(), IdentityError> {
    prepare(dir)?;
    let staging = dir.join(STAGING);
    if !staging.join("genesis.json").exists() {
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(io(&staging))?;
        }
        stage(&staging, new, seed, now)?;
    }
    owm_service::failpoint::hit(INIT_STAGED);
    // What is not there any more was put in place by the run that was interrupted.
    let left: Vec<(PathBuf, PathBuf)> = MEMBERS
        .into_iter()
        .map(|member| (staging.join(member), dir.join(member)))
        .filter(|(from, _)| from.exists())
        .collect();
    if let Some((_, to)) = left.iter().find(|(_, to)| to.exists()) {
        return Err(IdentityError::Leftover(to.clone()));
    }
    for (from, to) in left {
        fs::rename(&from, &to).map_err(io(&to))?;
        owm_service::failpoint::hit(INIT_MOVED);
    }
    fs::remove_dir(&staging).map_err(io(&staging))?;
    fs::File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(io(dir))
}

/// Makes all of it in `dir`, on the disk when this returns.
fn stage(dir: &Path, new: &NewNetwork, seed: &Seed, now: UnixMillis) -> Result<(), IdentityError> {
    for folder in [dir.to_owned(), dir.join("offline"), dir.join("delegations")] {
        make_folder(&folder)?;
    }
    let make = |stream: &str, file: &str| -> Result<NodeKey, IdentityError> {
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(seed.rng(stream).random());
        let key = NodeKey::from_seed(&bytes);
        key.create(&dir.join(file))?;
        Ok(key)
    };
    let root = make("init.root", "offline/root.pem")?;
    let release = make("init.release", "release.pem")?;
    let instance = make("init.instance", "instance.pem")?;
    let genesis = Genesis {
        name: new.name.clone(),
        bitcoin_chain: new.bitcoin_chain.clone(),
        root_public_key: root.public(),
        created_at: now,
    }
    .to_bytes();
    let network = network_id(&genesis);
    for (role, key, file) in [
        (DelegatedRole::Release, &release, "release.bin"),
        (DelegatedRole::Instance, &instance, "instance.bin"),
    ] {
        let delegation = Delegation {
            role,
            key: key.public(),
            issued_at_ms: now,
            expires_at_ms: now.after(DELEGATION_LIFE),
        };
        let path = dir.join("delegations").join(file);
        write_synced(&path, &delegation.sign(&root, &network).to_stored())?;
    }
    let data_key: Zeroizing<[u8; 32]> = Zeroizing::new(seed.rng("init.data").random());
    write_synced(&dir.join("data.key"), &data_key[..])?;
    write_synced(&dir.join("genesis.json"), &genesis)
}

/// A new file of the owner's alone, on the disk when this returns.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    })
    .map_err(io(path))
}

fn statements(folder: &Path) -> Result<Vec<Envelope>, IdentityError> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(io(folder))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "bin"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).map_err(io(&path))?;
            Envelope::from_stored(&bytes)
                .map_err(|source| IdentityError::Statement { path, source })
        })
        .collect()
}

/// The documents in `dir`, as signed.
struct Documents {
    genesis: Vec<u8>,
    delegations: Vec<Envelope>,
    revocations: Vec<Envelope>,
    trust: TrustRoot,
}

fn documents(dir: &Path) -> Result<Documents, IdentityError> {
    let path = dir.join("genesis.json");
    let genesis = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing(dir.to_owned()));
        }
        Err(error) => return Err(io(&path)(error)),
    };
    let delegations = statements(&dir.join("delegations"))?;
    let revocations = statements(&dir.join("revocations"))?;
    let trust = TrustRoot::from_documents(None, &genesis, &delegations, &revocations)?;
    Ok(Documents {
        genesis,
        delegations,
        revocations,
        trust,
    })
}

/// The network in `dir`, without its keys.
pub(crate) fn trust(dir: &Path) -> Result<TrustRoot, IdentityError> {
    Ok(documents(dir)?.trust)
}

/// What users' text is encrypted with at rest.
pub(crate) fn vault(dir: &Path) -> Result<Vault, IdentityError> {
    let path = dir.join("data.key");
    let bytes = secret::read_file(&path)?;
    let key: &[u8; 32] = bytes
        .expose()
        .as_slice()
        .try_into()
        .map_err(|_| IdentityError::DataKey(path))?;
    Ok(Vault::new(key))
}

impl Authority {
    /// Loads what `init` made and checks that the instance key may speak.
    pub fn load(dir: &Path, now: UnixMillis) -> Result<Self, IdentityError> {
        let Documents {
            genesis,
            delegations,
            revocations,
            trust,
        } = documents(dir)?;
        let instance = NodeKey::load(&dir.join("instance.pem"))?;
        if trust.is_revoked(&instance.public(), now) {
            return Err(IdentityError::Revoked(instance.public()));
        }
        if !trust.is_delegated(DelegatedRole::Instance, &instance.public(), now) {
            return Err(IdentityError::NotDelegated(instance.public()));
        }
        Ok(Self {
            genesis,
            statements: RwLock::new(Arc::new(Statements {
                trust,
                delegations,
                revocations,
            })),
            instance,
            dir: dir.to_owned(),
        })
    }

    /// The network and who may speak for it, as known now: ask again for each decision.
    pub fn statements(&self) -> Arc<Statements> {
        let now = self.statements.read();
        Arc::clone(&now.unwrap_or_else(PoisonError::into_inner))
    }

    /// The network's id.
    pub fn network(&self) -> NetworkId {
        self.statements().trust.id()
    }

    /// # Errors
    /// When the root key has taken our own delegation back, as far as is known now.
    pub fn not_revoked(&self, now: UnixMillis) -> Result<(), IdentityError> {
        let own = self.instance.public();
        if self.statements().trust.is_revoked(&own, now) {
            return Err(IdentityError::Revoked(own));
        }
        Ok(())
    }

    /// The key that signs manifests; only publishing needs it.
    pub fn release_key(&self) -> Result<NodeKey, IdentityError> {
        Ok(NodeKey::load(&self.dir.join("release.pem"))?)
    }

    /// What users' text is encrypted with at rest.
    pub fn vault(&self) -> Result<Vault, IdentityError> {
        vault(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_made_once_and_loads() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        let new = NewNetwork {
            name: "test".into(),
            bitcoin_chain: "regtest".into(),
        };
        let now = UnixMillis(1_800_000_000_000);
        create(&dir, &new, &Seed::from_u64(1), now).unwrap();
        let authority = Authority::load(&dir, now).unwrap();
        assert_eq!(authority.statements().trust.genesis().name, "test");
        authority.vault().unwrap();
        let again = create(&dir, &new, &Seed::from_u64(2), now);
        assert!(matches!(again, Err(IdentityError::Exists(_))));
        let late = now.after(DELEGATION_LIFE);
        assert!(matches!(
            Authority::load(&dir, late),
            Err(IdentityError::NotDelegated(_))
        ));
    }

    #[test]
    fn an_interrupted_init_goes_on_and_overwrites_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let new = NewNetwork {
            name: "test".into(),
            bitcoin_chain: "regtest".into(),
        };
        let now = UnixMillis(1_800_000_000_000);
        let at = |name: &str| folder.path().join(name);
        // Killed while the keys were made: they are made anew.
        fs::create_dir_all(at("a/.init/offline")).unwrap();
        fs::write(at("a/.init/release.pem"), "half").unwrap();
        create(&at("a"), &new, &Seed::from_u64(1), now).unwrap();
        // Killed while they were moved: the same ones are put in place.
        stage(&at("b/.init"), &new, &Seed::from_u64(2), now).unwrap();
        let made = fs::read(at("b/.init/instance.pem")).unwrap();
        fs::rename(at("b/.init/instance.pem"), at("b/instance.pem")).unwrap();
        create(&at("b"), &new, &Seed::from_u64(3), now).unwrap();
        assert_eq!(fs::read(at("b/instance.pem")).unwrap(), made);
        for name in ["a", "b"] {
            Authority::load(&at(name), now).unwrap();
            assert!(!at(name).join(STAGING).exists());
        }
        // A key without a network is somebody's.
        fs::create_dir_all(at("c")).unwrap();
        fs::write(at("c/release.pem"), "precious").unwrap();
        let refused = create(&at("c"), &new, &Seed::from_u64(4), now);
        assert!(matches!(refused, Err(IdentityError::Leftover(_))));
        assert_eq!(fs::read(at("c/release.pem")).unwrap(), b"precious");
    }

    #[test]
    fn an_empty_folder_says_what_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let error = Authority::load(folder.path(), UnixMillis(0)).unwrap_err();
        assert!(
            error.to_string().contains("owm-coordinator init"),
            "{error}"
        );
    }
}
