//! What the kernel says of processes: CPU seconds, memory, file descriptors. Linux only, from /proc.

use std::{fs, path::Path};

/// Clock ticks per second in /proc (USER_HZ, 100 on every Linux architecture we run on).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) coordinator: f64,
    pub(crate) postgres: f64,
    pub(crate) bench: f64,
}

impl Cpu {
    /// Of the coordinator, of Postgres with all its children, and of this process.
    pub(crate) fn now((coordinator, postgres): (i32, i32)) -> Self {
        Self {
            coordinator: of_process(coordinator).own,
            postgres: of_family(postgres),
            bench: of_process(std::process::id().cast_signed()).own,
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            coordinator: self.coordinator - before.coordinator,
            postgres: self.postgres - before.postgres,
            bench: self.bench - before.bench,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Stat {
    parent: i32,
    own: f64,
    /// Of children that have ended.
    ended: f64,
}

fn of_process(pid: i32) -> Stat {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold spaces and parentheses: fields are counted after its end.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Stat {
        parent: number(1) as i32,
        own: (number(11) + number(12)) / TICKS_PER_SECOND,
        ended: (number(13) + number(14)) / TICKS_PER_SECOND,
    }
}

fn of_family(parent: i32) -> f64 {
    let own = of_process(parent);
    let children = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children: f64 = children
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .map(of_process)
        .filter(|stat| stat.parent == parent)
        .map(|stat| stat.own)
        .sum();
    own.own + own.ended + children
}

/// Resident memory in bytes.
pub(crate) fn rss_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// Open file descriptors, and how many there may be.
pub(crate) fn descriptors(pid: i32) -> (usize, u64) {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    (open, soft.unwrap_or(0))
}

/// The machine in a line: processor, cores, memory, load.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |l| {
        l.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: u64 = kib
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    format!(
        "{cores} cores of {model}, {} GiB, load before {}",
        kib >> 20,
        load()
    )
}

/// Mean number of programs that ran or wanted to, over the last minute.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("?").to_owned()
}
