//! Writes a model directory so that it appears whole or not at all.
//!
//! Called by the three importers. Files are written into a hidden directory beside the final one,
//! hashed on the way, flushed to disk, and moved into place by one rename. A staging directory
//! that is dropped before `publish` removes itself.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use owm_proto::LadderBuilder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{ImportError, ImportedFile};

/// Bytes copied or hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Begins the name of every staging directory and partial file.
const STAGING_PREFIX: &str = ".owm-import-";

/// A model directory being written.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: TempDir,
    target: PathBuf,
    files: Vec<ImportedFile>,
}

/// Hashes what is written to it and keeps nothing.
#[derive(Debug)]
struct HashOnly(Sha256);

/// A file being written and hashed.
#[derive(Debug)]
pub(crate) struct HashingFile {
    writer: BufWriter<File>,
    hasher: LadderBuilder,
}

impl Staging {
    /// Opens a staging directory beside `target`, whose parent is created if need be. `target`
    /// must not exist, or be an empty directory.
    pub(crate) fn open(target: &Path) -> Result<Self, ImportError> {
        if directory_is_taken(target)? {
            return Err(ImportError::OutputExists {
                path: target.to_owned(),
            });
        }
        let parent = parent_of(target);
        fs::create_dir_all(parent).map_err(ImportError::io("create", parent))?;
        let directory = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(parent)
            .map_err(ImportError::io("create a directory in", parent))?;
        Ok(Self {
            directory,
            target: target.to_owned(),
            files: Vec::new(),
        })
    }

    /// Where a file lies before it is published.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes one file through `write`.
    pub(crate) fn file(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut HashingFile) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let path = self.path(name);
        let io_error = |error| ImportError::io("write", &path)(error);
        let file = File::create_new(&path).map_err(io_error)?;
        let mut file = HashingFile {
            writer: BufWriter::with_capacity(CHUNK_BYTES, file),
            hasher: LadderBuilder::by_size(),
        };
        write(&mut file)?;
        let HashingFile { writer, hasher } = file;
        let file = writer
            .into_inner()
            .map_err(|error| io_error(error.into_error()))?;
        file.sync_all().map_err(io_error)?;
        let ladder = hasher.finish().map_err(|source| ImportError::TooLarge {
            file: name.to_owned(),
            source,
        })?;
        self.files.push(ImportedFile {
            name: name.to_owned(),
            size: ladder.spec().size(),
            sha256: ladder.spec().sha256().to_string(),
            ladder,
        });
        Ok(())
    }

    /// Writes one file whose content is at hand.
    pub(crate) fn bytes(&mut self, name: &str, content: &[u8]) -> Result<(), ImportError> {
        let path = self.path(name);
        self.file(name, |file| {
            file.write_all(content)
                .map_err(ImportError::io("write", &path))
        })
    }

    /// Moves the directory into place. Returns its files in the order of their names.
    pub(crate) fn publish(self) -> Result<Vec<ImportedFile>, ImportError> {
        let Self {
            directory,
            target,
            mut files,
        } = self;
        let staged = directory.path();
        make_readable(staged)?;
        sync_directory(staged)?;
        fs::rename(staged, &target)
            .map_err(ImportError::io("move the finished model to", &target))?;
        // Moved away: there is nothing left for the guard to remove.
        let _moved = directory.keep();
        sync_directory(parent_of(&target))?;
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(files)
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Write for HashOnly {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies everything `source` yields and returns the number of bytes. Errors of both sides are
/// reported for `source_path`'s copy.
pub(crate) fn copy(
    source: &mut impl Read,
    target: &mut impl Write,
    source_path: &Path,
    step: &mut dyn FnMut(u64),
) -> Result<u64, ImportError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut copied = 0;
    loop {
        let length = match source.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImportError::io("read", source_path)(error)),
        };
        if length == 0 {
            return Ok(copied);
        }
        target
            .write_all(&buffer[..length])
            .map_err(ImportError::io("write a copy of", source_path))?;
        copied += length as u64;
        step(copied);
    }
}

/// SHA-256 of a file's bytes, as 64 hexadecimal digits.
pub(crate) fn file_sha256(path: &Path, step: &mut dyn FnMut(u64)) -> Result<String, ImportError> {
    let mut file = File::open(path).map_err(ImportError::io("open", path))?;
    let mut sink = HashOnly(Sha256::new());
    copy(&mut file, &mut sink, path, step)?;
    Ok(hex(&sink.0.finalize()))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0x0f])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn directory_is_taken(path: &Path) -> Result<bool, ImportError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
        Err(error) => Err(ImportError::io("look into", path)(error)),
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Staging directories are private while they are written; a published one is not.
#[cfg(unix)]
fn make_readable(path: &Path) -> Result<(), ImportError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(ImportError::io("set the permissions of", path))
}

#[cfg(not(unix))]
fn make_readable(_path: &Path) -> Result<(), ImportError> {
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), ImportError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(ImportError::io("flush to disk", path))
}
