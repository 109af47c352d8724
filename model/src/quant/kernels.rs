//! The contract of the kernels: what a level's function table offers, and the sizes that are checked before it is called.

use super::format::activations::Quantizer;
use super::format::interleaved;
use super::reference::decode;
use super::{ActKind, Activations, Isa, Paged, act_kind, row_bytes};
use crate::gguf::{GROUP, GgmlType, Layout};
use crate::pool::{Pool, RowTile};
use bytemuck::{Pod, cast_slice};
use glowplug_firmware_config::attention::{QUERIES_MAX, stride};
use glowplug_firmware_config::kv::KvFormat;

/// A product of some rows of a matrix and some columns of activations; the result says how many of each. The sizes that
/// [`Kernels::matmul`] checks hold for every `Product` that a level is given.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The format of the weights.
    pub ty: GgmlType,
    /// The order of the weights' bytes.
    pub layout: Layout,
    /// Bytes that begin with the rows to multiply, `row_bytes(ty, k)` each. What follows them is taken for what this
    /// thread reads next, and is asked for ahead where that helps.
    pub weights: &'a [u8],
    /// Values in a row, and in a column.
    pub k: usize,
    /// Columns of `k` values in the form `act_kind(ty)`.
    pub activations: &'a Activations,
    /// The column of `activations` that the first column of the result is made of.
    pub first_column: usize,
}

impl<'a> Product<'a> {
    /// Blocks of one row.
    #[inline(always)]
    pub(super) fn row_blocks(&self) -> usize {
        self.k / self.ty.block_len()
    }

    /// The bytes of the first `rows` rows.
    #[inline(always)]
    pub(super) fn rows(&self, rows: usize) -> &'a [u8] {
        &self.weights[..self.row_blocks() * self.ty.block_bytes() * rows]
    }

    /// All whole blocks, of these rows and of those behind them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn all_blocks<B: Pod>(&self) -> &'a [B] {
        cast_slice(&self.weights[..self.weights.len() / size_of::<B>() * size_of::<B>()])
    }

    /// The blocks of the first `rows` rows.
    #[inline(always)]
    pub(super) fn blocks<B: Pod>(&self, rows: usize) -> &'a [B] {
        cast_slice(self.rows(rows))
    }
}

/// The query heads that share one KV head, at one position or at some that follow each other, and the keys and values that
/// they look at. Queries look at keys and values of their own position and of those before it.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// The queries, `[positions][group][d]`. Those of several positions are at most [`QUERIES_MAX`].
    pub q: &'a [f32],
    /// The keys; the rows of `d` values that are looked at count, and nothing else in their pages does.
    pub k: Paged<'a>,
    /// The values, in the same shape as the keys.
    pub v: Paged<'a>,
    /// Values of one head.
    pub d: usize,
    /// Queries of one position.
    pub group: usize,
    /// Positions that the queries of the first position look at. Those of each further one look at one more.
    pub len: usize,
    /// What every score is multiplied by before the softmax.
    pub scale: f32,
}

impl Heads<'_> {
    /// How many queries there are.
    #[inline(always)]
    pub(super) fn queries(&self) -> usize {
        self.q.len() / self.d
    }

    /// Positions that the last queries look at.
    #[inline(always)]
    pub(super) fn longest(&self) -> usize {
        self.len + self.queries() / self.group - 1
    }

    /// Values from the scores of one query to those of the next.
    #[inline(always)]
    pub(super) fn stride(&self) -> usize {
        stride(self.longest())
    }

    /// How many of the queries, of which they are the first, do not look at a position.
    #[inline(always)]
    pub(super) fn blind(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.len) * self.group
    }

    /// How many of the `most` positions from `first` on a query looks at.
    #[inline(always)]
    pub(super) fn sees(&self, query: usize, first: usize, most: usize) -> usize {
        if first + most <= self.len {
            most
        } else {
            most.min((self.len + query / self.group).saturating_sub(first))
        }
    }
}

/// Columns that a [`Kernels::convolve`] takes: the last one is the token's own.
pub const TAPS: usize = 4;

/// Columns of a [`Kernels::delta_rule`]'s matrix that lie together: a matrix of `d` rows and columns is
/// `[d / STATE_COLUMNS][d][STATE_COLUMNS]`.
pub const STATE_COLUMNS: usize = 32;

/// The tokens of a sequence that go through the matrix of one value head, one after the other.
#[derive(Clone, Copy)]
pub struct DeltaRule<'a> {
    /// A column of `width` values for each token.
    pub columns: &'a [f32],
    /// Values of a column.
    pub width: usize,
    /// Where in a column the head's query is, `d` values.
    pub q: usize,
    /// Where the key is, `d` values.
    pub k: usize,
    /// Where the value is, `d` values.
    pub v: usize,
    /// Where the number is that the matrix is multiplied with.
    pub decay: usize,
    /// Where the number is that says how much of the value is learned.
    pub beta: usize,
    /// Values of a query, a key and a value: a multiple of [`STATE_COLUMNS`].
    pub d: usize,
}

