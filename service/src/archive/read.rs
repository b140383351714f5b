//! Reads a backup: checks every byte first, then unpacks into a folder that gets its name at the end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{
    ArchiveError, FORMAT, MANIFEST, MANIFEST_BYTES_MAX, MEMBERS_MAX, Manifest, RECORD, SUMS,
    check_name, hex,
    write::{Digesting, sync_folder},
};
use crate::progress::Progress;

/// A backup whose every byte has been checked.
#[derive(Debug)]
pub struct Archive {
    file: File,
    path: PathBuf,
    bytes: u64,
    manifest: Manifest,
}

/// The few fields that every format has, read before the rest is believed.
#[derive(serde::Deserialize)]
struct Head {
    format: u32,
    program: String,
    version: String,
}

impl Archive {
    /// Opens and checks the backup at `path`, which must be one of `program`.
    pub fn open(path: &Path, program: &str) -> Result<Self, ArchiveError> {
        let mut file = File::open(path).map_err(ArchiveError::io(path))?;
        let found = file.metadata().map_err(ArchiveError::io(path))?;
        if !found.is_file() {
            return Err(foreign(path, "it is no ordinary file"));
        }
        let (manifest, manifest_bytes) = read_manifest(&mut file, path, program)?;
        check_manifest(&manifest, path)?;
        let sums = manifest.sums(&hex(&Sha256::digest(&manifest_bytes)));
        let wanted = manifest
            .file_bytes(manifest_bytes.len() as u64, sums.len() as u64)
            .ok_or_else(|| foreign(path, "its manifest names impossible sizes"))?;
        if found.len() < wanted {
            let path = path.to_owned();
            let found = found.len();
            return Err(ArchiveError::Truncated {
                path,
                found,
                wanted,
            });
        }
        if found.len() > wanted {
            return Err(damaged(path, "it is longer than its manifest says"));
        }
        let mut archive = Self {
            file,
            path: path.to_owned(),
            bytes: wanted,
            manifest,
        };
        let bar = Progress::bytes(wanted, "checking the backup");
        archive.each(|entry, data| {
            io::copy(data, &mut Digesting::new(io::sink(), &bar))
                .map_err(|error| damaged(path, &format!("{entry}: {error}")))?;
            Ok(())
        })?;
        bar.clear();
        archive.check_sums(&sums)?;
        Ok(archive)
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One member's bytes, at most `limit`.
    pub fn read(&mut self, wanted: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let (path, mut found) = (self.path.clone(), None);
        self.each(|name, data| {
            let room = if name == wanted { limit } else { 0 };
            let mut bytes = Vec::new();
            let read = (&mut *data).take(room).read_to_end(&mut bytes);
            // What is left is hashed all the same.
            let left = read
                .and_then(|_| io::copy(data, &mut io::sink()))
                .map_err(ArchiveError::io(&path))?;
            if name == wanted {
                if left > 0 {
                    return Err(damaged(&path, &format!("{name} is larger than it may be")));
                }
                found = Some(bytes);
            }
            Ok(())
        })?;
        found.ok_or_else(|| damaged(&self.path, &format!("{wanted} is not in it")))
    }

    /// Unpacks every member (mode 0600) to `place(name)` below `folder`, hashing once more.
    pub fn unpack(
        &mut self,
        folder: &Path,
        place: impl Fn(&str) -> PathBuf,
    ) -> Result<(), ArchiveError> {
        let bar = Progress::bytes(self.bytes, "restoring");
        self.each(|name, data| {
            let path = folder.join(place(name));
            let failed = || ArchiveError::io(&path);
            if let Some(parent) = path.parent() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(parent)
                    .map_err(failed())?;
            }
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed())?;
            let mut out = Digesting::new(file, &bar);
            io::copy(data, &mut out).map_err(failed())?;
            out.into_inner().sync_all().map_err(failed())
        })?;
        bar.clear();
        Ok(())
    }

    /// Goes through all members in order, giving name and data, and checks order, kind, size and
    /// hash of each.
    fn each(
        &mut self,
        mut take: impl FnMut(&str, &mut dyn Read) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        let path = self.path.clone();
        let broken = |error: io::Error| damaged(&path, &error.to_string());
        self.file.rewind().map_err(ArchiveError::io(&path))?;
        let mut tar = tar::Archive::new(BufReader::new(&self.file));
        // Raw: no extension may lend a member another name or size.
        let mut entries = tar.entries().map_err(broken)?.raw(true);
        let head = entries.next().transpose().map_err(broken)?;
        head.filter(|head| *head.path_bytes() == *MANIFEST.as_bytes())
            .ok_or_else(|| damaged(&path, "its manifest is gone"))?;
        for wanted in &self.manifest.members {
            let name = &wanted.name;
            let entry = entries.next().transpose().map_err(broken)?;
            let mut entry = entry
                .filter(|entry| {
                    entry.header().entry_type() == tar::EntryType::Regular
                        && *entry.path_bytes() == *name.as_bytes()
                        && entry.size() == wanted.size
                })
                .ok_or_else(|| damaged(&path, &format!("{name} is not where it should be")))?;
            let mut data = DigestRead {
                inner: &mut entry,
                sha256: Sha256::new(),
            };
            take(name, &mut data)?;
            if hex(&data.sha256.finalize()) != wanted.sha256 {
                return Err(damaged(&path, &format!("{name} has another SHA-256")));
            }
        }
        Ok(())
    }

    /// The sums stand before the two empty records of the end.
    fn check_sums(&mut self, sums: &str) -> Result<(), ArchiveError> {
        let path = self.path.clone();
        let length = (sums.len() as u64).next_multiple_of(RECORD);
        let at = self.bytes - 2 * RECORD - length - RECORD;
        let mut rest = Vec::new();
        self.file
            .seek(io::SeekFrom::Start(at))
            .and_then(|_| (&self.file).take(RECORD + length).read_to_end(&mut rest))
            .map_err(ArchiveError::io(&path))?;
        let mut tar = tar::Archive::new(rest.as_slice());
        let mut found = Vec::new();
        let read = tar.entries().and_then(|entries| {
            let Some(entry) = entries.raw(true).next() else {
                return Ok(false);
            };
            let mut entry = entry?;
            entry.read_to_end(&mut found)?;
            Ok(*entry.path_bytes() == *SUMS.as_bytes())
        });
        match read {
            Ok(true) if found == sums.as_bytes() => Ok(()),
            _ => Err(damaged(
                &path,
                "its manifest is not what SHA256SUMS at its end says",
            )),
        }
    }
}

