//! Keys and values in pages: where a head's rows are, and how a row is stored.
//!
//! A chunk is one head's keys (or values) of one page: [`PAGE_TOKENS`] rows of quants, then as many rows of scales.
//! The values of a block of 32 are those of GGUF's `Q8_0` and `Q4_0`; only the scales lie elsewhere.

use super::activations::{round, scale_of};
use super::blocks::Half;
use bytemuck::{bytes_of, cast_slice, cast_slice_mut};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;
use half::f16;

/// Where the keys (or the values) of one head of one sequence are.
#[derive(Clone, Copy)]
pub struct Paged<'a> {
    /// All pages of all sequences.
    pub arena: &'a [u8],
    /// The numbers of the sequence's pages, in the order of its tokens.
    pub pages: &'a [u16],
    /// How many bytes a page has.
    pub page_bytes: usize,
    /// The byte of a page at which the head's chunk begins.
    pub offset: usize,
    /// The format in which its rows are stored.
    pub format: KvFormat,
}

impl<'a> Paged<'a> {
    /// The head's chunk of the sequence's page `page_index`, for heads of `d` values.
    ///
    /// # Panics
    /// If there is no such page, or its chunk does not lie in the arena.
    #[inline(always)]
    pub fn chunk(&self, page_index: usize, d: usize) -> &'a [u8] {
        let start = usize::from(self.pages[page_index]) * self.page_bytes + self.offset;
        &self.arena[start..][..self.format.head_bytes(d)]
    }

    /// Reads the row of a position as f32. This is the definition of the formats, which the oracle uses.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn read(&self, position: usize, out: &mut [f32]) {
        let (quants, scales) = self.rows(position, out.len()).row(0);
        match self.format {
            KvFormat::F16 => {
                for (out, half) in out.iter_mut().zip(quants.as_chunks().0) {
                    *out = f16::from_le_bytes(*half).to_f32();
                }
            }
            KvFormat::Q8_0 => {
                let blocks = quants.as_chunks::<32>().0.iter().zip(scales);
                for (out, (quants, scale)) in out.as_chunks_mut::<32>().0.iter_mut().zip(blocks) {
                    *out = quants.map(|quant| f32::from(quant as i8) * scale.to_f32());
                }
            }
            KvFormat::Q4_0 => {
                let blocks = quants.as_chunks::<16>().0.iter().zip(scales);
                for (out, (quants, scale)) in out.as_chunks_mut::<32>().0.iter_mut().zip(blocks) {
                    for (i, quant) in quants.iter().enumerate() {
                        let value = |nibble: u8| (f32::from(nibble) - 8.0) * scale.to_f32();
                        (out[i], out[16 + i]) = (value(quant & 15), value(quant >> 4));
                    }
                }
            }
        }
    }

    /// The rows of the page that position `first` is in, beginning with that position.
    #[inline(always)]
    pub(in crate::quant) fn rows(&self, first: usize, d: usize) -> PagedRows<'a> {
        let chunk = self.chunk(first / PAGE_TOKENS, d);
        let (bytes, blocks) = row(self.format, d);
        let (quants, scales) = chunk.split_at(PAGE_TOKENS * bytes);
        let slot = first % PAGE_TOKENS;
        PagedRows {
            format: self.format,
            quants: &quants[slot * bytes..],
            scales: &cast_slice(scales)[slot * blocks..],
            bytes,
            blocks,
        }
    }

    /// Whether `len` rows of `d` values lie in the arena.
    pub(in crate::quant) fn holds(&self, len: usize, d: usize) -> bool {
        let last = self.pages.get(..len.div_ceil(PAGE_TOKENS)).map(|pages| {
            // the chunk that ends last is that of the page with the greatest number
            pages.iter().fold(0, |last, page| last.max(*page))
        });
        self.format.takes(d)
            && last
                .and_then(|page| usize::from(page).checked_mul(self.page_bytes))
                .and_then(|page| page.checked_add(self.offset))
                .and_then(|chunk| chunk.checked_add(self.format.head_bytes(d)))
                .is_some_and(|end| end <= self.arena.len())
    }
}

/// Rows of one page's chunk.
#[derive(Clone, Copy)]
pub(in crate::quant) struct PagedRows<'a> {
    pub(in crate::quant) format: KvFormat,
    quants: &'a [u8],
    scales: &'a [Half],
    bytes: usize,
    blocks: usize,
}

impl<'a> PagedRows<'a> {
    /// The quants and the scales of row `i`; [`KvFormat::F16`] has no scales.
    #[inline(always)]
    pub(in crate::quant) fn row(&self, i: usize) -> (&'a [u8], &'a [Half]) {
        (
            &self.quants[i * self.bytes..][..self.bytes],
            &self.scales[i * self.blocks..][..self.blocks],
        )
    }

    /// The quants and the scales of the first `n` rows.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(in crate::quant) fn first(&self, n: usize) -> (&'a [u8], &'a [Half]) {
        (
            &self.quants[..n * self.bytes],
            &self.scales[..n * self.blocks],
        )
    }
}

/// How many bytes the quants of a row of `d` values have, and how many scales it has.
#[inline(always)]
const fn row(format: KvFormat, d: usize) -> (usize, usize) {
    match format {
        KvFormat::F16 => (2 * d, 0),
        KvFormat::Q8_0 => (d, d / KvFormat::BLOCK),
        KvFormat::Q4_0 => (d / 2, d / KvFormat::BLOCK),
    }
}

