//! The memory plan: whether a model fits below a limit, with the choices that were made. A pure function says where every byte
//! goes, or names the line that does not fit. The constants of its estimates are measured, and each says on what.

use core::fmt;

use crate::attention;
use crate::kv::KvFormat;
use crate::limits::{
    CONSTRAINER_BYTES, CONSTRAINT_BYTES_MAX, DRAFT_MAX, PAGE_TOKENS, PAGES_MAX, STREAMS_MAX,
};

/// Resident bytes of the program besides its threads: 18.6 MB of code and libraries (of 24 MB in the file) and 3.1 MB of heap
/// (runtime, broker, templates, tables) after the first answers, measured on x86-64 with glibc and a release build.
const PROGRAM: u64 = 22_000_000;
/// Bytes that an inference thread adds: 20 to 32 KiB of stack and heap, measured between 1, 2 and 8 threads.
const THREAD: u64 = 32 << 10;
/// Bytes of a slot of the tokenizer's hash table of tokens. A table has a power of two of slots, of which 3/4 may be in use.
const TOKEN_SLOT: u64 = 4;
/// Bytes of a slot of the tokenizer's hash table of merges, which is sized in the same way.
const MERGE_SLOT: u64 = 8;
/// Bytes of a token beside its text: where it ends, its place among scores, and while the tokenizer is built a reference to its
/// text, its type and its score.
const TOKEN: u64 = 4 + 4 + 16 + 4 + 4;
/// Bytes of a merge: what it makes, and while the tokenizer is built a reference to its text.
const MERGE: u64 = 4 + 16;
/// Bytes by which the tokenizer finds special tokens, and its expressions.
const TOKEN_FINDERS: u64 = 800_000;
/// Bytes of the tables by which formats are enforced, for each token of the vocabulary. They are made for the first request that
/// has one: [`CONSTRAINER_BYTES`] are for 151,936 tokens. As heap 9.5 MB were measured for 49,152.
const MASK_TOKEN: u64 = CONSTRAINER_BYTES.div_ceil(151_936);
/// Bytes of a format that is compiled and whose answer waits. Measured as heap: 0.03 to 0.3 MB, and 0.5 MB for an enumeration of
/// 1,000 texts.
const CONSTRAINT_WAITING: u64 = 640 << 10;
/// Values of f32 for each token of the vocabulary and each stream: its logit, and the sampler's candidate (id and logit).
const LOGIT_VALUES: u64 = 3;
/// The reserve is this part of all other lines: so much may the estimates and the allocator be wrong.
const RESERVE_DIVISOR: u64 = 50;
const F32: u64 = 4;
/// Bytes of a token's number.
const TOKEN_ID: u64 = 4;

/// Sizes that a model's file states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "names of the field")]
pub struct Shape {
    /// Bytes of the whole file, which is mapped.
    pub file_bytes: u64,
    pub layers: usize,
    pub embed: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ff: usize,
    pub vocab: usize,
    /// Bytes of all tokens of the vocabulary together.
    pub token_bytes: u64,
    pub merges: usize,
    /// Layers whose keys stay in f16, whatever format is chosen.
    pub f16_key_layers: usize,
    /// Bytes of what a sequence keeps besides pages, which are none where all layers attend.
    pub state_bytes: u64,
    /// Values of a token between the two steps of a delta net, which are none where all layers attend.
    pub delta_width: usize,
    /// Bytes that are kept of guessed tokens, until it is known which of them go into a state; none where all layers attend.
    pub draft_bytes: u64,
}

/// What the configuration chooses, and what the program around the engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Most tokens of one sequence.
    pub context: usize,
    /// Format of the keys in the KV cache.
    pub k: KvFormat,
    /// Format of the values in the KV cache.
    pub v: KvFormat,
    /// Pages of the KV cache. If none are chosen, it gets what the limit leaves, between the pages of one context and those of
    /// `streams` contexts.
    pub kv_pages: Option<usize>,
    /// Most sequences in one step.
    pub streams: usize,
    /// Most requests that wait.
    pub queue: usize,
    /// Largest payload of each request.
    pub max_payload_bytes: usize,
    /// Bytes of other messages that may be held: outbox, packets, and final frames kept for repeated requests.
    pub message_bytes: u64,
    /// Tokens of the widest step.
    pub step_tokens: usize,
    /// Threads of the inference pool.
    pub threads: usize,
}