fn read_manifest(
    file: &mut File,
    path: &Path,
    program: &str,
) -> Result<(Manifest, Vec<u8>), ArchiveError> {
    let mut tar = tar::Archive::new(BufReader::new(&mut *file));
    let mut entries = tar
        .entries()
        .map_err(|error| foreign(path, &error.to_string()))?
        .raw(true);
    let first = entries
        .next()
        .transpose()
        .map_err(|error| foreign(path, &error.to_string()))?;
    let is_manifest = |entry: &tar::Entry<'_, _>| {
        *entry.path_bytes() == *MANIFEST.as_bytes()
            && entry.header().entry_type() == tar::EntryType::Regular
            && entry.size() <= MANIFEST_BYTES_MAX
    };
    let Some(mut entry) = first.filter(is_manifest) else {
        return Err(foreign(path, "it does not begin with a manifest"));
    };
    let size = entry.size();
    let mut bytes = Vec::new();
    entry
        .read_to_end(&mut bytes)
        .map_err(ArchiveError::io(path))?;
    if bytes.len() as u64 != size {
        return Err(foreign(path, "its manifest is cut off"));
    }
    let wrong = |error: serde_json::Error| foreign(path, &format!("its manifest: {error}"));
    let head: Head = serde_json::from_slice(&bytes).map_err(wrong)?;
    if head.program != program {
        let path = path.to_owned();
        return Err(
            if head.program.starts_with("owm-") && head.program.len() < 40 {
                let found = head.program;
                ArchiveError::Program { path, found }
            } else {
                foreign(&path, "its manifest names no program of ours")
            },
        );
    }
    if head.format != FORMAT {
        return Err(ArchiveError::Newer {
            path: path.to_owned(),
            found: head.format,
            version: head.version,
        });
    }
    Ok((serde_json::from_slice(&bytes).map_err(wrong)?, bytes))
}

