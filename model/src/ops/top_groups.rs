//! Which logits are worth making finely: those of the most likely tokens, by a first, coarser pass over all.

use crate::gguf::GROUP;

/// Groups of rows that are made again for a column, at most: the same groups that a packed matrix has, so that the kernels
/// take them whole. 1.3 % of a vocabulary of 151,936.
const BEST: usize = 128;

/// Finds them; holds the buffers for it.
#[derive(Default)]
pub(super) struct Best {
    /// of each group of a column the highest logit
    maxima: Vec<f32>,
    /// groups, to be reordered
    order: Vec<u32>,
    /// column and first row
    pub(super) groups: Vec<(usize, usize)>,
    /// their logits, [`GROUP`] each
    pub(super) logits: Vec<f32>,
}

impl Best {
    /// The groups with the highest logits of each column of `vocab`, and room for them.
    pub(super) fn find(&mut self, logits: &[f32], vocab: usize) {
        self.groups.clear();
        for (column, logits) in logits.chunks_exact(vocab).enumerate() {
            let max = |group: &[f32]| group.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
            self.maxima.clear();
            self.maxima.extend(logits.chunks(GROUP).map(max));
            self.order.clear();
            self.order.extend(0..self.maxima.len() as u32);
            if self.order.len() > BEST {
                let max = |group: &u32| self.maxima[*group as usize];
                self.order
                    .select_nth_unstable_by(BEST - 1, |a, b| max(b).total_cmp(&max(a)));
                self.order.truncate(BEST);
                // in the order of memory
                self.order.sort_unstable();
            }
            let rows = self.order.iter().map(|group| *group as usize * GROUP);
            self.groups.extend(rows.map(|row| (column, row)));
        }
        self.logits.resize(self.groups.len() * GROUP, 0.0);
    }

    /// Puts what was made into its place.
    pub(super) fn place(&self, logits: &mut [f32], vocab: usize) {
        for ((column, row), made) in self.groups.iter().zip(self.logits.chunks_exact(GROUP)) {
            let rows = GROUP.min(vocab - row);
            logits[column * vocab + row..][..rows].copy_from_slice(&made[..rows]);
        }
    }
}
