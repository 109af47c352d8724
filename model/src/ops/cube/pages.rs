//! The pages of keys and values in the memory of the device.

use super::memory;
use crate::kv::{DevicePages, KvCache, PageId, PageLost};
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use std::any::Any;

/// All pages, one behind the other, as one buffer that the kernels write in place.
pub struct CubePages {
    arena: CubeTensor,
    page_bytes: usize,
}

impl CubePages {
    /// Takes the memory of `pages` pages, whose bytes are those that a step or a write puts there.
    #[must_use]
    pub(super) fn new(device: &CubeDevice, pages: usize, page_bytes: usize) -> Self {
        let shape = [pages, page_bytes / 4];
        let arena = memory::empty(&device.client(), device, shape, DType::U32);
        Self { arena, page_bytes }
    }

    /// The buffer of a cache's pages.
    pub(super) fn of(kv: &KvCache) -> &CubeTensor {
        match kv.device().and_then(|pages| pages.downcast_ref::<Self>()) {
            Some(pages) => &pages.arena,
            None => panic!("pages of a host reached a step of a device"),
        }
    }

    /// The handle of one page.
    fn page(&self, page: PageId) -> cubecl::server::Handle {
        let start = (usize::from(page) * self.page_bytes) as u64;
        let handle = self.arena.handle.clone();
        let end = handle.size_in_used() - start - self.page_bytes as u64;
        handle.offset_start(start).offset_end(end)
    }
}

impl DevicePages for CubePages {
    fn read(&self, page: PageId, bytes: &mut [u8]) -> Result<(), PageLost> {
        let read = self.arena.client.read_one(self.page(page));
        bytes.copy_from_slice(&read.map_err(|error| PageLost(error.to_string()))?);
        Ok(())
    }

    fn write(&mut self, page: PageId, bytes: &[u8]) {
        let bytes = cubecl::bytes::Bytes::from_bytes_vec(bytes.to_vec());
        self.arena.client.write(&self.page(page), bytes);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
