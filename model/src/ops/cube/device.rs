//! Opening the device, and what of it is filled when a model is loaded.

use super::kernels::attention::HEAD_MAX;
use super::pack::{device_bytes, pack};
use super::pages::CubePages;
use crate::gguf::pack::REQUANTIZED_HEAD;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::KvLayout;
use crate::ops::no_gpu::NoGpu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cubecl::CubeDevice;
use cubecl::wgpu::{
    RuntimeOptions, Vulkan, WgpuBackend, WgpuDevice, WgpuDeviceKind, try_init_setup,
};
use glowplug_firmware_config::kv::KvFormat;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Kernels that are sent to the device together at most: those of a token, so that it is one submission.
pub const TASKS_MAX: usize = 1024;

/// Why there is no device to compute on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no device for Vulkan: {0}")]
pub struct NoDevice(String);

/// Whether the device failed. It is not tried again before the process starts again.
static LOST: AtomicBool = AtomicBool::new(false);

/// The device that models are computed on, one for the process.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(super) device: CubeDevice,
    /// The name that the driver gives it.
    pub name: String,
    /// Whether it is no GPU, but a processor that computes like one.
    pub software: bool,
    /// The largest buffer that a kernel may have, in bytes.
    pub buffer_max: u64,
}

impl Gpu {
    /// Opens the device, or gives what was opened before.
    ///
    /// # Errors
    /// [`NoDevice`] if no driver gives one. It is not asked again, whatever happens to the machine.
    pub fn open() -> Result<Self, NoDevice> {
        if LOST.load(Ordering::Relaxed) {
            return Err(NoDevice("it was lost before".to_owned()));
        }
        static OPENED: OnceLock<Result<Gpu, NoDevice>> = OnceLock::new();
        OPENED.get_or_init(Self::start).clone()
    }

    fn start() -> Result<Self, NoDevice> {
        let device = WgpuDevice::new(WgpuDeviceKind::DefaultDevice).on(WgpuBackend::Vulkan);
        let failed = |error: &dyn std::fmt::Display| NoDevice(error.to_string());
        let options =
            RuntimeOptions::with_tasks_max(Some(TASKS_MAX)).map_err(|error| failed(&error))?;
        // the runtime panics where a driver refuses what it had promised
        let setup = std::panic::catch_unwind(|| try_init_setup::<Vulkan>(&device, options))
            .map_err(|_| NoDevice("its driver failed".to_owned()))?
            .map_err(|error| failed(&error))?;
        let info = setup.adapter.get_info();
        Ok(Self {
            device: CubeDevice::from(device),
            name: info.name,
            software: info.device_type == cubecl::wgpu::wgpu::DeviceType::Cpu,
            buffer_max: setup.device.limits().max_buffer_size,
        })
    }

    /// The device as tensors are made on it.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::new(self.device.clone())
    }

    /// Checks that there are kernels for every matrix of a file and for its heads.
    ///
    /// # Errors
    /// [`NoGpu`] names the first thing that the device cannot do.
    pub(in crate::ops) fn check(
        &self,
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
    ) -> Result<(), NoGpu> {
        let fits = |what: &str, bytes: usize| {
            let (bytes, limit) = (bytes as u64, self.buffer_max);
            if bytes <= limit {
                return Ok(());
            }
            let what = what.to_owned();
            Err(NoGpu::TooLarge { what, bytes, limit })
        };
        for info in gguf.tensors() {
            // a requantised head stays in the file
            if info.dims.len() < 2 || info.name == REQUANTIZED_HEAD {
                continue;
            }
            let (rows, cols) = (info.rows() as usize, info.dims[0] as usize);
            let Some(bytes) = device_bytes(info.ty, rows, cols) else {
                let (name, ty) = (info.name.clone(), info.ty.name());
                return Err(NoGpu::Type { name, ty });
            };
            fits(&format!("tensor `{}`", info.name), bytes)?;
        }
        let head_dim = layout.head_dim();
        let four_bits = layout.k().contains(&KvFormat::Q4_0) || layout.v() == KvFormat::Q4_0;
        if four_bits || head_dim > HEAD_MAX || !head_dim.is_multiple_of(4) {
            return Err(NoGpu::Heads {
                head_dim,
                max: HEAD_MAX,
            });
        }
        fits("the arena of KV pages", pages * layout.page_bytes())
    }

    /// Puts the blocks of a matrix into the memory of the device.
    ///
    /// # Panics
    /// If [`Self::check`] refuses the file.
    pub(in crate::ops) fn blocks(&self, gguf: &Gguf, info: &TensorInfo) -> Tensor<1, Int> {
        let (rows, cols) = (info.rows() as usize, info.dims[0] as usize);
        let Some(words) = pack(info.ty, info.layout, &gguf.data(info), rows, cols) else {
            panic!("no kernels for tensor `{}`", info.name);
        };
        let (len, device) = (words.len(), self.device());
        // a buffer of just this size, which is kept for as long as the model is
        device.memory_persistent_allocations(words, |words| {
            Tensor::from_data(TensorData::new(words, [len]), (&device, DType::U32))
        })
    }

    /// Waits until what was sent to the device is done.
    ///
    /// # Errors
    /// What the device says of it.
    pub(in crate::ops) fn wait(&self) -> Result<(), NoGpu> {
        // a runtime that lost its device may panic where it should say so
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.device().sync()));
        let error = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its runtime failed".to_owned(),
        };
        LOST.store(true, Ordering::Relaxed);
        Err(NoGpu::Device(error))
    }

    /// Takes the memory of `pages` pages on the device.
    #[must_use]
    pub fn pages(&self, pages: usize, page_bytes: usize) -> CubePages {
        CubePages::new(&self.device, pages, page_bytes)
    }
}
