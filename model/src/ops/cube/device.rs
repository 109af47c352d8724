//! Opening the device, and what of it is filled when a model is loaded.

use super::driver::{Driver, sentence};
use super::kernels::attention::HEAD_MAX;
use super::launch::Launcher;
use super::pack::{BLOCK, Format, pack};
use super::pages::{CubePages, layer_bytes};
use super::plan;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::KvLayout;
use crate::ops::memory::{Blocks, GpuFacts, GpuKind, Traffic, Widths};
use crate::ops::no_gpu::NoGpu;
use crate::ops::runtime::Runtime;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_cubecl::CubeDevice;
use cubecl::MemoryScope;
use cubecl::wgpu::wgpu::DeviceType;
use cubecl::wgpu::{
    RuntimeOptions, Vulkan, WgpuBackend, WgpuDevice, WgpuDeviceKind, try_init_setup,
};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::DEVICE_WAIT;
use std::sync::OnceLock;

/// Kernels that are sent to the device together at most: those of a token, so that it is one submission.
pub const TASKS_MAX: usize = 1024;

/// What CubeCL 0.11.3 calls the memory that it reads back through.
const READ_THROUGH: &str = "Staging CPU Memory";

/// The device that models are computed on, one for the process.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(super) device: CubeDevice,
    pub(in crate::ops) driver: Driver,
    /// What is known of it.
    pub facts: GpuFacts,
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
    /// [`NoGpu`] if no driver gives one, or it was given up. It is not asked again, whatever happens to the machine.
    pub fn open() -> Result<Self, NoGpu> {
        if let Some(why) = Driver::given_up() {
            return Err(NoGpu::Device(format!("the GPU was given up: {why}")));
        }
        static OPENED: OnceLock<Result<Gpu, NoGpu>> = OnceLock::new();
        let opened = OPENED.get_or_init(|| {
            let none = |why: String| NoGpu::Device(format!("no device for Vulkan: {why}"));
            let driver = Driver::start().map_err(|error| none(error.to_string()))?;
            let own = driver.clone();
            Driver::wait_at_most(DEVICE_WAIT);
            driver.run(move || Self::start(own))?.map_err(none)
        });
        opened.clone()
    }

    fn start(driver: Driver) -> Result<Self, String> {
        let device = WgpuDevice::new(WgpuDeviceKind::DefaultDevice).on(WgpuBackend::Vulkan);
        let options = RuntimeOptions::with_tasks_max(Some(TASKS_MAX)).map_err(|e| e.to_string())?;
        let setup = try_init_setup::<Vulkan>(&device, options).map_err(|e| sentence(&e))?;
        let info = setup.adapter.get_info();
        let limits = setup.device.limits();
        let version = [info.driver, info.driver_info];
        Ok(Self {
            device: CubeDevice::from(device),
            driver,
            facts: GpuFacts {
                name: info.name,
                driver: version.join(" ").trim().to_owned(),
                kind: match info.device_type {
                    DeviceType::Cpu => GpuKind::Software,
                    DeviceType::DiscreteGpu => GpuKind::Discrete,
                    _ => GpuKind::Shared,
                },
                pci: info.device_pci_bus_id,
            },
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
        let device = self.device.clone();
        let cleaned = self.driver.run(move || device.client().memory_cleanup())?;
        cleaned.map_err(|error| NoGpu::Device(sentence(&error)))
    }

    /// Puts the blocks of a matrix into the memory of the device, in parts if no buffer has room for all.
    ///
    /// # Errors
    /// [`NoGpu`] if the device does not take them.
    ///
    /// # Panics
    /// If [`Self::check`] refuses the file.
    pub(in crate::ops) fn blocks(&self, gguf: &Gguf, info: &TensorInfo) -> Result<Blocks, NoGpu> {
        let (rows, cols) = (info.rows() as usize, info.dims[0] as usize);
        let Some(format) = Format::of(info.ty) else {
            panic!("no kernels for tensor `{}`", info.name);
        };
        let part_rows = format.part_rows(cols / BLOCK, self.buffer_max).min(rows);
        let bytes = gguf.data(info);
        let mut parts = (0..rows).step_by(part_rows).map(|first| {
            let range = first..rows.min(first + part_rows);
            let words = pack(info.ty, info.layout, &bytes, range, cols).unwrap_or_default();
            let (len, device) = (words.len(), self.device());
            self.driver.run(move || {
                // a buffer of just this size, which is kept for as long as the model is
                device.memory_persistent_allocations(words, |words| {
                    Tensor::from_data(TensorData::new(words, [len]), (&device, DType::U32))
                })
            })
        });
        let Some(first) = parts.next() else {
            panic!("no rows in tensor `{}`", info.name);
        };
        Ok(Blocks {
            first: first?,
            rest: parts.collect::<Result<_, _>>()?,
            part_rows,
        })
    }

    /// Puts a vector of f32 into the memory of the device.
    ///
    /// # Errors
    /// [`NoGpu`] if the device does not take it.
    pub(in crate::ops) fn vector(&self, data: TensorData) -> Result<Tensor<1>, NoGpu> {
        let device = self.device();
        self.driver.run(move || {
            // a buffer of just this size
            device.memory_persistent_allocations(data, |data| {
                Tensor::from_data(data, (&device, DType::F32))
            })
        })
    }

    /// Waits until what was sent to the device is done, and gives the device up if it says that it was not.
    ///
    /// # Errors
    /// What the device says of it.
    pub(in crate::ops) fn wait(&self) -> Result<(), NoGpu> {
        let device = self.device();
        let done = self.driver.run(move || device.sync())?;
        done.map_err(|error| Driver::give_up(&error))
    }

    /// Takes the memory of `pages` pages on the device.
    ///
    /// # Errors
    /// [`NoGpu`] if the device does not answer.
    pub fn pages(&self, pages: usize, layout: &KvLayout) -> Result<CubePages, NoGpu> {
        let (driver, device, layout) = (self.driver.clone(), self.device.clone(), layout.clone());
        let pages = move || CubePages::new(driver, &device, pages, &layout);
        self.driver.run(pages)
    }

    /// Takes the memory that the steps of an engine compute in.
    ///
    /// # Errors
    /// [`NoGpu`] if the device does not answer.
    pub(in crate::ops) fn prepare(
        &self,
        runtime: &mut Runtime,
        widths: &Widths,
    ) -> Result<(), NoGpu> {
        let (device, widths, isa) = (self.device.clone(), *widths, runtime.kernels.isa());
        let launcher = self
            .driver
            .run(move || Launcher::for_model(device, &widths, isa))?;
        runtime.launcher = Some(launcher);
        Ok(())
    }

    /// What an engine sent to the device and back.
    pub(in crate::ops) fn traffic(runtime: &Runtime) -> Traffic {
        let launcher = runtime.launcher.as_ref();
        launcher.map_or_else(Traffic::default, |launcher| launcher.traffic)
    }

    /// Bytes that the runtime holds of the device. Those that it reads back through are memory of the host, and not counted.
    ///
    /// # Errors
    /// [`NoGpu`] if the device does not answer.
    pub(in crate::ops) fn reserved(&self) -> Result<u64, NoGpu> {
        let device = self.device.clone();
        let report = move || device.client().memory_report(MemoryScope::Device);
        let report = self.driver.run(report)?;
        let streams = report.streams.iter();
        let bytes = streams.map(|stream| {
            let arguments = stream.auxiliary.iter();
            let arguments = arguments.filter(|memory| memory.name != READ_THROUGH);
            let arguments = arguments.map(|memory| memory.pools.usage().bytes_reserved);
            stream.pools.usage().bytes_reserved + arguments.sum::<u64>()
        });
        Ok(bytes.sum())
    }
}
