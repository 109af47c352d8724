//! Thousands of random lives with few pages, and long ones of clients beside each other.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A request as the engine sees it.
#[derive(Debug, Clone, Copy)]
struct Work {
    job: Job,
    pages: usize,
    prompt: usize,
    decode: usize,
    holds: bool,
    /// its pages were not free when it was asked for
    refused: bool,
}

/// An engine without a network: pages, and tokens to go.
struct World {
    s: Scheduler,
    streams: usize,
    queue: usize,
    free: usize,
    live: BTreeMap<RequestId, Work>,
    ids: RequestId,
    /// jobs that ran to their end
    finished: usize,
}

impl World {
    fn new(streams: usize, queue: usize, free: usize) -> Self {
        Self {
            s: Scheduler::new(streams, queue),
            streams,
            queue,
            free,
            live: BTreeMap::new(),
            ids: 0,
            finished: 0,
        }
    }

    /// Its id, if there was room.
    fn submit(
        &mut self,
        client: u64,
        priority: Priority,
        (pages, prompt, decode): (usize, usize, usize),
    ) -> Option<RequestId> {
        let job = job(self.ids, client, priority);
        let waiting = self.s.waiting().len();
        self.ids += 1;
        match self.s.submit(job) {
            Ok(before) => assert!(before <= self.live.len()),
            Err(error) => {
                assert!(waiting >= self.queue);
                let limit = self.queue;
                assert_eq!(error, SubmitError::Full { waiting, limit });
                return None;
            }
        }
        let work = Work {
            job,
            pages,
            prompt,
            decode,
            holds: false,
            refused: false,
        };
        self.live.insert(job.id, work);
        Some(job.id)
    }

    fn end(&mut self, id: RequestId) {
        let work = self.live.remove(&id).unwrap();
        let state = self.s.remove(id).unwrap();
        assert_eq!(state == State::Waiting, !work.holds);
        self.free += if work.holds { work.pages } else { 0 };
    }

    fn priorities(&self, ids: impl Iterator<Item = RequestId>) -> std::vec::Vec<Priority> {
        ids.map(|id| self.live[&id].job.priority).collect()
    }

    fn admit(&mut self) {
        let mut refused = None;
        for round in 0.. {
            assert!(round <= 3 * STREAMS_MAX, "it ends");
            let running = self.priorities(self.s.running());
            let mut asked = 0;
            let Some(decision) = self.s.admit(&mut |id| {
                asked += 1;
                let work = self.live.get_mut(&id).unwrap();
                assert!(!work.holds);
                work.holds = work.pages <= self.free;
                if work.holds {
                    self.free -= work.pages;
                } else {
                    work.refused = true;
                    refused = Some(work.job.priority);
                }
                work.holds
            }) else {
                break;
            };
            let (id, parked) = match decision {
                Admitted::Started { id, parked } => {
                    assert_eq!(asked, 1);
                    let priority = self.live[&id].job.priority;
                    // nobody whose turn had come was passed
                    let passed = self.live.values().find(|w| {
                        w.refused && !w.holds && w.job.priority >= priority && w.job.id != id
                    });
                    assert!(passed.is_none(), "{id} {passed:?}");
                    let better = self.priorities(self.s.waiting().chain(self.s.parked()));
                    // what was just parked is of a lower one
                    assert!(better.iter().all(|&p| p <= priority));
                    (id, parked)
                }
                Resumed(id) => (id, None),
            };
            let work = self.live[&id];
            assert!(work.holds);
            // only a lower one is parked, the lowest, and only when there is no other place
            assert_eq!(parked.is_some(), running.len() == self.streams);
            if let Some(parked) = parked {
                let parked = self.live[&parked].job.priority;
                assert!(parked < work.job.priority);
                assert_eq!(Some(&parked), running.iter().min());
            }
        }
        self.settled(refused);
    }

