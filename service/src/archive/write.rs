//! Packs a backup: hash every file, then write all of it beside its final name, then rename.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{
    ArchiveError, Entry, FORMAT, LAST_BACKUP, MANIFEST, MEMBERS_MAX, Manifest, SUMS, check_name,
    hex,
};
use crate::progress::Progress;

/// What a backup is to hold.
#[derive(Debug, Clone)]
pub struct Plan {
    /// See [`Manifest`], as the next five.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The network's id.
    pub network: String,
    /// Whose it is.
    pub key: String,
    /// Now.
    pub created_at_ms: u64,
    /// What else is to be known before a restore.
    pub facts: BTreeMap<String, String>,
    /// Name in the backup, file on the disk; in the order of the backup.
    pub members: Vec<(String, PathBuf)>,
}

/// A backup that is on the disk.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where, absolute.
    pub path: PathBuf,
    /// Of the whole file, lowercase hex.
    pub sha256: String,
    /// Of the whole file.
    pub bytes: u64,
    /// What it holds.
    pub manifest: Manifest,
}

/// A member's file, held open so that a rename underneath changes nothing.
struct Opened {
    file: File,
    path: PathBuf,
}

/// Writes the backup `plan` to the new file `to`.
pub fn write(plan: &Plan, to: &Path) -> Result<Written, ArchiveError> {
    let to = std::path::absolute(to).map_err(ArchiveError::io(to))?;
    if to.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(to));
    }
    let folder = to.parent().unwrap_or(Path::new("/")).to_owned();
    // Mode 0600, gone again unless it is given its name.
    let mut temporary = NamedTempFile::with_prefix_in(".owm-backup-", &folder)
        .map_err(ArchiveError::io(&folder))?;
    let (manifest, opened) = survey(plan)?;
    let (sha256, bytes) = pack(&manifest, opened, temporary.as_file_mut(), &to)?;
    temporary
        .as_file()
        .sync_all()
        .map_err(ArchiveError::io(&to))?;
    temporary.persist_noclobber(&to).map_err(|failed| {
        if failed.error.kind() == io::ErrorKind::AlreadyExists {
            ArchiveError::Exists(to.clone())
        } else {
            ArchiveError::io(&to)(failed.error)
        }
    })?;
    sync_folder(&folder)?;
    Ok(Written {
        path: to,
        sha256,
        bytes,
        manifest,
    })
}

/// Tells `doctor` of a backup: `last-backup.json` in the data folder.
pub fn note_last(folder: &Path, written: &Written) -> Result<(), ArchiveError> {
    let path = folder.join(LAST_BACKUP);
    let value = json!({
        "at_ms": written.manifest.created_at_ms,
        "path": written.path,
        "sha256": written.sha256,
    });
    let failed = || ArchiveError::io(&path);
    let mut temporary = NamedTempFile::with_prefix_in(".last-backup-", folder).map_err(failed())?;
    writeln!(temporary, "{value}").map_err(failed())?;
    temporary.as_file().sync_all().map_err(failed())?;
    temporary
        .persist(&path)
        .map_err(|error| failed()(error.error))?;
    sync_folder(folder)
}

/// Opens and hashes every member.
fn survey(plan: &Plan) -> Result<(Manifest, Vec<Opened>), ArchiveError> {
    if plan.members.len() > MEMBERS_MAX {
        return Err(ArchiveError::Member {
            name: format!("{} files", plan.members.len()),
            why: "more than 512 are no backup of ours",
        });
    }
    let (mut members, mut opened, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (name, path) in &plan.members {
        check_name(name)?;
        if !names.insert(name) {
            let name = name.clone();
            let why = "it is named twice";
            return Err(ArchiveError::Member { name, why });
        }
        let mut file = File::open(path).map_err(ArchiveError::io(path))?;
        let bar = Progress::bytes(
            file.metadata().map_or(0, |found| found.len()),
            format!("reading {name}"),
        );
        let mut digest = Digesting::new(io::sink(), &bar);
        let size = io::copy(&mut file, &mut digest).map_err(ArchiveError::io(path))?;
        file.rewind().map_err(ArchiveError::io(path))?;
        bar.clear();
        members.push(Entry {
            name: name.clone(),
            size,
            sha256: digest.hex(),
        });
        let path = path.clone();
        opened.push(Opened { file, path });
    }
    let manifest = Manifest {
        format: FORMAT,
        program: plan.program.to_owned(),
        version: plan.version.to_owned(),
        network: plan.network.clone(),
        key: plan.key.clone(),
        created_at_ms: plan.created_at_ms,
        facts: plan.facts.clone(),
        members,
    };
    Ok((manifest, opened))
}

/// Writes the tar; returns its SHA-256 and length.
fn pack(
    manifest: &Manifest,
    opened: Vec<Opened>,
    out: &mut File,
    to: &Path,
) -> Result<(String, u64), ArchiveError> {
    let failed = || ArchiveError::io(to);
    let mut text = serde_json::to_vec_pretty(manifest)
        .map_err(io::Error::from)
        .map_err(failed())?;
    text.push(b'\n');
    let own = hex(&Sha256::digest(&text));
    let sums = manifest.sums(&own);
    let total = manifest.file_bytes(text.len() as u64, sums.len() as u64);
    let bar = Progress::bytes(total.unwrap_or(0), "writing the backup");
    let mut tar = tar::Builder::new(Digesting::new(BufWriter::new(&mut *out), &bar));
    let at = manifest.created_at_ms / 1_000;
    append(&mut tar, MANIFEST, text.len() as u64, at, text.as_slice()).map_err(failed())?;
    for (entry, Opened { mut file, path }) in manifest.members.iter().zip(opened) {
        let silent = Progress::hidden();
        let mut again = DigestingReader {
            inner: (&mut file).take(entry.size),
            digest: Digesting::new(io::sink(), &silent),
        };
        append(&mut tar, &entry.name, entry.size, at, &mut again).map_err(failed())?;
        if again.digest.bytes != entry.size || again.digest.hex() != entry.sha256 {
            return Err(ArchiveError::Changed(path));
        }
    }
    append(&mut tar, SUMS, sums.len() as u64, at, sums.as_bytes()).map_err(failed())?;
    let mut digest = tar.into_inner().map_err(failed())?;
    digest.flush().map_err(failed())?;
    bar.clear();
    Ok((digest.hex(), digest.bytes))
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    at: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(at);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    tar.append(&header, data)
}

/// Brings a folder's names to the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<(), ArchiveError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(ArchiveError::io(folder))
}

/// Hashes and counts what is written through it.
pub(super) struct Digesting<'a, W> {
    inner: W,
    sha256: Sha256,
    bar: &'a Progress,
    pub(super) bytes: u64,
}

impl<'a, W> Digesting<'a, W> {
    pub(super) fn new(inner: W, bar: &'a Progress) -> Self {
        Self {
            inner,
            sha256: Sha256::new(),
            bar,
            bytes: 0,
        }
    }

    pub(super) fn into_inner(self) -> W {
        self.inner
    }

    pub(super) fn hex(&self) -> String {
        hex(&self.sha256.clone().finalize())
    }
}

impl<W: Write> Write for Digesting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        self.bar.inc(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what is read through it.
struct DigestingReader<'a, R> {
    inner: R,
    digest: Digesting<'a, io::Sink>,
}

impl<R: Read> Read for DigestingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.write_all(&buffer[..read])?;
        Ok(read)
    }
}
