//! What this machine has: memory, cores, disk, GPUs with their memory. `cli` probes once at start.
//! Must stay true: what can't be found out is unknown (`None`), never a guess; every fallback says why.

mod amd;
mod nvidia;

use std::{path::Path, process::Stdio, time::Duration};

use owm_proto::{limits::GPUS_MAX, wire::coordinator::Capabilities};
use sysinfo::System;
use tokio::io::AsyncReadExt as _;

/// Time for one vendor tool: a hanging driver must not hang the daemon.
const TOOL_TIME: Duration = Duration::from_secs(10);
/// What is read of a tool's output.
const TOOL_BYTES_MAX: u64 = 1 << 20;

/// A GPU as its vendor's tool tells it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Bytes of its memory; `None`: the tool does not say.
    pub vram_bytes: Option<u64>,
    /// Whether it is cut into MIG instances (then its whole memory is not one engine's).
    pub mig: bool,
}

/// Why a vendor's GPUs are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The tool is not installed.
    #[error("{0} is not installed, so no GPU of this vendor is known")]
    NoTool(&'static str),
    /// The tool says no.
    #[error("{tool} says: {said}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// Its words, the first line.
        said: String,
    },
    /// Its answer is not understood.
    #[error("the answer of {0} is not understood")]
    Output(&'static str),
    /// It hangs.
    #[error("{0} did not answer within 10 s; is the driver stuck?")]
    Hangs(&'static str),
}

/// What the engine of this build and configuration computes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The CPU only.
    Cpu,
    /// A GPU if it passes its self-test, which shows only when a model is loaded.
    Gpu,
    /// Nothing: built without an engine.
    None,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "burn-flex/f32",
            Self::Gpu => "burn-wgpu/f32",
            Self::None => "none",
        }
    }
}

/// Everything found.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Bytes of main memory.
    pub ram_bytes: Option<u64>,
    /// Logical cores.
    pub cpu_cores: u32,
    /// Bytes free where the data folder is.
    pub disk_free_bytes: Option<u64>,
    /// GPUs, or why there is nothing to say about them.
    pub nvidia: Result<Vec<Gpu>, ProbeError>,
    /// The same for AMD.
    pub amd: Result<Vec<Gpu>, ProbeError>,
}

impl Hardware {
    /// Asks the system and the vendors' tools.
    pub async fn probe(data_folder: &Path) -> Self {
        let mut system = System::new();
        system.refresh_memory();
        let disk = nix::sys::statvfs::statvfs(data_folder).ok();
        #[expect(clippy::useless_conversion, reason = "these are u32 on some systems")]
        let disk_free_bytes = disk.map(|stat| {
            u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()))
        });
        let (nvidia, amd) = tokio::join!(nvidia::probe(), amd::probe());
        Self {
            ram_bytes: Some(system.total_memory()).filter(|bytes| *bytes > 0),
            cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            disk_free_bytes,
            nvidia,
            amd,
        }
    }

    fn gpus(&self) -> impl Iterator<Item = &Gpu> {
        self.nvidia
            .iter()
            .flatten()
            .chain(self.amd.iter().flatten())
    }

    /// What the coordinator is told. VRAM is that of the largest GPU: one model runs on one. Without any
    /// GPU it is zero if a tool said so, else unknown; it is zero too if `backend` can't use a GPU.
    pub fn capabilities(&self, backend: Backend) -> Capabilities {
        let known: Option<Vec<u64>> = self.gpus().map(|gpu| gpu.vram_bytes).collect();
        let nobody_looked = self.nvidia.is_err() && self.amd.is_err();
        let vram_bytes = match known {
            _ if backend == Backend::Cpu => Some(0),
            Some(sizes) if sizes.is_empty() && nobody_looked => None,
            Some(sizes) => Some(sizes.into_iter().max().unwrap_or(0)),
            None => None,
        };
        Capabilities {
            vram_bytes,
            ram_bytes: self.ram_bytes,
            bandwidth_kbps: None,
            disk_free_bytes: self.disk_free_bytes,
            cpu_cores: self.cpu_cores,
            gpus: self
                .gpus()
                .take(GPUS_MAX)
                .map(|gpu| gpu.name.clone())
                .collect(),
            backend: backend.name().to_owned(),
        }
    }

    /// For people: one line per finding.
    pub fn lines(&self) -> Vec<String> {
        let gib = |bytes: Option<u64>| {
            bytes.map_or("unknown".to_owned(), |b| {
                format!("{:.1} GB", b as f64 / 1e9)
            })
        };
        let mut lines = vec![
            format!(
                "CPU: {} cores, memory: {}",
                self.cpu_cores,
                gib(self.ram_bytes)
            ),
            format!("disk free: {}", gib(self.disk_free_bytes)),
        ];
        for found in [&self.nvidia, &self.amd] {
            match found {
                Ok(gpus) => lines.extend(gpus.iter().map(|gpu| {
                    let mig = if gpu.mig { " (MIG)" } else { "" };
                    format!("GPU: {}{mig}, memory: {}", gpu.name, gib(gpu.vram_bytes))
                })),
                Err(error) => lines.push(format!("GPU: {error}")),
            }
        }
        lines
    }
}

