//! Room: what the files take, what may go, pins. The oldest use goes first; pinned, kept and open files, and
//! files that are laid out for a loaded model (hard links), never.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Weak,
    time::SystemTime,
};

use owm_proto::Sha256;

use super::{Inner, Store, StoreError, remove, sync_folder};

/// Bytes of one block in `st_blocks`, whatever the file system's own.
const STAT_BLOCK_BYTES: u64 = 512;

/// What the files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whole files.
    pub whole: u64,
    /// Files that grow, as far as they have come; their logs are not counted.
    pub growing: u64,
    /// What they may take together.
    pub quota: Option<u64>,
    /// What this user may still write on this disk.
    pub free: u64,
}

impl Usage {
    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.whole + self.growing
    }
}

/// A file that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Which.
    pub sha256: Sha256,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether it is whole.
    pub whole: bool,
}

/// When a file was used last: in this process, or by its time on disk before it.
type Used = (u64, Option<SystemTime>);

impl Store {
    /// What the files take.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage {
            quota: self.0.config.quota,
            free: free_bytes(self.dir()).map_err(|source| StoreError::io(self.dir(), source))?,
            ..Usage::default()
        };
        for (name, _, found) in self.blobs()? {
            if name.parse::<Sha256>().is_ok() {
                usage.whole += found.len();
            } else if name.strip_suffix(".part").is_some() {
                usage.growing += taken(&found);
            }
        }
        Ok(usage)
    }

    /// Names the files that must stay though nobody pinned them: those of the version in use.
    pub fn keep(&self, files: BTreeSet<Sha256>) {
        self.lock().kept = files;
    }

    /// Keeps a file until it is unpinned, also over restarts; it need not be there yet.
    pub fn pin(&self, sha256: &Sha256) -> Result<(), StoreError> {
        let path = self.pin_path(sha256);
        let made = File::create(&path).and_then(|file| file.sync_all());
        // The name too: a pin that a power cut undoes is none.
        let made = made.and_then(|()| sync_folder(&path));
        made.map_err(|source| StoreError::io(&path, source))
    }

    /// Ends that; whether it was pinned.
    pub fn unpin(&self, sha256: &Sha256) -> Result<bool, StoreError> {
        let path = self.pin_path(sha256);
        let was = path.exists();
        remove(&path)?;
        sync_folder(&path).map_err(|source| StoreError::io(&path, source))?;
        Ok(was)
    }

    /// What is pinned.
    pub fn pinned(&self) -> Result<BTreeSet<Sha256>, StoreError> {
        let folder = self.dir().join("pins");
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|source| StoreError::io(&folder, source))?;
        let name = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        Ok(entries.iter().filter_map(name).collect())
    }

    /// Files that may go, the one used longest ago first.
    pub fn idle(&self) -> Result<Vec<Idle>, StoreError> {
        let stays = self.stays()?;
        let mut idle: Vec<(Used, Idle)> = Vec::new();
        for (name, path, found) in self.blobs()? {
            let whole = name.parse::<Sha256>().ok();
            let growing = || name.strip_suffix(".part").and_then(|n| n.parse().ok());
            let Some(sha256) = whole.or_else(growing) else {
                continue;
            };
            let is_used = match whole {
                // Laid out for a model that is loaded or will be.
                Some(_) => found.nlink() > 1,
                None => self.is_locked(&sha256),
            };
            if is_used || stays.contains(&sha256) {
                continue;
            }
            let bytes = if whole.is_some() {
                found.len()
            } else {
                taken(&found)
            };
            let used = self.used(&sha256, &path);
            let whole = whole.is_some();
            idle.push((
                used,
                Idle {
                    sha256,
                    bytes,
                    whole,
                },
            ));
        }
        idle.sort_by_key(|(used, file)| (*used, file.sha256));
        Ok(idle.into_iter().map(|(_, file)| file).collect())
    }

    /// Removes every idle file; what went.
    pub fn gc(&self) -> Result<Vec<Idle>, StoreError> {
        let idle = self.idle()?;
        for file in &idle {
            self.remove_idle(file)?;
        }
        Ok(idle)
    }

    /// Makes sure that `bytes` more have room: under the quota, if need be by removing idle files other
    /// than `but`, and on the disk.
    pub fn make_room(&self, bytes: u64, but: &BTreeSet<Sha256>) -> Result<(), StoreError> {
        let mut usage = self.usage()?;
        let coming = bytes.saturating_add(self.coming(but));
        if let Some(cap) = self.0.config.quota {
            let mut used = usage.total();
            let mut idle = self.idle()?.into_iter();
            while used.saturating_add(coming) > cap {
                let Some(file) = idle.by_ref().find(|file| !but.contains(&file.sha256)) else {
                    let needed = used.saturating_add(coming);
                    return Err(StoreError::Quota { needed, cap });
                };
                self.remove_idle(&file)?;
                used = used.saturating_sub(file.bytes);
            }
            usage = self.usage()?;
        }
        let needed = if coming == 0 {
            0
        } else {
            coming.saturating_add(self.0.config.spare)
        };
        if needed > usage.free {
            return Err(StoreError::DiskFull {
                needed,
                free: usage.free,
                folder: self.dir().to_owned(),
            });
        }
        Ok(())
    }

    /// Bytes that open growing files will still take.
    fn coming(&self, but: &BTreeSet<Sha256>) -> u64 {
        let growing: Vec<_> = {
            let open = self.lock();
            let others = open
                .growing
                .iter()
                .filter(|(sha256, _)| !but.contains(sha256));
            others.filter_map(|(_, file)| file.upgrade()).collect()
        };
        let open = growing.iter().filter(|file| !file.is_finished());
        open.map(|file| file.missing_bytes()).sum()
    }

    fn stays(&self) -> Result<BTreeSet<Sha256>, StoreError> {
        let mut stays = self.pinned()?;
        stays.extend(&self.lock().kept);
        stays.extend(self.ladders_of(&stays));
        let open = self.lock();
        let whole = open.whole.iter().filter(|(_, file)| is_held(file));
        stays.extend(whole.map(|(sha256, _)| *sha256));
        for growing in open.growing.values().filter_map(Weak::upgrade) {
            let spec = growing.spec();
            stays.extend([spec.sha256()].into_iter().chain(spec.ladder_sha256()));
        }
        Ok(stays)
    }

    /// Whether some process is fetching it.
    fn is_locked(&self, sha256: &Sha256) -> bool {
        File::open(self.pieces(sha256)).is_ok_and(|log| log.try_lock_shared().is_err())
    }

    fn used(&self, sha256: &Sha256, path: &Path) -> Used {
        let here = self.lock().used.get(sha256).copied().unwrap_or(0);
        let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        let before = modified(&self.record(sha256)).or_else(|| modified(path));
        (here, before)
    }

    fn remove_idle(&self, file: &Idle) -> Result<(), StoreError> {
        if file.whole {
            remove(&self.blob(&file.sha256))?;
            remove(&self.record(&file.sha256))?;
        } else {
            remove(&self.part(&file.sha256))?;
            remove(&self.pieces(&file.sha256))?;
        }
        self.tell();
        Ok(())
    }

    fn pin_path(&self, sha256: &Sha256) -> PathBuf {
        self.dir().join("pins").join(sha256.to_string())
    }

    /// Everything under `blobs`: name, path, and what the system says of it.
    pub(super) fn blobs(&self) -> Result<Vec<(String, PathBuf, Metadata)>, StoreError> {
        let folder = self.dir().join("blobs");
        let failed = |source| StoreError::io(&folder, source);
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let found = match entry.metadata() {
                Ok(found) => found,
                // Removed or renamed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            if let Ok(name) = entry.file_name().into_string() {
                blobs.push((name, entry.path(), found));
            }
        }
        Ok(blobs)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.syncer.stop();
    }
}

fn is_held<T>(file: &Weak<T>) -> bool {
    file.strong_count() > 0
}

/// Bytes on the disk: a file that grows has holes.
fn taken(found: &Metadata) -> u64 {
    (found.blocks() * STAT_BLOCK_BYTES).min(found.len())
}

/// Where the first hole of a file begins, or its end. The file's own position moves.
pub(super) fn first_hole(file: &File) -> io::Result<u64> {
    use nix::unistd::{Whence, lseek};
    let length = file.metadata()?.len();
    match lseek(file, 0, Whence::SeekHole) {
        Ok(hole) => Ok(u64::try_from(hole).unwrap_or(0).min(length)),
        // It has no bytes.
        Err(nix::errno::Errno::ENXIO) => Ok(0),
        // A file system that knows of no holes.
        Err(nix::errno::Errno::EINVAL) => Ok(length),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that this user may still write on the disk of `folder`.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    #[expect(clippy::useless_conversion, reason = "these are u32 on some systems")]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    Ok(free)
}
