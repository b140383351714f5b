//! Where a run's result goes: looked at, and held against a second run, before anything is computed. Called by
//! `train`. What must stay true: two runs never write to one place, and nothing is deleted that a run like this
//! one has not made.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use owm_model::{TrainError, Trainer, check_way};

use super::TrainFailure;

/// What the state and the result take on the disk besides their numbers, in bytes: headers, tokenizers.
const ROOM_BESIDE: u64 = 64 << 20;
/// Looks at a lock file that others remove as soon as they are done with it.
const LOCK_TRIES: u32 = 100;

/// A result's place, held until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Locked; the system unlocks it with the process.
    _lock: File,
    path: PathBuf,
}

/// What stands beside the result, by its ending.
pub(super) fn beside(out: &Path, ending: &str) -> PathBuf {
    // Without a slash at its end, which would put it inside.
    let out: PathBuf = out.components().collect();
    let mut name = out.into_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Takes the place, or says why the result could not be put there.
pub(super) fn take(out: &Path) -> Result<Place, TrainFailure> {
    let is_used = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if is_used || out.is_file() {
        return Err(TrainFailure::OutInUse(out.to_owned()));
    }
    let failed = |source| TrainFailure::Out {
        path: parent(out).to_owned(),
        source,
    };
    fs::create_dir_all(parent(out))
        .and_then(|()| tempfile::tempfile_in(parent(out)))
        .map_err(failed)?;
    let path = beside(out, ".lock");
    let lock = lock(&path).map_err(failed)?;
    let lock = lock.ok_or_else(|| TrainFailure::Busy(out.to_owned()))?;
    if lock.metadata().is_ok_and(|lock| lock.len() > 0) {
        return Err(TrainError::InTheWay(path).into());
    }
    let place = Place { _lock: lock, path };
    check_way(out)?;
    Trainer::check_way(&super::state_file(out))?;
    Ok(place)
}

/// `None`: another run has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Its last owner may have removed the name in between: then another run can lock the new one.
        let same = fs::metadata(path).and_then(|there| {
            let own = file.metadata()?;
            Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
        });
        if same.unwrap_or(false) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

impl Drop for Place {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed. If it stays it is in nobody's way.
        drop(fs::remove_file(&self.path));
    }
}

/// Refuses a place without room: for the result, and for two states, since the new one is written before the old
/// one goes.
pub(super) fn check_room(
    out: &Path,
    base_dir: &Path,
    trained_values: u64,
) -> Result<(), TrainFailure> {
    let needed = room(weight_bytes(base_dir), trained_values);
    let free = nix::sys::statvfs::statvfs(parent(out))
        .map(|stat| stat.blocks_available().saturating_mul(stat.fragment_size()));
    match free {
        Ok(free) if free < needed => Err(TrainFailure::Room {
            path: parent(out).to_owned(),
            needed_mb: needed.div_ceil(1_000_000),
            free_mb: free / 1_000_000,
        }),
        // A system that does not say is not asked again.
        _ => Ok(()),
    }
}

fn room(weight_bytes: u64, trained_values: u64) -> u64 {
    weight_bytes + 2 * 12 * trained_values + ROOM_BESIDE
}

fn weight_bytes(base_dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(base_dir) else {
        return 0;
    };
    let sizes = entries.flatten().filter_map(|entry| {
        let is_weights = entry.path().extension() == Some("safetensors".as_ref());
        // Through links: on a shelf the files are.
        is_weights
            .then(|| fs::metadata(entry.path()).ok())
            .flatten()
            .map(|found| found.len())
    });
    sizes.sum()
}

fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_held_by_one_run_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deeper/mine");
        let held = take(&out).unwrap();
        // The same place under another spelling.
        let refused = take(&out.join("")).unwrap_err();
        assert!(matches!(refused, TrainFailure::Busy(_)), "{refused}");
        take(&dir.path().join("deeper/other")).unwrap();
        drop(held);
        drop(take(&out).unwrap());
        assert!(
            fs::read_dir(dir.path().join("deeper"))
                .unwrap()
                .next()
                .is_none()
        );
    }

    #[test]
    fn what_is_not_ours_beside_the_result_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("mine");
        for ending in [".lock", ".partial", ".state.partial"] {
            let theirs = beside(&out, ending);
            fs::write(&theirs, "dear diary").unwrap();
            let refused = take(&out).unwrap_err();
            assert!(refused.to_string().contains(ending), "{refused}");
            assert_eq!(fs::read(&theirs).unwrap(), b"dear diary");
            fs::remove_file(&theirs).unwrap();
        }
        drop(take(&out).unwrap());
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_before_anything_is_computed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), [0; 1000]).unwrap();
        assert_eq!(weight_bytes(dir.path()), 1000);
        assert_eq!(room(1000, 10), 1000 + 240 + ROOM_BESIDE);
        let out = dir.path().join("mine");
        check_room(&out, dir.path(), 1).unwrap();
        // More than any disk has.
        let refused = check_room(&out, dir.path(), 1 << 58).unwrap_err();
        assert!(matches!(refused, TrainFailure::Room { .. }), "{refused}");
    }
}
