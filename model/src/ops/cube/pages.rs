//! The pages of keys and values in the memory of the device.

use super::buffers;
use super::driver::Driver;
use crate::kv::{DevicePages, KvCache, KvLayout, PageId, PageLost};
use burn::tensor::DType;
use burn_cubecl::CubeDevice;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::Handle;
use std::any::Any;

/// All pages, as a buffer for each layer that the kernels write in place. A layer's part of every page lies there one behind
/// the other, because all pages together may be larger than a buffer can be.
pub struct CubePages {
    driver: Driver,
    layers: Vec<CubeTensor>,
    /// The bytes of each layer's part of a page.
    parts: Vec<usize>,
}

impl CubePages {
    /// Takes the memory of `pages` pages, whose bytes are those that a step or a write puts there.
    #[must_use]
    pub(super) fn new(
        driver: Driver,
        device: &CubeDevice,
        pages: usize,
        layout: &KvLayout,
    ) -> Self {
        let parts: Vec<usize> = layer_bytes(layout).collect();
        let client = device.client();
        let layer = |bytes: &usize| buffers::empty(&client, device, [pages, bytes / 4], DType::U32);
        Self {
            layers: parts.iter().map(layer).collect(),
            driver,
            parts,
        }
    }

    /// The buffer of a layer's part of a cache's pages.
    pub(super) fn of(kv: &KvCache, layer: usize) -> &CubeTensor {
        match kv.device().and_then(|pages| pages.downcast_ref::<Self>()) {
            Some(pages) => &pages.layers[layer],
            None => panic!("pages of a host reached a step of a device"),
        }
    }

    /// The parts of one page, each with its bytes.
    fn page(&self, page: PageId) -> impl Iterator<Item = (Handle, usize)> {
        let parts = self.layers.iter().zip(&self.parts);
        parts.map(move |(layer, bytes)| {
            let start = (usize::from(page) * bytes) as u64;
            let handle = layer.handle.clone();
            let end = handle.size_in_used() - start - *bytes as u64;
            (handle.offset_start(start).offset_end(end), *bytes)
        })
    }
}

/// The bytes of each layer's part of a page.
pub(super) fn layer_bytes(layout: &KvLayout) -> impl Iterator<Item = usize> {
    let starts = (0..layout.layers()).map(|layer| layout.k_offset(layer, 0));
    let ends = (1..layout.layers()).map(|layer| layout.k_offset(layer, 0));
    let ends = ends.chain([layout.page_bytes()]);
    starts.zip(ends).map(|(start, end)| end - start)
}

impl DevicePages for CubePages {
    fn read(&self, page: PageId, bytes: &mut [u8]) -> Result<(), PageLost> {
        let parts = self.page(page).map(|(part, _)| part).collect();
        let client = self.layers[0].client.clone();
        let read = self.driver.run(move || client.read(parts));
        let read = read
            .map_err(|error| PageLost(error.to_string()))?
            .map_err(|error| PageLost(Driver::give_up(&error).to_string()))?;
        let mut rest = bytes;
        for part in read {
            let (first, others) = rest.split_at_mut(part.len());
            first.copy_from_slice(&part);
            rest = others;
        }
        Ok(())
    }

    fn write(&mut self, page: PageId, bytes: &[u8]) {
        let mut rest = bytes;
        let mut parts = Vec::with_capacity(self.parts.len());
        for (part, len) in self.page(page) {
            let (first, others) = rest.split_at(len);
            parts.push((part, cubecl::bytes::Bytes::from_bytes_vec(first.to_vec())));
            rest = others;
        }
        let client = self.layers[0].client.clone();
        // a device that does not take them is given up, so that no step reads this page any more
        let _ = self.driver.run(move || {
            for (part, bytes) in parts {
                client.write(&part, bytes);
            }
        });
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
