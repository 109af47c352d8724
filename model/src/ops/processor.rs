//! Which processor the steps run on, and how weights and pages get there.

#[cfg(feature = "wgpu")]
use super::cube::{device::Gpu, driver::Driver};
use super::memory::{Blocks, GpuFacts, Traffic, Widths};
use super::no_gpu::NoGpu;
use super::runtime::Runtime;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::{KvCache, KvLayout, NoMemory};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Tensor, TensorData};
use glowplug_firmware_config::plan::device::DeviceBytes;
use std::time::Duration;

/// Why there is no memory for keys and values.
#[derive(Debug, thiserror::Error)]
pub enum NoCache {
    /// The host has none.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// The GPU gives none.
    #[error(transparent)]
    NoGpu(#[from] NoGpu),
}

/// A processor that models run on.
pub enum Processor {
    /// The processor of the host, with weights in the mapped file.
    Host,
    /// A GPU, with weights and pages in its memory.
    #[cfg(feature = "wgpu")]
    Gpu(Gpu),
}

impl Processor {
    /// Counts the memory of a GPU that a model takes, without opening it.
    ///
    /// # Errors
    /// [`NoGpu`] if there are no kernels for the model, or the program was built without GPUs.
    pub fn device_memory(
        gguf: &Gguf,
        layout: &KvLayout,
        pages: usize,
        widths: &Widths,
    ) -> Result<DeviceBytes, NoGpu> {
        #[cfg(feature = "wgpu")]
        return super::cube::plan::memory(gguf, layout, pages, widths);
        #[cfg(not(feature = "wgpu"))]
        {
            let _ = (gguf, layout, pages, widths);
            Err(NoGpu::NotBuilt)
        }
    }

    /// Opens the GPU.
    ///
    /// # Errors
    /// [`NoGpu`] if there is none, it was given up before, or the program was built without.
    pub fn gpu() -> Result<Self, NoGpu> {
        #[cfg(feature = "wgpu")]
        return Gpu::open().map(Self::Gpu);
        #[cfg(not(feature = "wgpu"))]
        Err(NoGpu::NotBuilt)
    }

    /// What is known of the GPU, or `None` for the host.
    #[must_use]
    pub fn facts(&self) -> Option<&GpuFacts> {
        match self {
            Self::Host => None,
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => Some(&gpu.facts),
        }
    }

    /// The name of the GPU, or `None` for the host.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.facts().map(|facts| facts.name.as_str())
    }

    /// Has `work` done where the GPU's driver may be called, and waits for it: a driver that hangs keeps what was moved into
    /// `work`, and gives nothing back. The host does it at once.
    ///
    /// # Errors
    /// [`NoGpu`] if it takes longer than [`Self::wait_at_most`] says, or the GPU was given up before.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoGpu> {
        match self {
            Self::Host => Ok(work()),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.driver.run(work),
        }
    }

    /// Sets the longest that anybody in this process waits for the GPU, up to
    /// [`DEVICE_WAIT_MAX`](glowplug_firmware_config::limits::DEVICE_WAIT_MAX).
    pub fn wait_at_most(&self, patience: Duration) {
        match self {
            Self::Host => {
                let _ = patience;
            }
            #[cfg(feature = "wgpu")]
            Self::Gpu(_) => Driver::wait_at_most(patience),
        }
    }

    /// Checks that there are kernels for every matrix of a file and for its heads, before any memory is taken.
    ///
    /// # Errors
    /// [`NoGpu`] names the first thing that the GPU cannot do.
    pub fn check(&self, gguf: &Gguf, layout: &KvLayout, pages: usize) -> Result<(), NoGpu> {
        match self {
            Self::Host => {
                let _ = (gguf, layout, pages);
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.check(gguf, layout, pages),
        }
    }

    /// The blocks of a matrix as the steps take them: on the host a view of the mapped file, and on a GPU words of its own.
    ///
    /// # Errors
    /// [`NoGpu`] if the GPU does not take them.
    pub fn blocks(&self, gguf: &Gguf, info: &TensorInfo) -> Result<Blocks, NoGpu> {
        match self {
            Self::Host => Ok(Blocks {
                first: Tensor::from_data(
                    mapped(gguf, info, DType::U8, info.bytes),
                    (&Device::flex(), DType::U8),
                ),
                rest: Vec::new(),
                part_rows: info.rows() as usize,
            }),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.blocks(gguf, info),
        }
    }

    /// A vector of f32: on the host the data itself, and on a GPU a buffer of its own.
    ///
    /// # Errors
    /// [`NoGpu`] if the GPU does not take it.
    pub fn vector(&self, data: TensorData) -> Result<Tensor<1>, NoGpu> {
        match self {
            Self::Host => Ok(Tensor::from_data(data, (&Device::flex(), DType::F32))),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.vector(data),
        }
    }

    /// A cache of `pages` pages and `places` page tables.
    ///
    /// # Errors
    /// [`NoCache`] when the system or the GPU refuses.
    pub fn cache(&self, layout: KvLayout, pages: usize, places: usize) -> Result<KvCache, NoCache> {
        match self {
            Self::Host => Ok(KvCache::new(layout, pages, places)?),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => {
                let memory = gpu.pages(pages, &layout)?;
                Ok(KvCache::on_device(layout, Box::new(memory), places))
            }
        }
    }

    /// Takes the memory that steps compute in; those of the host take theirs as they go.
    ///
    /// # Errors
    /// [`NoGpu`] if the GPU does not give it.
    pub fn prepare(&self, runtime: &mut Runtime, widths: &Widths) -> Result<(), NoGpu> {
        match self {
            Self::Host => {
                let _ = (runtime, widths);
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.prepare(runtime, widths),
        }
    }

    /// What was sent to the device and back; nothing for the host.
    #[must_use]
    pub fn traffic(&self, runtime: &Runtime) -> Traffic {
        match self {
            Self::Host => {
                let _ = runtime;
                Traffic::default()
            }
            #[cfg(feature = "wgpu")]
            Self::Gpu(_) => Gpu::traffic(runtime),
        }
    }

    /// Bytes that the GPU's runtime holds for all models; none for the host.
    ///
    /// # Errors
    /// [`NoGpu`] if the GPU does not answer.
    pub fn reserved(&self) -> Result<u64, NoGpu> {
        match self {
            Self::Host => Ok(0),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.reserved(),
        }
    }

    /// Waits until what was sent to the device is done.
    ///
    /// # Errors
    /// What the device says of it: there was no memory, or it is lost. It is given up then.
    pub fn wait(&self) -> Result<(), NoGpu> {
        match self {
            Self::Host => Ok(()),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.wait(),
        }
    }
}

/// A view of the map as tensor data. `AllocationProperty::File` keeps Burn from copying (measured on Burn 0.22.1: the same
/// pointer, and no anonymous memory). The dtype must be given, or Burn converts to its default integer.
pub(crate) fn mapped(gguf: &Gguf, info: &TensorInfo, dtype: DType, len: usize) -> TensorData {
    TensorData::from_bytes(
        Bytes::from_shared(gguf.data(info), AllocationProperty::File),
        [len],
        dtype,
    )
}
