//! The cache as a step sees it: the arena, a page table for each sequence, and the rows that are computed.

mod guesses;

use super::journal::Journal;
use super::{
    Arena, DevicePages, KvLayout, NoMemory, NotLocked, PageId, PageLost, PageTable, StateLayout,
    StateSlot, States, page_table,
};
use crate::quant::{Kernels, Paged, place_kv};
use glowplug_firmware_config::kv::KvFormat;
use glowplug_firmware_config::limits::{PAGE_TOKENS, STEP_TOKENS};
pub use guesses::Accepted;
use heapless::Vec as Bounded;
use std::borrow::Cow;

/// Consecutive tokens of one sequence that a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The number of the page table of the sequence.
    pub table: usize,
    /// The position of the first of the tokens.
    pub position: usize,
    /// How many tokens there are.
    pub tokens: usize,
    /// How many of them, the last ones, are guesses at what comes next. They leave the state of the sequence as it was, until
    /// [`KvCache::accept`] says that they came true. One span of a step may have some.
    pub guesses: usize,
}

/// A row of the step, which is one token.
#[derive(Debug, Clone, Copy)]
struct Row {
    table: usize,
    position: usize,
}

/// The keys and values of every sequence, and the states of those of a network that has some.
pub struct KvCache {
    layout: KvLayout,
    arena: Arena,
    tables: Box<[Box<PageTable>]>,
    states: States,
    /// The slot of each page table's sequence.
    slots: Box<[Option<StateSlot>]>,
    /// What is known of guesses; none where no layer has a state.
    journal: Option<Journal>,
    rows: Bounded<Row, STEP_TOKENS>,
    /// How many steps have begun.
    step: u64,
}

impl KvCache {
    /// Makes the arena of `pages` pages and `tables` empty page tables.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses.
    pub fn new(layout: KvLayout, pages: usize, tables: usize) -> Result<Self, NoMemory> {
        let arena = Arena::new(pages, layout.page_bytes())?;
        Ok(Self::with_arena(layout, arena, tables))
    }

    /// Makes a cache whose pages are in the memory of a device, with `tables` empty page tables.
    #[must_use]
    pub fn on_device(layout: KvLayout, pages: Box<dyn DevicePages>, tables: usize) -> Self {
        let arena = Arena::on_device(pages, layout.page_bytes());
        Self::with_arena(layout, arena, tables)
    }

    /// A cache whose pages are gone with their device, with `tables` empty page tables: nothing can be read of it, and what is
    /// written to it is lost.
    #[must_use]
    pub fn lost(layout: KvLayout, tables: usize) -> Self {
        Self::on_device(layout, Box::new(GonePages), tables)
    }

    fn with_arena(layout: KvLayout, arena: Arena, tables: usize) -> Self {
        Self {
            arena,
            layout,
            tables: (0..tables).map(|_| page_table()).collect(),
            states: States::none(),
            slots: vec![None; tables].into(),
            journal: None,
            rows: Bounded::new(),
            step: 0,
        }
    }

    /// Gives the cache an arena of `slots` states, in memory of the host. A layout without layers needs none.
    ///
    /// # Errors
    /// [`NoMemory`] when the system refuses.
    pub fn with_states(self, layout: StateLayout, slots: usize) -> Result<Self, NoMemory> {
        let states = States::new(layout, slots)?;
        let journal = states.are_needed().then(|| Journal::new(layout));
        let journal = journal.transpose()?;
        Ok(Self {
            states,
            journal,
            ..self
        })
    }

    /// Whether the network has states. Pages alone do not say then what was computed before.
    #[must_use]
    pub fn has_states(&self) -> bool {
        self.states.are_needed()
    }

    /// The states of sequences and their snapshots.
    #[must_use]
    pub fn states(&self) -> &States {
        &self.states
    }

    /// The states of sequences and their snapshots, to change.
    pub fn states_mut(&mut self) -> &mut States {
        &mut self.states
    }

    /// Says which slot the sequence of a page table has.
    ///
    /// # Panics
    /// If there is no such table.
    pub fn set_state(&mut self, table: usize, slot: Option<StateSlot>) {
        self.slots[table] = slot;
        // what was guessed behind a text that is gone comes true no more
        if let Some(journal) = self.journal.as_mut().filter(|j| j.table == table) {
            journal.begin(0, 0);
        }
    }

