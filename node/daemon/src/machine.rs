//! What this process takes of its machine: memory, CPU, the models' disk. `daemon` samples it every few
//! seconds for `/metrics` and `top`.
//! Must stay true: unknown stays unknown; sampling never fails anything.

use std::{path::Path, time::Duration};

use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{caps::ram_used, metrics::MachineMetrics, models::Shelf};

/// Between samples: CPU use over it is steady enough to read.
pub const EVERY: Duration = Duration::from_secs(2);

/// One sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Memory of this process, in bytes.
    pub rss_bytes: Option<u64>,
    /// Cores in use on average since the sample before; 1.0 is one core fully.
    pub cpu_cores_used: Option<f64>,
    /// Cores there are for this process.
    pub cpu_cores: Option<u32>,
    /// Bytes of model files.
    pub shelf_bytes: Option<u64>,
    /// Bytes free on the disk they are on.
    pub disk_free_bytes: Option<u64>,
}

/// Samples until dropped.
pub async fn watch(
    shelf: Shelf,
    folder: std::path::PathBuf,
    metrics: MachineMetrics,
    to: watch::Sender<Machine>,
) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<(tokio::time::Instant, Duration)> = None;
    loop {
        tick.tick().await;
        let (shelf, folder) = (shelf.clone(), folder.clone());
        let Ok(mut machine) = tokio::task::spawn_blocking(move || look(&shelf, &folder)).await
        else {
            continue;
        };
        let now = (tokio::time::Instant::now(), cpu_time());
        if let (Some((then, used_then)), (at, Some(used))) = (before, now) {
            machine.cpu_cores_used = load(used_then, used, at.duration_since(then));
            metrics
                .cpu_seconds
                .inc_by(used.saturating_sub(used_then).as_secs_f64());
        } else if let Some(used) = now.1 {
            metrics.cpu_seconds.inc_by(used.as_secs_f64());
        }
        before = now.1.map(|used| (now.0, used));
        let set = |gauge: &owm_service::metrics::Gauge, value: Option<u64>| {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(&metrics.resident_memory_bytes, machine.rss_bytes);
        set(&metrics.shelf_bytes, machine.shelf_bytes);
        set(&metrics.disk_free_bytes, machine.disk_free_bytes);
        to.send_replace(machine);
    }
}

fn look(shelf: &Shelf, folder: &Path) -> Machine {
    Machine {
        rss_bytes: ram_used(),
        cpu_cores_used: None,
        cpu_cores: std::thread::available_parallelism()
            .ok()
            .and_then(|cores| u32::try_from(cores.get()).ok()),
        shelf_bytes: shelf.used().ok(),
        disk_free_bytes: disk_free(folder),
    }
}

fn disk_free(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    #[expect(clippy::useless_conversion, reason = "these are u32 on some systems")]
    let bytes = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    Some(bytes)
}

fn cpu_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = |t: nix::sys::time::TimeVal| {
        Some(
            Duration::from_secs(u64::try_from(t.tv_sec()).ok()?)
                + Duration::from_micros(u64::try_from(t.tv_usec()).ok()?),
        )
    };
    Some(time(usage.user_time())? + time(usage.system_time())?)
}

/// Cores used when CPU time went from `before` to `after` in `wall`.
fn load(before: Duration, after: Duration, wall: Duration) -> Option<f64> {
    (!wall.is_zero()).then(|| after.saturating_sub(before).as_secs_f64() / wall.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cores_for_a_second_are_two_cores() {
        let secs = Duration::from_secs;
        assert_eq!(load(secs(3), secs(5), secs(1)), Some(2.0));
        assert_eq!(load(secs(5), secs(3), secs(1)), Some(0.0));
        assert_eq!(load(secs(3), secs(5), Duration::ZERO), None);
    }

    #[test]
    fn this_process_takes_some_memory_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("models"), None);
        let machine = look(&shelf, folder.path());
        assert!(
            machine.rss_bytes.is_some_and(|bytes| bytes > 1 << 20),
            "{machine:?}"
        );
        assert_eq!(machine.shelf_bytes, Some(0));
        assert!(machine.disk_free_bytes.is_some());
        assert!(cpu_time().is_some());
    }
}
