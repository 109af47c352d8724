//! Who runs, who waits, who is parked, and what the next step computes: a pure state machine. It knows requests by
//! their numbers, reads no clock and holds no pages; the engine tells it what happened and does what it says.
//!
//! # Whose turn it is
//! 1. The higher rank.
//! 2. Of one rank, a parked one: its pages are held already.
//! 3. Then the one whose pages were not to be had when its turn came: it keeps its turn, so that small requests cannot
//!    starve a large one of pages.
//! 4. Then the client that was served least of late ([`SHARE_TOKENS`]), and of those the one
//!    whose turn was longest ago.
//! 5. Then the one that came first.
//!
//! When all places are taken, a running one of a lower rank is parked: it loses its place and keeps its progress and its
//! pages.
//!
//! Of those whose prompts are not yet in the cache, one has a chunk of its own in each step: prompts of the highest rank
//! take turns by share as well, so that a short one is not kept waiting by all of a long one.
//!
//! # Rank
//! The rank is the priority that was asked for, as far as the others' shares go, and is settled at the start:
//! - a client has one urgent one at a time, and only while what its urgent ones were served is at most
//!   [`URGENT_TOKENS`] more than its equal share of all that was served meanwhile. Other urgent ones of its rank as
//!   normal: nobody can use urgency to be served more than its share for long, or to keep another's urgent ones out.
//! - background work without a place for [`AGE_TOKENS`] ranks as normal.

use super::request::{Priority, RequestId};
use glowplug_firmware_config::limits::{QUEUE_MAX, STEP_TOKENS, STREAMS_MAX};
use heapless::Vec;
use std::cmp::Reverse;

/// Most parked requests. One starts only when no parked one has its rank, so when it has started, all of its rank are
/// running, and they are at most the places: so many have started as each of the three ranks at any time. (What ages
/// while parked keeps others from starting, and adds none.) Somebody is parked only for one that takes its place: of
/// three times the places, one third runs.
pub(super) const PARKED_MAX: usize = 2 * STREAMS_MAX;

/// Prompt tokens in a step in which nobody decodes.
pub(super) const PREFILL_ALONE: usize = STEP_TOKENS;

/// Tokens in a step in which somebody decodes, so that a running stream's gap stays under 2.5 times its median. Measured
/// on the 1.5B and two AVX-512 cores: alone a step takes 82 ms, with 8 tokens 145 ms, with 16 of them 186 ms and up to
/// 232 ms.
pub(super) const STEP_BESIDE: usize = 8;

/// Of these at least so many are of a prompt, however many decode: it must make headway.
pub(super) const PREFILL_BESIDE: usize = 4;

/// When so many tokens were served, what was served before counts half.
pub(super) const SHARE_TOKENS: u64 = 8192;

/// How far beyond its share urgent work may bring a client: a few spoken questions with their answers.
pub(super) const URGENT_TOKENS: u64 = 512;

/// Tokens served while background work waits or is parked, after which it ranks as normal: minutes.
pub(super) const AGE_TOKENS: u64 = 8192;

const _: () = assert!(STREAMS_MAX + PREFILL_BESIDE <= STEP_TOKENS);

/// What a share is counted in: so many are a token.
const PARTS: u64 = 1 << 16;

/// The queue, and those who start at once.
const WAITING_MAX: usize = QUEUE_MAX + STREAMS_MAX;

/// Clients whose service is remembered.
const CLIENTS_MAX: usize = 2 * QUEUE_MAX;

// so only clients without a request are ever forgotten
const _: () = assert!(CLIENTS_MAX > WAITING_MAX + STREAMS_MAX + PARKED_MAX);

/// What the scheduler knows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    /// unique among the live ones
    pub(super) id: RequestId,
    /// hash of the client's name; clients that collide share their share
    pub(super) client: u64,
    /// how soon
    pub(super) priority: Priority,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubmitError {
    /// the queue is full and the job would not start at once
    #[error("{waiting} requests are waiting, the limit is {limit}")]
    Full {
        /// now
        waiting: usize,
        /// cap
        limit: usize,
    },
    /// a bug of the caller: a job of this id has not ended
    #[error("request {0} was submitted twice")]
    Twice(RequestId),
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// not started, no pages
    Waiting,
    /// in the step
    Running,
    /// started, no place in the step
    Parked,
}

