//! Which logits are worth computing precisely: those of the most likely tokens, found by a first, rougher pass over all.

use crate::gguf::GROUP;

/// Most groups of rows that are computed again for a column: 1.3 % of a vocabulary of 151,936. They are the groups that an
/// interleaved matrix has, so that the kernels take them whole.
const GROUPS_MAX: usize = 128;

/// Finds the groups with the largest logits, and holds the buffers for it.
#[derive(Default)]
pub(super) struct TopGroups {
    /// The highest logit of each group of a column.
    maxima: Vec<f32>,
    /// The numbers of the groups, in the order of selection.
    order: Vec<u32>,
    /// The column and the first row of each group that was found.
    pub(super) groups: Vec<(usize, usize)>,
    /// The logits of those groups, [`GROUP`] each.
    pub(super) logits: Vec<f32>,
}

impl TopGroups {
    /// Finds the groups with the highest logits in each column of `vocab` logits, and makes room for their logits.
    pub(super) fn find(&mut self, logits: &[f32], vocab: usize) {
        self.groups.clear();
        for (column, logits) in logits.chunks_exact(vocab).enumerate() {
            let max = |group: &[f32]| group.iter().fold(f32::NEG_INFINITY, |m, l| m.max(*l));
            self.maxima.clear();
            self.maxima.extend(logits.chunks(GROUP).map(max));
            self.order.clear();
            self.order.extend(0..self.maxima.len() as u32);
            if self.order.len() > GROUPS_MAX {
                let max = |group: &u32| self.maxima[*group as usize];
                self.order
                    .select_nth_unstable_by(GROUPS_MAX - 1, |a, b| max(b).total_cmp(&max(a)));
                self.order.truncate(GROUPS_MAX);
                // in the order of memory
                self.order.sort_unstable();
            }
            let rows = self.order.iter().map(|group| *group as usize * GROUP);
            self.groups.extend(rows.map(|row| (column, row)));
        }
        self.logits.resize(self.groups.len() * GROUP, 0.0);
    }

    /// Puts the logits that were computed again into their places.
    pub(super) fn place(&self, logits: &mut [f32], vocab: usize) {
        for ((column, row), made) in self.groups.iter().zip(self.logits.chunks_exact(GROUP)) {
            let rows = GROUP.min(vocab - row);
            logits[column * vocab + row..][..rows].copy_from_slice(&made[..rows]);
        }
    }
}
