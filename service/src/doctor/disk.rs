//! Disks: room, inodes, whether one may write, and how long `fsync` takes.

use std::{
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use super::{Finding, shell};

/// A result is on the disk before it is sent: slower than this, every answer waits for it.
const FSYNC_WARN: Duration = Duration::from_millis(50);
/// How often it is measured; the median counts.
const FSYNCS: usize = 5;
/// What is written each time, in bytes: about a booking.
const FSYNC_BYTES: usize = 4096;
/// Free room below which something soon breaks even if nothing is to be fetched: logs, task logs.
pub const ROOM_BYTES_MIN: u64 = 256 << 20;
/// Free inodes below which files soon can't be made.
const INODES_MIN: u64 = 1_000;

/// A file system as `statvfs` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// Bytes of all of it.
    pub total_bytes: u64,
    /// Inodes free for this user; `None`: the file system makes them as needed.
    pub free_inodes: Option<u64>,
}

/// The file system of `folder`.
pub fn probe_room(folder: &Path) -> io::Result<Room> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    #[expect(clippy::useless_conversion, reason = "these are u32 on some systems")]
    let (unit, free, all, inodes, free_inodes) = (
        u64::from(stat.fragment_size()),
        u64::from(stat.blocks_available()),
        u64::from(stat.blocks()),
        u64::from(stat.files()),
        u64::from(stat.files_available()),
    );
    Ok(Room {
        free_bytes: free.saturating_mul(unit),
        total_bytes: all.saturating_mul(unit),
        free_inodes: (inodes > 0).then_some(free_inodes),
    })
}

/// Whether `needed` more bytes (for `what`) fit where `folder` is. `fix`: another way than to delete.
pub fn judge_room(
    area: &'static str,
    room: Room,
    needed: u64,
    what: &str,
    folder: &Path,
    fix: &str,
) -> Vec<Finding> {
    let place = shell(folder);
    let free = bytes(room.free_bytes);
    let wanted = needed.saturating_add(ROOM_BYTES_MIN);
    let make_room = |missing: u64| {
        format!(
            "free {} on the disk of {place} (`df -h {place}` shows it), or {fix}",
            bytes(missing)
        )
    };
    let mut findings = vec![if room.free_bytes < needed {
        let missing = needed - room.free_bytes;
        let what = format!("{free} free, but {} are needed for {what}", bytes(needed));
        Finding::problem(area, what, make_room(missing))
    } else if room.free_bytes < wanted {
        let what = format!("only {free} free after which logs and results can't be written");
        Finding::warning(area, what, make_room(wanted - room.free_bytes))
    } else if needed > 0 {
        let what = format!("{free} free, {} needed for {what}", bytes(needed));
        Finding::ok(area, what)
    } else {
        Finding::ok(area, format!("{free} free"))
    }];
    if let Some(inodes) = room.free_inodes.filter(|inodes| *inodes < INODES_MIN) {
        findings.push(Finding::problem(
            area,
            format!("only {inodes} inodes free: soon no file can be made, whatever the room"),
            format!("delete small files on that disk (`df -i {place}`), or {fix}"),
        ));
    }
    findings
}

/// Median time of some `fsync`s of a file without a name in `folder`.
pub fn probe_fsync(folder: &Path) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        file.write_all(&[0x5a; FSYNC_BYTES])?;
        let start = Instant::now();
        file.sync_all()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[FSYNCS / 2])
}

/// What came of [`probe_fsync`].
pub fn judge_fsync(area: &'static str, measured: &io::Result<Duration>, folder: &Path) -> Finding {
    let place = shell(folder);
    match measured {
        Ok(time) if *time <= FSYNC_WARN => Finding::ok(
            area,
            format!(
                "a write is on the disk after {:.1} ms",
                time.as_secs_f64() * 1e3
            ),
        ),
        Ok(time) => Finding::warning(
            area,
            format!(
                "a write is on the disk only after {} ms, and every answer waits for one",
                time.as_millis()
            ),
            format!("move {place} to a faster disk, or take load off this one (`iostat -x`)"),
        ),
        Err(error) => Finding::problem(
            area,
            format!("cannot write in {place}: {error}"),
            format!(
                "make {place} writable for this user and its disk not full: ls -ld {place}; df -h {place}"
            ),
        ),
    }
}

/// Bytes for people, decimal as disks are sold.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn judge(free_bytes: u64, needed: u64, free_inodes: Option<u64>) -> Vec<Finding> {
        let room = Room {
            free_bytes,
            total_bytes: 1 << 40,
            free_inodes,
        };
        judge_room("disk", room, needed, "the model", Path::new("/d"), "move")
    }

    #[test]
    fn too_little_room_is_a_problem_and_barely_enough_a_warning() {
        let level = |free, needed| judge(free, needed, None)[0].level;
        assert_eq!(level(1 << 30, 0), Level::Ok);
        assert_eq!(level(1 << 30, 500 << 20), Level::Ok);
        assert_eq!(level(600 << 20, 500 << 20), Level::Warning);
        assert_eq!(level(10 << 20, 0), Level::Warning);
        let full = &judge(499_000_000, 500_000_000, None)[0];
        assert_eq!(full.level, Level::Problem);
        assert!(
            full.fix.as_ref().unwrap().starts_with("free 1.0 MB on"),
            "{full:?}"
        );
    }

    #[test]
    fn a_disk_out_of_inodes_is_a_problem_whatever_its_room() {
        let found = judge(1 << 40, 0, Some(3));
        assert_eq!(
            (found[0].level, found[1].level),
            (Level::Ok, Level::Problem)
        );
        assert_eq!(judge(1 << 40, 0, Some(1 << 20)).len(), 1);
    }

    #[test]
    fn a_slow_disk_is_a_warning_and_one_that_takes_no_writes_a_problem() {
        let level = |measured| judge_fsync("disk.fsync", &measured, Path::new("/d")).level;
        assert_eq!(level(Ok(Duration::from_millis(50))), Level::Ok);
        assert_eq!(level(Ok(Duration::from_millis(51))), Level::Warning);
        assert_eq!(
            level(Err(io::ErrorKind::ReadOnlyFilesystem.into())),
            Level::Problem
        );
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        probe_fsync(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(probe_fsync(&folder.path().join("none")).is_err());
        assert!(probe_room(folder.path()).unwrap().total_bytes > 0);
    }
}
