//! The operator's caps: how much of the machine is shown and used, and when. `daemon` asks before a
//! lease is accepted, `models` before something is loaded.
//! Must stay true: a cap that can't be measured is not silently met.

mod hours;

pub use hours::{Hours, HoursError};
use owm_proto::wire::coordinator::Capabilities;

use crate::config::CapsSection;

/// The caps, parsed.
#[derive(Clone, Debug)]
pub struct Caps {
    /// Bytes of main memory of this process.
    pub ram: Option<u64>,
    /// Bytes of video memory.
    pub vram: Option<u64>,
    /// Bytes of disk for models.
    pub disk: Option<u64>,
    /// When.
    pub hours: Hours,
}

impl Caps {
    /// From the configuration.
    pub fn parse(section: &CapsSection) -> Result<Self, HoursError> {
        Ok(Self {
            ram: section.ram.map(owm_service::config::HumanBytes::get),
            vram: section.vram.map(owm_service::config::HumanBytes::get),
            disk: section.disk.map(owm_service::config::HumanBytes::get),
            hours: Hours::parse(&section.hours, &section.utc_offset)?,
        })
    }

    /// What the coordinator is told: what there is, at most what may be used.
    pub fn limit(&self, mut found: Capabilities) -> Capabilities {
        let least = |found: Option<u64>, cap: Option<u64>| match (found, cap) {
            (Some(found), Some(cap)) => Some(found.min(cap)),
            (found, _) => found,
        };
        found.ram_bytes = least(found.ram_bytes, self.ram);
        found.vram_bytes = least(found.vram_bytes, self.vram);
        found.disk_free_bytes = least(found.disk_free_bytes, self.disk);
        found
    }

    /// Why no task may be accepted now, given the memory this process uses (`None`: unknown).
    pub fn refusal(&self, ram_used: Option<u64>) -> Option<String> {
        let cap = self.ram?;
        match ram_used {
            Some(used) if used <= cap => None,
            Some(used) => Some(format!(
                "this node uses {used} bytes of memory, its operator allows {cap}"
            )),
            None => Some("a memory cap is set, but the memory used can't be measured".into()),
        }
    }
}

/// Bytes of main memory that this process uses (`VmRSS`); `None` where the system does not say.
pub fn ram_used() -> Option<u64> {
    parse_vm_rss(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes of main memory that can be had without swapping (`MemAvailable`); `None` where the system does not say.
pub fn memory_available() -> Option<u64> {
    parse_kib(
        &std::fs::read_to_string("/proc/meminfo").ok()?,
        "MemAvailable:",
    )
}

fn parse_vm_rss(status: &str) -> Option<u64> {
    parse_kib(status, "VmRSS:")
}

fn parse_kib(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use owm_service::config::HumanBytes;

    use super::*;

    #[test]
    fn no_more_is_shown_than_may_be_used_and_unknown_stays_unknown() {
        let section = CapsSection {
            ram: Some(HumanBytes::new(10)),
            ..CapsSection::default()
        };
        let caps = Caps::parse(&section).unwrap();
        let found = Capabilities {
            ram_bytes: Some(30),
            disk_free_bytes: Some(5),
            ..Default::default()
        };
        let shown = caps.limit(found);
        assert_eq!(
            (shown.ram_bytes, shown.vram_bytes, shown.disk_free_bytes),
            (Some(10), None, Some(5))
        );
        assert_eq!(caps.refusal(Some(10)), None);
        assert!(caps.refusal(Some(11)).is_some());
        assert!(
            caps.refusal(None).is_some(),
            "a cap that can't be measured is not met"
        );
    }

    #[test]
    fn resident_memory_is_read_from_the_kernels_table() {
        let status = "Name:\towm-node\nVmPeak:\t  20 kB\nVmRSS:\t  5432 kB\n";
        assert_eq!(parse_vm_rss(status), Some(5_432 * 1_024));
        assert_eq!(parse_vm_rss("Name:\tx\n"), None);
        let table = "MemTotal:  9 kB\nMemAvailable:    7 kB\n";
        assert_eq!(parse_kib(table, "MemAvailable:"), Some(7 * 1_024));
    }
}