    /// The slot of the sequence of a page table, if it has one.
    ///
    /// # Panics
    /// If there is no such table.
    #[must_use]
    pub fn state_of(&self, table: usize) -> Option<StateSlot> {
        self.slots[table]
    }

    /// The state of a page table's sequence in one delta layer, counted among the delta layers alone: the last columns of its
    /// convolution's input, and the matrices of its value heads.
    ///
    /// # Panics
    /// If there is no such table or layer, or the table's sequence has no slot.
    pub fn state(&mut self, table: usize, layer: usize) -> (&mut [f32], &mut [f32]) {
        match self.slots[table] {
            Some(slot) => self.states.layer_mut(slot, layer),
            None => panic!("the sequence of page table {table} has no state"),
        }
    }

    /// Keeps pages and states from being swapped out. A device does as it does.
    ///
    /// # Errors
    /// [`NotLocked`]: the system's limit of locked memory is too low.
    pub fn lock(&self) -> Result<(), NotLocked> {
        self.arena.lock()?;
        self.states.lock()
    }

    /// Sets the rows of the next step, span after span.
    ///
    /// # Panics
    /// If they are more than [`STEP_TOKENS`], a table has no page for one of them, more than one span has guesses or one has nothing
    /// else, or guesses that came true are not in their state.
    pub fn begin(&mut self, spans: &[Span]) {
        self.rows.clear();
        self.step += 1;
        assert_eq!(self.accepted(), None, "a state is behind its text");
        if let Some(journal) = &mut self.journal {
            journal.begin(0, 0);
        }
        for span in spans {
            if let Some(journal) = self.journal.as_mut().filter(|_| span.guesses > 0) {
                assert!(journal.guesses == 0 && span.guesses < span.tokens);
                journal.begin(span.table, span.guesses);
            }
            let end = span.position + span.tokens;
            assert!(
                end.div_ceil(PAGE_TOKENS) <= self.tables[span.table].len(),
                "no page for position {end} of page table {}",
                span.table
            );
            for position in span.position..end {
                let table = span.table;
                assert!(
                    self.rows.push(Row { table, position }).is_ok(),
                    "a step of more than {STEP_TOKENS} tokens"
                );
            }
        }
    }

    /// The number of the step that was begun last.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How many rows the step has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The position of a row's token in its sequence.
    #[must_use]
    pub fn position(&self, row: usize) -> usize {
        self.rows[row].position
    }

    /// The number of the page table of a row's sequence.
    #[must_use]
    pub fn table_of(&self, row: usize) -> usize {
        self.rows[row].table
    }

    /// The pages of a row's sequence, in the order of its tokens.
    #[must_use]
    pub fn pages_of(&self, row: usize) -> &[PageId] {
        &self.tables[self.rows[row].table]
    }

    /// Whether the keys of a layer are stored rotated ([`Kernels::rotate`]), so that its queries must be rotated as well.
    #[must_use]
    pub fn keys_rotated(&self, layer: usize) -> bool {
        self.layout.k()[layer] != KvFormat::F16
    }

    /// Whether values are stored rotated, so that a sum of them must be rotated back.
    #[must_use]
    pub fn values_rotated(&self) -> bool {
        self.layout.v() != KvFormat::F16
    }

    /// Has what is stored of a row's keys and values, each `[kv_heads][head_dim]`, take the place of the first values of each
    /// head, for [`Self::store`]. It is apart from that so that threads can share it.
    pub fn encode(&self, kernels: &Kernels, layer: usize, keys: &mut [f32], values: &mut [f32]) {
        let parts = [
            (keys, self.layout.k()[layer], self.keys_rotated(layer)),
            (values, self.layout.v(), self.values_rotated()),
        ];
        for (heads, format, rotated) in parts {
            for head in heads.chunks_exact_mut(self.layout.head_dim()) {
                if rotated {
                    kernels.rotate(head);
                }
                kernels.encode_kv(format, head);
            }
        }
    }

