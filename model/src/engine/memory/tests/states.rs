//! The memory of a network with states, in small worlds of random clients. The state of a sequence is a hash of exactly the tokens
//! that it was fed, and each step computes it from the one before. So a sequence that began with another text's snapshot, or with
//! what was left in a slot, is found out by its next step.
//!
//! One file, because it is one world: clients, steps and checks share its sequences, pages and slots.

mod cases;

use super::worlds::Random;
use super::*;
use crate::engine::scheduler::Job;
use crate::kv::{Accepted, Span, StateLayout};
use std::collections::BTreeSet;

/// Steps of all worlds together.
const STEPS: usize = 100_000;
const STATE: StateLayout = StateLayout {
    layers: 2,
    conv: 3,
    delta: 5,
    width: 1,
    hidden: 4,
};
/// Tokens of the configuration's text. They are numbers below [`SECRETS`].
const SYSTEM: usize = 70;
/// The tokens of client n are from n + 1 times this number on.
const SECRETS: u32 = 1000;

/// The hash of a text. That of no text is 0, of which a state of zeros is made.
fn chain(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |hash, token| further(hash, *token))
}

fn further(hash: u64, token: u32) -> u64 {
    let mixed = (hash ^ u64::from(token + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.rotate_left(29)
}

/// The hash in numbers of 16 bits, which f32 holds exactly.
fn parts_of(hash: u64) -> [f32; 4] {
    [0, 16, 32, 48].map(|bits| ((hash >> bits) & 0xffff) as f32)
}

/// The hash that a slot has, which all of its layers have.
fn hash_of(bytes: &[u8]) -> u64 {
    let values: &[f32] = bytemuck::cast_slice(bytes);
    let parts = values.iter().zip([0, 16, 32, 48]);
    let hash = parts.map(|(part, bits)| (*part as u64) << bits).sum();
    let mut all = values.iter().zip(parts_of(hash).into_iter().cycle());
    assert!(
        all.all(|(value, part)| *value == part),
        "two states in a slot"
    );
    hash
}

/// An engine whose network only hashes.
struct World {
    random: Random,
    memory: Memory,
    kv: KvCache,
    scheduler: Scheduler,
    sequences: BTreeMap<RequestId, Sequence>,
    /// the tokens of each conversation
    history: BTreeMap<SessionKey, Vec<u32>>,
    folder: Option<TempDir>,
    share: bool,
    pages: usize,
    slots: usize,
    streams: usize,
    context: usize,
    next: RequestId,
    accepted: usize,
    ended: usize,
    steps: usize,
    /// tokens of prompts, and those of them that a snapshot brought
    asked: usize,
    brought: usize,
    /// steps in which somebody waited
    waited: usize,
}

impl World {
    fn new(seed: u64, pages: usize, slots: usize, streams: usize) -> Self {
        let random = Random(seed);
        let mut world = Self {
            memory: Memory::new(Pages::new(pages).unwrap(), None),
            kv: KvCache::new(layout(), pages, TABLES).unwrap(),
            scheduler: Scheduler::new(streams, 12),
            sequences: BTreeMap::new(),
            history: BTreeMap::new(),
            folder: None,
            share: false,
            pages,
            slots,
            streams,
            context: pages * PAGE_TOKENS,
            next: 0,
            accepted: 0,
            ended: 0,
            steps: 0,
            asked: 0,
            brought: 0,
            waited: 0,
            random,
        };
        world.restart();
        world
    }

    /// Begins anew with the files that there are, as after a change of models.
    fn restart(&mut self) {
        let ids: Vec<RequestId> = self.sequences.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, true));
        let layout = layout();
        let snapshots = self.folder.as_ref().map(|folder| {
            let pages = self.pages;
            Snapshots::new(folder.path(), &gguf(), &layout, pages, None, None).with_states(&STATE)
        });
        self.memory = Memory::new(Pages::new(self.pages).unwrap(), snapshots);
        let kv = KvCache::new(layout, self.pages, TABLES).unwrap();
        self.kv = kv.with_states(STATE, self.slots).unwrap();
        self.scheduler = Scheduler::new(self.streams, 12);
    }

    /// Takes a request as the engine does.
    fn submit(
        &mut self,
        client: u32,
        session: Option<SessionKey>,
        prompt: Prompt,
        answer: u32,
        checkpoints: [usize; 2],
    ) -> Option<RequestId> {
        self.next += 1;
        let id = self.next;
        let owner = if self.share { 0 } else { client.into() };
        let asks = request(client, answer);
        let vocabulary = 16 * SECRETS as usize;
        let closing = Closing::default();
        let mut sequence =
            Sequence::new(id, owner, asks, prompt, vocabulary, self.context, &closing);
        sequence.check_at(checkpoints);
        let priorities = [Priority::Background, Priority::Normal, Priority::Urgent];
        let job = Job {
            id,
            client: client.into(),
            priority: priorities[self.random.below(3)],
        };
        self.scheduler.submit(job).ok()?;
        if let Some(session) = session {
            revive(&mut self.memory, &session);
            if answer > 0 {
                self.memory.sessions.open(&session).busy = Some(id);
            }
            sequence.turn = Some(Turn {
                session,
                messages: Vec::new(),
                answer: String::new(),
                calls: Vec::new(),
                offered: false,
            });
        } else {
            sequence.pauses = self.random.below(4) == 0;
        }
        self.sequences.insert(id, sequence);
        self.accepted += 1;
        Some(id)
    }

    fn secret(&mut self, client: u32) -> u32 {
        SECRETS * (client + 1) + self.random.below(3) as u32
    }

    /// Asks something: a question behind one of two texts that others know, the next turn of a conversation, or one that parts from
    /// it or forgets its beginning. Or the last answer of an idle conversation is computed again.
    fn ask(&mut self, client: u32, session: Option<u8>) {
        let session = session.map(|session| key(client, session));
        let known = session
            .as_ref()
            .and_then(|key| self.memory.sessions.get(key));
        let (there, busy) = (known.is_some(), known.and_then(|s| s.busy).is_some());
        if busy {
            return;
        }
        let said = session.as_ref().and_then(|key| self.history.get(key));
        let mut tokens = said.cloned().unwrap_or_default();
        let own = there && self.random.below(6) == 0;
        if tokens.is_empty() || self.random.below(6) == 0 {
            tokens = match self.random.below(3) {
                0 => (0..SYSTEM as u32).collect(),
                1 => vec![SECRETS * (client + 1) + 7; 45],
                _ => Vec::new(),
            };
        }
        if tokens.len() > self.context / 2 && self.random.below(2) == 0 {
            // the oldest turns go
            tokens.drain(10..self.context / 4);
        }
        let system = tokens.len().min(SYSTEM);
        let more = 1 + self.random.below(2 * PAGE_TOKENS);
        let more: Vec<u32> = (0..more).map(|_| self.secret(client)).collect();
        tokens.extend(more);
        tokens.truncate(self.context - 1);
        let everybodys = (0..).zip(&tokens).take_while(|(at, token)| at == *token);
        let common = everybodys.count().min(SYSTEM);
        let prompt = Prompt {
            common: if common == SYSTEM { SYSTEM } else { 0 },
            thinking_open: false,
            tokens,
        };
        let checkpoints = [system, prompt.tokens.len() - self.random.below(4).min(1)];
        let answer = 1 + self.random.below(60) as u32;
        let answer = if own { 0 } else { answer };
        self.submit(client, session, prompt, answer, checkpoints);
    }

    /// Does a step of the engine. Gives false if it had nothing to do.
    fn step(&mut self) -> bool {
        self.steps += 1;
        let (mut asked, mut brought) = (0, 0);
        let (kv, sequences) = (&mut self.kv, &mut self.sequences);
        let worked = self
            .memory
            .admit(kv, &mut self.scheduler, sequences, &mut |started| {
                asked += started.prompt;
                brought += started.fed;
            });
        self.asked += asked;
        self.brought += brought;
        for id in self.scheduler.waiting() {
            assert_eq!(self.sequences[&id].slot, None);
        }
        self.waited += self.scheduler.waiting().len().min(1);
        let plan = self.scheduler.step(&|id| self.sequences[&id].due());
        self.settle();
        for &(id, tokens) in &plan {
            self.feed(id, tokens);
            let sequence = self.sequences.get_mut(&id).unwrap();
            if plan.len() == 1 && sequence.remaining() == 0 && sequence.fed == sequence.tokens.len()
            {
                self.guess(id);
            }
            let sequence = self.sequences.get_mut(&id).unwrap();
            if sequence.fed < sequence.tokens.len() {
                continue;
            }
            if sequence.tokens.len() < sequence.limit && self.random.below(10) > 0 {
                // a format may force many at once
                let most = [20, 1, 1, 1][sequence.tokens.len() % 4];
                let own = (sequence.owners.own as u32 + 1) * SECRETS;
                for _ in 0..most.min(sequence.limit - sequence.tokens.len()) {
                    sequence.tokens.push(own + self.random.below(3) as u32);
                }
            } else {
                self.end(id, true);
            }
        }
        self.check();
        worked || !plan.is_empty()
    }

    /// Computes tokens of a sequence, as the network does: from its state and its pages.
    fn feed(&mut self, id: RequestId, tokens: usize) {
        let sequence = self.sequences.get_mut(&id).unwrap();
        self.memory.grow(&mut self.kv, sequence, tokens);
        let (fed, table) = (sequence.fed, sequence.slot.unwrap().table);
        let state = self.kv.state_of(table).unwrap();
        let before = hash_of(self.kv.states().bytes(state));
        assert_eq!(before, chain(&sequence.tokens[..fed]), "another state");
        let layout = layout();
        for (at, page) in self.kv.table(table).clone().iter().enumerate() {
            let end = fed.min((at + 1) * PAGE_TOKENS);
            let known = &sequence.tokens[end.min(at * PAGE_TOKENS)..end];
            let next = fed.max(at * PAGE_TOKENS)..(fed + tokens).min((at + 1) * PAGE_TOKENS);
            self.kv.arena().change_page(*page, |bytes| {
                for (row, token) in known.iter().enumerate() {
                    assert_eq!(read(&layout, bytes, row), Some(*token));
                }
                for position in next {
                    let row = position % PAGE_TOKENS;
                    assert_eq!(read(&layout, bytes, row), None, "a row of somebody");
                    write(&layout, bytes, row, sequence.tokens[position]);
                }
            });
        }
        let more = &sequence.tokens[fed..fed + tokens];
        let after = more
            .iter()
            .fold(before, |hash, token| further(hash, *token));
        for layer in 0..STATE.layers {
            let (conv, delta) = self.kv.state(table, layer);
            let values = conv.iter_mut().chain(delta);
            values
                .zip(parts_of(after).iter().cycle())
                .for_each(|(value, part)| *value = *part);
        }
        self.kv.hidden(table).copy_from_slice(&parts_of(after));
        self.scheduler.served(id, tokens);
        self.memory.fed(&mut self.kv, sequence, tokens);
    }

    /// Has some tokens come true that were guessed with the last one. They are in the sequence's pages, and in its state only when
    /// the next step begins or the request ends.
    fn guess(&mut self, id: RequestId) {
        let right = self.random.below(3);
        let sequence = self.sequences.get_mut(&id).unwrap();
        let right = right.min(sequence.limit - sequence.tokens.len());
        if right == 0 {
            return;
        }
        self.memory.grow(&mut self.kv, sequence, right);
        let table = sequence.slot.unwrap().table;
        self.kv.begin(&[Span {
            table,
            position: sequence.fed - 1,
            tokens: 1 + right,
            guesses: right,
        }]);
        for _ in 0..right {
            let own = (sequence.owners.own as u32 + 1) * SECRETS;
            let token = own + self.random.below(3) as u32;
            let (page, row) = (sequence.fed / PAGE_TOKENS, sequence.fed % PAGE_TOKENS);
            let page = self.kv.table(table)[page];
            let (layout, write_row) = (layout(), write);
            self.kv
                .arena()
                .change_page(page, |bytes| write_row(&layout, bytes, row, token));
            sequence.tokens.push(token);
            self.kv.accept();
            self.memory.fed(&mut self.kv, sequence, 1);
        }
    }

    /// Takes the guesses that came true into the state of their sequence, as the network does.
    fn settle(&mut self) {
        let Some(table) = self.kv.accepted() else {
            return;
        };
        let mut sequences = self.sequences.values();
        let of = sequences.find(|s| s.slot.is_some_and(|slot| slot.table == table));
        let of = of.unwrap();
        let after = parts_of(chain(&of.tokens[..of.fed]));
        for layer in 0..STATE.layers {
            let Accepted { conv, delta, .. } = self.kv.take_accepted(layer).unwrap();
            let values = conv.iter_mut().chain(delta);
            values
                .zip(after.iter().cycle())
                .for_each(|(value, part)| *value = *part);
        }
        self.kv.hidden(table).copy_from_slice(&after);
        self.kv.settled();
    }

    /// Ends a request in any state. If it is not `trusted`, the network broke down.
    fn end(&mut self, id: RequestId, trusted: bool) {
        if trusted {
            self.settle();
        }
        self.scheduler.remove(id).unwrap();
        let mut sequence = self.sequences.remove(&id).unwrap();
        let thought = sequence.remaining() == 0 && self.random.below(3) == 0;
        if thought && !sequence.is_own() {
            sequence.has_thought();
        }
        if let Some(turn) = &sequence.turn
            && trusted
        {
            let mut said = sequence.tokens[..sequence.keep()].to_vec();
            if thought {
                // what was answered behind the thought
                said.extend([(sequence.owners.own as u32 + 1) * SECRETS; 9]);
            }
            self.history.insert(turn.session.clone(), said);
        }
        if !trusted {
            sequence.distrust();
        }
        let (owners, tokens) = (sequence.owners, sequence.tokens.clone());
        let started = sequence.slot.is_some();
        self.memory.end(&mut self.kv, &mut sequence);
        if started && !trusted {
            let longer = [&tokens[..], &[0]].concat();
            assert!(self.kv.states().find(owners, &longer).is_empty());
        }
        self.memory.sessions.release(id);
        if let Some(turn) = sequence.turn.take().filter(|_| !sequence.is_own()) {
            self.memory.sessions.settle(turn, false);
        }
        self.ended += 1;
    }

    /// Checks that each slot is free, one sequence's or a snapshot of its owner's own text.
    fn check(&self) {
        let mut taken = BTreeSet::new();
        for sequence in self.sequences.values() {
            if let Some(slot) = sequence.slot {
                assert!(taken.insert(self.kv.state_of(slot.table).unwrap()));
            }
        }
        let states = self.kv.states();
        let (snapshots, free) = states.counts();
        assert_eq!(taken.len() + snapshots + free, self.slots);
        for (slot, owner, tokens) in states.snapshots() {
            assert!(!taken.contains(&slot), "a slot is used twice");
            assert_eq!(hash_of(states.bytes(slot)), chain(tokens));
            let of = |token: &u32| token.checked_sub(SECRETS).map(|n| Owner::from(n / SECRETS));
            let mut owners = tokens.iter().filter_map(of);
            assert!(self.share || owners.all(|of| of == owner));
        }
    }

    /// Runs until the engine is idle, and checks that every request has ended.
    fn idle(&mut self) {
        let before = self.steps;
        while self.step() {
            assert!(self.steps < before + 20_000, "it never comes to rest");
        }
        assert_eq!(self.accepted, self.ended, "it stands still");
    }

    /// Does one random thing, as clients and operators might.
    fn act(&mut self) {
        let (client, session) = (self.random.below(3) as u32, self.random.below(3) as u8);
        let key = key(client, session);
        let known = self.memory.sessions.get(&key);
        let idle = known.is_some_and(|session| session.busy.is_none());
        match self.random.below(40) {
            0..=9 => self.ask(client, Some(session).filter(|s| *s < 2)),
            10 => (0..9).for_each(|at| self.ask(at % 3, Some((at / 3) as u8))),
            11..=13 => {
                let which = self.random.below(self.sequences.len().max(1));
                if let Some(&id) = self.sequences.keys().nth(which) {
                    let waits = self.sequences[&id].slot.is_none();
                    let trusted = waits || self.random.below(4) > 0;
                    self.end(id, trusted);
                }
            }
            14 if idle => {
                self.memory.forget(&key);
                self.history.remove(&key);
            }
            15 => self.forget_client(client),
            16 if self.random.below(8) == 0 => self.restart(),
            17 if idle => {
                self.memory.unload(&mut self.kv, &key);
            }
            18 if idle => self.memory.cut(&key, 0..0),
            19 => self
                .memory
                .let_go(self.next.saturating_sub(u64::from(session))),
            20 => self.damage(),
            21 => self.idle(),
            _ => {
                for _ in 0..self.random.below(20) {
                    if !self.step() {
                        assert!(self.sequences.is_empty(), "it stands still");
                        break;
                    }
                }
            }
        }
        self.check();
    }

    /// Forgets a client, as an operator has it done.
    fn forget_client(&mut self, client: u32) {
        let of = |sequence: &Sequence| sequence.owners.own == Owner::from(client);
        let own = self.sequences.values().filter(|s| !self.share && of(s));
        let own: Vec<RequestId> = own.map(|sequence| sequence.id).collect();
        own.into_iter().for_each(|id| self.end(id, true));
        for session in 0..3 {
            let key = key(client, session);
            if !self.share {
                self.memory.forget(&key);
                self.history.remove(&key);
            }
        }
        let owner = if self.share { 0 } else { client.into() };
        self.memory.pages.forget_cached(owner);
        self.kv.states_mut().forget(owner);
        let mut left = self.kv.states().snapshots();
        assert!(left.all(|(_, of, _)| of != owner));
    }

    /// Flips a bit of a file.
    fn damage(&mut self) {
        let Some(folder) = &self.folder else { return };
        let files = std::fs::read_dir(folder.path()).unwrap();
        let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        if let Some(at) = self.random.below(usize::MAX).checked_rem(files.len()) {
            let mut bytes = std::fs::read(&files[at]).unwrap();
            let bit = self.random.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&files[at], bytes).unwrap();
        }
    }

    /// Checks that nothing is left of it.
    fn is_empty(&mut self) -> bool {
        for key in self.memory.sessions.keys() {
            self.memory.forget(&key);
        }
        (0..=self.next).for_each(|id| self.memory.let_go(id));
        let counts = self.memory.pages.counts();
        let (snapshots, free) = self.kv.states().counts();
        (counts.used, counts.free + counts.cached) == (0, self.pages)
            && self.memory.tables.len() == TABLES
            && snapshots + free == self.slots
            && self.memory.pages.reserve(self.pages).is_ok()
    }
}

#[test]
fn in_a_hundred_thousand_steps_no_state_is_anothers() {
    let (mut steps, mut asked, mut brought, mut waited) = (0, 0, 0, 0);
    for seed in 0.. {
        let mut random = Random(!seed);
        let (pages, slots) = (4 + random.below(16), 1 + random.below(8));
        let mut world = World::new(seed, pages, slots, 1 + random.below(4));
        if seed % 3 == 0 {
            world.folder = Some(tempfile::tempdir().unwrap());
            world.restart();
        }
        world.share = seed % 5 == 0;
        for _ in 0..400 {
            world.act();
        }
        world.idle();
        assert!(world.is_empty(), "world {seed} keeps something");
        steps += world.steps;
        asked += world.asked;
        brought += world.brought;
        waited += world.waited;
        if steps >= STEPS {
            break;
        }
    }
    // snapshots were of use, and slots were short
    assert!(brought > asked / 8, "{brought} of {asked}");
    assert!(waited > steps / 20, "{waited} of {steps}");
}
