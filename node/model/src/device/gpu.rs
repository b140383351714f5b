//! GPUs through wgpu; compiled with the feature `gpu` only. Called by the device choice. What
//! must stay true: software renderers are never taken for a GPU, and a GPU that computes wrongly
//! is refused before it computes an answer.

use std::panic;

use burn::tensor::{Device, DeviceKind, Distribution, Tensor};

use super::{ChosenDevice, DeviceError, DeviceInfo, DeviceKindFound};

/// GPUs of one kind that are looked at.
const GPUS_MAX: usize = 16;
/// Side of the self-test's square matrices: large enough for the tiled kernels.
const TEST_SIDE: usize = 192;
/// Largest absolute difference to the CPU in the self-test, whose results are below 200:
/// lavapipe differs by 4e-6 of that, a GPU that computes in TF32 by 1e-1.
const TEST_TOLERANCE: f32 = 1e-2;

/// A GPU that may be used.
pub(super) struct RealGpu {
    pub(super) info: DeviceInfo,
    pub(super) device: Device,
}

/// Discrete, integrated and virtual GPUs, in this order. Drivers that panic count as absent.
pub(super) fn real_gpus() -> Vec<RealGpu> {
    let found = panic::catch_unwind(Device::enumerate_physical).unwrap_or_default();
    let mut gpus: Vec<RealGpu> = found
        .into_iter()
        .filter_map(|card| {
            let devices = card.devices.clone().into_vec();
            let (device, kind) = devices
                .into_iter()
                .find_map(|device| kind_of(&device).map(|kind| (device, kind)))?;
            Some(RealGpu {
                info: DeviceInfo {
                    name: card.name,
                    kind,
                },
                device,
            })
        })
        .collect();
    gpus.sort_by_key(|gpu| match gpu.info.kind {
        DeviceKindFound::DiscreteGpu => 0,
        DeviceKindFound::IntegratedGpu => 1,
        _ => 2,
    });
    gpus
}

/// The kind of a wgpu device; none for processors and software renderers.
fn kind_of(device: &Device) -> Option<DeviceKindFound> {
    let is =
        |kind: DeviceKind| *device == Device::vulkan(kind.clone()) || *device == Device::wgpu(kind);
    (0..GPUS_MAX).find_map(|index| {
        if is(DeviceKind::DiscreteGpu(index)) {
            Some(DeviceKindFound::DiscreteGpu)
        } else if is(DeviceKind::IntegratedGpu(index)) {
            Some(DeviceKindFound::IntegratedGpu)
        } else if is(DeviceKind::VirtualGpu(index)) {
            Some(DeviceKindFound::VirtualGpu)
        } else {
            None
        }
    })
}

/// Takes the first real GPU if it computes correctly.
pub(super) fn choose_gpu() -> Result<ChosenDevice, DeviceError> {
    let gpu = real_gpus().into_iter().next().ok_or(DeviceError::NoGpu)?;
    self_test(&gpu.device).map_err(DeviceError::SelfTest)?;
    Ok(ChosenDevice {
        device: gpu.device,
        is_cpu: false,
        backend: "burn-wgpu/f32",
        reason: format!(
            "a GPU was found and passed its self-test: {}",
            gpu.info.name
        ),
        name: gpu.info.name,
    })
}

/// Tests the first real GPU: a matrix product and its gradient against the CPU.
///
/// A broken driver can end the whole process. The daemon therefore runs this in a child process
/// (a hidden subcommand that prints the error and returns an exit code) before it loads a model
/// with [`super::DeviceChoice::Auto`] or `Gpu`, and takes the CPU if the child fails or dies.
pub fn gpu_self_test() -> Result<(), String> {
    choose_gpu().map(|_| ()).map_err(|error| error.to_string())
}

fn self_test(device: &Device) -> Result<(), String> {
    let cpu = Device::flex();
    cpu.seed(1);
    let shape = [TEST_SIDE, TEST_SIDE];
    let left = Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &cpu).into_data();
    let right = Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &cpu).into_data();
    let compute = |device: Device| -> Option<(Vec<f32>, Vec<f32>)> {
        let device = device.autodiff();
        let left = Tensor::<2>::from_data(left.clone(), &device).require_grad();
        let right = Tensor::<2>::from_data(right.clone(), &device);
        let product = left.clone().matmul(right);
        let gradients = (product.clone() * product.clone()).sum().backward();
        let gradient = left.grad(&gradients)?;
        Some((
            product.into_data().try_to_vec().ok()?,
            gradient.into_data().try_to_vec().ok()?,
        ))
    };
    let on = |device: Device, name: &str| {
        panic::catch_unwind(panic::AssertUnwindSafe(|| compute(device)))
            .map_err(|_| format!("the {name} panicked"))?
            .ok_or_else(|| format!("the {name} gave no result"))
    };
    let (expected, expected_gradient) = on(cpu, "CPU")?;
    let (found, found_gradient) = on(device.clone(), "GPU")?;
    check("matrix product", &found, &expected, 1.0)?;
    // The gradient 2·(AB)·Bᵀ sums TEST_SIDE products once more.
    check("gradient", &found_gradient, &expected_gradient, 20.0)
}

fn check(what: &str, found: &[f32], expected: &[f32], scale: f32) -> Result<(), String> {
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(
        0.0,
        |worst: f32, difference| {
            // A NaN must not look like agreement.
            if difference.is_nan() {
                f32::INFINITY
            } else {
                worst.max(difference)
            }
        },
    );
    if found.len() == expected.len() && worst <= TEST_TOLERANCE * scale {
        Ok(())
    } else {
        Err(format!("its {what} differs from the CPU's by {worst}"))
    }
}