    /// What holds when there is nothing more to decide: who has no place is not kept out by a lower one.
    fn settled(&self, refused: Option<Priority>) {
        let running = self.priorities(self.s.running());
        let lowest = (running.len() == self.streams).then(|| *running.iter().min().unwrap());
        for priority in self.priorities(self.s.parked()) {
            assert!(lowest.is_some_and(|lowest| lowest >= priority));
        }
        for priority in self.priorities(self.s.waiting()) {
            assert!(
                refused.is_some_and(|r| r >= priority)
                    || lowest.is_some_and(|lowest| lowest >= priority)
                    || (lowest.is_some() && self.s.parked().len() == PARKED_MAX),
                "{priority:?} {running:?} {refused:?}"
            );
        }
    }

    fn sound(&self) {
        let all = || {
            self.s
                .running()
                .chain(self.s.waiting())
                .chain(self.s.parked())
        };
        let once: BTreeSet<_> = all().collect();
        assert_eq!(once.len(), all().count(), "nobody in two states");
        assert!(once.iter().eq(self.live.keys()), "nobody lost");
        assert!(self.s.running().len() <= self.streams);
        assert!(self.s.waiting().len() <= self.queue + self.streams);
        assert!(self.s.parked().len() <= PARKED_MAX);
        let clients: BTreeSet<_> = self.live.values().map(|w| w.job.client).collect();
        let known = self.s.clients.iter().filter(|c| c.jobs > 0);
        assert_eq!(known.map(|c| c.name).collect::<BTreeSet<_>>(), clients);
    }

    /// Admission and one step; the tokens of it.
    fn step(&mut self) -> std::vec::Vec<(Work, usize)> {
        self.admit();
        let step = self.s.step(&|id| self.live[&id].prompt);
        let prompts = step.iter().filter(|(id, _)| self.live[id].prompt > 0);
        let total: usize = step.iter().map(|(_, tokens)| tokens).sum();
        assert!(prompts.count() <= 1);
        let decoding = self.s.running().filter(|id| self.live[id].prompt == 0);
        match decoding.count() {
            0 => assert!(total <= PREFILL_ALONE),
            n => assert!(
                total <= STEP_BESIDE.max(n + PREFILL_BESIDE)
                    && step.iter().filter(|t| t.1 == 1).count() >= n
            ),
        }
        assert_eq!(step.is_empty(), self.s.running().len() == 0);
        let mut done = vec![];
        for &(id, tokens) in &step {
            let work = self.live.get_mut(&id).unwrap();
            done.push((*work, tokens));
            if work.prompt > 0 {
                assert!(tokens >= work.prompt.min(4) && tokens <= work.prompt);
                work.prompt -= tokens;
            } else {
                assert_eq!(tokens, 1);
                work.decode -= 1;
            }
            let ended = work.prompt == 0 && work.decode == 0;
            self.s.served(id, tokens);
            if ended {
                self.end(id);
                self.finished += 1;
            }
        }
        done
    }