/// Runs a vendor's tool and gives its standard output.
async fn run_tool(tool: &'static str, arguments: &[&str]) -> Result<String, ProbeError> {
    let spawned = tokio::process::Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|_| ProbeError::NoTool(tool))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = async {
        let (mut text, mut complaint) = (Vec::new(), Vec::new());
        if let Some(out) = out {
            drop(out.take(TOOL_BYTES_MAX).read_to_end(&mut text).await);
        }
        if let Some(err) = err {
            drop(err.take(TOOL_BYTES_MAX).read_to_end(&mut complaint).await);
        }
        (child.wait().await, text, complaint)
    };
    let (status, text, complaint) = tokio::time::timeout(TOOL_TIME, read)
        .await
        .map_err(|_| ProbeError::Hangs(tool))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    if status.is_ok_and(|status| status.success()) {
        return Ok(text);
    }
    let complaint = String::from_utf8_lossy(&complaint).into_owned();
    Err(said(
        tool,
        if text.trim().is_empty() {
            &complaint
        } else {
            &text
        },
    ))
}

/// A tool's complaint, its first line bounded.
fn said(tool: &'static str, text: &str) -> ProbeError {
    /// Longest complaint that is repeated, in characters.
    const CHARS_MAX: usize = 200;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("nothing");
    ProbeError::Tool {
        tool,
        said: line.chars().take(CHARS_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hardware(nvidia: Result<Vec<Gpu>, ProbeError>) -> Hardware {
        Hardware {
            ram_bytes: Some(32),
            cpu_cores: 4,
            disk_free_bytes: None,
            nvidia,
            amd: Err(ProbeError::NoTool("rocm-smi")),
        }
    }

    fn gpu(vram_bytes: Option<u64>) -> Gpu {
        Gpu {
            name: "G".into(),
            vram_bytes,
            mig: false,
        }
    }

    #[test]
    fn video_memory_is_the_largest_gpus_or_unknown_or_none() {
        let vram = |found| hardware(found).capabilities(Backend::Gpu).vram_bytes;
        assert_eq!(vram(Ok(vec![gpu(Some(8)), gpu(Some(24))])), Some(24));
        assert_eq!(vram(Ok(vec![gpu(Some(8)), gpu(None)])), None);
        assert_eq!(vram(Ok(vec![])), Some(0));
        assert_eq!(vram(Err(ProbeError::NoTool("nvidia-smi"))), None);
        let unused = hardware(Ok(vec![gpu(Some(24))])).capabilities(Backend::Cpu);
        assert_eq!(
            (unused.vram_bytes, unused.gpus.len()),
            (Some(0), 1),
            "a GPU the engine can't use"
        );
    }

    #[tokio::test]
    async fn a_tool_that_is_not_there_or_complains_is_named() {
        let missing = run_tool("owm-no-such-tool", &[]).await.unwrap_err();
        assert_eq!(missing, ProbeError::NoTool("owm-no-such-tool"));
        let complaint = run_tool("sh", &["-c", "echo; echo broken driver >&2; exit 9"]).await;
        let expected = ProbeError::Tool {
            tool: "sh",
            said: "broken driver".into(),
        };
        assert_eq!(complaint, Err(expected));
    }

    #[tokio::test]
    async fn this_machine_has_memory_cores_and_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let found = Hardware::probe(folder.path()).await;
        assert!(
            found.ram_bytes.is_some_and(|bytes| bytes > 100_000_000),
            "{found:?}"
        );
        assert!(found.cpu_cores >= 1 && found.disk_free_bytes.is_some());
        assert!(found.lines().len() >= 4);
    }
}
