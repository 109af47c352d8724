//! Shows that what one client's pages hold never comes to another. Sequences of several clients run over one small arena. Their
//! rows are written as a step would write them, and each row carries a mark of its token in every layer and format.
//!
//! One file, because all tests share one machine of clients, pages and files.

mod states;
mod worlds;

use super::*;
use crate::engine::request::{Priority, Request};
use crate::engine::session::Turn;
use crate::gguf::Gguf;
use crate::kv::{KvLayout, Owner, Pages};
use crate::text::{Closing, Prompt};
use glowplug_firmware_config::kv::KvFormat;
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;
use tempfile::TempDir;

const PAGES: usize = 10;
const CLIENTS: u32 = 3;
/// Sessions that each client has.
const SESSIONS: u8 = 2;
const HEAD_DIM: usize = 32;
/// Tokens that all clients write. Behind them each client has [`CANARIES`] tokens of its own.
const COMMON: u32 = 8;
const CANARIES: u32 = 8;
const VOCABULARY: u32 = COMMON + CLIENTS * CANARIES;
/// Most tokens of a prompt, and of an answer.
const PROMPT_MAX: usize = 90;
const ANSWER_MAX: u32 = 30;

/// The client whose secret a token is.
fn owner(token: u32) -> Option<u32> {
    Some(token.checked_sub(COMMON)? / CANARIES)
}

fn canary(client: u32, n: u8) -> u32 {
    COMMON + client * CANARIES + u32::from(n) % CANARIES
}

/// Whether a client may have this token in its pages.
fn is_own(client: u32, token: u32) -> bool {
    owner(token).is_none_or(|of| of == client)
}

/// Reads a session that is only in its file, as the engine does at its next turn.
fn revive(memory: &mut Memory, key: &SessionKey) {
    if memory.sessions.get(key).is_none()
        && let Some(known) = memory
            .snapshots
            .as_mut()
            .and_then(|s| s.known(key).ok().flatten())
    {
        memory.sessions.restore(key.clone(), known);
    }
}

/// The turn of a conversation in which nothing is said.
fn turn(session: SessionKey) -> Turn {
    Turn {
        session,
        messages: Vec::new(),
        answer: String::new(),
        calls: Vec::new(),
        offered: false,
    }
}

/// Ends a request as the engine does.
fn ends(memory: &mut Memory, kv: &mut KvCache, sequence: &mut Sequence) {
    memory.end(kv, sequence);
    memory.sessions.release(sequence.id);
    if let Some(turn) = sequence.turn.take().filter(|_| !sequence.is_own()) {
        memory.sessions.settle(turn, false);
    }
}

fn key(client: u32, session: u8) -> SessionKey {
    SessionKey {
        client: client.to_string().into(),
        name: session.to_string().into(),
    }
}

/// A model without tensors, which is enough: snapshots only have its hash.
fn gguf() -> Gguf {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0; 16]);
    Gguf::from_bytes(bytes.into()).unwrap()
}

/// Keys of two formats, values of a third.
fn layout() -> KvLayout {
    let k = [KvFormat::F16, KvFormat::Q8_0];
    KvLayout::new(2, 1, HEAD_DIM, k.into(), KvFormat::Q4_0).unwrap()
}

/// Every part of a row of a page: its position and its length.
fn parts(layout: &KvLayout, slot: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..layout.layers()).flat_map(move |layer| {
        let keys = (layout.k_offset(layer, 0), layout.k()[layer]);
        let values = (layout.v_offset(layer, 0), layout.v());
        [keys, values]
            .into_iter()
            .flat_map(move |(offset, format)| {
                let [quants, scales] = format.row_bytes(HEAD_DIM);
                let second = offset + PAGE_TOKENS * quants;
                [
                    (offset + slot * quants, quants),
                    (second + slot * scales, scales),
                ]
            })
    })
}

/// The token whose mark is in a row, or none in an empty row. A row never has parts of two marks.
fn read(layout: &KvLayout, page: &[u8], slot: usize) -> Option<u32> {
    let mut words = parts(layout, slot).flat_map(|(at, len)| page[at..at + len].as_chunks().0);
    let mark = u16::from_le_bytes(*words.next().unwrap());
    assert!(words.all(|word| u16::from_le_bytes(*word) == mark));
    u32::from(mark).checked_sub(1)
}