/// One way to compute a [`Product`]; see [`Kernels::matmul`].
pub(super) type Matmul = fn(&Product<'_>, &mut RowTile<'_>);

/// A way to compute [`Kernels::convolve`].
pub(super) type Convolve = fn([&[f32]; TAPS], [&[f32]; TAPS], &mut [f32]);

/// The function table of one level. Its entries rely on the sizes that the methods here assert.
pub struct Kernels {
    pub(super) isa: Isa,
    /// Whether this machine can run the level. No other entry is called where it is false.
    pub(super) supported: fn() -> bool,
    pub(super) quantizer: Quantizer,
    pub(super) matmul: Matmul,
    /// The product of an interleaved matrix. Without one, each group goes through `matmul` as sixteen rows.
    pub(super) matmul_interleaved: Option<Matmul>,
    pub(super) silu_mul: fn(&mut [f32], &[f32]),
    pub(super) rms_norm: fn(&[f32], &[f32], f32, &mut [f32]),
    pub(super) attend: fn(&Heads<'_>, &mut [f32], &mut [f32]),
    pub(super) encode_kv: fn(KvFormat, &mut [f32]),
    pub(super) rotate: fn(&mut [f32]),
    pub(super) convolve: Convolve,
    pub(super) delta_rule: fn(&DeltaRule<'_>, &mut [f32], &mut [f32]),
}

impl Kernels {
    /// The instruction-set level that the table is for.
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
        acts.fill(&self.quantizer, kind, x, k, 1, pool, threads);
    }

    /// Quantises columns as [`Self::quantize`] does, and behind them as many of what that left over, which are zeros where nothing is
    /// rounded.
    ///
    /// # Panics
    /// As [`Self::quantize`].
    pub fn quantize_twice(
        &self,
        kind: ActKind,
        x: &[f32],
        k: usize,
        acts: &mut Activations,
        pool: &Pool,
        threads: usize,
    ) {
        acts.fill(&self.quantizer, kind, x, k, 2, pool, threads);
    }

    /// `out.column(c)[r] = dot(row r of the weights, column first_column + c of the activations)`. The value is the same
    /// whatever the rows and columns of the call, and on every level: see the definition in [`crate::quant`].
    ///
    /// # Panics
    /// If the sizes do not fit each other; in [`Layout::Interleaved16`] also if the rows are not whole groups, nor whole groups
    /// and the last rows of the matrix.
    pub fn matmul(&self, product: &Product<'_>, out: &mut RowTile<'_>) {
        let Product {
            ty,
            layout,
            weights,
            k,
            activations: acts,
            first_column,
        } = *product;
        assert!(
            acts.kind() == Some(act_kind(ty)) && acts.k() == k,
            "matmul: {ty:?} rows of {k} with activations of {} in {:?}",
            acts.k(),
            acts.kind()
        );
        assert!(
            first_column
                .checked_add(out.cols())
                .is_some_and(|end| end <= acts.cols()),
            "matmul: columns {first_column} and {} more of {}",
            out.cols(),
            acts.cols()
        );
        assert!(
            row_bytes(ty, k)
                .and_then(|b| b.checked_mul(out.rows()))
                .is_some_and(|rows| rows <= weights.len()),
            "matmul: {} bytes for {} rows of {k} {ty:?}",
            weights.len(),
            out.rows()
        );
        if weights.is_empty() || out.cols() == 0 {
            return;
        }
        match layout {
            Layout::Rows => (self.matmul)(product, out),
            Layout::Interleaved16 => {
                let rest = out.rows() % GROUP;
                let (whole, row) = (out.rows() - rest, product.rows(1).len());
                assert!(
                    Layout::groups(ty, whole as u64)
                        && (rest == 0 || weights.len() == row * out.rows()),
                    "matmul: {} rows of {ty} in groups of sixteen",
                    out.rows()
                );
                if whole > 0 {
                    let out = &mut out.part(0, whole);
                    match self.matmul_interleaved {
                        Some(matmul) => matmul(product, out),
                        None => by_rows(self.matmul, product, out),
                    }
                }
                if rest > 0 {
                    let product = Product {
                        layout: Layout::Rows,
                        weights: &weights[whole * row..],
                        ..*product
                    };
                    (self.matmul)(&product, &mut out.part(whole, rest));
                }
            }
        }
    }

    /// Dequantises one row of GGUF blocks to `dst`. The result is the same on every level; the order of operations is
    /// ggml's.
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
        decode::dequantize_row(ty, row, dst);
    }

    /// Dequantises row `row` of a whole matrix to `dst`, for embedding look-ups.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn open_row(
        &self,
        ty: GgmlType,
        layout: Layout,
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

