//! One table per level, chosen once at run time. A new level is one file with a `TABLE` and one entry in [`TABLES`].

use super::format::activations::{Q8Chunk, Q8kChunk};
use super::format::{interleaved, kv_rows};
use super::reference::scalar;
use super::{ActKind, Activations, Isa, Paged, act_kind, row_bytes};
use crate::gguf::{GgmlType, Layout};
use crate::pool::{Pool, RowTile};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::PAGE_TOKENS;

/// The levels of this architecture, best first.
static TABLES: &[&Kernels] = &[
    #[cfg(target_arch = "aarch64")]
    &super::arm::dotprod::TABLE,
    #[cfg(target_arch = "aarch64")]
    &super::arm::rows::TABLE,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx512::TABLE,
    #[cfg(target_arch = "x86_64")]
    &super::x86::avx2::TABLE,
    &scalar::TABLE,
];

/// Type, weights, `k`, activations, their first column, result.
pub(super) type Matmul = fn(GgmlType, &[u8], usize, &Activations, usize, &mut RowTile<'_>);

/// The function table of one level. Its entries rely on the sizes that the methods here assert.
pub struct Kernels {
    pub(super) isa: Isa,
    /// may this machine run it?
    pub(super) supported: fn() -> bool,
    /// does `matmul` read tiles of 16 columns where there are some?
    pub(super) tiles: bool,
    /// a column of `k` values to `ceil(k / 256)` chunks
    pub(super) quantize_q8: fn(&[f32], &mut [Q8Chunk]),
    /// a column of `k` values to `k / 256` chunks
    pub(super) quantize_q8k: fn(&[f32], &mut [Q8kChunk]),
    pub(super) matmul: Matmul,
    /// the same of a matrix in groups of sixteen rows; none: by way of rows
    pub(super) matmul_interleaved: Option<Matmul>,
    pub(super) silu_mul: fn(&mut [f32], &[f32]),
    pub(super) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(super) attend: fn(&Heads<'_>, &mut [f32], &mut [f32]),
}

/// The query heads that share a KV head, and what they look at: see [`Kernels::attend`].
pub(super) struct Heads<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: Paged<'a>,
    pub(super) v: Paged<'a>,
    pub(super) d: usize,
    pub(super) len: usize,
    pub(super) scale: f32,
}

/// The forced level cannot run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction set `{0}` is not available on this machine")]
pub struct UnsupportedIsa(pub Isa);

impl Kernels {
    /// The best level of this machine, or the one forced.
    ///
    /// # Errors
    /// This machine cannot run the forced level.
    pub fn detect(forced: Option<Isa>) -> Result<&'static Self, UnsupportedIsa> {
        let mut supported = TABLES.iter().copied().filter(|t| (t.supported)());
        match forced {
            None => Ok(supported.next().unwrap_or(&scalar::TABLE)),
            Some(isa) => supported.find(|t| t.isa == isa).ok_or(UnsupportedIsa(isa)),
        }
    }

    /// Its level.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Fills `acts` with `x`, in the form `kind`, on at most `threads` threads of `pool`.
    ///
    /// # Shapes
    /// `x` is `[cols][k]`: column after column. `k` is a multiple of 32 for [`ActKind::Q8`], of 256 for
    /// [`ActKind::Q8K`].
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn quantize(
        &self,
        kind: ActKind,
        x: &[f32],
        k: usize,
        acts: &mut Activations,
        pool: &Pool,
        threads: usize,
    ) {
        let unit = match kind {
            ActKind::F32 => 1,
            ActKind::Q8 => 32,
            ActKind::Q8K => 256,
        };
        assert!(
            k > 0 && k.is_multiple_of(unit) && x.len().is_multiple_of(k),
            "quantize: {} values as columns of {k} for {kind:?}",
            x.len()
        );
        acts.fill(self, kind, x, k, pool, threads);
    }

    /// `out.column(c)[r] = dot(row r of w, column col0 + c of acts)`. The value is the same whatever the rows and
    /// columns of the call, and on every level: see the module's definition.
    ///
    /// # Shapes
    /// `w` begins with `out.rows()` rows of `row_bytes(ty, k)` bytes, whole groups in [`Layout::Interleaved16`]; what follows is taken for what this thread reads
    /// next, and asked for ahead where that helps. `acts` holds columns of `k` values in `act_kind(ty)`.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn matmul(
        &self,
        (ty, layout): (GgmlType, Layout),
        w: &[u8],
        k: usize,
        acts: &Activations,
        col0: usize,
        out: &mut RowTile<'_>,
    ) {
        assert!(
            acts.kind() == Some(act_kind(ty)) && acts.k() == k,
            "matmul: {ty:?} rows of {k} with activations of {} in {:?}",
            acts.k(),
            acts.kind()
        );
        assert!(
            col0.checked_add(out.cols())
                .is_some_and(|end| end <= acts.cols()),
            "matmul: columns {col0} and {} more of {}",
            out.cols(),
            acts.cols()
        );
        assert!(
            row_bytes(ty, k)
                .and_then(|b| b.checked_mul(out.rows()))
                .is_some_and(|rows| rows <= w.len()),
            "matmul: {} bytes for {} rows of {k} {ty:?}",
            w.len(),
            out.rows()
        );
        if w.is_empty() || out.cols() == 0 {
            return;
        }
        match layout {
            Layout::Rows => (self.matmul)(ty, w, k, acts, col0, out),
            Layout::Interleaved16 => {
                assert!(
                    Layout::groups(ty, out.rows() as u64),
                    "matmul: {} rows of {ty} in groups of sixteen",
                    out.rows()
                );
                match self.matmul_interleaved {
                    Some(matmul) => matmul(ty, w, k, acts, col0, out),
                    None => interleaved::by_rows(self.matmul, ty, w, k, acts, col0, out),
                }
            }
        }
    }

    /// `dst = row`, dequantised. The same on every level, with ggml's order of operations.
    ///
    /// # Panics
    /// If `row` is not `row_bytes(ty, dst.len())` long.
    pub fn dequantize_row(&self, ty: GgmlType, row: &[u8], dst: &mut [f32]) {
        assert!(
            row_bytes(ty, dst.len()) == Some(row.len()),
            "dequantize_row: {} bytes for {} values of {ty:?}",
            row.len(),
            dst.len()
        );
        scalar::dequantize_row(ty, row, dst);
    }

    /// `dst` = row `row` of a matrix, dequantised: for embedding look-ups.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn open_row(
        &self,
        (ty, layout): (GgmlType, Layout),
        matrix: &[u8],
        row: usize,
        dst: &mut [f32],
    ) {
        let bytes = row_bytes(ty, dst.len()).unwrap_or_default();
        match layout {
            Layout::Rows => self.dequantize_row(ty, &matrix[row * bytes..][..bytes], dst),
            Layout::Interleaved16 => interleaved::with_row(ty, matrix, row, bytes, |row| {
                self.dequantize_row(ty, row, dst);
            }),
        }
    }

    /// `gate[i] = silu(gate[i]) * up[i]`, `silu(x) = x / (1 + exp(-x))`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        assert!(
            gate.len() == up.len(),
            "silu_mul: {} and {} values",
            gate.len(),
            up.len()
        );
        (self.silu_mul)(gate, up);
    }

    /// `dst = x * weight / sqrt(mean(x^2) + eps)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, dst: &mut [f32]) {
        assert!(
            x.len() == weight.len() && x.len() == dst.len(),
            "rms_norm: {}, {} and {} values",
            x.len(),
            weight.len(),
            dst.len()
        );
        (self.rms_norm)(x, weight, eps, dst);
    }

    /// Attention of the query heads that share one KV head, at one position:
    /// `out = softmax(q . k * scale) . v`, the maximum subtracted, sums in f32.
    ///
    /// # Shapes
    /// `q` and `out` are `[g][d]` (any `g`). The first `len` rows of `k` and `v` count, each of `d` values; what else is
    /// in their pages does not count. `scores` is scratch of at least `g * len`.
    ///
    /// # Panics
    /// If the sizes do not fit each other, or `d` or `len` is 0.
    #[allow(
        clippy::too_many_arguments,
        reason = "keys, values, their shape, scratch and result: all of them the caller's own"
    )]
    pub fn attend(
        &self,
        q: &[f32],
        k: Paged<'_>,
        v: Paged<'_>,
        d: usize,
        len: usize,
        scale: f32,
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        assert!(
            d > 0 && len > 0 && q.len().is_multiple_of(d) && out.len() == q.len(),
            "attend: q {} out {} for {len} rows of {d}",
            q.len(),
            out.len()
        );
        for (name, rows) in [("keys", k), ("values", v)] {
            assert!(
                rows.holds(len, d),
                "attend: {len} rows of {d} in {} pages of {} {name}, in an arena of {}",
                rows.pages.len(),
                rows.format.name(),
                rows.arena.len()
            );
        }
        let scores_len = (q.len() / d).checked_mul(len);
        assert!(
            scores_len.is_some_and(|n| n <= scores.len()),
            "attend: scores {} for {} heads of {len} positions",
            scores.len(),
            q.len() / d
        );
        (self.attend)(
            &Heads {
                q,
                k,
                v,
                d,
                len,
                scale,
            },
            scores,
            out,
        );
    }

    /// Writes one token's key (or value) of a head, `row`, to its slot of a page's chunk. The same on every level.
    ///
    /// # Shapes
    /// `chunk` is `format.head_bytes(row.len())` long: see [`Paged::chunk`].
    ///
    /// # Panics
    /// If the sizes do not fit each other, or there is no such slot.
    pub fn store_kv(&self, format: KvFormat, chunk: &mut [u8], slot: usize, row: &[f32]) {
        assert!(
            slot < PAGE_TOKENS
                && format.takes(row.len())
                && chunk.len() == format.head_bytes(row.len()),
            "store_kv: {} values in slot {slot} of a {} chunk of {} bytes",
            row.len(),
            format.name(),
            chunk.len()
        );
        kv_rows::store(format, chunk, slot, row);
    }
}