/// How much memory there is, and who limits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bytes for everything in the plan.
    pub bytes: u64,
    /// Where the limit comes from.
    pub from: LimitSource,
}

impl Limit {
    /// The smallest of several limits. Gives none if there are none.
    pub fn least(limits: impl IntoIterator<Item = Self>) -> Option<Self> {
        limits.into_iter().min_by_key(|limit| limit.bytes)
    }
}

/// The source of a memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSource {
    /// The configuration key `memory.budget`.
    Config,
    /// The control group of this process, or one above it.
    Cgroup,
    /// The memory that the system can give now, less a reserve.
    Available,
    /// The memory of the board, less a reserve.
    Board,
    /// The memory that a GPU has of its own.
    Gpu,
    /// What the host's plan leaves of its limit, where a GPU takes the host's memory.
    Shared,
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "`memory.budget`",
            Self::Cgroup => "the control group's limit",
            Self::Available => "available memory less its reserve",
            Self::Board => "the board's memory less its reserve",
            Self::Gpu => "the GPU's memory",
            Self::Shared => "what the host's plan leaves to the GPU",
        })
    }
}

/// Where every byte goes. [`plan`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// KV pages of the arena.
    pub pages: usize,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Slots of state; 0 where all layers attend.
    pub state_slots: usize,
    /// Bytes of one slot.
    pub slot_bytes: u64,
    /// The limit that the whole plan stays below.
    pub limit: Limit,
    lines: [(&'static str, u64); LINES],
}

const LINES: usize = 9;
/// Number of the lines that are in memory from the start. The others are room for what comes and goes.
const RESIDENT: usize = 6;
/// The line of the states, which is only there where the network has some.
const STATES: &str = "states";

impl MemoryPlan {
    /// Every consumer with its bytes: `weights`, `kv_pages`, `states` if the network has some, `scratch`, `tokenizer`, `program`, and
    /// then `messages`, `masks` and `reserve`, which are room for later.
    pub fn lines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let there = |line: &(&'static str, u64)| *line != (STATES, 0);
        self.lines.into_iter().filter(there)
    }

    /// Bytes that a sequence of so many tokens holds: its pages, and its slot of state.
    #[must_use]
    pub fn sequence_bytes(&self, tokens: usize) -> u64 {
        product(&[tokens.div_ceil(PAGE_TOKENS) as u64, self.page_bytes])
            .saturating_add(self.slot_bytes)
    }

    /// The sum of all lines, which is never above the limit.
    #[must_use]
    pub fn total(&self) -> u64 {
        sum(&self.lines)
    }

    /// The bytes that are in memory before any message came: all lines but `messages`, `masks` and `reserve`.
    #[must_use]
    pub fn resident(&self) -> u64 {
        sum(&self.lines[..RESIDENT])
    }
}

/// Why a model does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoesNotFit {
    /// The first line that crosses the limit.
    pub line: &'static str,
    /// Bytes that this line needs.
    pub bytes: u64,
    /// Bytes by which the limit is too small for the whole plan.
    pub missing: u64,
    /// Bytes of the whole plan, with the fewest KV pages that are of use.
    pub need: u64,
    /// The limit that is too small.
    pub limit: Limit,
}

impl fmt::Display for DoesNotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            bytes,
            missing,
            need,
            limit,
        } = self;
        write!(
            f,
            "`{line}` ({bytes} bytes) does not fit: the memory plan needs {need} bytes and {} is {}, {missing} bytes too few",
            limit.from, limit.bytes
        )
    }
}

impl core::error::Error for DoesNotFit {}

