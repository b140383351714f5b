//! The shelf: `blobs/<sha256>` with every file once (the exchange's [`Store`]), `<version>/<sub-model>/<name>`
//! as hard links to them, `newest.pb` and `manifests/<version>.pb` with signed manifests.
//! Must stay true: a file under `blobs/<sha256>` was whole and right when it got that name; one process
//! at a time fetches ([`Shelf::writer`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use owm_p2p::exchange::store::{Store, StoreConfig, StoreError};
use owm_proto::{
    Sha256, SubModelId, VersionId,
    manifest::{Manifest, ManifestFile},
};
use owm_service::failpoint;

use crate::{
    DOWNLOAD_BEFORE_RENAME,
    home::{Lock, sync_folder, try_lock},
};

/// Bytes of one block in `st_blocks`, whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;
/// Under this name engines look for weights that are one file.
const WEIGHTS: &str = "model.safetensors";

/// What can go wrong on the shelf.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// A file or folder can't be used.
    #[error("{}: {source}; check that the folder belongs to this user and has room", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is too full.
    #[error(
        "not enough disk: {needed} bytes are needed, {free} are free under {}: {missing} bytes are \
         missing; make room, or move the data folder ([node] data)", folder.display()
    )]
    DiskFull {
        /// Bytes still to be fetched, and what is spared.
        needed: u64,
        /// Bytes there are.
        free: u64,
        /// The difference.
        missing: u64,
        /// Where.
        folder: PathBuf,
    },
    /// The operator's cap is too low.
    #[error(
        "the disk cap is too low: with this model {needed} bytes would be used, [caps] disk allows \
         {cap}: raise it by {missing} bytes"
    )]
    Quota {
        /// Bytes used afterwards.
        needed: u64,
        /// The cap.
        cap: u64,
        /// The difference.
        missing: u64,
    },
    /// Anything else that the store says.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ShelfError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull {
                needed,
                free,
                folder,
            } => Self::DiskFull {
                needed,
                free,
                missing: needed.saturating_sub(free),
                folder,
            },
            StoreError::Quota { needed, cap } => Self::Quota {
                needed,
                cap,
                missing: needed.saturating_sub(cap),
            },
            other => Self::Store(other),
        }
    }
}

/// The folder with models; clones share the store in it.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
    quota: Option<u64>,
    store: Arc<OnceLock<Store>>,
}

impl Shelf {
    /// The shelf in `folder`, using at most `quota` bytes.
    pub fn new(folder: PathBuf, quota: Option<u64>) -> Self {
        Self {
            folder,
            quota,
            store: Arc::default(),
        }
    }

    /// One that leaves no room for anything else, for small disks.
    #[cfg(test)]
    pub(super) fn without_spare(folder: PathBuf) -> Self {
        let shelf = Self::new(folder, None);
        let opened = Store::open(StoreConfig {
            spare: 0,
            ..StoreConfig::new(&shelf.folder)
        });
        let opened = opened.expect("the folder can be used");
        shelf.store.set(opened).expect("it is new");
        shelf
    }

