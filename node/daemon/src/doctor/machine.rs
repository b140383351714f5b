//! Memory, and what computes.

use owm_service::doctor::{Finding, disk::bytes};

use super::{Ground, caps};
use crate::{
    config::Device,
    hardware::{Gpu, Hardware, ProbeError},
};

/// Memory of this machine, in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    total: u64,
    available: u64,
    /// What the operator allows.
    cap: Option<u64>,
}

/// `needed`: bytes the model takes when it is loaded; 0: not known.
pub(super) async fn check(ground: &Ground, needed: u64) -> Vec<Finding> {
    let hardware = Hardware::probe(ground.home.path()).await;
    let cap = caps(ground).and_then(|caps| caps.ram);
    let has_model = ground.process.status().is_some_and(|s| s.model.is_some());
    let mut findings = vec![judge_memory(probe_memory(cap), needed, has_model)];
    findings.extend(judge_gpu(
        ground.config.model.device,
        cfg!(feature = "gpu"),
        &hardware,
    ));
    findings
}

/// The smaller of the machine's and the container's.
fn probe_memory(cap: Option<u64>) -> Memory {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let (mut total, mut available) = (system.total_memory(), system.available_memory());
    if let Some(limits) = system.cgroup_limits() {
        total = total.min(limits.total_memory);
        available = available.min(limits.free_memory);
    }
    Memory {
        total,
        available,
        cap,
    }
}

fn judge_memory(memory: Memory, needed: u64, is_loaded: bool) -> Finding {
    const AREA: &str = "memory";
    let Memory {
        total,
        available,
        cap,
    } = memory;
    let model = format!("the model takes up to {}", bytes(needed));
    if let Some(cap) = cap.filter(|cap| *cap < needed) {
        return Finding::problem(
            AREA,
            format!("{model}, [caps] ram allows {}", bytes(cap)),
            format!("set [caps] ram to at least {needed}, or take it out"),
        );
    }
    if total > 0 && total < needed {
        return Finding::problem(
            AREA,
            format!("{model}, this machine has {}", bytes(total)),
            "use a machine with more memory, or load fewer sub-models ([model] sub_models)",
        );
    }
    if !is_loaded && available < needed {
        return Finding::warning(
            AREA,
            format!("{model}, only {} are free now", bytes(available)),
            "stop other programs before the model is loaded (`ps aux --sort=-rss | head`)",
        );
    }
    let all = if total > 0 {
        bytes(total)
    } else {
        "unknown".to_owned()
    };
    let needs = if needed > 0 {
        format!(", {model}")
    } else {
        String::new()
    };
    Finding::ok(AREA, format!("{all}, {} free{needs}", bytes(available)))
}

fn judge_gpu(device: Device, has_gpu_build: bool, hardware: &Hardware) -> Vec<Finding> {
    const AREA: &str = "gpu";
    const BUILD: &str = "cargo build --release -p owm-node --features gpu";
    let probes = [&hardware.nvidia, &hardware.amd];
    let found: Vec<&Gpu> = probes
        .iter()
        .flat_map(|probe| probe.iter().flatten())
        .collect();
    let names = found
        .iter()
        .map(|gpu| gpu.name.as_str())
        .collect::<Vec<_>>();
    let mut findings: Vec<Finding> = Vec::new();
    for error in probes.iter().filter_map(|probe| probe.as_ref().err()) {
        if !matches!(error, ProbeError::NoTool(_)) {
            let fix = "reinstall the vendor's driver and reboot: its kernel module and its tools must be of one version";
            findings.push(Finding::warning(AREA, error.to_string(), fix));
        }
    }
    let main = match (device, has_gpu_build, names.is_empty()) {
        (Device::Gpu, false, _) => Finding::problem(
            AREA,
            "[model] device = \"gpu\", but this owm-node is built for the CPU only",
            format!("{BUILD}, or set [model] device = \"auto\""),
        ),
        (Device::Gpu, true, true) => Finding::warning(
            AREA,
            "[model] device = \"gpu\", but no GPU is found",
            "install the GPU's driver (`nvidia-smi` or `rocm-smi` must list it), or set [model] device = \"auto\"",
        ),
        (Device::Auto, false, false) => Finding::warning(
            AREA,
            format!(
                "{} is not used: this owm-node is built for the CPU only",
                names.join(", ")
            ),
            format!("{BUILD}, or set [model] device = \"cpu\" to leave it alone"),
        ),
        (Device::Cpu, _, _) => Finding::ok(AREA, "the CPU computes, as configured"),
        (_, true, false) => Finding::ok(AREA, names.join(", ")),
        (Device::Auto, _, true) => Finding::ok(
            AREA,
            "none; the CPU computes: as t1, in networks that admit nodes without a GPU",
        ),
    };
    findings.push(main);
    findings
}

#[cfg(test)]
mod tests {
    use owm_service::doctor::Level;

    use super::*;

    #[test]
    fn memory_is_enough_for_the_model_or_the_finding_says_why_not() {
        let level = |total, available, cap, loaded| {
            let memory = Memory {
                total,
                available,
                cap,
            };
            judge_memory(memory, 100, loaded).level
        };
        assert_eq!(level(1_000, 500, None, false), Level::Ok);
        assert_eq!(level(1_000, 50, None, false), Level::Warning);
        assert_eq!(level(1_000, 50, None, true), Level::Ok);
        assert_eq!(level(99, 50, None, true), Level::Problem);
        assert_eq!(level(1_000, 500, Some(99), false), Level::Problem);
        assert_eq!(level(1_000, 500, Some(100), false), Level::Ok);
    }

    fn gpu(device: Device, build: bool, nvidia: Result<Vec<Gpu>, ProbeError>) -> Vec<Level> {
        let hardware = Hardware {
            ram_bytes: None,
            cpu_cores: 1,
            disk_free_bytes: None,
            nvidia,
            amd: Err(ProbeError::NoTool("rocm-smi")),
        };
        let findings = judge_gpu(device, build, &hardware);
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_told() {
        let none = || Err(ProbeError::NoTool("nvidia-smi"));
        let one = || {
            Ok(vec![Gpu {
                name: "G".into(),
                vram_bytes: None,
                mig: false,
            }])
        };
        assert_eq!(gpu(Device::Auto, false, none()), [Level::Ok]);
        assert_eq!(gpu(Device::Auto, true, one()), [Level::Ok]);
        assert_eq!(gpu(Device::Auto, false, one()), [Level::Warning]);
        assert_eq!(gpu(Device::Gpu, false, one()), [Level::Problem]);
        assert_eq!(gpu(Device::Gpu, true, none()), [Level::Warning]);
        assert_eq!(gpu(Device::Cpu, true, one()), [Level::Ok]);
        let driver = Err(ProbeError::Hangs("nvidia-smi"));
        assert_eq!(gpu(Device::Auto, true, driver), [Level::Warning, Level::Ok]);
    }
}