/// What [`Scheduler::admit`] decided: one job has a place from now on, and perhaps another lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// from the queue; its pages were reserved
    Started {
        /// it
        id: RequestId,
        /// the one that was parked for it
        parked: Option<RequestId>,
    },
    /// from being parked; perhaps in the place of background work, where it has aged
    Resumed {
        /// it
        id: RequestId,
        /// the one that was parked for it
        parked: Option<RequestId>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    job: Job,
    /// index in the table of clients
    client: usize,
    /// jobs submitted before
    arrival: u64,
    /// its turn had come, its pages were not free
    due: bool,
    /// its rank since it started
    rank: Option<Priority>,
    /// [`Scheduler::total`] when it came or was parked; none while it runs
    idle: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    /// hash
    name: u64,
    /// live ones
    jobs: usize,
    /// tokens, the older ones discounted
    service: u64,
    /// starts of all clients up to its last one
    turn: u64,
    /// one of its jobs started as urgent, and has not ended
    urgent: bool,
    /// [`Scheduler::share`] at which what its urgent ones were served will have been its share
    paid: u64,
}

/// A place in the step.
#[derive(Clone, Copy)]
enum Place {
    Free,
    /// of a running one (its index) that is parked for it
    Of(usize),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Scheduler {
    max_streams: usize,
    queue: usize,
    /// by arrival
    waiting: Vec<Entry, WAITING_MAX>,
    running: Vec<Entry, STREAMS_MAX>,
    parked: Vec<Entry, PARKED_MAX>,
    clients: Vec<Client, CLIENTS_MAX>,
    arrivals: u64,
    starts: u64,
    /// service of the least served client that runs, or of the last that ran
    level: u64,
    /// tokens served since the last halving
    recent: u64,
    /// tokens served, ever
    total: u64,
    /// what has been the equal share of a client that always wants something, in [`PARTS`]
    share: u64,
}

impl Scheduler {
    /// `max_streams` places (1 to [`STREAMS_MAX`]) and a queue of `queue` (to [`QUEUE_MAX`]).
    #[must_use]
    pub(super) fn new(max_streams: usize, queue: usize) -> Self {
        Self {
            max_streams: max_streams.clamp(1, STREAMS_MAX),
            queue: queue.min(QUEUE_MAX),
            waiting: Vec::new(),
            running: Vec::new(),
            parked: Vec::new(),
            clients: Vec::new(),
            arrivals: 0,
            starts: 0,
            level: 0,
            recent: 0,
            total: 0,
            share: 0,
        }
    }

    /// From now on so many places, at most [`STREAMS_MAX`]: who runs beyond them goes on, and nobody takes a place that
    /// becomes free until there are fewer.
    pub(super) fn limit(&mut self, max_streams: usize) {
        self.max_streams = max_streams.clamp(1, STREAMS_MAX);
    }

    /// Takes a job into the queue; gives the number of those before it, as things stand: the waiting whose turn comes
    /// sooner, and all others that do not yield to it. Beyond the limit of the queue it takes those who start at once,
    /// if their pages are free: so an urgent one is not refused for the background work that waits.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing has changed.
    pub(super) fn submit(&mut self, job: Job) -> Result<usize, SubmitError> {
        if self.entries().any(|e| e.job.id == job.id) {
            return Err(SubmitError::Twice(job.id));
        }
        let waiting = self.waiting.len();
        let over = waiting >= self.queue;
        if over && (waiting >= self.queue + self.max_streams || !self.starts_at_once(job)) {
            return Err(SubmitError::Full {
                waiting,
                limit: self.queue,
            });
        }
        let client = self.client(job.client);
        let entry = Entry {
            job,
            client,
            arrival: self.arrivals,
            due: false,
            rank: None,
            idle: Some(self.total),
        };
        put(&mut self.waiting, entry);
        self.clients[client].jobs += 1;
        self.arrivals += 1;
        let (turn, rank) = (self.turn(&entry), self.rank(&entry));
        let ahead = self.waiting.iter().filter(|e| self.turn(e) < turn);
        let started = self.running.iter().chain(&self.parked);
        Ok(ahead.count() + started.filter(|e| self.rank(e) >= rank).count())
    }

    /// Forgets a job that has ended, in whatever state; `None`: unknown.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<State> {
        let at = |entries: &[Entry]| entries.iter().position(|e| e.job.id == id);
        let (entry, state) = if let Some(i) = at(&self.running) {
            (self.running.remove(i), State::Running)
        } else if let Some(i) = at(&self.waiting) {
            (self.waiting.remove(i), State::Waiting)
        } else {
            (self.parked.remove(at(&self.parked)?), State::Parked)
        };
        let client = &mut self.clients[entry.client];
        client.jobs -= 1;
        client.urgent &= entry.rank != Some(Priority::Urgent);
        Some(state)
    }