/// Lays out all memory below the limit.
///
/// # Errors
/// [`DoesNotFit`] if not even the fewest pages fit: those that were chosen, or else those of one context; or no slot of state
/// beside them.
pub fn plan(limit: &Limit, shape: &Shape, choice: &Choice) -> Result<MemoryPlan, DoesNotFit> {
    let (page_bytes, slot_bytes) = (page_bytes(shape, choice), slot_bytes(shape, choice));
    let lines = |pages: usize, slots: usize| {
        let mut lines = [
            ("weights", shape.file_bytes),
            ("kv_pages", product(&[pages as u64, page_bytes])),
            (STATES, product(&[slots as u64, slot_bytes])),
            ("scratch", scratch(shape, choice)),
            ("tokenizer", tokenizer(shape)),
            (
                "program",
                PROGRAM.saturating_add(product(&[choice.threads as u64, THREAD])),
            ),
            ("messages", messages(choice)),
            ("masks", masks(shape, choice)),
            ("reserve", 0),
        ];
        lines[LINES - 1].1 = sum(&lines) / RESERVE_DIVISOR;
        lines
    };
    let context = choice.context.div_ceil(PAGE_TOKENS).clamp(1, PAGES_MAX);
    // what the reserve leaves of the limit, less the other lines
    let room = limit.bytes / (RESERVE_DIVISOR + 1) * RESERVE_DIVISOR;
    let room = room.saturating_sub(sum(&lines(0, 0)[..LINES - 1]));
    let state_slots = if shape.state_bytes == 0 {
        0
    } else {
        let pages = choice.kv_pages.unwrap_or(context) as u64;
        let left = room.saturating_sub(product(&[pages, page_bytes]));
        let sequence = match choice.kv_pages {
            Some(_) => 0,
            None => product(&[context as u64, page_bytes]),
        };
        slots(left, slot_bytes, sequence, choice.streams)
    };
    let pages = choice.kv_pages.unwrap_or_else(|| {
        let most = context.saturating_mul(choice.streams).min(PAGES_MAX);
        let room = room.saturating_sub(product(&[state_slots as u64, slot_bytes]));
        let left = usize::try_from(room / page_bytes.max(1)).unwrap_or(usize::MAX);
        left.min(most).max(context)
    });
    let lines = lines(pages, state_slots);
    check(limit, &lines)?;
    Ok(MemoryPlan {
        pages,
        page_bytes,
        state_slots,
        slot_bytes,
        limit: *limit,
        lines,
    })
}

/// Slots of state for so many streams: for each the one that it computes in, and a snapshot from which its next turn goes on; and
/// one more, for what prompts have in common.
#[must_use]
pub fn state_slots(streams: usize) -> usize {
    2 * streams.min(STREAMS_MAX) + 1
}

/// The slots of state that `left` bytes have room for, beside the pages of one sequence. Those of one stream come first; each
/// further stream comes with the `pages` bytes of its own. There is always one.
fn slots(left: u64, slot_bytes: u64, pages: u64, streams: usize) -> usize {
    let first = state_slots(1);
    let Some(rest) = left.checked_sub(product(&[first as u64, slot_bytes])) else {
        let some = left / slot_bytes.max(1);
        return usize::try_from(some).unwrap_or(first).clamp(1, first);
    };
    let stream = product(&[2, slot_bytes]).saturating_add(pages);
    let further = usize::try_from(rest / stream.max(1)).unwrap_or(usize::MAX);
    state_slots(streams.min(further.saturating_add(1)).max(1))
}

