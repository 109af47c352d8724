//! How the rows of an output are divided among the tasks of a run.

use super::{Base, Pool, RowTile, share_start};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows in chunks, which are divided into equal shares, one for each thread; each share is divided into tasks.
struct Shares {
    rows: usize,
    /// The rows of a chunk. The last one may have fewer.
    chunk: usize,
    threads: usize,
    /// The chunks of a task. The last one of a share may have fewer, or none where a share has a chunk less than another.
    at_once: usize,
}

impl Shares {
    const fn chunks(&self) -> usize {
        self.rows.div_ceil(self.chunk)
    }

    /// How many tasks a share has.
    const fn tasks(&self) -> usize {
        (self.chunks().div_ceil(self.threads)).div_ceil(self.at_once)
    }

    /// The rows of task `i` of all shares' tasks.
    fn task(&self, i: usize) -> Range<usize> {
        let (share, task) = (i / self.tasks(), i % self.tasks());
        let [begin, end] =
            [share, share + 1].map(|share| share_start(share, self.threads, self.chunks()));
        let begin = end.min(begin.saturating_add(task.saturating_mul(self.at_once)));
        let end = end.min(begin.saturating_add(self.at_once));
        self.rows.min(begin * self.chunk)..self.rows.min(end * self.chunk)
    }
}

impl Pool {
    /// Splits a column-major `[cols][rows]` output (column `c` is `out[c*rows..][..rows]`) into row chunks of `chunk`
    /// rows (the last may be shorter), as many for each thread as for the others or one less, and runs `task(rows, tile)` with up to
    /// `at_once` chunks that follow each other. The tile reaches only its own rows. Otherwise as [`Pool::run`].
    ///
    /// # Panics
    /// If `chunk` or `at_once` is 0 or `out.len()` is not a multiple of `rows`.
    pub fn run_rows(
        &self,
        threads: usize,
        out: &mut [f32],
        rows: usize,
        (chunk, at_once): (usize, usize),
        task: &(dyn Fn(Range<usize>, &mut RowTile<'_>) + Sync),
    ) {
        let whole = RowTile::new(out, rows);
        assert!(chunk > 0, "run_rows: chunks of 0 rows");
        assert!(at_once > 0, "run_rows: tasks of 0 chunks");
        let shares = Shares {
            rows,
            chunk,
            threads: threads.min(self.threads()).min(rows.div_ceil(chunk)).max(1),
            at_once,
        };
        let base = Base(whole.ptr);
        self.run(shares.threads, shares.threads * shares.tasks(), &|i| {
            let range = shares.task(i);
            if !range.is_empty() {
                // no row is in two tasks
                task(range.clone(), &mut cut(&base, rows, range, 0..whole.cols));
            }
        });
    }

    /// Splits an output as [`Self::run_rows`] has it into chunks of `chunk` rows, and each chunk into `parts` of its columns:
    /// `task(rows, index of the part, tile)`.
    ///
    /// # Panics
    /// If `chunk` is 0, `out.len()` is not a multiple of `rows`, or a part is not behind the one before it and in the output.
    pub fn run_tiles(
        &self,
        threads: usize,
        out: &mut [f32],
        rows: usize,
        chunk: usize,
        parts: &[Range<usize>],
        task: &(dyn Fn(Range<usize>, usize, &mut RowTile<'_>) + Sync),
    ) {
        let whole = RowTile::new(out, rows);
        assert!(chunk > 0, "run_tiles: chunks of 0 rows");
        let mut behind = 0;
        for part in parts {
            assert!(
                behind <= part.start && part.start <= part.end && part.end <= whole.cols,
                "run_tiles: columns {part:?} behind {behind} of {}",
                whole.cols
            );
            behind = part.end;
        }
        let base = Base(whole.ptr);
        self.run(threads, rows.div_ceil(chunk) * parts.len(), &|i| {
            let (begin, part) = (i / parts.len() * chunk, i % parts.len());
            let end = rows.min(begin.saturating_add(chunk));
            // no row is in two chunks, and no column in two parts
            let mut tile = cut(&base, rows, begin..end, parts[part].clone());
            task(begin..end, part, &mut tile);
        });
    }
}

/// The tile of some rows and columns of an output that begins at `base`, with `stride` rows in a column. They are in the output, and
/// nobody else has any of them.
fn cut<'a>(
    base: &Base<f32>,
    stride: usize,
    rows: Range<usize>,
    columns: Range<usize>,
) -> RowTile<'a> {
    RowTile {
        // in each of the columns these rows are the output's. Nothing is reached through a tile without columns
        ptr: base.get().wrapping_add(columns.start * stride + rows.start),
        stride,
        rows: rows.len(),
        cols: columns.len(),
        _out: PhantomData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_task(
            rows in 0usize..2000,
            chunk in 1usize..70,
            threads in 1usize..9,
            at_once in 1usize..6,
        ) {
            let shares = Shares { rows, chunk, threads, at_once };
            let (mut next, mut sizes) = (0, Vec::new());
            for share in 0..threads {
                let before = next;
                for i in 0..shares.tasks() {
                    let task = shares.task(share * shares.tasks() + i);
                    prop_assert!(task.is_empty() || task.start == next);
                    prop_assert!(task.len() <= chunk * at_once);
                    next += task.len();
                }
                sizes.push((next - before).div_ceil(chunk));
            }
            prop_assert_eq!(next, rows);
            let [least, most] = [sizes.iter().min(), sizes.iter().max()];
            prop_assert!(most <= least.map(|least| least + 1).as_ref());
        }
    }
}