    /// In the step, at most `max_streams`.
    pub(super) fn running(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.running.iter().map(|e| e.job.id)
    }

    /// In the queue, by arrival.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.waiting.iter().map(|e| e.job.id)
    }

    /// Without a place, at most [`PARKED_MAX`].
    pub(super) fn parked(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.parked.iter().map(|e| e.job.id)
    }

    /// Gives a place to the one whose turn it is; to be repeated until `None`, before every step. `reserve` is asked at
    /// most once a call, for a waiting job that has a place: true reserves all its pages, and then it has started. When
    /// it is false nobody of the same or a lower rank starts; but a parked one may resume, because its end is what
    /// frees pages. One that could not have its pages even alone must not be submitted: it would keep its turn for
    /// ever.
    pub(super) fn admit(&mut self, reserve: &mut dyn FnMut(RequestId) -> bool) -> Option<Admitted> {
        let parked = self.first(&self.parked);
        if let Some((index, rank)) = self.first(&self.waiting)
            && parked.is_none_or(|(_, parked)| parked < rank)
            && let Some(place) = self.place(rank)
        {
            let id = self.waiting[index].job.id;
            self.waiting[index].due = !reserve(id);
            if !self.waiting[index].due {
                let entry = self.waiting.remove(index);
                self.starts += 1;
                let client = &mut self.clients[entry.client];
                client.turn = self.starts;
                client.urgent |= rank == Priority::Urgent;
                let parked = self.run(entry, rank, place);
                return Some(Admitted::Started { id, parked });
            }
        }
        let (index, rank) = parked?;
        let place = self.place(rank)?;
        let entry = self.parked.remove(index);
        let parked = self.run(entry, rank, place);
        Some(Admitted::Resumed {
            id: entry.job.id,
            parked,
        })
    }

    /// Gives it the place; who was parked for it.
    fn run(&mut self, mut entry: Entry, rank: Priority, place: Place) -> Option<RequestId> {
        let parked = match place {
            Place::Free => None,
            Place::Of(index) => {
                let mut yields = self.running.remove(index);
                yields.idle = Some(self.total);
                put(&mut self.parked, yields);
                Some(yields.job.id)
            }
        };
        (entry.rank, entry.idle) = (Some(rank), None);
        put(&mut self.running, entry);
        parked
    }

    /// The next step: who is in it, with how many tokens. Each one that decodes has 1; of those whose prompt is not yet
    /// in the cache, one has a part of it: the highest rank, then the client that was served least of late, then the one
    /// that came first. `remaining`: prompt
    /// tokens to go, 0 when it decodes. Empty only when nobody runs.
    pub(super) fn step(
        &self,
        remaining: &dyn Fn(RequestId) -> usize,
    ) -> Vec<(RequestId, usize), STREAMS_MAX> {
        let mut step = Vec::new();
        for entry in self.running.iter().filter(|e| remaining(e.job.id) == 0) {
            put(&mut step, (entry.job.id, 1));
        }
        let prompts = self.running.iter().filter(|e| remaining(e.job.id) > 0);
        if let Some(entry) = prompts.min_by_key(|e| {
            let service = self.clients[e.client].service;
            (Reverse(e.rank), service, e.arrival)
        }) {
            let room = match step.len() {
                0 => PREFILL_ALONE,
                decoding => STEP_BESIDE.saturating_sub(decoding).max(PREFILL_BESIDE),
            };
            let id = entry.job.id;
            put(&mut step, (id, remaining(id).min(room)));
        }
        step
    }

    /// A job was served so many tokens: they count for its client's share. To be told before it is removed; unknown
    /// jobs are left out.
    pub(super) fn served(&mut self, id: RequestId, tokens: usize) {
        let Some(&Entry { client, rank, .. }) = self.entries().find(|e| e.job.id == id) else {
            return;
        };
        let tokens = tokens as u64;
        let clients = self.clients.iter().filter(|c| c.jobs > 0).count() as u64;
        let client = &mut self.clients[client];
        if rank == Some(Priority::Urgent) {
            client.paid = client.paid.max(self.share) + tokens * PARTS;
        }
        self.share += tokens * PARTS / clients.max(1);
        client.service += tokens;
        self.recent += tokens;
        self.total += tokens;
        if self.recent >= SHARE_TOKENS {
            self.recent = 0;
            self.clients.iter_mut().for_each(|c| c.service /= 2);
            self.level /= 2;
        }
        let running = self.running.iter().map(|e| self.clients[e.client].service);
        self.level = running.min().unwrap_or(self.level);
    }

    /// Work beside the steps that is worth so many tokens counts for a client's share too.
    pub(super) fn charge(&mut self, client: u64, tokens: u64) {
        if tokens > 0 {
            let client = self.client(client);
            self.clients[client].service += tokens;
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.running.iter().chain(&self.waiting).chain(&self.parked)
    }

    /// As the module's head has it.
    fn rank(&self, entry: &Entry) -> Priority {
        let aged = entry.idle.is_some_and(|at| self.total - at >= AGE_TOKENS);
        match entry.rank.unwrap_or(entry.job.priority) {
            Priority::Urgent if entry.rank.is_none() && !self.may_press(entry.client) => {
                Priority::Normal
            }
            Priority::Background if aged => Priority::Normal,
            rank => rank,
        }
    }

    /// May a waiting one of this client rank as urgent?
    fn may_press(&self, client: usize) -> bool {
        let Client { paid, urgent, .. } = self.clients[client];
        !urgent && paid <= self.share + URGENT_TOKENS * PARTS
    }

    /// Smaller goes first.
    fn turn(&self, entry: &Entry) -> impl Ord + use<> {
        let client = &self.clients[entry.client];
        (
            Reverse(self.rank(entry)),
            !entry.due,
            client.service,
            client.turn,
            entry.arrival,
        )
    }

    /// The one whose turn it is, and its rank.
    fn first(&self, entries: &[Entry]) -> Option<(usize, Priority)> {
        let index = (0..entries.len()).min_by_key(|&i| self.turn(&entries[i]))?;
        Some((index, self.rank(&entries[index])))
    }

    /// A place for one of this rank. Who yields is the lowest, of the client that was served most, and the one that came
    /// last.
    fn place(&self, rank: Priority) -> Option<Place> {
        if self.running.len() < self.max_streams {
            return Some(Place::Free);
        }
        let yields = (0..self.running.len()).min_by_key(|&i| {
            let entry = &self.running[i];
            let service = self.clients[entry.client].service;
            (entry.rank, Reverse(service), Reverse(entry.arrival))
        })?;
        (self.running[yields].rank < Some(rank)).then_some(Place::Of(yields))
    }

    /// Would a new one be in the next step, if its pages are free?
    fn starts_at_once(&self, job: Job) -> bool {
        let urgent_before = |client: u64, waiting: &[Entry]| {
            let urgent = |e: &Entry| e.job.priority == Priority::Urgent;
            waiting.iter().any(|e| e.job.client == client && urgent(e))
        };
        let known = self.clients.iter().position(|c| c.name == job.client);
        let rank = match job.priority {
            Priority::Urgent
                if urgent_before(job.client, &self.waiting)
                    || known.is_some_and(|client| !self.may_press(client)) =>
            {
                Priority::Normal
            }
            priority => priority,
        };
        let yield_to_it = self.running.iter().filter(|e| e.rank < Some(rank)).count();
        let places = self.max_streams.saturating_sub(self.running.len()) + yield_to_it;
        let before = |e: &Entry| self.rank(e) >= rank;
        let waiting = self.waiting.iter().enumerate().filter(|(i, e)| {
            // only the first of a client will be urgent
            let second = || urgent_before(e.job.client, &self.waiting[..*i]);
            before(e) && !(rank == Priority::Urgent && second())
        });
        waiting.count() + self.parked.iter().filter(|e| before(e)).count() < places
    }

    /// The client's index, made if need be; in a full table the absent one that was served least is forgotten. Who
    /// comes back starts level with those that run: the time without a request earns no credit.
    fn client(&mut self, name: u64) -> usize {
        let new = Client {
            name,
            jobs: 0,
            service: 0,
            turn: 0,
            urgent: false,
            paid: 0,
        };
        let known = self.clients.iter().position(|c| c.name == name);
        let index = known.unwrap_or_else(|| {
            if self.clients.push(new).is_ok() {
                return self.clients.len() - 1;
            }
            let index = (0..CLIENTS_MAX)
                .min_by_key(|&i| (self.clients[i].jobs, self.clients[i].service))
                .unwrap_or(0);
            self.clients[index] = new;
            index
        });
        let client = &mut self.clients[index];
        if client.jobs == 0 {
            client.service = client.service.max(self.level);
        }
        index
    }
}

/// Its room was asked for before.
fn put<T, const N: usize>(list: &mut Vec<T, N>, item: T) {
    let pushed = list.push(item);
    debug_assert!(pushed.is_ok(), "a bound of the scheduler is wrong");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
