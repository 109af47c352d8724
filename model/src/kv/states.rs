//! The states of sequences: what layers keep of a whole text in a constant number of values, beside the pages of the layers that
//! attend.

use super::NoMemory;

/// What a sequence keeps of each delta layer, in numbers of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLayout {
    /// How many delta layers there are.
    pub layers: usize,
    /// Values of a layer's convolution: the last columns of its input.
    pub conv: usize,
    /// Values of the matrices of all of a layer's value heads.
    pub delta: usize,
}

impl StateLayout {
    /// Values of one sequence, or `None` if no memory has so many.
    fn values(&self) -> Option<usize> {
        self.conv.checked_add(self.delta)?.checked_mul(self.layers)
    }

    /// Bytes of one sequence.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values()
            .map_or(usize::MAX, |values| values.saturating_mul(4))
    }
}

/// The number of a sequence's state in the arena of states.
pub type StateSlot = usize;

/// An arena of states.
pub struct States {
    layout: StateLayout,
    values: Vec<f32>,
}

impl States {
    /// Makes `slots` states of zeros.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses or the size overflows.
    pub fn new(layout: StateLayout, slots: usize) -> Result<Self, NoMemory> {
        let len = layout.values().and_then(|values| values.checked_mul(slots));
        let len = len.ok_or(NoMemory { bytes: usize::MAX })?;
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(|_| NoMemory {
            bytes: len.saturating_mul(4),
        })?;
        values.resize(len, 0.0);
        Ok(Self { layout, values })
    }

    /// Sets a state to that of a sequence without a token.
    ///
    /// # Panics
    /// If there is no such slot.
    pub fn clear(&mut self, slot: StateSlot) {
        let len = self.layout.layers * (self.layout.conv + self.layout.delta);
        self.values[slot * len..][..len].fill(0.0);
    }

    /// The state of one layer, counted among those that have one: what the convolution keeps, and the matrices.
    ///
    /// # Panics
    /// If there is no such slot or layer.
    pub fn layer(&mut self, slot: StateSlot, layer: usize) -> (&mut [f32], &mut [f32]) {
        let StateLayout {
            layers,
            conv,
            delta,
        } = self.layout;
        assert!(layer < layers, "layer {layer} of {layers} with a state");
        let first = (slot * layers + layer) * (conv + delta);
        self.values[first..][..conv + delta].split_at_mut(conv)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_of_every_slot_is_its_own() {
        let layout = StateLayout {
            layers: 3,
            conv: 6,
            delta: 8,
        };
        assert_eq!(layout.bytes(), 3 * 14 * 4);
        let mut states = States::new(layout, 2).unwrap();
        let all = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        for (slot, layer) in all {
            let (conv, delta) = states.layer(slot, layer);
            assert_eq!((conv.len(), delta.len()), (6, 8));
            assert!(conv.iter().chain(&*delta).all(|v| *v == 0.0));
            conv.fill(1.0 + (3 * slot + layer) as f32);
            delta.fill(-1.0 - (3 * slot + layer) as f32);
        }
        states.clear(0);
        for (slot, layer) in all {
            let want = slot as f32 * (1.0 + (3 * slot + layer) as f32);
            let (conv, delta) = states.layer(slot, layer);
            assert!(conv.iter().all(|v| *v == want) && delta.iter().all(|v| *v == -want));
        }
    }

    #[test]
    fn an_impossible_size_is_refused() {
        for (layers, conv, delta) in [
            (1, usize::MAX, 1),
            (usize::MAX / 2, 2, 2),
            (1 << 40, 1 << 10, 1 << 10),
        ] {
            let layout = StateLayout {
                layers,
                conv,
                delta,
            };
            assert!(States::new(layout, 4).is_err());
        }
    }

    #[test]
    #[should_panic(expected = "layer 1 of 1")]
    fn there_is_no_layer_behind_the_last() {
        let layout = StateLayout {
            layers: 1,
            conv: 1,
            delta: 1,
        };
        States::new(layout, 2).unwrap().layer(0, 1);
    }
}