    /// The store with the files. Its folders are made if they are not there.
    pub fn store(&self) -> Result<Store, ShelfError> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let opened = Store::open(StoreConfig {
            quota: self.quota,
            before_rename: Some(|| {
                failpoint::check(DOWNLOAD_BEFORE_RENAME).map_err(io::Error::other)
            }),
            ..StoreConfig::new(&self.folder)
        })?;
        Ok(self.store.get_or_init(|| opened).clone())
    }

    /// Where a whole file lies.
    pub fn blob(&self, sha256: &Sha256) -> PathBuf {
        self.folder.join("blobs").join(sha256.to_string())
    }

    /// Where it grows.
    pub fn part(&self, sha256: &Sha256) -> PathBuf {
        self.folder.join("blobs").join(format!("{sha256}.part"))
    }

    /// The newest manifest that was taken.
    pub fn newest(&self) -> PathBuf {
        self.folder.join("newest.pb")
    }

    /// The manifest of a version that was fetched.
    pub fn manifest(&self, version: &VersionId) -> PathBuf {
        self.folder.join("manifests").join(format!("{version}.pb"))
    }

    /// Manifests of all versions that were ever fetched.
    pub fn manifests(&self) -> Result<Vec<PathBuf>, ShelfError> {
        let folder = self.folder.join("manifests");
        let read = || -> io::Result<Vec<PathBuf>> {
            let entries = std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path()));
            let mut found = entries.collect::<io::Result<Vec<_>>>()?;
            found.retain(|path| path.extension().is_some_and(|ending| ending == "pb"));
            found.sort();
            Ok(found)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(|source| io_error(&folder, source)),
        }
    }

    /// The right to change what lies here; `None`: another process is at it.
    pub fn writer(&self) -> Result<Option<Lock>, ShelfError> {
        let path = self.folder.join("lock");
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| try_lock(&path))
            .map_err(|source| io_error(&path, source))
    }

    /// The length of a file that lies here and is not as long as it should be.
    pub fn wrong_size(&self, file: &ManifestFile) -> Option<u64> {
        let found = std::fs::metadata(self.blob(&file.sha256)).ok()?.len();
        (found != file.size).then_some(found)
    }

    /// SHA-256s of the files that lie here, and of those that are still growing with their length.
    pub fn lying_here(&self) -> Result<(BTreeSet<Sha256>, BTreeMap<Sha256, u64>), ShelfError> {
        let (mut whole, mut growing) = (BTreeSet::new(), BTreeMap::new());
        for (path, size) in self.blobs()? {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            if let Ok(sha256) = name.parse() {
                whole.insert(sha256);
            } else if let Some(Ok(sha256)) = name.strip_suffix(".part").map(str::parse) {
                growing.insert(sha256, size);
            }
        }
        Ok((whole, growing))
    }

    /// Whether the file is there, whole.
    pub fn has(&self, file: &ManifestFile) -> bool {
        std::fs::metadata(self.blob(&file.sha256)).is_ok_and(|found| found.len() == file.size)
    }

    /// Takes a damaged file off the shelf.
    pub fn discard(&self, sha256: &Sha256) -> Result<(), ShelfError> {
        Ok(self.store()?.discard(sha256)?)
    }

    /// Makes sure there is room for what is missing of `files`; if the quota is short, files that
    /// `keep` does not name go first, the oldest before the newer.
    pub fn make_room(
        &self,
        files: &[&ManifestFile],
        keep: &BTreeSet<Sha256>,
    ) -> Result<(), ShelfError> {
        let taken = |path: &Path| {
            let found = std::fs::metadata(path);
            // A file that grows has holes.
            found.map_or(0, |f| f.len().min(f.blocks() * STAT_BLOCK_BYTES))
        };
        let missing: u64 = files
            .iter()
            .filter(|file| !self.has(file))
            .map(|file| file.size.saturating_sub(taken(&self.part(&file.sha256))))
            .sum();
        let ladders = files.iter().filter_map(|file| file.ladder_sha256);
        let keep: BTreeSet<Sha256> = keep.iter().copied().chain(ladders).collect();
        let store = self.store()?;
        store.keep(keep.clone());
        Ok(store.make_room(missing, &keep)?)
    }

    /// Bytes under `blobs`.
    pub fn used(&self) -> Result<u64, ShelfError> {
        Ok(self.blobs()?.into_iter().map(|(_, size)| size).sum())
    }

    fn blobs(&self) -> Result<Vec<(PathBuf, u64)>, ShelfError> {
        let folder = self.folder.join("blobs");
        let failed = |source| io_error(&folder, source);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let read = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.path(), entry.metadata()?.len()))
        };
        entries.map(read).collect::<io::Result<_>>().map_err(failed)
    }

    /// Links a sub-model's files into a folder of their own, under their names in the manifest, and
    /// gives it with their SHA-256s. Links of other versions go.
    pub fn lay_out(
        &self,
        manifest: &Manifest,
        id: &SubModelId,
    ) -> Result<(PathBuf, BTreeMap<String, [u8; 32]>), ShelfError> {
        let folder = self
            .folder
            .join(manifest.version.as_str())
            .join(id.as_str());
        let files = sub_model_files(manifest, id);
        self.link(folder, files.into_iter())
    }

    /// The same for files that belong to no version, under a name of their own.
    pub fn lay_out_candidate(
        &self,
        name: &str,
        files: &[ManifestFile],
    ) -> Result<(PathBuf, BTreeMap<String, [u8; 32]>), ShelfError> {
        let folder = self.folder.join("candidates").join(name);
        self.link(folder, files.iter())
    }

    fn link<'a>(
        &self,
        folder: PathBuf,
        files: impl Iterator<Item = &'a ManifestFile>,
    ) -> Result<(PathBuf, BTreeMap<String, [u8; 32]>), ShelfError> {
        let files: Vec<&ManifestFile> = files.collect();
        // A round's weights stand beside those of other sub-models, so a version cannot call all of them by the one
        // name under which engines look for weights that are one file.
        let is_alone = files.iter().filter(|file| file.is_weights()).count() == 1;
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
        }
        std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, source))?;
        let mut expected = BTreeMap::new();
        for file in files {
            let name = if is_alone && file.is_weights() {
                WEIGHTS
            } else {
                &file.name
            };
            let link = folder.join(name);
            std::fs::hard_link(self.blob(&file.sha256), &link)
                .map_err(|source| io_error(&link, source))?;
            expected.insert(name.to_owned(), file.sha256.0);
        }
        sync_folder(&folder).map_err(|source| io_error(&folder, source))?;
        Ok((folder, expected))
    }

    /// Takes the links of versions other than `keep` away, so that their blobs can be freed.
    pub fn forget_others(&self, keep: &Manifest) -> Result<(), ShelfError> {
        let failed = |source| io_error(&self.folder, source);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let is_version = name
                .to_str()
                .is_some_and(|n| n.parse::<VersionId>().is_ok());
            if is_version && name != keep.version.as_str() {
                std::fs::remove_dir_all(entry.path())
                    .map_err(|source| io_error(&entry.path(), source))?;
            }
        }
        Ok(())
    }
}

/// The files a sub-model is loaded from, in manifest order.
pub(super) fn sub_model_files<'a>(
    manifest: &'a Manifest,
    id: &SubModelId,
) -> Vec<&'a ManifestFile> {
    let names = manifest
        .sub_models
        .get(id)
        .map_or(&[][..], |sub_model| &sub_model.files);
    manifest
        .files
        .iter()
        .filter(|file| names.contains(&file.name))
        .collect()
}

fn io_error(path: &Path, source: io::Error) -> ShelfError {
    ShelfError::Io {
        path: path.to_owned(),
        source,
    }
}
