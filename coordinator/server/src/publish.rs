//! Publishing a model: foreign weights become a model directory, its files go into the object store,
//! and a manifest signed by the release key makes them a version, with the checkpoint that peers gossip.

use std::path::{Path, PathBuf};

use owm_coordinator_store::{
    Store, StoreError,
    checkpoint::checkpoint_add,
    model::{ModelVersion, model_lookup, model_publish, model_publishing, model_sequence_max},
};
use owm_model_import::{Imported, Progress, import_gguf, import_hf_dir, tiny};
use owm_proto::{
    Envelope, Ladder, LadderBuilder, PieceLen, Purpose, Sha256, SubModelId, UnixMillis, VersionId,
    manifest::{Manifest, ManifestFile, SubModel},
};

use crate::{
    blobs::{BlobError, Blobs},
    failpoints::{PUBLISH_AFTER_COMMIT, PUBLISH_BEFORE_COMMIT, PUBLISH_BLOBS_PLACED},
    identity::{Authority, IdentityError},
    swarm::checkpoint,
};

/// How the folders begin in which a model is unpacked before it is published.
const SCRATCH: &str = ".import-";
/// Bytes read at once when a ladder is built anew.
const READ_BYTES: usize = 1 << 20;

/// What is to be published as what.
#[derive(Clone, Debug)]
pub struct Release {
    /// A `.gguf` file, a Hugging Face style directory, or the word `tiny`.
    pub source: String,
    /// The version's name.
    pub version: VersionId,
    /// The sub-models that use it.
    pub sub_models: Vec<SubModelId>,
    /// What a request gets that names none.
    pub default_sub_model: SubModelId,
    /// Its sequence, if it must be higher than the next one here: after a restore, peers know higher ones.
    pub sequence: Option<u64>,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The source.
    #[error("{0}")]
    Import(#[from] owm_model_import::ImportError),
    /// The release contradicts itself.
    #[error("{0}")]
    Release(String),
    /// The version exists with other bytes.
    #[error("{0} is published already with other files; versions never change, choose a new one")]
    Taken(VersionId),
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The release key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The import named a hash that is none.
    #[error("the importer reported a malformed hash: {0}")]
    Hash(#[from] owm_proto::hash::ParseError),
}

/// What came of it.
#[derive(Debug)]
pub enum Published {
    /// A new version.
    New(Manifest),
    /// This very version with these very files was there.
    Already(Manifest),
}

/// Imports, stores, signs and publishes.
pub async fn publish(
    store: &Store,
    blobs: &Blobs,
    authority: &Authority,
    release: &Release,
    now: UnixMillis,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Published, PublishError> {
    if !release.sub_models.contains(&release.default_sub_model) {
        let id = &release.default_sub_model;
        return Err(PublishError::Release(format!(
            "the default {id} is not among the sub-models"
        )));
    }
    let folder = |source| PublishError::Io {
        path: blobs.dir().to_owned(),
        source,
    };
    // Beside the blobs, so that there is room for both or for neither.
    let beside = blobs.dir().parent().unwrap_or(blobs.dir());
    let _alone = alone(beside).map_err(folder)?;
    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(beside)
        .map_err(folder)?;
    let out = scratch.path().join("model");
    let imported = import(&release.source, &out, progress)?;
    let files = manifest_files(&imported)?;
    let known = version_of(store, &release.version).await?;
    if let Some(known) = known {
        if !are_same(&known.manifest.files, &files) {
            return Err(PublishError::Taken(release.version.clone()));
        }
        place(blobs, &known.manifest.files, &imported, &out).await?;
        return Ok(Published::Already(known.manifest));
    }
    place(blobs, &files, &imported, &out).await?;
    owm_service::failpoint::hit(PUBLISH_BLOBS_PLACED);
    let manifest = sign_and_record(store, authority, release, &imported, files, now).await?;
    Ok(Published::New(manifest))
}

/// Whether a published version has these files. Versions from before ladders have none; a version never
/// changes, so only a new one gives its files a ladder.
fn are_same(published: &[ManifestFile], files: &[ManifestFile]) -> bool {
    let plain = |file: &ManifestFile| (file.name.clone(), file.size, file.sha256);
    published.iter().map(plain).eq(files.iter().map(plain))
}

/// Puts what a manifest names into the object store, files and their ladders, if it is not there.
async fn place(
    blobs: &Blobs,
    files: &[ManifestFile],
    imported: &Imported,
    out: &Path,
) -> Result<(), PublishError> {
    for file in files {
        let path = out.join(&file.name);
        if !blobs.has(&file.sha256, file.size).await? {
            blobs.put_file(&file.sha256, &path).await?;
        }
        let ladder = imported.files.iter().find(|other| other.name == file.name);
        if let (Some(sha256), Some(imported)) = (file.ladder_sha256, ladder) {
            let bytes = ladder_bytes(file, &imported.ladder, &path)?;
            if !blobs.has(&sha256, bytes.len() as u64).await? {
                blobs.put_bytes(&sha256, bytes).await?;
            }
        }
    }
    Ok(())
}

/// The ladder that `file`'s manifest names: `imported`, or, if the version was published with other pieces than this
/// program makes, one built of the bytes at `path`. Nothing else gets its name.
fn ladder_bytes(
    file: &ManifestFile,
    imported: &Ladder,
    path: &Path,
) -> Result<Vec<u8>, PublishError> {
    if imported.spec().ladder_sha256() == file.ladder_sha256 {
        return Ok(imported.to_bytes());
    }
    let failed = |source| PublishError::Io {
        path: path.to_owned(),
        source,
    };
    let built = match file.piece_len.and_then(PieceLen::new) {
        None => None,
        Some(piece_len) => {
            let mut builder = LadderBuilder::new(piece_len);
            let mut from = std::fs::File::open(path).map_err(failed)?;
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let read = std::io::Read::read(&mut from, &mut buffer).map_err(failed)?;
                if read == 0 {
                    break builder.finish().ok();
                }
                builder.update(&buffer[..read]);
            }
        }
    };
    match built.filter(|ladder| ladder.spec().ladder_sha256() == file.ladder_sha256) {
        Some(ladder) => Ok(ladder.to_bytes()),
        None => Err(PublishError::Release(format!(
            "the published manifest names a ladder for {} that its bytes don't have, so nobody could check its \
             pieces; publish the files as a new version",
            file.name
        ))),
    }
}

/// Waits until no other import works in `folder`, and deletes what killed ones left there: an import of
/// a large model that dies would else keep its gigabytes for ever.
fn alone(folder: &Path) -> std::io::Result<std::fs::File> {
    let lock = std::fs::File::create(folder.join(".import.lock"))?;
    lock.lock()?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(lock)
}

async fn version_of(
    store: &Store,
    version: &VersionId,
) -> Result<Option<ModelVersion>, StoreError> {
    let mut tx = store.begin("publish.lookup").await?;
    model_lookup(&mut tx, Some(version)).await
}

fn import(
    source: &str,
    out: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Imported, PublishError> {
    if source == "tiny" {
        return Ok(tiny::write_tiny(out)?);
    }
    let path = Path::new(source);
    if path.is_dir() {
        return Ok(import_hf_dir(path, out, progress)?);
    }
    if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    {
        return Ok(import_gguf(path, out, progress)?);
    }
    Err(PublishError::Release(format!(
        "{source} is neither a .gguf file nor a directory with config.json and *.safetensors nor the word `tiny`"
    )))
}

fn manifest_files(imported: &Imported) -> Result<Vec<ManifestFile>, PublishError> {
    imported
        .files
        .iter()
        .map(|file| {
            let spec = file.ladder.spec();
            Ok(ManifestFile {
                name: file.name.clone(),
                size: file.size,
                sha256: file.sha256.parse::<Sha256>()?,
                piece_len: spec.piece_len().map(PieceLen::bytes),
                ladder_sha256: spec.ladder_sha256(),
            })
        })
        .collect()
}

async fn sign_and_record(
    store: &Store,
    authority: &Authority,
    release: &Release,
    imported: &Imported,
    files: Vec<ManifestFile>,
    now: UnixMillis,
) -> Result<Manifest, PublishError> {
    let key = authority.release_key()?;
    let sub_model = SubModel {
        architecture: imported.architecture.clone(),
        tokenizer: imported.tokenizer.clone(),
        files: files.iter().map(|file| file.name.clone()).collect(),
    };
    let mut tx = store.begin("model.publish").await?;
    model_publishing(&mut tx).await?;
    let next = model_sequence_max(&mut tx).await? + 1;
    let sequence = release.sequence.unwrap_or(next);
    if sequence < next {
        return Err(PublishError::Release(format!(
            "--sequence {sequence} is not above what is published here; {next} is the lowest, and the default"
        )));
    }
    let manifest = Manifest {
        sequence,
        version: release.version.clone(),
        round: None,
        created_at: now,
        parent: None,
        default_sub_model: release.default_sub_model.clone(),
        sub_models: release
            .sub_models
            .iter()
            .map(|id| (id.clone(), sub_model.clone()))
            .collect(),
        files,
        deltas: Vec::new(),
        note: imported.note.clone(),
        release_notes: String::new(),
    };
    // What we publish must pass the check that every reader makes.
    let manifest = Manifest::from_bytes(&manifest.to_bytes())
        .map_err(|error| PublishError::Release(error.to_string()))?;
    let network = authority.network();
    let envelope = Envelope::sign(&key, Purpose::Manifest, &network, manifest.to_bytes());
    model_publish(&mut tx, &manifest, &envelope, now).await?;
    let (checkpoint, signed) = checkpoint::sign(&key, &network, &manifest, &envelope);
    checkpoint_add(&mut tx, &checkpoint, &signed, now).await?;
    owm_service::failpoint::hit(PUBLISH_BEFORE_COMMIT);
    tx.commit().await?;
    owm_service::failpoint::hit(PUBLISH_AFTER_COMMIT);
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ladder_gets_only_the_name_of_its_own_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let bytes = vec![7; (1 << 20) + 5];
        std::fs::write(&path, &bytes).unwrap();
        let ladder = |piece_len| {
            let mut builder = LadderBuilder::new(PieceLen::new(piece_len).unwrap());
            builder.update(&bytes);
            builder.finish().unwrap()
        };
        let (short, long) = (ladder(256 << 10), ladder(1 << 20));
        // Published with other pieces than the import makes now.
        let mut file = ManifestFile {
            name: "model.safetensors".into(),
            size: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
            piece_len: Some(256 << 10),
            ladder_sha256: short.spec().ladder_sha256(),
        };
        let placed = ladder_bytes(&file, &long, &path).unwrap();
        assert_eq!(Some(Sha256::of(&placed)), file.ladder_sha256);
        assert_eq!(ladder_bytes(&file, &short, &path).unwrap(), placed);
        file.ladder_sha256 = Some(Sha256::of(b"another"));
        let error = ladder_bytes(&file, &long, &path).unwrap_err();
        assert!(error.to_string().contains("new version"), "{error}");
    }

    #[test]
    fn a_version_from_before_ladders_is_the_same_version() {
        let file = |size, ladder: Option<&[u8]>| ManifestFile {
            name: "model.safetensors".into(),
            size,
            sha256: Sha256::of(b"weights"),
            piece_len: ladder.map(|_| 1 << 20),
            ladder_sha256: ladder.map(Sha256::of),
        };
        let (before, now) = ([file(1 << 20, None)], [file(1 << 20, Some(b"l"))]);
        assert!(are_same(&before, &now));
        assert!(!are_same(&before, &[file(5, None)]));
    }
}
