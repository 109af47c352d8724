//! What a step keeps of guesses. A guess leaves the state of its sequence as it was, because it could not be taken out again; what
//! it would have changed the state with is kept here, so that guesses which come true are taken in afterwards, in the same order
//! and with the same sums.

use super::arena::NoMemory;
use super::states::StateLayout;
use glowplug_firmware_config::limits::DRAFT_MAX;
use std::ops::Range;

/// The guesses of the last step, which are all of one sequence.
pub(super) struct Journal {
    pub(super) layout: StateLayout,
    /// For each layer the inputs of the convolution, `[DRAFT_MAX][channels]`, and those of the matrices, `[DRAFT_MAX][width]`;
    /// and behind them the hidden states, `[DRAFT_MAX][hidden]`.
    values: Box<[f32]>,
    /// The page table of the sequence.
    pub(super) table: usize,
    /// How many there are.
    pub(super) guesses: usize,
    /// How many of them, the first ones, came true and are in the state.
    taken: usize,
    /// How many behind these came true and are not in the state yet.
    accepted: usize,
}

impl Journal {
    /// Makes room for the most guesses of a step.
    ///
    /// # Errors
    /// [`NoMemory`] when the size overflows or there is not so much.
    pub(super) fn new(layout: StateLayout) -> Result<Self, NoMemory> {
        let bytes = layout.journal_bytes();
        let len = bytes / size_of::<f32>();
        let mut values = Vec::new();
        if values.try_reserve_exact(len).is_err() {
            return Err(NoMemory { bytes });
        }
        // written, so that the memory is there from the start
        values.resize(len, 0.0);
        Ok(Self {
            layout,
            values: values.into(),
            table: 0,
            guesses: 0,
            taken: 0,
            accepted: 0,
        })
    }

    /// Begins a step of which the last `guesses` tokens of a page table's sequence are guesses.
    ///
    /// # Panics
    /// If they are more than [`DRAFT_MAX`].
    pub(super) fn begin(&mut self, table: usize, guesses: usize) {
        assert!(guesses <= DRAFT_MAX, "{guesses} guesses");
        (self.table, self.guesses) = (table, guesses);
        (self.taken, self.accepted) = (0, 0);
    }

    /// Notes that the next guess came true.
    ///
    /// # Panics
    /// If there was no such guess.
    pub(super) fn accept(&mut self) {
        assert!(
            self.taken + self.accepted < self.guesses,
            "what was not guessed"
        );
        self.accepted += 1;
    }

    /// Whether a guess came true and is not in the state yet.
    pub(super) fn is_ahead(&self) -> bool {
        self.accepted > 0
    }

    /// Notes that all guesses which came true are in the state.
    pub(super) fn settled(&mut self) {
        self.taken += std::mem::take(&mut self.accepted);
    }

    /// Where a layer's inputs of the convolution are, and those of its matrices.
    fn places(&self, layer: usize) -> (Range<usize>, Range<usize>) {
        let (inputs, columns) = (
            DRAFT_MAX * self.layout.channels(),
            DRAFT_MAX * self.layout.width,
        );
        let start = layer * (inputs + columns);
        (
            start..start + inputs,
            start + inputs..start + inputs + columns,
        )
    }

    /// A layer's inputs of the convolution, to write: `[channels]` for each guess.
    pub(super) fn inputs_mut(&mut self, layer: usize) -> &mut [f32] {
        let (inputs, _) = self.places(layer);
        &mut self.values[inputs]
    }

    /// A layer's inputs of the matrices, to write: `[width]` for each guess.
    pub(super) fn columns_mut(&mut self, layer: usize) -> &mut [f32] {
        let (_, columns) = self.places(layer);
        &mut self.values[columns]
    }

    /// The hidden states, to write: `[hidden]` for each guess.
    pub(super) fn hidden_mut(&mut self) -> &mut [f32] {
        let len = self.values.len();
        &mut self.values[len - DRAFT_MAX * self.layout.hidden..]
    }

    /// The hidden state of the last guess that came true.
    pub(super) fn last_hidden(&self) -> &[f32] {
        let hidden = self.layout.hidden;
        let all = &self.values[self.values.len() - DRAFT_MAX * hidden..];
        let last = (self.taken + self.accepted).saturating_sub(1);
        &all[last * hidden..][..hidden]
    }

    /// Both, of the guesses that came true and are not in the state yet.
    pub(super) fn accepted(&self, layer: usize) -> (&[f32], &[f32]) {
        let (inputs, columns) = self.places(layer);
        (
            self.of_accepted(&self.values[inputs], self.layout.channels()),
            self.of_accepted(&self.values[columns], self.layout.width),
        )
    }

    fn of_accepted<'a>(&self, all: &'a [f32], each: usize) -> &'a [f32] {
        &all[self.taken * each..][..self.accepted * each]
    }
}