    /// Attention of the query heads that share one KV head, at one position or at some that follow each other:
    /// `out = softmax(q . k * scale) . v`, with the maximum subtracted and sums in f32. What a query gets is the same
    /// whatever the other queries of the call.
    ///
    /// # Shapes
    /// `out` is `[positions][group][d]`, as `heads.q` is. `scores` is scratch of at least `queries * stride(longest)` values, of
    /// the [`stride`] of as many positions as the last query looks at.
    ///
    /// # Panics
    /// If the sizes do not fit each other, there are several positions with more than [`QUERIES_MAX`] queries, or one of the
    /// sizes is 0.
    pub fn attend(&self, heads: &Heads<'_>, scores: &mut [f32], out: &mut [f32]) {
        let Heads {
            q,
            k,
            v,
            d,
            group,
            len,
            ..
        } = *heads;
        let position = d.checked_mul(group).unwrap_or_default();
        assert!(
            position > 0
                && len > 0
                && !q.is_empty()
                && q.len().is_multiple_of(position)
                && (q.len() == position || q.len() / d <= QUERIES_MAX)
                && out.len() == q.len(),
            "attend: q {} out {} for {group} heads of {d} over {len} rows",
            q.len(),
            out.len()
        );
        let longest = len.checked_add(q.len() / position - 1).unwrap_or_default();
        for (name, rows) in [("keys", k), ("values", v)] {
            assert!(
                longest > 0 && rows.holds(longest, d),
                "attend: {longest} rows of {d} in {} pages of {} {name}, in an arena of {}",
                rows.pages.len(),
                rows.format.name(),
                rows.arena.len()
            );
        }
        assert!(
            q.len() / d <= scores.len() / stride(longest),
            "attend: scores {} for {} queries of {longest} positions",
            scores.len(),
            q.len() / d
        );
        // heads that are more by themselves come in parts
        let part = QUERIES_MAX * d;
        for (q, out) in q.chunks(part).zip(out.chunks_mut(part)) {
            let queries = q.len() / d;
            let heads = Heads {
                q,
                group: group.min(queries),
                ..*heads
            };
            let scores = &mut scores[..queries * heads.stride()];
            (self.attend)(&heads, scores, out);
        }
    }

    /// `out[i] = silu(sum)`, of the products of value `i` of each column and of its weights.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn convolve(&self, columns: [&[f32]; TAPS], weights: [&[f32]; TAPS], out: &mut [f32]) {
        for values in columns.iter().chain(&weights) {
            assert!(
                values.len() == out.len(),
                "convolve: {} and {} values",
                values.len(),
                out.len()
            );
        }
        (self.convolve)(columns, weights, out);
    }

    /// The gated delta rule (<https://arxiv.org/abs/2412.06464>). For each token the matrix `S` is multiplied with the decay, then
    /// `S += k * ((v - k . S) * beta)`, and the token gets `q . S`. The same bits on every level, and however a sequence is cut
    /// into calls.
    ///
    /// # Shapes
    /// `state` has `d * d` values, a row for each value of a key, as [`STATE_COLUMNS`] says. `out` is `[tokens][d]`.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn delta_rule(&self, rule: &DeltaRule<'_>, state: &mut [f32], out: &mut [f32]) {
        let DeltaRule {
            columns, width, d, ..
        } = *rule;
        let fits =
            |first: usize, len: usize| first.checked_add(len).is_some_and(|end| end <= width);
        assert!(
            d > 0
                && d.is_multiple_of(STATE_COLUMNS)
                && [rule.q, rule.k, rule.v].iter().all(|first| fits(*first, d))
                && [rule.decay, rule.beta].iter().all(|at| fits(*at, 1))
                && columns.len().is_multiple_of(width)
                && d.checked_mul(d) == Some(state.len())
                && d.checked_mul(columns.len() / width) == Some(out.len()),
            "delta_rule: {} values in columns of {width}, heads of {d}, a state of {}, a result of {}",
            columns.len(),
            state.len(),
            out.len()
        );
        (self.delta_rule)(rule, state, out);
    }

    /// Has the bytes of one token's key (or value) of a head take the place of the first of its values, block by block, for
    /// [`place_kv`](super::place_kv). The same on every level.
    ///
    /// # Panics
    /// If the format has no rows of this length.
    pub fn encode_kv(&self, format: KvFormat, row: &mut [f32]) {
        assert!(
            format.takes(row.len()),
            "encode_kv: {} values as {}",
            row.len(),
            format.name()
        );
        (self.encode_kv)(format, row);
    }

    /// Rotates a head: see [`super::hadamard_transform`], which it equals on every level.
    pub fn rotate(&self, head: &mut [f32]) {
        (self.rotate)(head);
    }
}

/// Computes the product of an interleaved matrix with a kernel for rows, group by group.
fn by_rows(matmul: Matmul, product: &Product<'_>, out: &mut RowTile<'_>) {
    let bytes = product.row_blocks() * product.ty.block_bytes();
    let groups = product.weights.chunks_exact(GROUP * bytes);
    for (i, group) in groups.take(out.rows() / GROUP).enumerate() {
        interleaved::with_group(product.ty, group, |rows| {
            let product = Product {
                layout: Layout::Rows,
                weights: rows,
                ..*product
            };
            matmul(&product, &mut out.part(GROUP * i, GROUP));
        });
    }
}
