//! Thousands of small worlds: random arenas, sessions and orders of arrival, admitted as the engine admits them. Every request that
//! was accepted ends, nothing waits when nothing runs, and a request that waits holds nothing.

use super::*;
use crate::engine::scheduler::Job;

const WORLDS: u64 = 10_000;
/// Worlds that have a folder. Their files take most of the time.
const WITH_FILES: u64 = 100;

/// SplitMix64, as in `glowplug-tests`, which a unit test of this crate cannot use.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// An engine without a network, and what was asked of it.
struct Arena {
    random: Random,
    memory: Memory,
    kv: KvCache,
    scheduler: Scheduler,
    sequences: BTreeMap<RequestId, Sequence>,
    /// the tokens of each conversation
    history: BTreeMap<SessionKey, Vec<u32>>,
    pages: usize,
    context: usize,
    next: RequestId,
    accepted: usize,
    ended: usize,
}

impl Arena {
    fn new(seed: u64, pages: usize, streams: usize, folder: Option<&TempDir>) -> Self {
        let layout = layout();
        let snapshots =
            folder.map(|folder| Snapshots::new(folder.path(), &gguf(), &layout, pages, None, None));
        let mut random = Random(seed);
        Self {
            memory: Memory::new(Pages::new(pages).unwrap(), snapshots),
            kv: KvCache::new(layout, pages, TABLES).unwrap(),
            scheduler: Scheduler::new(streams, random.below(12)),
            sequences: BTreeMap::new(),
            history: BTreeMap::new(),
            pages,
            context: (1 + random.below(pages + 2)) * PAGE_TOKENS,
            next: 0,
            accepted: 0,
            ended: 0,
            random,
        }
    }

    /// Takes a request as the engine does: its session is busy from here on.
    fn submit(&mut self, client: u32, session: Option<SessionKey>, tokens: Vec<u32>, answer: u32) {
        let prompt = Prompt {
            tokens,
            thinking_open: false,
            common: 0,
        };
        self.next += 1;
        let id = self.next;
        let mut sequence = Sequence::new(
            id,
            client.into(),
            request(client, answer),
            prompt,
            VOCABULARY as usize,
            self.context,
            &Closing::default(),
        );
        if sequence.limit.div_ceil(PAGE_TOKENS) > self.pages {
            return;
        }
        let priorities = [Priority::Background, Priority::Normal, Priority::Urgent];
        let job = Job {
            id,
            client: client.into(),
            priority: priorities[self.random.below(3)],
        };
        if self.scheduler.submit(job).is_err() {
            return;
        }
        if let Some(session) = session {
            revive(&mut self.memory, &session);
            // the engine's own work leaves its session free
            if answer > 0 {
                self.memory.sessions.open(&session).busy = Some(id);
            }
            sequence.turn = Some(turn(session));
        }
        self.sequences.insert(id, sequence);
        self.accepted += 1;
    }

    /// Asks something: a question, the next turn of a conversation, or one that begins anew or differs from what was said. Or
    /// the last answer of an idle conversation is computed again.
    fn ask(&mut self, client: u32, session: Option<u8>) {
        let session = session.map(|session| key(client, session));
        let known = session
            .as_ref()
            .and_then(|key| self.memory.sessions.get(key));
        if known.is_some_and(|session| session.busy.is_some()) {
            return;
        }
        let said = session.as_ref().and_then(|key| self.history.get(key));
        let mut tokens = said.cloned().unwrap_or_default();
        if self.random.below(4) == 0 {
            tokens.truncate(self.random.below(tokens.len() + 1));
        }
        let more = 1 + self.random.below(3 * PAGE_TOKENS);
        tokens.extend((0..more).map(|_| self.random.below(2) as u32));
        tokens.truncate(self.context - 1);
        let own = known.is_some() && self.random.below(8) == 0;
        let answer = 1 + self.random.below(100) as u32;
        self.submit(client, session, tokens, if own { 0 } else { answer });
    }

    /// Does a step of the engine. Gives false if it had nothing to do.
    fn step(&mut self) -> bool {
        let (kv, sequences) = (&mut self.kv, &mut self.sequences);
        let worked = self
            .memory
            .admit(kv, &mut self.scheduler, sequences, &mut |_| {});
        for id in self.scheduler.waiting() {
            assert_eq!(self.sequences[&id].slot, None);
        }
        let plan = self.scheduler.step(&|id| self.sequences[&id].due());
        for &(id, tokens) in &plan {
            let sequence = self.sequences.get_mut(&id).unwrap();
            self.memory.grow(&mut self.kv, sequence, tokens);
            self.scheduler.served(id, tokens);
            self.memory.fed(&mut self.kv, sequence, tokens);
            if sequence.fed < sequence.tokens.len() {
                continue;
            }
            if sequence.tokens.len() < sequence.limit && self.random.below(10) > 0 {
                // a format may force many at once
                let most = [40, 1, 1, 1][sequence.tokens.len() % 4];
                for _ in 0..most.min(sequence.limit - sequence.tokens.len()) {
                    sequence.tokens.push(self.random.below(2) as u32);
                }
            } else {
                self.end(id, true);
            }
        }
        worked || !plan.is_empty()
    }

    /// Ends a request in any state. If it is not `trusted`, the network broke down.
    fn end(&mut self, id: RequestId, trusted: bool) {
        self.scheduler.remove(id).unwrap();
        let mut sequence = self.sequences.remove(&id).unwrap();
        if let Some(turn) = &sequence.turn
            && trusted
        {
            let fed = sequence.tokens[..sequence.fed].to_vec();
            self.history.insert(turn.session.clone(), fed);
        }
        if !trusted {
            sequence.distrust();
        }
        ends(&mut self.memory, &mut self.kv, &mut sequence);
        self.ended += 1;
    }

