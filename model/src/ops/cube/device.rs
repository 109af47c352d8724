//! Opening the device, and what of it is filled when a model is loaded.

use super::kernels::attention::HEAD_MAX;
use super::launch::Launcher;
use super::pack::{BLOCK, Format, pack};
use super::pages::{CubePages, layer_bytes};
use super::plan;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::KvLayout;
use crate::ops::memory::{Blocks, Traffic, Widths};
use crate::ops::no_gpu::NoGpu;
use crate::ops::runtime::Runtime;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_cubecl::CubeDevice;
use cubecl::MemoryScope;
use cubecl::wgpu::{
    RuntimeOptions, Vulkan, WgpuBackend, WgpuDevice, WgpuDeviceKind, try_init_setup,
};
use glowplug_firmware_config::kv::KvFormat;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Kernels that are sent to the device together at most: those of a token, so that it is one submission.
pub const TASKS_MAX: usize = 1024;

/// What CubeCL 0.11.3 calls the memory that it reads back through.
const READ_THROUGH: &str = "Staging CPU Memory";

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
    /// Where the runtime submits its work, for a test to count how often.
    #[cfg(test)]
    pub(super) queue: cubecl::wgpu::wgpu::Queue,
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
        let limits = setup.device.limits();
        Ok(Self {
            device: CubeDevice::from(device),
            name: info.name,
            software: info.device_type == cubecl::wgpu::wgpu::DeviceType::Cpu,
            buffer_max: limits
                .max_storage_buffer_binding_size
                .min(limits.max_buffer_size),
            #[cfg(test)]
            queue: setup.queue,
        })
    }

    /// The device as tensors are made on it.
    #[must_use]
    pub fn device(&self) -> Device {
        Device::new(self.device.clone())
    }

    /// Checks that there are kernels for every matrix of a file and for its heads, and gives back what the models before left.
    ///
    /// # Errors
    /// [`NoGpu`] names the first thing that the device cannot do.
    pub(in crate::ops) fn check(
        &self,
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
    ) -> Result<(), NoGpu> {
        for info in plan::matrices(gguf) {
            plan::matrix_bytes(info)?;
        }
        let head_dim = layout.head_dim();
        let four_bits = layout.k().contains(&KvFormat::Q4_0) || layout.v() == KvFormat::Q4_0;
        if four_bits || head_dim > HEAD_MAX || !head_dim.is_multiple_of(4) {
            return Err(NoGpu::Heads {
                head_dim,
                max: HEAD_MAX,
            });
        }
        let layer = layer_bytes(layout).max().unwrap_or_default();
        let (bytes, limit) = ((pages * layer) as u64, self.buffer_max);
        if bytes > limit {
            return Err(NoGpu::TooLarge { bytes, limit });
        }
        let cleaned = self.device.client().memory_cleanup();
        cleaned.map_err(|error| NoGpu::Device(error.to_string()))
    }

    /// Puts the blocks of a matrix into the memory of the device, in parts if no buffer has room for all.
    ///
    /// # Panics
    /// If [`Self::check`] refuses the file.
    pub(in crate::ops) fn blocks(&self, gguf: &Gguf, info: &TensorInfo) -> Blocks {
        let (rows, cols) = (info.rows() as usize, info.dims[0] as usize);
        let Some(format) = Format::of(info.ty) else {
            panic!("no kernels for tensor `{}`", info.name);
        };
        let part_rows = format.part_rows(cols / BLOCK, self.buffer_max).min(rows);
        let (bytes, device) = (gguf.data(info), self.device());
        let mut parts = (0..rows).step_by(part_rows).map(|first| {
            let range = first..rows.min(first + part_rows);
            let words = pack(info.ty, info.layout, &bytes, range, cols).unwrap_or_default();
            let len = words.len();
            // a buffer of just this size, which is kept for as long as the model is
            device.memory_persistent_allocations(words, |words| {
                Tensor::from_data(TensorData::new(words, [len]), (&device, DType::U32))
            })
        });
        let Some(first) = parts.next() else {
            panic!("no rows in tensor `{}`", info.name);
        };
        Blocks {
            first,
            rest: parts.collect(),
            part_rows,
        }
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
    pub fn pages(&self, pages: usize, layout: &KvLayout) -> CubePages {
        CubePages::new(&self.device, pages, layout)
    }

    /// Takes the memory that the steps of an engine compute in.
    pub(in crate::ops) fn prepare(&self, runtime: &mut Runtime, widths: &Widths) {
        runtime.launcher = Some(Launcher::for_model(self.device.clone(), widths));
    }

    /// What an engine sent to the device and back.
    pub(in crate::ops) fn traffic(runtime: &Runtime) -> Traffic {
        let launcher = runtime.launcher.as_ref();
        launcher.map_or_else(Traffic::default, |launcher| launcher.traffic)
    }

    /// Bytes that the runtime holds of the device. Those that it reads back through are memory of the host, and not counted.
    pub(in crate::ops) fn reserved(&self) -> u64 {
        let report = self.device.client().memory_report(MemoryScope::Device);
        let streams = report.streams.iter();
        let bytes = streams.map(|stream| {
            let arguments = stream.auxiliary.iter();
            let arguments = arguments.filter(|memory| memory.name != READ_THROUGH);
            let arguments = arguments.map(|memory| memory.pools.usage().bytes_reserved);
            stream.pools.usage().bytes_reserved + arguments.sum::<u64>()
        });
        bytes.sum()
    }
}