fn check_manifest(manifest: &Manifest, path: &Path) -> Result<(), ArchiveError> {
    if manifest.members.len() > MEMBERS_MAX {
        return Err(foreign(path, "its manifest names too many files"));
    }
    let mut names: Vec<&str> = Vec::new();
    for entry in &manifest.members {
        check_name(&entry.name).map_err(|error| foreign(path, &error.to_string()))?;
        names.push(&entry.name);
    }
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(foreign(path, "its manifest names a file twice"));
    }
    Ok(())
}

fn foreign(path: &Path, why: &str) -> ArchiveError {
    ArchiveError::Foreign {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn damaged(path: &Path, what: &str) -> ArchiveError {
    ArchiveError::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

/// Hashes what is read through it.
struct DigestRead<R> {
    inner: R,
    sha256: Sha256,
}

impl<R: Read> Read for DigestRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..read]);
        Ok(read)
    }
}

/// Whether something is mounted on `path`: a bind mount of the same file system has its parent's device.
/// `false` where the system does not tell.
fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").bytes()),
            byte => escaped.push(*byte),
        }
    }
    let mut lines = mounts.split(|byte| *byte == b'\n');
    lines.any(|line| line.split(|byte| *byte == b' ').nth(1) == Some(&escaped))
}

/// A folder in the making, beside the one it will be; gone unless it is committed.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
    target: PathBuf,
}

impl Staging {
    /// Says whether `target` may be restored to: it is empty or not there, and can be replaced by a rename.
    pub fn check(target: &Path) -> Result<(), ArchiveError> {
        let target = &std::path::absolute(target).map_err(ArchiveError::io(target))?;
        if let Ok(found) = fs::symlink_metadata(target) {
            let cannot = |what| {
                let path = target.clone();
                Err(ArchiveError::NotReplaceable { path, what })
            };
            if found.is_symlink() {
                return cannot("a symbolic link");
            }
            let Some(parent) = target.parent() else {
                return cannot("the root folder");
            };
            let above = fs::metadata(parent).map_err(ArchiveError::io(parent))?;
            if found.is_dir() && (found.dev() != above.dev() || is_mounted(target)) {
                return cannot("a mount point");
            }
        }
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(ArchiveError::NotEmpty(target.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ArchiveError::io(target)(error)),
        }
    }

    /// Makes the folder (mode 0700), and those above `target`.
    pub fn new(target: &Path) -> Result<Self, ArchiveError> {
        let target = std::path::absolute(target).map_err(ArchiveError::io(target))?;
        Self::check(&target)?;
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(ArchiveError::io(parent))?;
        let folder = tempfile::Builder::new()
            .prefix(".owm-restore-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(ArchiveError::io(parent))?;
        Ok(Self { folder, target })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes one more file (mode 0600).
    pub fn add(&self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let path = self.path().join(name);
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(ArchiveError::io(&path))
    }

    /// Gives the folder its name; on an error nothing is there.
    pub fn commit(self) -> Result<(), ArchiveError> {
        sync_below(self.folder.path())?;
        let target = self.target;
        Self::check(&target)?;
        fs::rename(self.folder.path(), &target).map_err(ArchiveError::io(&target))?;
        // It has another name now: there is nothing to delete.
        drop(self.folder.keep());
        sync_folder(target.parent().unwrap_or(Path::new("/")))
    }
}

/// Brings the names in all folders below to the disk; files are there already.
fn sync_below(folder: &Path) -> Result<(), ArchiveError> {
    let failed = || ArchiveError::io(folder);
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_type().map_err(failed())?.is_dir() {
            sync_below(&entry.path())?;
        }
    }
    sync_folder(folder)
}
