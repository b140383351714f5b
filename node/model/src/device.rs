//! Choosing where to compute. Called by the engine's loader; the daemon shows the result and
//! runs the self-test in a child process. What must stay true: never burn's default device,
//! which is the first backend compiled in, whatever it is worth; a GPU is used only if it is a
//! real one and computes correctly.

use burn::tensor::Device;

#[cfg(feature = "gpu")]
mod gpu;

#[cfg(feature = "gpu")]
pub use gpu::gpu_self_test;

/// What the operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU if this build has the feature `gpu`, a real one is there and its self-test
    /// passes; else the CPU, with the reason in the engine's description.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU, or an error.
    Gpu,
}

/// Why the wanted device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Built without GPU support.
    #[error("this build has no GPU support: build with the cargo feature gpu, or choose the CPU")]
    NotBuilt,
    /// No usable GPU.
    #[error(
        "no discrete, integrated or virtual GPU was found: install its Vulkan driver, or choose the CPU"
    )]
    NoGpu,
    /// The GPU computes wrongly or not at all.
    #[error("the GPU failed its self-test ({0}): update its driver, or choose the CPU")]
    SelfTest(String),
}

/// A device that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The part's name as its driver tells it.
    pub name: String,
    /// What it is.
    pub kind: DeviceKindFound,
}

/// Kinds of devices that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKindFound {
    /// The processor.
    Cpu,
    /// A graphics card with its own memory.
    DiscreteGpu,
    /// A GPU that shares the processor's memory.
    IntegratedGpu,
    /// A GPU handed into a virtual machine.
    VirtualGpu,
}

/// All devices that the engine would use: the CPU, and real GPUs where the feature `gpu` is
/// built. Asking starts the GPU drivers; do it once, and outside of a process that must not die.
pub fn probe_devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo {
        name: "CPU (burn-flex)".to_owned(),
        kind: DeviceKindFound::Cpu,
    };
    #[cfg(feature = "gpu")]
    {
        let gpus = gpu::real_gpus().into_iter().map(|gpu| gpu.info);
        std::iter::once(cpu).chain(gpus).collect()
    }
    #[cfg(not(feature = "gpu"))]
    vec![cpu]
}

/// A device with what the operator is told about it.
#[derive(Debug, Clone)]
pub(crate) struct ChosenDevice {
    pub(crate) device: Device,
    /// The decode step is ours then.
    pub(crate) is_cpu: bool,
    /// Backend and the number format it computes in, such as `burn-flex+decode/f32`: prompts by
    /// burn-flex, steps by our own decoder. The format in which weights are stored is not in it,
    /// for it changes no bit of the result.
    pub(crate) backend: &'static str,
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl ChosenDevice {
    fn cpu(reason: String) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let name = format!("CPU, {threads} threads");
        Self {
            device: Device::flex(),
            is_cpu: true,
            backend: "burn-flex+decode/f32",
            name,
            reason,
        }
    }
}

/// Follows the operator's wish.
pub(crate) fn choose(choice: DeviceChoice) -> Result<ChosenDevice, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(ChosenDevice::cpu("the CPU was asked for".to_owned())),
        DeviceChoice::Gpu => gpu(),
        DeviceChoice::Auto => Ok(gpu().unwrap_or_else(|error| match error {
            DeviceError::NotBuilt => ChosenDevice::cpu("this build has no GPU support".to_owned()),
            other => ChosenDevice::cpu(other.to_string()),
        })),
    }
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Result<ChosenDevice, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "gpu")]
fn gpu() -> Result<ChosenDevice, DeviceError> {
    gpu::choose_gpu()
}