    /// Until nobody is left; fails when it stands still.
    fn drain(&mut self) {
        while !self.live.is_empty() {
            assert!(!self.step().is_empty(), "{:?}", self.s);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Submit(u64, Priority, (usize, usize, usize)),
    /// the n-th live one, in a circle
    Cancel(usize),
    Step,
}

const PAGES: usize = 20;

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![Just(Background), Just(Normal), Just(Urgent)]
}

fn op() -> impl Strategy<Value = Op> {
    let work = (1..=PAGES, 1usize..120, 1usize..30);
    prop_oneof![
        3 => (0u64..5, priority(), work).prop_map(|(c, p, w)| Op::Submit(c, p, w)),
        1 => any::<usize>().prop_map(Op::Cancel),
        8 => Just(Op::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_lives_keep_every_rule_and_come_to_an_end(
        streams in 1..=STREAMS_MAX,
        queue in 0usize..12,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut w = World::new(streams, queue, PAGES);
        for op in ops {
            match op {
                Op::Submit(client, priority, work) => {
                    w.submit(client, priority, work);
                }
                Op::Cancel(n) => {
                    if let Some(&id) = w.live.keys().nth(n % w.live.len().max(1)) {
                        w.end(id);
                    }
                }
                Op::Step => {
                    w.step();
                }
            }
            w.sound();
        }
        w.drain();
        w.sound();
        prop_assert_eq!(w.free, PAGES);
        prop_assert!(w.s.clients.iter().all(|c| c.jobs == 0));
    }

    /// With pages enough, an urgent request is in the very next step, until urgent ones have all places.
    #[test]
    fn urgent_work_is_in_the_next_step(
        // more places can fill the parked: see PARKED_MAX
        streams in 1..=STREAMS_MAX / 2,
        queue in 0usize..12,
        ops in prop::collection::vec(op(), 1..100),
    ) {
        let mut w = World::new(streams, queue, usize::MAX);
        for op in ops {
            match op {
                Op::Submit(client, priority, work) => {
                    let urgent = w.live.values().filter(|w| w.job.priority == Urgent).count();
                    let others = w.s.waiting().len() < queue + streams;
                    let id = w.submit(client, priority, work);
                    if priority == Urgent && urgent < streams && others {
                        let id = id.expect("a full queue does not refuse it");
                        w.admit();
                        prop_assert!(w.s.running().any(|r| r == id));
                    }
                }
                Op::Cancel(_) => {}
                Op::Step => {
                    w.step();
                }
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Nobody waits longer than the others' shares: each of the others is served at most what it is behind, and once
    /// more its places, before a newcomer's turn comes.
    #[test]
    fn a_newcomer_waits_no_longer_than_the_shares(
        streams in 1..=STREAMS_MAX,
        clients in 1u64..6,
        warm in 0usize..300,
        lengths in prop::collection::vec((1usize..40, 1usize..40), 60),
    ) {
        const LONGEST: usize = 80;
        let mut w = World::new(streams, QUEUE_MAX, usize::MAX);
        let mut lengths = lengths.iter().cycle();
        let mut flood = |w: &mut World| {
            for client in 0..clients {
                while w.live.values().filter(|w| w.job.client == client).count() < 2 * streams {
                    let (prompt, decode) = *lengths.next().unwrap();
                    w.submit(client, Normal, (1, prompt, decode)).unwrap();
                }
            }
        };
        for _ in 0..warm {
            flood(&mut w);
            w.step();
        }
        flood(&mut w);
        w.admit();
        let id = w.submit(99, Normal, (1, 1, 1)).unwrap();
        let mut tokens = 0;
        while w.s.waiting().any(|waiting| waiting == id) {
            tokens += w.step().iter().map(|(_, tokens)| tokens).sum::<usize>();
            flood(&mut w);
            w.admit();
        }
        prop_assert!(tokens <= (2 * clients as usize + 1) * streams * LONGEST, "{}", tokens);
    }
}

#[test]
fn shares_are_equal_whatever_the_length_of_the_requests() {
    for streams in [1, 4] {
        let mut w = World::new(streams, QUEUE_MAX, usize::MAX);
        let mut tokens = [0; 3];
        for _ in 0..10_000 {
            for (client, work) in [(0, (1, 20, 200)), (1, (1, 30, 10)), (2, (1, 90, 1))] {
                while w.live.values().filter(|w| w.job.client == client).count() < 10 {
                    w.submit(client, Normal, work).unwrap();
                }
            }
            for (work, n) in w.step() {
                tokens[work.job.client as usize] += n;
            }
        }
        let mean = tokens.iter().sum::<usize>() / 3;
        for n in tokens {
            assert!(n.abs_diff(mean) * 20 <= mean, "{streams} {tokens:?}");
        }
    }
}

#[test]
fn background_work_gets_on_when_nothing_else_waits_and_starves_nobody() {
    let mut w = World::new(2, QUEUE_MAX, PAGES);
    for client in 0..10 {
        w.submit(client, Background, (PAGES / 2, 50, 50)).unwrap();
    }
    // each hundred steps a normal one comes by
    for step in 0..4000 {
        if step % 100 == 0 {
            w.submit(77, Normal, (1, 20, 20));
        }
        let running = w.step();
        assert!(w.live.is_empty() || !running.is_empty());
    }
    assert_eq!((w.live.len(), w.finished), (0, 50));
}
