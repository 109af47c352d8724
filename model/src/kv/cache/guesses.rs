//! What a step leaves of guesses at the next tokens, and how those that come true get into the state of their sequence.

use super::KvCache;

/// The state of a sequence in one delta layer, and what is to be taken into it.
pub struct Accepted<'a> {
    /// The last columns of the convolution's input.
    pub conv: &'a mut [f32],
    /// The matrices of all value heads.
    pub delta: &'a mut [f32],
    /// The input of the convolution for each guess that came true, `[channels]`.
    pub inputs: &'a [f32],
    /// The input of the matrices for each of them, `[width]`.
    pub columns: &'a [f32],
}

impl KvCache {
    /// How many tokens of a page table's sequence, the last ones of the step, are guesses.
    #[must_use]
    pub fn guesses(&self, table: usize) -> usize {
        let journal = self.journal.as_ref().filter(|j| j.table == table);
        journal.map_or(0, |journal| journal.guesses)
    }

    /// Keeps what the guesses of the step are to the convolution of a delta layer, `[channels]` each.
    pub fn keep_inputs<'a>(&mut self, layer: usize, guesses: impl Iterator<Item = &'a [f32]>) {
        if let Some(journal) = &mut self.journal {
            let channels = journal.layout.channels();
            let kept = journal.inputs_mut(layer).chunks_exact_mut(channels);
            kept.zip(guesses)
                .for_each(|(kept, guess)| kept.copy_from_slice(guess));
        }
    }

    /// Keeps what the guesses of the step are to the matrices of a delta layer, `[width]` each.
    pub fn keep_columns(&mut self, layer: usize, guesses: &[f32]) {
        if let Some(journal) = &mut self.journal {
            journal.columns_mut(layer)[..guesses.len()].copy_from_slice(guesses);
        }
    }

    /// Notes that the next guess of the last step came true. It is in the state only after [`Self::take_accepted`] was called for
    /// all layers, before anything else is done with the state.
    ///
    /// # Panics
    /// If there was no such guess.
    pub fn accept(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.accept();
        }
    }

    /// The page table of the sequence whose guesses came true and are not in its state yet, if there is one.
    #[must_use]
    pub fn accepted(&self) -> Option<usize> {
        let journal = self.journal.as_ref().filter(|j| j.is_ahead());
        journal.map(|journal| journal.table)
    }

    /// What is to be taken into the state of one delta layer. With the first layer, the hidden state is taken over.
    ///
    /// # Panics
    /// If there is no such layer, or the sequence has no slot.
    pub fn take_accepted(&mut self, layer: usize) -> Option<Accepted<'_>> {
        let journal = self.journal.as_ref().filter(|j| j.is_ahead())?;
        let Some(slot) = self.slots[journal.table] else {
            panic!("guesses of a sequence without a state");
        };
        if layer == 0 {
            let last = journal.last_hidden();
            self.states.hidden_mut(slot).copy_from_slice(last);
        }
        let (conv, delta) = self.states.layer_mut(slot, layer);
        let (inputs, columns) = journal.accepted(layer);
        Some(Accepted {
            conv,
            delta,
            inputs,
            columns,
        })
    }

    /// Keeps the hidden state behind the last row of each sequence of the step, and those of guesses, of all rows' hidden states,
    /// `[rows][hidden]`. Gives the hidden state behind which each row comes, which is zeros before a text.
    ///
    /// # Panics
    /// If a sequence has no slot.
    pub fn keep_hidden(&mut self, hidden: &[f32]) -> Vec<f32> {
        let width = self.states.layout().hidden;
        let mut before = Vec::with_capacity(hidden.len());
        let mut row = 0;
        while row < self.rows.len() {
            let table = self.rows[row].table;
            let more = self.rows[row..].iter().take_while(|r| r.table == table);
            let (count, guesses) = (more.count(), self.guesses(table));
            let own = &hidden[row * width..(row + count) * width];
            let (certain, guessed) = own.split_at((count - guesses) * width);
            let last = self.hidden(table);
            before.extend_from_slice(last);
            before.extend_from_slice(&own[..own.len() - width]);
            last.copy_from_slice(&certain[certain.len() - width..]);
            if let Some(journal) = self.journal.as_mut().filter(|_| guesses > 0) {
                journal.hidden_mut()[..guessed.len()].copy_from_slice(guessed);
            }
            row += count;
        }
        before
    }

    /// The hidden state of the last token of a page table's sequence.
    ///
    /// # Panics
    /// If the sequence has no slot.
    pub fn hidden(&mut self, table: usize) -> &mut [f32] {
        match self.slots[table] {
            Some(slot) => self.states.hidden_mut(slot),
            None => panic!("the sequence of page table {table} has no state"),
        }
    }

    /// Notes that all guesses which came true are in the state.
    pub fn settled(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.settled();
        }
    }
}
