//! Which processor the steps run on, and how weights and pages get there.

#[cfg(feature = "wgpu")]
use super::cube::device::Gpu;
use super::memory::{Blocks, DeviceMemory, Traffic, Widths};
use super::no_gpu::NoGpu;
use super::runtime::Runtime;
use crate::gguf::{Gguf, TensorInfo};
use crate::kv::{KvCache, KvLayout, NoMemory};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, Tensor, TensorData};

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
    ) -> Result<DeviceMemory, NoGpu> {
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
    /// [`NoGpu`] if there is none, or the program was built without.
    pub fn gpu() -> Result<Self, NoGpu> {
        #[cfg(feature = "wgpu")]
        return Gpu::open()
            .map(Self::Gpu)
            .map_err(|error| NoGpu::Device(error.to_string()));
        #[cfg(not(feature = "wgpu"))]
        Err(NoGpu::NotBuilt)
    }

    /// The name of the GPU, or `None` for the host.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Host => None,
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => Some(&gpu.name),
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

    /// The device as Burn names it.
    #[must_use]
    pub fn device(&self) -> Device {
        match self {
            Self::Host => Device::flex(),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.device(),
        }
    }

    /// The blocks of a matrix as the steps take them: on the host a view of the mapped file, and on a GPU words of its own.
    #[must_use]
    pub fn blocks(&self, gguf: &Gguf, info: &TensorInfo) -> Blocks {
        match self {
            Self::Host => Blocks {
                first: Tensor::from_data(
                    mapped(gguf, info, DType::U8, info.bytes),
                    (&self.device(), DType::U8),
                ),
                rest: Vec::new(),
                part_rows: info.rows() as usize,
            },
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.blocks(gguf, info),
        }
    }

    /// A cache of `pages` pages and `places` page tables.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses.
    pub fn cache(
        &self,
        layout: KvLayout,
        pages: usize,
        places: usize,
    ) -> Result<KvCache, NoMemory> {
        match self {
            Self::Host => KvCache::new(layout, pages, places),
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => {
                let memory = gpu.pages(pages, &layout);
                Ok(KvCache::on_device(layout, Box::new(memory), places))
            }
        }
    }

    /// Takes the memory that steps compute in; those of the host take theirs as they go.
    pub fn prepare(&self, runtime: &mut Runtime, widths: &Widths) {
        match self {
            Self::Host => {
                let _ = (runtime, widths);
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
    #[must_use]
    pub fn reserved(&self) -> u64 {
        match self {
            Self::Host => 0,
            #[cfg(feature = "wgpu")]
            Self::Gpu(gpu) => gpu.reserved(),
        }
    }

    /// Waits until what was sent to the device is done.
    ///
    /// # Errors
    /// What the device says of it: there was no memory, or it is lost.
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