fn write(layout: &KvLayout, page: &mut [u8], slot: usize, token: u32) {
    let mark = (token as u16 + 1).to_le_bytes();
    for (at, len) in parts(layout, slot) {
        page[at..at + len].as_chunks_mut().0.fill(mark);
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// a prompt: common tokens, or those that the session has, and then secrets
    Start {
        client: u32,
        session: Option<u8>,
        common: usize,
        secret: Vec<u8>,
        answer: u32,
    },
    /// a chunk of a prompt, or a token
    Feed {
        which: usize,
        tokens: usize,
        next: u8,
    },
    /// the end of a request in any state; what it computed is kept if it is `trusted`
    End {
        which: usize,
        trusted: bool,
    },
    Save {
        client: u32,
        session: u8,
    },
    Unload {
        client: u32,
        session: u8,
    },
    Drop {
        client: u32,
        session: u8,
    },
    /// one session's file gets another's name
    Misplace(usize, usize),
    /// a bit of a file flips
    Flip(usize, usize),
    /// a restart that keeps the bytes of the arena, which is worse than a real one
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENTS;
    let named = (client.clone(), 0..SESSIONS);
    let start = (
        client,
        prop::option::of(0..SESSIONS),
        0..70usize,
        prop::collection::vec(any::<u8>(), 0..20),
        1..=ANSWER_MAX,
    );
    prop_oneof![
        6 => start.prop_map(|(client, session, common, secret, answer)|
            Op::Start { client, session, common, secret, answer }),
        16 => (any::<usize>(), 1usize..64, any::<u8>())
            .prop_map(|(which, tokens, next)| Op::Feed { which, tokens, next }),
        3 => (any::<usize>(), prop::bool::weighted(0.9))
            .prop_map(|(which, trusted)| Op::End { which, trusted }),
        2 => named.clone().prop_map(|(client, session)| Op::Save { client, session }),
        1 => named.clone().prop_map(|(client, session)| Op::Unload { client, session }),
        1 => named.prop_map(|(client, session)| Op::Drop { client, session }),
        1 => any::<(usize, usize)>().prop_map(|(from, to)| Op::Misplace(from, to)),
        1 => any::<(usize, usize)>().prop_map(|(file, bit)| Op::Flip(file, bit)),
        1 => Just(Op::Restart),
    ]
}

struct World {
    share: bool,
    memory: Memory,
    kv: KvCache,
    layout: KvLayout,
    /// requests that were accepted and whose sessions are busy
    waiting: Vec<(u32, Sequence)>,
    running: Vec<(u32, Sequence)>,
    /// the tokens of each conversation
    history: HashMap<(u32, u8), Vec<u32>>,
    next: u64,
    folder: TempDir,
}

impl World {
    fn new(share: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout();
        Self {
            share,
            memory: memory(&folder, &layout),
            kv: KvCache::new(layout.clone(), PAGES, TABLES).unwrap(),
            layout,
            waiting: Vec::new(),
            running: Vec::new(),
            history: HashMap::new(),
            next: 0,
            folder,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Start {
                client,
                session,
                common,
                secret,
                answer,
            } => {
                let free = session.is_none_or(|session| self.is_idle(client, session));
                if free && self.waiting.len() < STREAMS_MAX {
                    self.submit(client, session, common, &secret, answer);
                }
            }
            Op::Feed {
                which,
                tokens,
                next,
            } => {
                if let Some(at) = which.checked_rem(self.running.len()) {
                    self.feed(at, tokens, next);
                }
            }
            Op::End { which, trusted } => {
                let running = self.running.len();
                match which.checked_rem(running + self.waiting.len()) {
                    Some(at) if at < running => self.end(at, trusted),
                    Some(at) => self.cancel(at - running),
                    None => {}
                }
            }
            Op::Save { client, session } => {
                if self.is_idle(client, session) {
                    self.save(&key(client, session));
                }
            }
            Op::Unload { client, session } => {
                if self.is_idle(client, session) {
                    self.memory.unload(&mut self.kv, &key(client, session));
                }
            }
            Op::Drop { client, session } => {
                let key = key(client, session);
                if self.is_idle(client, session) {
                    self.memory.forget(&key);
                    self.memory
                        .snapshots
                        .as_mut()
                        .unwrap()
                        .remove(&key)
                        .unwrap();
                    self.history.remove(&(client, session));
                }
            }
            Op::Misplace(from, to) => {
                let files = self.files();
                if let Some(from) = from.checked_rem(files.len()) {
                    let bytes = std::fs::read(&files[from]).unwrap();
                    std::fs::write(&files[to % files.len()], bytes).unwrap();
                }
            }
            Op::Flip(file, bit) => {
                let files = self.files();
                if let Some(file) = file.checked_rem(files.len()) {
                    let mut bytes = std::fs::read(&files[file]).unwrap();
                    let bit = bit % (bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    std::fs::write(&files[file], bytes).unwrap();
                }
            }
            Op::Restart => {
                self.drain();
                self.memory = memory(&self.folder, &self.layout);
            }
        }
    }

    fn is_idle(&self, client: u32, session: u8) -> bool {
        let known = self.memory.sessions.get(&key(client, session));
        known.is_none_or(|session| session.busy.is_none())
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn submit(
        &mut self,
        client: u32,
        session: Option<u8>,
        common: usize,
        secret: &[u8],
        answer: u32,
    ) {
        let said = session.and_then(|session| self.history.get(&(client, session)));
        let mut tokens: Vec<u32> = match said {
            Some(said) if said.len() + secret.len() < PROMPT_MAX => said.clone(),
            // two openings that part in the middle of a page
            _ => (0..common as u32)
                .map(|at| if at < 40 { at % COMMON } else { answer % 2 })
                .collect(),
        };
        tokens.extend(secret.iter().map(|n| canary(client, *n)));
        if tokens.is_empty() {
            return;
        }
        let prompt = Prompt {
            tokens,
            thinking_open: false,
            common: 0,
        };
        self.next += 1;
        let mut sequence = Sequence::new(
            self.next,
            self.owner(client),
            request(client, answer),
            prompt,
            VOCABULARY as usize,
            PROMPT_MAX + ANSWER_MAX as usize,
            &Closing::default(),
        );
        if let Some(session) = session {
            let key = key(client, session);
            revive(&mut self.memory, &key);
            self.memory.sessions.open(&key).busy = Some(sequence.id);
            sequence.turn = Some(turn(key));
        }
        self.waiting.push((client, sequence));
        self.admit();
    }

    fn owner(&self, client: u32) -> Owner {
        if self.share { 0 } else { client.into() }
    }

    /// Starts waiting requests in the order of arrival; where nothing runs, one starts at once.
    fn admit(&mut self) {
        while self.running.len() < STREAMS_MAX
            && let Some((_, sequence)) = self.waiting.first_mut()
        {
            match self.memory.start(&mut self.kv, sequence) {
                Start::Started => self.running.push(self.waiting.remove(0)),
                Start::Later => {}
                Start::Waits => {
                    assert!(!self.running.is_empty(), "it waits for what waits");
                    return;
                }
            }
        }
    }

    fn cancel(&mut self, at: usize) {
        let (_, sequence) = self.waiting.remove(at);
        assert_eq!(sequence.slot, None);
        self.memory.sessions.release(sequence.id);
        self.admit();
    }

    /// Runs until no request is left.
    fn drain(&mut self) {
        while !self.running.is_empty() {
            self.end(0, true);
        }
        assert!(self.waiting.is_empty());
    }

    /// Does to a sequence what a step does.
    fn feed(&mut self, at: usize, tokens: usize, next: u8) {
        let (client, sequence) = &mut self.running[at];
        let tokens = match sequence.remaining() {
            0 => 1,
            remaining => remaining.min(tokens),
        };
        self.memory.grow(&mut self.kv, sequence, tokens);
        for position in sequence.fed..sequence.fed + tokens {
            let page = self.kv.table(sequence.slot.unwrap().table)[position / PAGE_TOKENS];
            let slot = position % PAGE_TOKENS;
            self.kv.arena().change_page(page, |bytes| {
                write(&self.layout, bytes, slot, sequence.tokens[position]);
            });
        }
        self.memory.fed(&mut self.kv, sequence, tokens);
        if sequence.fed < sequence.tokens.len() {
            return;
        }
        if sequence.tokens.len() < sequence.limit {
            sequence.tokens.push(canary(*client, next));
        } else {
            self.end(at, true);
        }
    }

    fn end(&mut self, at: usize, trusted: bool) {
        let (client, mut sequence) = self.running.swap_remove(at);
        let key = sequence.turn.as_ref().map(|turn| turn.session.clone());
        if !trusted {
            sequence.distrust();
        }
        ends(&mut self.memory, &mut self.kv, &mut sequence);
        if let Some(key) = key.filter(|_| trusted) {
            let fed = sequence.tokens[..sequence.fed].to_vec();
            self.history
                .insert((client, key.name.parse().unwrap()), fed);
        }
        self.admit();
    }

    fn save(&mut self, key: &SessionKey) {
        let Memory {
            sessions,
            snapshots,
            pages,
            ..
        } = &mut self.memory;
        if let Some(session) = sessions.get_mut(key) {
            let snapshots = snapshots.as_mut().unwrap();
            snapshots.save(key, session, pages, &self.kv).unwrap();
        }
    }

    /// Checks that the rows of a page have the marks of `tokens` and nothing else.
    fn holds(&mut self, page: PageId, tokens: &[u32]) {
        let bytes = self.kv.arena().page(page).unwrap();
        for slot in 0..PAGE_TOKENS {
            let found = read(&self.layout, &bytes, slot);
            assert_eq!(
                found,
                tokens.get(slot).copied(),
                "row {slot} of page {page}"
            );
        }
    }

    fn check(&mut self) {
        // what the attention of a running sequence reads, and what lies beside it
        let mut holders = HashMap::new();
        for (client, sequence) in std::mem::take(&mut self.running) {
            let table = self.kv.table(sequence.slot.unwrap().table).clone();
            let computed = &sequence.tokens[..sequence.fed];
            assert!(computed.iter().all(|token| is_own(client, *token)));
            for (at, page) in table.iter().enumerate() {
                let holder = *holders.entry(*page).or_insert(client);
                assert!(self.share || holder == client, "two clients in page {page}");
                let rest = &computed[computed.len().min(at * PAGE_TOKENS)..];
                self.holds(*page, &rest[..rest.len().min(PAGE_TOKENS)]);
            }
            self.running.push((client, sequence));
        }
        // what a session goes on from
        for key in self.memory.sessions.keys() {
            let client: u32 = key.client.parse().unwrap();
            let tip = self.memory.sessions.get(&key).unwrap().tip;
            for page in tip.into_iter().flat_map(|tip| self.memory.pages.chain(tip)) {
                let tokens = self.memory.pages.tokens(page);
                assert!(tokens.iter().all(|token| is_own(client, *token)));
            }
        }
        // what any prompt may find
        for page in 0..PAGES as PageId {
            let tokens = self.memory.pages.tokens(page).to_vec();
            if !tokens.is_empty() {
                self.holds(page, &tokens);
            }
        }
    }
}

fn memory(folder: &TempDir, layout: &KvLayout) -> Memory {
    let snapshots = Snapshots::new(folder.path(), &gguf(), layout, PAGES, None, None);
    Memory::new(Pages::new(PAGES).unwrap(), Some(snapshots))
}

fn request(client: u32, max_tokens: u32) -> Request {
    Request {
        raw: true,
        ..Request::new(&client.to_string(), Vec::new(), max_tokens)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Also where pages change hands, sessions go to their files and come back, and files are damaged or change names.
    #[test]
    fn no_canary_leaves_the_pages_of_its_client(
        share in any::<bool>(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new(share);
        for op in ops {
            world.step(op);
            world.check();
        }
        world.drain();
        for key in world.memory.sessions.keys() {
            world.memory.forget(&key);
        }
        world.check();
        let counts = world.memory.pages.counts();
        prop_assert_eq!((counts.used, counts.free + counts.cached), (0, PAGES));
    }
}

/// A file with good checksums may say anything. The client that it belongs to believes it and only harms itself: nobody else
/// finds what was read from it.
#[test]
fn a_forged_file_is_its_clients_own_harm() {
    let mut world = World::new(false);
    let said: Vec<u32> = (0..70).map(|at| at % COMMON).collect();
    world.history.insert((0, 0), said.clone());
    world.submit(0, Some(0), 0, &[1], 1);
    while !world.running.is_empty() {
        world.feed(0, 64, 0);
    }
    // the tokens are what everybody says, the rows are another text's
    let tip = world.memory.sessions.get(&key(0, 0)).unwrap().tip.unwrap();
    let pages: Vec<PageId> = world.memory.pages.chain(tip).collect();
    for page in pages {
        world.kv.arena().change_page(page, |bytes| {
            (0..PAGE_TOKENS).for_each(|slot| write(&world.layout, bytes, slot, canary(0, 7)));
        });
    }
    world.save(&key(0, 0));
    world.step(Op::Restart);
    let mut cached = |client, session: Option<u8>| {
        world.submit(client, session, 40, &[2], 1);
        world.running.last().unwrap().1.cached
    };
    assert!(cached(0, Some(0)) > said.len());
    assert_eq!(cached(0, None), 40);
    for client in [1, 2] {
        assert_eq!(cached(client, None), 0);
    }
}