/// Names the first line that crosses the limit.
fn check(limit: &Limit, lines: &[(&'static str, u64)]) -> Result<(), DoesNotFit> {
    let mut before = 0_u64;
    for &(line, bytes) in lines {
        before = before.saturating_add(bytes);
        if before > limit.bytes {
            let need = sum(lines);
            return Err(DoesNotFit {
                line,
                bytes,
                missing: need - limit.bytes,
                need,
                limit: *limit,
            });
        }
    }
    Ok(())
}

/// Bytes of the keys and values of [`PAGE_TOKENS`] tokens in all layers.
fn page_bytes(shape: &Shape, choice: &Choice) -> u64 {
    let head = |format: KvFormat, layers: usize| {
        product(&[layers as u64, format.head_bytes(shape.head_dim) as u64])
    };
    let f16 = shape.f16_key_layers.min(shape.layers);
    let heads = head(KvFormat::F16, f16)
        .saturating_add(head(choice.k, shape.layers - f16))
        .saturating_add(head(choice.v, shape.layers));
    product(&[shape.kv_heads as u64, heads])
}

/// Bytes of a slot of state, with the tokens of the text that it is a snapshot behind.
fn slot_bytes(shape: &Shape, choice: &Choice) -> u64 {
    match shape.state_bytes {
        0 => 0,
        bytes => bytes.saturating_add(product(&[choice.context as u64, TOKEN_ID])),
    }
}

/// Bytes that the steps work in: activations of the widest step (hidden, normed, q, k and v, gate and up, and their quantised
/// copies), tiles of attention, logits, rotation angles, and what is kept of guesses. In the first steps of 64 tokens of one stream with 512 tokens of
/// context, the heap grew by 2.6, 4.1 and 7.6 MB on models of 135M, 0.5B and 1.5B; this estimated 2.5, 5.9 and 9.0 MB, before both
/// grew by the same 0.2 MB of tiles.
fn scratch(shape: &Shape, choice: &Choice) -> u64 {
    let heads = product(&[shape.heads as u64, shape.head_dim as u64]);
    // beside delta nets each query has a gate, which is kept a second time
    let gates = match shape.delta_width {
        0 => 0,
        _ => product(&[2, heads]),
    };
    let wide = 3_u64
        .saturating_mul(shape.embed as u64)
        .saturating_add(product(&[2, shape.ff as u64]))
        .saturating_add(product(&[3, heads]))
        .saturating_add(product(&[2, shape.delta_width as u64]))
        .saturating_add(gates);
    let group = shape.heads.div_ceil(shape.kv_heads.max(1));
    let attention = attention::scratch(group, shape.head_dim, choice.context) as u64;
    let context = choice.context as u64;
    // a draft is for a stream that decodes alone
    let rows = product(&[choice.streams as u64, LOGIT_VALUES]).max(LOGIT_VALUES + DRAFT_MAX as u64);
    [
        product(&[choice.step_tokens as u64, wide]),
        product(&[choice.threads as u64, attention]),
        product(&[rows, shape.vocab as u64]),
        product(&[context, shape.head_dim as u64]),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
    .saturating_mul(F32)
    .saturating_add(shape.draft_bytes)
}

/// Bytes of the tokenizer, while it is built: of the 1.5B's vocabulary it then holds half of them.
#[must_use]
pub fn tokenizer(shape: &Shape) -> u64 {
    let slots = |entries: usize| {
        let entries = entries as u64;
        (entries.saturating_add(entries / 3).saturating_add(1))
            .checked_next_power_of_two()
            .unwrap_or(u64::MAX)
    };
    [
        product(&[slots(shape.vocab), TOKEN_SLOT]),
        product(&[slots(shape.merges), MERGE_SLOT]),
        product(&[shape.vocab as u64, TOKEN]),
        shape.token_bytes,
        product(&[shape.merges as u64, MERGE]),
        TOKEN_FINDERS,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Bytes by which answers are held to formats: the tables of the vocabulary, and the formats of all requests.
fn masks(shape: &Shape, choice: &Choice) -> u64 {
    product(&[shape.vocab as u64, MASK_TOKEN])
        .saturating_add(product(&[choice.streams as u64, CONSTRAINT_BYTES_MAX]))
        .saturating_add(product(&[choice.queue as u64, CONSTRAINT_WAITING]))
}

fn messages(choice: &Choice) -> u64 {
    let requests = choice.queue.saturating_add(choice.streams);
    product(&[requests as u64, choice.max_payload_bytes as u64])
        .saturating_add(choice.message_bytes)
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |a, b| a.saturating_mul(*b))
}

fn sum(lines: &[(&'static str, u64)]) -> u64 {
    lines
        .iter()
        .fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

pub mod device;
pub mod shapes;

#[cfg(test)]
mod tests;
