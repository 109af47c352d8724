//! Finds the highest of many logits without sorting all of them.

use super::exp::{exp, sum_exp};
use std::cmp::Ordering;

/// Logits of a block. 151,936 logits have 2,374 blocks, whose maxima are few enough to select among in microseconds, and more
/// than any usual top-k.
const BLOCK: usize = 64;

/// Finds the highest logits of a row, and holds the buffers for that.
#[derive(Debug)]
pub(super) struct Top {
    /// maximum of each block of the scanned row
    maxima: Vec<f32>,
    /// a copy of the maxima that is reordered
    order: Vec<f32>,
    /// tokens and logits that [`Self::of`] or [`Self::all`] found
    pub(super) found: Vec<(u32, f32)>,
}

/// The order that puts the higher logit first, and of equal ones the lower id.
fn better(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1)
        .unwrap_or(Ordering::Equal)
        .then(a.0.cmp(&b.0))
}

impl Top {
    /// Allocates the buffers for rows of `vocab` logits.
    pub(super) fn new(vocab: usize) -> Self {
        let blocks = vocab.div_ceil(BLOCK);
        Self {
            maxima: Vec::with_capacity(blocks),
            order: Vec::with_capacity(blocks),
            found: Vec::with_capacity(vocab),
        }
    }

    /// Looks at a row, which the other calls must be given unchanged. Gives its highest logit, of equal ones the one with the
    /// lowest id, or none if no logit is above -inf.
    pub(super) fn scan(&mut self, logits: &[f32]) -> Option<(u32, f32)> {
        self.maxima.clear();
        let max = |block: &[f32]| {
            block
                .iter()
                .fold(f32::NEG_INFINITY, |max, &l| if l > max { l } else { max })
        };
        self.maxima.extend(logits.chunks(BLOCK).map(max));
        let highest = max(&self.maxima);
        if highest == f32::NEG_INFINITY {
            return None;
        }
        let block = self.maxima.iter().position(|&m| m == highest)?;
        let at = logits
            .iter()
            .skip(block * BLOCK)
            .position(|&l| l == highest)?;
        Some(((block * BLOCK + at) as u32, highest))
    }

    /// Finds all logits of a row with their ids, in the order of the ids.
    pub(super) fn all(&mut self, logits: &[f32]) {
        self.found.clear();
        self.found.extend((0..).zip(logits.iter().copied()));
    }

    /// Finds the `n` highest logits of the scanned row with their ids, best first.
    pub(super) fn of(&mut self, logits: &[f32], n: usize) {
        self.found.clear();
        if n == 0 {
            return;
        }
        // at least n logits reach the n-th highest maximum, so a logit below it is not among the n highest
        let least = if n < self.maxima.len() {
            self.order.clone_from(&self.maxima);
            let descending = |a: &f32, b: &f32| b.partial_cmp(a).unwrap_or(Ordering::Equal);
            *self.order.select_nth_unstable_by(n - 1, descending).1
        } else {
            f32::NEG_INFINITY
        };
        for (block, (logits, max)) in logits.chunks(BLOCK).zip(&self.maxima).enumerate() {
            if *max >= least {
                let ids = (block * BLOCK) as u32..;
                self.found
                    .extend(ids.zip(logits.iter().copied()).filter(|(_, l)| *l >= least));
            }
        }
        if n < self.found.len() {
            self.found.select_nth_unstable_by(n - 1, better);
            self.found.truncate(n);
        }
        self.found.sort_unstable_by(better);
    }

    /// Gives ln Σ e^logit of a row, and its `n` highest logits as logarithms of probabilities, best first, without tokens that
    /// cannot come. The row need not be scanned before.
    pub(super) fn logprobs(&mut self, logits: &[f32], n: usize) -> (f32, Vec<(u32, f32)>) {
        let max = self.scan(logits).map_or(0.0, |(_, max)| max);
        let log_sum = max + sum_exp(logits, max).ln() as f32;
        self.of(logits, n);
        let found = self.found.iter().map(|(id, l)| (*id, l - log_sum));
        (log_sum, found.filter(|(_, l)| l.is_finite()).collect())
    }
}

/// How many of the best reach `mass` together. Gives none if not even all of them do.
pub(super) fn nucleus(best_first: &[(u32, f32)], max: f32, mass: f64) -> Option<usize> {
    let mut sum = 0.0;
    let reaches = |(_, l): &(u32, f32)| {
        sum += f64::from(exp(l - max));
        sum >= mass
    };
    best_first.iter().position(reaches).map(|at| at + 1)
}

/// Does what [`nucleus`] does for candidates in any order: it brings the best, as many as reach `mass`, to the front. It does
/// not sort them, so a flat distribution over a whole vocabulary takes 5 ms instead of 40.
pub(super) fn select_nucleus(candidates: &mut [(u32, f32)], max: f32, mut mass: f64) -> usize {
    // the answer lies in from..to; the candidates before `from` are better than all that follow and do not reach `mass`
    let (mut from, mut to) = (0, candidates.len());
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        candidates[from..to].select_nth_unstable_by(middle - from, better);
        let sum: f64 = candidates[from..middle]
            .iter()
            .map(|(_, l)| f64::from(exp(l - max)))
            .sum();
        if sum >= mass {
            to = middle;
        } else {
            mass -= sum;
            from = middle;
        }
    }
    to
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(logits: &[f32]) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        all.sort_by(better);
        all
    }

    proptest! {
            #[test]
            fn equals_a_full_sort(
                // few different values, so that many are equal
                logits in prop::collection::vec(
                    prop_oneof![-3i8..3, Just(i8::MIN)].prop_map(|l| if l == i8::MIN { f32::NEG_INFINITY } else { l.into() }),
                    1..700,
                ),
                n in 0usize..800,
            ) {
                let expected = sorted(&logits);
                let mut top = Top::new(logits.len());
                prop_assert_eq!(top.scan(&logits), expected.first().copied().filter(|(_, l)| *l > f32::NEG_INFINITY));
                top.of(&logits, n);
    prop_assert_eq!(&top.found[..], &expected[..n.min(expected.len())]);
            }
        }

    #[test]
    fn signed_zeros_are_equal() {
        let logits = [-1.0, -0.0, 0.0];
        let mut top = Top::new(3);
        assert_eq!(top.scan(&logits).unwrap().0, 1);
        top.of(&logits, 1);
        assert_eq!(top.found[0].0, 1);
    }

    #[test]
    fn logprobs_are_of_the_softmax() {
        let mut top = Top::new(4);
        let logits = [0.0, 2f32.ln(), f32::NEG_INFINITY, 0.0];
        // what cannot come is no alternative, however many are asked for
        assert_eq!(top.logprobs(&logits, 4).1.len(), 3);
        let (log_sum, best) = top.logprobs(&logits, 2);
        assert!((log_sum - 4f32.ln()).abs() < 1e-6);
        assert_eq!(best.iter().map(|b| b.0).collect::<Vec<_>>(), [1, 0]);
        assert!((best[0].1 - 0.5f32.ln()).abs() < 1e-6 && (best[1].1 - 0.25f32.ln()).abs() < 1e-6);
    }
}