/// How many bytes a block of up to 32 values has before its quants and its scale are apart.
#[inline(always)]
const fn block_bytes(format: KvFormat, values: usize) -> usize {
    match format {
        KvFormat::F16 => 2 * values,
        KvFormat::Q8_0 => KvFormat::BLOCK + 2,
        KvFormat::Q4_0 => KvFormat::BLOCK / 2 + 2,
    }
}

/// See [`crate::quant::Kernels::encode_kv`], which has checked the size. NaN and infinity stay visible in the block's
/// scale. It is inlined into every level, so that it is compiled for the level's vectors.
#[inline(always)]
pub(in crate::quant) fn encode(format: KvFormat, row: &mut [f32]) {
    let (len, bytes) = (row.len(), cast_slice_mut::<f32, u8>(row));
    for (i, first) in (0..len).step_by(KvFormat::BLOCK).enumerate() {
        // what is written is shorter than what has been read
        let some = KvFormat::BLOCK.min(len - first);
        let mut values = [0.0f32; KvFormat::BLOCK];
        let read = &bytes[first * size_of::<f32>()..][..some * size_of::<f32>()];
        cast_slice_mut(&mut values)[..read.len()].copy_from_slice(read);
        let at = i * block_bytes(format, KvFormat::BLOCK);
        let block = &mut bytes[at..][..block_bytes(format, some)];
        match format {
            KvFormat::F16 => {
                for (half, value) in block.as_chunks_mut().0.iter_mut().zip(values) {
                    *half = f16::from_f32(value).to_le_bytes();
                }
            }
            KvFormat::Q8_0 => {
                if let Some((quants, scale)) = block.split_first_chunk_mut() {
                    scale.copy_from_slice(bytes_of(&quantize_q8_0(&values, quants)));
                }
            }
            KvFormat::Q4_0 => {
                if let Some((quants, scale)) = block.split_first_chunk_mut() {
                    scale.copy_from_slice(bytes_of(&quantize_q4_0(&values, quants)));
                }
            }
        }
    }
}

/// Copies a row that was encoded to its slot of a page's chunk, which is `format.head_bytes(row.len())` long: see [`Paged::chunk`].
///
/// # Panics
/// If the sizes do not fit each other, or there is no such slot.
pub fn place_kv(format: KvFormat, chunk: &mut [u8], slot: usize, row: &[f32]) {
    assert!(
        slot < PAGE_TOKENS
            && format.takes(row.len())
            && chunk.len() == format.head_bytes(row.len()),
        "place_kv: {} values in slot {slot} of a {} chunk of {} bytes",
        row.len(),
        format.name(),
        chunk.len()
    );
    let (bytes, blocks) = self::row(format, row.len());
    let (quants, scales) = chunk.split_at_mut(PAGE_TOKENS * bytes);
    let quants = &mut quants[slot * bytes..][..bytes];
    let encoded = cast_slice::<f32, u8>(row);
    if format == KvFormat::F16 {
        return quants.copy_from_slice(&encoded[..bytes]);
    }
    let scales = &mut scales[2 * slot * blocks..][..2 * blocks];
    let block = block_bytes(format, KvFormat::BLOCK);
    for ((encoded, quants), scale) in encoded
        .chunks_exact(block)
        .zip(quants.chunks_exact_mut(block - 2))
        .zip(scales.chunks_exact_mut(2))
    {
        quants.copy_from_slice(&encoded[..block - 2]);
        scale.copy_from_slice(&encoded[block - 2..]);
    }
}

/// Quantises a block and returns its scale: of those that put the largest value at 120 to 127, the one that loses least. The
/// sum of squared errors is 18 % smaller than with 127 always, for normally distributed values.
#[inline(always)]
fn quantize_q8_0(values: &[f32; 32], quants: &mut [u8; 32]) -> Half {
    let (scale, inverse) = scale_of(values);
    let (mut scales, mut inverses) = ([scale; 8], [inverse; 8]);
    // the largest value at 127, then at 120 to 126
    for i in 1..8 {
        let part = (119.0 + i as f32) / 127.0;
        (scales[i], inverses[i]) = (scale / part, inverse * part);
    }
    // the squared errors of all eight at once, which are a vector of every level
    let mut lost = [0.0f32; 8];
    for j in 0..8 {
        let mut some = [0.0f32; 8];
        for eight in values.as_chunks::<8>().0 {
            for i in 0..8 {
                let off = f32::from(round(eight[j], inverses[i])) * scales[i] - eight[j];
                some[i] += off * off;
            }
        }
        for i in 0..8 {
            lost[i] += some[i];
        }
    }
    let mut best = 0;
    for i in 1..8 {
        if lost[i] < lost[best] {
            best = i;
        }
    }
    for (quant, value) in quants.iter_mut().zip(values) {
        *quant = round(*value, inverses[best]) as u8;
    }
    Half::from_f32(scales[best])
}

/// Quantises a block and returns its scale, as ggml does: the value of largest magnitude becomes -8, and nibbles reach from
/// -8 to 7.
#[inline(always)]
fn quantize_q4_0(values: &[f32; 32], quants: &mut [u8; 16]) -> Half {
    // in the order of the bits, so that NaN is the largest
    let size = |value: f32| value.abs().to_bits();
    let largest = values
        .iter()
        .fold(0.0, |max, v| if size(*v) > size(max) { *v } else { max });
    let scale = largest / -8.0;
    // below this the inverse would overflow; such a block is zero beside any other
    let inverse = if scale.abs() < 1e-30 {
        0.0
    } else {
        1.0 / scale
    };
    let nibble = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(16);
    for ((quant, low), high) in quants.iter_mut().zip(low).zip(high) {
        *quant = nibble(*low) | (nibble(*high) << 4);
    }
    Half::from_f32(scale)
}
