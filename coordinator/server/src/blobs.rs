//! The object store of published files, named by their SHA-256: a local folder now, S3 later behind
//! the same crate.

use std::{ops::Range, path::Path, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, local::LocalFileSystem,
    path::Path as Key,
};
use owm_proto::{Sha256, manifest::ManifestFile};

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    dir: Arc<std::path::PathBuf>,
}

/// A file's bytes, or a range of them.
pub struct BlobStream {
    /// Bytes of the whole file.
    pub size: u64,
    /// What was asked for.
    pub stream: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobStream({} bytes)", self.size)
    }
}

/// Why a file can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store.
    #[error("the object store failed: {0}")]
    Store(#[from] object_store::Error),
    /// The folder.
    #[error("the object store's folder {path}: {source}")]
    Folder {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn key(sha256: &Sha256) -> Key {
    Key::from(sha256.to_string())
}

impl Blobs {
    /// A store in the folder `dir`, made if it is absent.
    pub fn in_folder(dir: &Path) -> Result<Self, BlobError> {
        let folder = |source| BlobError::Folder {
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(folder)?;
        let store = LocalFileSystem::new_with_prefix(dir)?.with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            dir: Arc::new(dir.to_owned()),
        })
    }

    /// Where a local store is, for space checks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Streams a file or a range of it; `None` if there is no such file.
    pub async fn open(
        &self,
        sha256: &Sha256,
        range: Option<Range<u64>>,
    ) -> Result<Option<BlobStream>, BlobError> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        match self.store.get_opts(&key(sha256), options).await {
            Ok(found) => Ok(Some(BlobStream {
                size: found.meta.size,
                stream: found
                    .into_stream()
                    .map(|part| part.map_err(BlobError::from))
                    .boxed(),
            })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file's first bytes, all of a shorter one; `None` if there is no such file.
    pub async fn head(&self, sha256: &Sha256, bytes: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(mut found) = self.open(sha256, Some(0..bytes)).await? else {
            return Ok(None);
        };
        let mut head = Vec::new();
        while let Some(part) = found.stream.next().await {
            head.extend_from_slice(&part?);
        }
        Ok(Some(head))
    }

    /// Whether a file of this size is there.
    pub async fn has(&self, sha256: &Sha256, size: u64) -> Result<bool, BlobError> {
        match self.store.head(&key(sha256)).await {
            Ok(meta) => Ok(meta.size == size),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies a file in, under its hash; the caller has hashed it. Never a partial file.
    pub async fn put_file(&self, sha256: &Sha256, path: &Path) -> Result<(), BlobError> {
        let folder = |source| BlobError::Folder {
            path: path.to_owned(),
            source,
        };
        let mut file = tokio::fs::File::open(path).await.map_err(folder)?;
        let mut writer =
            object_store::buffered::BufWriter::new(Arc::clone(&self.store), key(sha256));
        tokio::io::copy(&mut file, &mut writer)
            .await
            .map_err(folder)?;
        tokio::io::AsyncWriteExt::shutdown(&mut writer)
            .await
            .map_err(folder)
    }

    /// Puts the file at `path`, which the caller has hashed, and its ladder where they are not yet.
    pub async fn put_if_absent(
        &self,
        file: &ManifestFile,
        ladder: &[u8],
        path: &Path,
    ) -> Result<(), BlobError> {
        if !self.has(&file.sha256, file.size).await? {
            self.put_file(&file.sha256, path).await?;
        }
        if let Some(sha256) = file.ladder_sha256
            && !self.has(&sha256, ladder.len() as u64).await?
        {
            self.put_bytes(&sha256, ladder.to_vec()).await?;
        }
        Ok(())
    }

    /// Takes a file away, if it is there.
    pub async fn remove(&self, sha256: &Sha256) -> Result<(), BlobError> {
        match self.store.delete(&key(sha256)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Stores bytes at hand under their hash. Never a partial file.
    pub async fn put_bytes(&self, sha256: &Sha256, bytes: Vec<u8>) -> Result<(), BlobError> {
        self.store.put(&key(sha256), bytes.into()).await?;
        Ok(())
    }
}
