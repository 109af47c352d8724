//! Thousands of random lives with few pages, and long lives of clients beside each other.

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
    /// whether its pages were not free when it was first
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

    /// Submits a request and gives its id, if there was room.
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
        assert_eq!(state == JobState::Waiting, !work.holds);
        self.free += if work.holds { work.pages } else { 0 };
    }

    /// The ranks of all jobs, as things stand.
    fn ranks(&self) -> BTreeMap<RequestId, Priority> {
        let entries = self.s.entries();
        entries.map(|e| (e.job.id, self.s.rank(e))).collect()
    }

    fn admit(&mut self) {
        let mut refused = None;
        for round in 0.. {
            assert!(round <= 4 * STREAMS_MAX, "it ends");
            let ranks = self.ranks();
            let running: std::vec::Vec<_> = self.s.running().map(|id| ranks[&id]).collect();
            let (mut asked, mut was_due) = (0, false);
            let Some(decision) = self.s.admit(&mut |id| {
                asked += 1;
                let work = self.live.get_mut(&id).unwrap();
                assert!(!work.holds);
                work.holds = work.pages <= self.free;
                was_due = work.refused;
                if work.holds {
                    self.free -= work.pages;
                } else {
                    work.refused = true;
                    refused = Some(ranks[&id]);
                }
                work.holds
            }) else {
                break;
            };
            let (id, parked) = match decision {
                Admitted::Started { id, parked } => {
                    assert_eq!(asked, 1);
                    // no job that had been first before was passed
                    let passed = self.live.values().find(|w| {
                        w.refused && !w.holds && ranks[&w.job.id] >= ranks[&id] && w.job.id != id
                    });
                    assert!(was_due || passed.is_none(), "{id} {passed:?}");
                    let mut others = self.s.waiting().chain(self.s.parked());
                    // the job that was just parked is of a lower rank
                    assert!(others.all(|other| ranks[&other] <= ranks[&id]));
                    (id, parked)
                }
                Admitted::Resumed { id, parked } => (id, parked),
            };
            assert!(self.live[&id].holds);
            // only the lowest job is parked, for a higher one, and only when there is no other place
            assert_eq!(parked.is_some(), running.len() == self.streams);
            if let Some(parked) = parked {
                assert!(ranks[&parked] < ranks[&id]);
                assert_eq!(Some(&ranks[&parked]), running.iter().min());
            }
        }
        self.settled(refused);
    }

    /// Checks what holds when there is nothing more to decide: no job without a place is kept out by a lower one.
    fn settled(&self, refused: Option<Priority>) {
        let ranks = self.ranks();
        let full = self.s.running().len() == self.streams;
        let lowest = self.s.running().map(|id| ranks[&id]).min().filter(|_| full);
        let kept_out_by = |by: Option<Priority>, id| by.is_some_and(|by| by >= ranks[&id]);
        assert!(self.s.parked().all(|id| kept_out_by(lowest, id)));
        assert!(
            self.s
                .waiting()
                .all(|id| kept_out_by(lowest, id) || kept_out_by(refused, id)),
            "{ranks:?} {refused:?} {lowest:?}"
        );
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

    /// Does admission and one step, and gives the tokens of the step.
    fn step(&mut self) -> std::vec::Vec<(Work, usize)> {
        self.admit();
        // an answer of which a format forces a part now and then
        let due = |work: &Work| match work.decode {
            decode if work.prompt == 0 && decode % 5 == 4 => Due::Answer(decode),
            _ => due(work.prompt),
        };
        let step = self.s.step(&|id| due(&self.live[&id]));
        let prompts = step.iter().filter(|(id, _)| self.live[id].prompt > 0);
        let total: usize = step.iter().map(|(_, tokens)| tokens).sum();
        assert!(prompts.count() <= 1);
        let decoding = self.s.running().filter(|id| self.live[id].prompt == 0);
        match decoding.count() {
            0 => assert!(total <= PREFILL_ALONE),
            1 if step.len() == 1 => assert!(total <= PREFILL_ALONE),
            n => assert!(
                total <= STEP_BESIDE.max(n + PREFILL_BESIDE)
                    && step.iter().filter(|t| t.1 > 1).count() <= 1
                    && step.len() >= n
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
                assert!((1..=work.decode).contains(&tokens));
                work.decode -= tokens;
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

    /// Runs until no job is left, and fails when it stands still.
    fn drain(&mut self) {
        while !self.live.is_empty() {
            assert!(!self.step().is_empty(), "{:?}", self.s);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Submit(u64, Priority, (usize, usize, usize)),
    /// the n-th live job, counted in a circle
    Cancel(usize),
    Step,
}

const PAGES: usize = 20;

/// Clients that always have twice as much waiting as there are places.
struct Flood {
    w: World,
    clients: u64,
    priority: Priority,
    lengths: std::iter::Cycle<std::vec::IntoIter<(usize, usize)>>,
}

/// Most tokens of a request of a [`Flood`].
const LONGEST: usize = 80;

impl Flood {
    fn new(
        streams: usize,
        clients: u64,
        priority: Priority,
        lengths: std::vec::Vec<(usize, usize)>,
    ) -> Self {
        Self {
            w: World::new(streams, QUEUE_MAX, usize::MAX),
            clients,
            priority,
            lengths: lengths.into_iter().cycle(),
        }
    }

    fn pour(&mut self) {
        for client in 0..self.clients {
            let own = |w: &World| w.live.values().filter(|w| w.job.client == client).count();
            while own(&self.w) < 2 * self.w.streams {
                let (prompt, decode) = self.lengths.next().unwrap();
                let work = (1, prompt, decode);
                self.w.submit(client, self.priority, work).unwrap();
            }
        }
    }

    /// Does a step and gives its tokens.
    fn step(&mut self) -> usize {
        self.pour();
        self.w.step().iter().map(|(_, tokens)| tokens).sum()
    }

    /// Tokens that are served until this job has a place.
    fn until_started(&mut self, id: RequestId) -> usize {
        let mut tokens = 0;
        while !self.w.s.running().any(|running| running == id) {
            tokens += self.step();
            self.pour();
            self.w.admit();
        }
        tokens
    }
}

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

    /// With enough pages a client's urgent request is in the very next step, if the client has no other, was not served much more
    /// than others, and these have not all places for urgent requests.
    #[test]
    fn urgent_work_is_in_the_next_step(
        streams in 1..=STREAMS_MAX,
        queue in 0usize..12,
        ops in prop::collection::vec(op(), 1..100),
    ) {
        let mut w = World::new(streams, queue, usize::MAX);
        for op in ops {
            match op {
                Op::Submit(client, priority, work) => {
                    let urgent = w.live.values().filter(|w| w.job.priority == Urgent);
                    let clients: BTreeSet<u64> = urgent.map(|w| w.job.client).collect();
                    let first = !clients.contains(&client) && clients.len() < streams;
                    let room = w.s.waiting().len() < queue + streams;
                    let id = w.submit(client, priority, work);
                    let known = w.s.clients.iter().find(|c| c.name == client);
                    let ahead = known.is_some_and(|c| c.paid > w.s.share + URGENT_TOKENS * PARTS);
                    if priority == Urgent && first && room && !ahead {
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
            w.sound();
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// No client waits longer than the others' shares. Before a newcomer goes first, each of the others is served at most what it
    /// is behind, and its places once more. If the flood is urgent, each client first uses up its share of urgency, which grows
    /// meanwhile: twice [`URGENT_TOKENS`] and a request for one client, k (k + 1) times for k clients. A step serves at least one
    /// token, so this is also the longest wait in steps.
    #[test]
    fn a_newcomer_waits_no_longer_than_the_shares(
        streams in 1..=STREAMS_MAX,
        clients in 1u64..6,
        warm in 0usize..300,
        urgent in any::<bool>(),
        lengths in prop::collection::vec((1usize..40, 1usize..40), 60),
    ) {
        let mut flood = Flood::new(streams, clients, if urgent { Urgent } else { Normal }, lengths);
        for _ in 0..warm {
            flood.step();
        }
        flood.pour();
        flood.w.admit();
        let id = flood.w.submit(99, Normal, (1, 1, 1)).unwrap();
        let most = (2 * clients as usize + 1) * streams * LONGEST
            + if urgent { (clients * (clients + 1)) as usize * (URGENT_TOKENS as usize + LONGEST) } else { 0 };
        let tokens = flood.until_started(id);
        prop_assert!(tokens <= most, "{} of {}", tokens, most);
        // and its urgent one at once, if only one client floods
        let id = flood.w.submit(98, Urgent, (1, 1, 1)).unwrap();
        flood.w.admit();
        prop_assert!(clients as usize >= streams || flood.w.s.running().any(|r| r == id));
    }

    /// Background work does not wait for ever, whatever the others ask for.
    #[test]
    fn background_work_has_its_turn_in_a_flood(
        streams in 1..=STREAMS_MAX,
        clients in 1u64..4,
        urgent in any::<bool>(),
        begun in any::<bool>(),
        lengths in prop::collection::vec((1usize..40, 1usize..40), 60),
    ) {
        let mut flood = Flood::new(streams, clients, if urgent { Urgent } else { Normal }, lengths);
        let mut id = flood.w.submit(99, Background, (1, 200, 1)).unwrap();
        if begun {
            flood.w.step();
        } else {
            flood.pour();
            flood.w.admit();
            flood.w.end(id);
            id = flood.w.submit(99, Background, (1, 200, 1)).unwrap();
        }
        flood.pour();
        flood.w.admit();
        let most = AGE_TOKENS as usize + (2 * clients as usize + 1) * streams * LONGEST
            + (clients * (clients + 1)) as usize * (URGENT_TOKENS as usize + LONGEST);
        let tokens = flood.until_started(id);
        prop_assert!(tokens <= most, "{} of {}", tokens, most);
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