    /// Stores a row's keys and values, as [`Self::encode`] left them.
    pub fn store(&mut self, layer: usize, row: usize, keys: &[f32], values: &[f32]) {
        let Row { table, position } = self.rows[row];
        let page = self.tables[table][position / PAGE_TOKENS];
        let slot = position % PAGE_TOKENS;
        let (d, k, v) = (
            self.layout.head_dim(),
            self.layout.k()[layer],
            self.layout.v(),
        );
        for (head, (key, value)) in keys.chunks_exact(d).zip(values.chunks_exact(d)).enumerate() {
            let offset = self.layout.k_offset(layer, head);
            let chunk = self.arena.chunk_mut(page, offset, k.head_bytes(d));
            place_kv(k, chunk, slot, key);
            let offset = self.layout.v_offset(layer, head);
            let chunk = self.arena.chunk_mut(page, offset, v.head_bytes(d));
            place_kv(v, chunk, slot, value);
        }
    }

    /// The keys of one head of a row's sequence.
    #[must_use]
    pub fn keys(&self, layer: usize, head: usize, row: usize) -> Paged<'_> {
        Paged {
            offset: self.layout.k_offset(layer, head),
            format: self.layout.k()[layer],
            ..self.sequence(row)
        }
    }

    /// The values of one head of a row's sequence.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize, row: usize) -> Paged<'_> {
        Paged {
            offset: self.layout.v_offset(layer, head),
            format: self.layout.v(),
            ..self.sequence(row)
        }
    }

    fn sequence(&self, row: usize) -> Paged<'_> {
        Paged {
            arena: self.arena.bytes(),
            pages: &self.tables[self.rows[row].table],
            page_bytes: self.layout.page_bytes(),
            offset: 0,
            format: self.layout.v(),
        }
    }

    /// What lies where in a page.
    #[must_use]
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// How many page tables there are.
    #[must_use]
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// One of the page tables, to change.
    pub fn table(&mut self, table: usize) -> &mut PageTable {
        &mut self.tables[table]
    }

    /// Fills a page with zeros, because it may have been anybody's.
    pub fn clear(&mut self, page: PageId) {
        self.arena.clear(page);
    }

    /// Copies the rows of the first `tokens` tokens of a page to a cleared one. No other row is copied, because it may be
    /// another client's.
    pub fn copy_rows(&mut self, from: PageId, to: PageId, tokens: usize) {
        let parts = rows(&self.layout).map(|(offset, row)| (offset, tokens * row));
        self.arena.copy_parts(from, to, parts);
    }

    /// Clears the rows of all but the first `tokens` tokens of a page.
    pub fn keep_rows(&mut self, page: PageId, tokens: usize) {
        self.arena.change_page(page, |page| {
            for (offset, row) in rows(&self.layout) {
                page[offset..][tokens * row..PAGE_TOKENS * row].fill(0);
            }
        });
    }

    /// The pages as the device's own steps know them, or `None` where they are on the host.
    #[must_use]
    pub fn device(&self) -> Option<&dyn std::any::Any> {
        self.arena.device()
    }

    /// The bytes of one page.
    ///
    /// # Errors
    /// [`PageLost`] if the device that has it does not give it any more.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page(&self, page: PageId) -> Result<Cow<'_, [u8]>, PageLost> {
        self.arena.page(page)
    }

    /// The memory of all pages, to change.
    pub fn arena(&mut self) -> &mut Arena {
        &mut self.arena
    }
}

/// The pages of a device that is lost together with them.
struct GonePages;

impl DevicePages for GonePages {
    fn read(&self, _: PageId, _: &mut [u8]) -> Result<(), PageLost> {
        Err(PageLost("the device is lost".to_owned()))
    }

    fn write(&mut self, _: PageId, _: &[u8]) {}

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// For every array of [`PAGE_TOKENS`] rows in a page, the byte at which it begins and the bytes of a row.
fn rows(layout: &KvLayout) -> impl Iterator<Item = (usize, usize)> {
    let heads = (0..layout.layers())
        .flat_map(|layer| (0..layout.kv_heads()).map(move |head| (layer, head)));
    heads.flat_map(|(layer, head)| {
        let keys = (layout.k_offset(layer, head), layout.k()[layer]);
        let values = (layout.v_offset(layer, head), layout.v());
        [keys, values].into_iter().flat_map(|(offset, format)| {
            let [quants, scales] = format.row_bytes(layout.head_dim());
            [(offset, quants), (offset + PAGE_TOKENS * quants, scales)]
        })
    })
}