    /// Runs until the engine is idle, and checks that every request has ended.
    fn idle(&mut self, seed: u64) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 100_000, "world {seed} never comes to rest");
        }
        assert_eq!(self.accepted, self.ended, "world {seed} stands still");
    }

    /// Does one random thing, as clients might.
    fn act(&mut self, seed: u64) {
        let (client, session) = (self.random.below(3) as u32, self.random.below(4) as u8);
        match self.random.below(12) {
            0..=3 => self.ask(client, Some(session).filter(|s| *s < 3)),
            // an alarm clock: everybody asks at once
            4 => (0..9).for_each(|at| self.ask(at % 3, Some((at / 3) as u8))),
            5 => {
                let which = self.random.below(self.sequences.len().max(1));
                if let Some(&id) = self.sequences.keys().nth(which) {
                    let waits = self.sequences[&id].slot.is_none();
                    let trusted = waits || self.random.below(4) > 0;
                    self.end(id, trusted);
                }
            }
            6 => {
                let key = key(client, session);
                let known = self.memory.sessions.get(&key);
                if known.is_some_and(|session| session.busy.is_none()) {
                    self.memory.forget(&key);
                    self.history.remove(&key);
                }
            }
            7 => self.idle(seed),
            _ => {
                for _ in 0..self.random.below(20) {
                    if !self.step() {
                        assert!(self.sequences.is_empty(), "world {seed} stands still");
                        break;
                    }
                }
            }
        }
    }

    /// Checks that nothing is left of it.
    fn is_empty(&mut self) -> bool {
        for key in self.memory.sessions.keys() {
            self.memory.forget(&key);
        }
        let counts = self.memory.pages.counts();
        let free = counts.free + counts.cached;
        (counts.used, free, self.memory.tables.len()) == (0, self.pages, TABLES)
            && self.memory.pages.reserve(self.pages).is_ok()
    }
}

#[test]
fn in_ten_thousand_worlds_whatever_was_accepted_ends() {
    let (mut accepted, mut waited) = (0, 0);
    for seed in 0..WORLDS {
        let folder = (seed % (WORLDS / WITH_FILES) == 0).then(|| tempfile::tempdir().unwrap());
        let mut random = Random(!seed);
        let (pages, streams) = (1 + random.below(16), 1 + random.below(4));
        let mut arena = Arena::new(seed, pages, streams, folder.as_ref());
        for _ in 0..40 {
            arena.act(seed);
            waited += arena.scheduler.waiting().len();
        }
        arena.idle(seed);
        assert!(arena.is_empty(), "world {seed} keeps something");
        accepted += arena.accepted;
    }
    // they are worlds in which somebody had to wait
    assert!(accepted > 20 * WORLDS as usize && waited > accepted);
}

/// A conversation that begins anew needs no page of what was said before, although the pages are its own.
#[test]
fn a_turn_that_parts_from_its_session_has_the_room_of_what_it_drops() {
    for (before, kept) in [(0, 0), (1, 40), (2, 70)] {
        let mut arena = Arena::new(0, 4, 1, None);
        arena.context = 4 * PAGE_TOKENS;
        arena.submit(0, Some(key(0, 0)), vec![1; 100], 1);
        arena.idle(0);
        assert_eq!(arena.memory.pages.counts().used, 4);
        let mut tokens = vec![1; kept];
        tokens.extend([0; 120][kept..].iter());
        arena.submit(0, Some(key(0, 0)), tokens, 8);
        assert!(arena.step());
        let (_, sequence) = arena.sequences.iter().next().unwrap();
        assert!(sequence.cached >= before * PAGE_TOKENS && sequence.slot.is_some());
        arena.idle(0);
    }
}

/// A request that cannot start yet costs no session its pages, and with a folder no write.
#[test]
fn nobody_loses_pages_to_one_that_waits_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut arena = Arena::new(0, 8, 2, Some(&folder));
    arena.context = 8 * PAGE_TOKENS;
    arena.submit(0, Some(key(0, 0)), vec![1; 60], 1);
    arena.idle(0);
    arena.submit(1, None, vec![0; 60], 128);
    assert!(arena.step());
    arena.submit(2, None, vec![0; 100], 100);
    while arena.sequences.len() == 2 {
        assert!(arena.memory.sessions.get(&key(0, 0)).unwrap().tip.is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(arena.step());
    }
    arena.idle(0);
    // what it did not hold while it ran is in its file
    assert!(arena.memory.sessions.get(&key(0, 0)).unwrap().tip.is_none());
    arena.submit(0, Some(key(0, 0)), vec![1; 70], 1);
    arena.step();
    let (_, sequence) = arena.sequences.iter().next().unwrap();
    assert!(sequence.cached >= 60);
}

/// A step writes at most one session, however many have to give way.
#[test]
fn a_step_writes_one_session() {
    let folder = tempfile::tempdir().unwrap();
    let mut arena = Arena::new(0, 8, 2, Some(&folder));
    arena.context = 8 * PAGE_TOKENS;
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    for session in 0..4 {
        arena.submit(0, Some(key(0, session)), vec![session.into(); 60], 1);
        arena.idle(0);
    }
    arena.submit(1, None, vec![0; 200], 50);
    for written in 1..=4 {
        assert!(arena.scheduler.waiting().len() == 1 && arena.step());
        assert_eq!(files(), written);
    }
    arena.step();
    assert_eq!(arena.scheduler.running().len(), 1);
}
