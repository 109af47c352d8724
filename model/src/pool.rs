//! A persistent thread pool with bounded spin, and the disjoint output tiles its tasks write.
//! One of the few addresses of `unsafe`.

use std::ops::Range;

/// SKELETON. Worker threads that stay; the caller is worker 0.
pub struct Pool;

impl Pool {
    /// `threads >= 1`, the calling thread included: `threads - 1` are spawned. Spin is bounded, then they park.
    pub fn new(_threads: usize) -> std::io::Result<Self> { todo!() }
    /// how many
    pub fn threads(&self) -> usize { todo!() }
    /// Runs `task(0..tasks)` on at most `threads` threads, chunks claimed atomically, returns when all are done.
    /// A panic in a task is re-raised here after all tasks have ended; the pool stays usable.
    pub fn run(&self, _threads: usize, _tasks: usize, _task: &(dyn Fn(usize) + Sync)) { todo!() }
    /// Splits a column-major `[cols][rows]` output (column `c` is `out[c*rows..][..rows]`) into row chunks of `chunk`
    /// rows and runs `task(rows, tile)` for each: the tile reaches only its own rows, in every column.
    pub fn run_rows(
        &self, _threads: usize, _out: &mut [f32], _rows: usize, _chunk: usize,
        _task: &(dyn Fn(Range<usize>, &mut RowTile<'_>) + Sync),
    ) { todo!() }
    /// Splits `out` into consecutive chunks of `chunk` elements and runs `task(index, chunk_slice)`.
    pub fn run_chunks<T: Send>(&self, _threads: usize, _out: &mut [T], _chunk: usize, _task: &(dyn Fn(usize, &mut [T]) + Sync)) { todo!() }
}

/// An exclusive view of some rows of a column-major `[cols][ld]` f32 matrix: `column(c)` is `rows` long.
pub struct RowTile<'a> { _p: std::marker::PhantomData<&'a mut [f32]> }

impl<'a> RowTile<'a> {
    /// The whole of a local buffer: `out.len() == cols * rows`.
    pub fn new(_out: &'a mut [f32], _rows: usize) -> Self { todo!() }
    /// rows in the tile
    pub fn rows(&self) -> usize { todo!() }
    /// columns in the tile
    pub fn cols(&self) -> usize { todo!() }
    /// this tile's rows of column `c`; asserts `c < cols`
    pub fn column(&mut self, _c: usize) -> &mut [f32] { todo!() }
}
