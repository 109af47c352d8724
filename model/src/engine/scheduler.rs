//! Decides who runs, who waits, who is parked, and what the next step computes. It is a pure state machine: it knows
//! requests by their numbers, reads no clock and holds no pages. The engine tells it what happened and does what it says.
//! One file, because it is one machine: each rule reads the fields that the others write.
//!
//! # Who goes first
//! 1. The request of the higher rank.
//! 2. Of the same rank, a parked one, because it holds its pages already.
//! 3. Then the one that was first before and could not get its pages. It stays first, so that small requests cannot starve a
//!    large one of pages.
//! 4. Then the one whose client was served least of late ([`SHARE_TOKENS`]), and of those the one whose client last started
//!    a request longest ago.
//! 5. Then the one that came first.
//!
//! When all places in the step are taken, a running request of a lower rank is parked: it loses its place and keeps its
//! progress and its pages.
//!
//! Of the running requests whose prompts are not yet in the cache, one has a chunk of its prompt in each step. Which one it
//! is follows rank and share as well, so that a short prompt does not wait for all of a long one.
//!
//! # Rank
//! The rank is the priority that was asked for, as far as the shares of the other clients allow. It is settled at the start:
//! - A client has one urgent request at a time, and only while its urgent requests were served at most [`URGENT_TOKENS`]
//!   more than its equal share of all tokens served meanwhile. Its other urgent requests rank as normal. So nobody can use
//!   urgency to be served more than its share for long, or to keep another client's urgent requests out.
//! - Background work that had no place for [`AGE_TOKENS`] ranks as normal.

use super::request::{Priority, RequestId};
use glowplug_firmware_config::limits::{CHUNK_TOKENS, QUEUE_MAX, STEP_TOKENS, STREAMS_MAX};
use heapless::Vec;
use std::cmp::Reverse;

/// Most parked requests. A request starts only when no parked one has its rank. So once it has started, all started
/// requests of its rank are running, and these are at most as many as the places. Hence of each of the three ranks at most
/// that many have started at any time. (A request that ages while parked keeps others from starting and adds none.) A
/// request is parked only for one that takes its place, so of three times the places one third runs.
pub(super) const PARKED_MAX: usize = 2 * STREAMS_MAX;

/// Prompt tokens in a step in which no request decodes.
pub(super) const PREFILL_ALONE: usize = CHUNK_TOKENS;

/// Prompt tokens in a step of the only request there is, where [`Scheduler::widen`] allows it. Weights are unpacked half as often
/// for them: 1.11 times as many tokens a second (the 1.5B on two AVX-512 cores of a Zen 5), and 1.03 times that with 256.
pub(super) const PREFILL_WIDE: usize = STEP_TOKENS;

/// Tokens in a step in which some request decodes, so that the gap between two tokens of a running stream stays below 2.5
/// times its median. Measured with the 1.5B on two AVX-512 cores: a step of one token takes 82 ms, of 8 tokens 145 ms, of 16
/// tokens 186 ms and up to 232 ms.
pub(super) const STEP_BESIDE: usize = 8;

/// At least so many tokens of such a step are of a prompt, however many requests decode, so that the prompt makes headway.
pub(super) const PREFILL_BESIDE: usize = 4;

/// The tokens that a running job is to be fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// so many of its prompt, at least one
    Prompt(usize),
    /// so many of its answer, at least one: the token that was drawn last, and what a format forces behind it
    Answer(usize),
}

/// After so many tokens, everything that was served before counts half.
pub(super) const SHARE_TOKENS: u64 = 8192;

/// How far beyond its share urgent work may bring a client. It is enough for a few spoken questions with their answers.
pub(super) const URGENT_TOKENS: u64 = 512;

/// Background work that waits or is parked ranks as normal after so many tokens were served: some minutes.
pub(super) const AGE_TOKENS: u64 = 8192;

const _: () = assert!(STREAMS_MAX + PREFILL_BESIDE <= PREFILL_ALONE);

/// Shares are counted in these parts of a token.
const PARTS: u64 = 1 << 16;

/// Requests that may wait: a full queue, and those that start at once.
const WAITING_MAX: usize = QUEUE_MAX + STREAMS_MAX;

/// Clients whose service is remembered.
const CLIENTS_MAX: usize = 2 * QUEUE_MAX;

// so only clients without a request are ever forgotten
const _: () = assert!(CLIENTS_MAX > WAITING_MAX + STREAMS_MAX + PARKED_MAX);

/// What the scheduler knows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    /// unique among the jobs that have not ended
    pub(super) id: RequestId,
    /// hash of the client's name; clients that collide have one share together
    pub(super) client: u64,
    pub(super) priority: Priority,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubmitError {
    /// the queue is full and the job would not start at once
    #[error("{waiting} requests are waiting, the limit is {limit}")]
    Full { waiting: usize, limit: usize },
    /// a bug of the caller: a job of this id has not ended
    #[error("request {0} was submitted twice")]
    Twice(RequestId),
}

/// The state of a job that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobState {
    /// it has not started and has no pages
    Waiting,
    /// it has a place in the step
    Running,
    /// it has started and has no place in the step
    Parked,
}

/// What [`Scheduler::admit`] decided: one job has a place from now on, and another may have lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// a waiting job whose pages were reserved, and the job that was parked for it
    Started {
        id: RequestId,
        parked: Option<RequestId>,
    },
    /// a parked job, and the job that was parked for it: background work, where the parked job has aged
    Resumed {
        id: RequestId,
        parked: Option<RequestId>,
    },
}

/// A job that has not ended.
#[derive(Debug, Clone, Copy)]
struct Entry {
    job: Job,
    /// index in the table of clients
    client: usize,
    /// number of jobs submitted before it
    arrival: u64,
    /// it was first once and could not get its pages
    due: bool,
    /// its rank, once it has started
    rank: Option<Priority>,
    /// [`Scheduler::total`] when it came or was parked; none while it runs
    idle: Option<u64>,
}

/// A client whose service is remembered.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// hash of its name
    name: u64,
    /// jobs that have not ended
    jobs: usize,
    /// tokens it was served, older ones discounted
    service: u64,
    /// number of starts of all clients up to its last one
    last_start: u64,
    /// whether one of its jobs started as urgent and has not ended
    urgent: bool,
    /// value of [`Scheduler::share`] at which all that its urgent jobs were served is no more than its share
    paid: u64,
}

/// A place in the step.
#[derive(Clone, Copy)]
enum Place {
    Free,
    /// the place of the running job of this index, which is parked for it
    Of(usize),
}

/// The queue, the running and the parked requests, and the shares of their clients.
#[derive(Debug)]
pub(super) struct Scheduler {
    max_streams: usize,
    queue: usize,
    /// whether the only request there is may have wide chunks
    wide: bool,
    /// in the order of arrival
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
    /// tokens served since the beginning
    total: u64,
    /// tokens that an equal share would have given a client that always had a request, in [`PARTS`]
    share: u64,
}

impl Scheduler {
    /// A scheduler with `max_streams` places (1 to [`STREAMS_MAX`]) and a queue of `queue` requests (up to [`QUEUE_MAX`]).
    #[must_use]
    pub(super) fn new(max_streams: usize, queue: usize) -> Self {
        Self {
            max_streams: max_streams.clamp(1, STREAMS_MAX),
            queue: queue.min(QUEUE_MAX),
            wide: false,
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

    /// Sets the number of places, at most [`STREAMS_MAX`]. Jobs that run beyond them go on, and none of their places is given
    /// away when they end.
    pub(super) fn limit(&mut self, max_streams: usize) {
        self.max_streams = max_streams.clamp(1, STREAMS_MAX);
    }

    /// Says whether the prompt of the only request there is comes in chunks of [`PREFILL_WIDE`] tokens: who comes meanwhile waits
    /// longer for its first step.
    pub(super) fn widen(&mut self, wide: bool) {
        self.wide = wide;
    }

    /// Takes a job into the queue and gives the number of jobs before it as things stand: the waiting ones that go first, and
    /// the started ones that do not yield to it. When the queue is full it still takes a job that starts at once if its pages
    /// are free, so that an urgent job is not refused because background work waits.
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
        let (order, rank) = (self.order(&entry), self.rank(&entry));
        let ahead = self.waiting.iter().filter(|e| self.order(e) < order);
        let started = self.running.iter().chain(&self.parked);
        Ok(ahead.count() + started.filter(|e| self.rank(e) >= rank).count())
    }

    /// Forgets a job that has ended and gives the state that it was in; none if it is not known.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<JobState> {
        let at = |entries: &[Entry]| entries.iter().position(|e| e.job.id == id);
        let (entry, state) = if let Some(i) = at(&self.running) {
            (self.running.remove(i), JobState::Running)
        } else if let Some(i) = at(&self.waiting) {
            (self.waiting.remove(i), JobState::Waiting)
        } else {
            (self.parked.remove(at(&self.parked)?), JobState::Parked)
        };
        let client = &mut self.clients[entry.client];
        client.jobs -= 1;
        client.urgent &= entry.rank != Some(Priority::Urgent);
        Some(state)
    }

    /// The jobs that have a place in the step.
    pub(super) fn running(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.running.iter().map(|e| e.job.id)
    }

    /// The jobs in the queue, in the order of arrival.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.waiting.iter().map(|e| e.job.id)
    }

    /// The jobs that were parked, at most [`PARKED_MAX`].
    pub(super) fn parked(&self) -> impl ExactSizeIterator<Item = RequestId> {
        self.parked.iter().map(|e| e.job.id)
    }

    /// Gives a place to the job that goes first. The caller repeats this before every step until it gives none. `reserve` is
    /// asked at most once in a call, for a waiting job that has a place: if it gives true, all pages of the job are reserved
    /// and the job has started. If it gives false, no job of the same or a lower rank starts; but a parked one may resume,
    /// because its end frees pages. A job that could not have its pages even alone must not be submitted: it would stay
    /// first for ever.
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
                client.last_start = self.starts;
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

    /// Gives the entry its place. Returns the job that was parked for it.
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

    /// The jobs of the next step, each with its number of tokens. A job that decodes has one token. Of those whose prompt is
    /// not yet in the cache, one has a part of it: the one of the highest rank, then of the client that was served least of
    /// late, then the one that came first. Where there is no prompt, the room of one is for the answer that has more than one
    /// token due, of several the one that started first: so a step has at most one job of many tokens. The step is empty only
    /// when no job runs.
    pub(super) fn step(
        &self,
        due: &dyn Fn(RequestId) -> Due,
    ) -> Vec<(RequestId, usize), STREAMS_MAX> {
        let (mut step, mut stretch) = (Vec::new(), None);
        for entry in &self.running {
            if let Due::Answer(tokens) = due(entry.job.id) {
                if tokens > 1 && stretch.is_none() {
                    stretch = Some((step.len(), tokens));
                }
                put(&mut step, (entry.job.id, 1));
            }
        }
        let prompts = self.running.iter().filter_map(|e| match due(e.job.id) {
            Due::Prompt(tokens) => Some((e, tokens)),
            Due::Answer(_) => None,
        });
        let prompt = prompts.min_by_key(|(e, _)| {
            let service = self.clients[e.client].service;
            (Reverse(e.rank), service, e.arrival)
        });
        if let Some((entry, tokens)) = prompt {
            let id = entry.job.id;
            let room = match step.len() {
                0 if self.wide && self.entries().count() == 1 => PREFILL_WIDE,
                0 => PREFILL_ALONE,
                decoding => STEP_BESIDE.saturating_sub(decoding).max(PREFILL_BESIDE),
            };
            put(&mut step, (id, tokens.min(room)));
        } else if let Some((at, tokens)) = stretch {
            let room = match step.len() {
                1 => PREFILL_ALONE,
                decoding => STEP_BESIDE.saturating_sub(decoding - 1).max(1),
            };
            step[at].1 = tokens.min(room);
        }
        step
    }

    /// Counts the tokens that a job was served for its client's share. This must be called before the job is removed; an
    /// unknown job counts for nobody.
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

    /// Counts work outside of the steps, worth so many tokens, for a client's share.
    pub(super) fn charge(&mut self, client: u64, tokens: u64) {
        if tokens > 0 {
            let client = self.client(client);
            self.clients[client].service += tokens;
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.running.iter().chain(&self.waiting).chain(&self.parked)
    }

    /// The rank of a job, by the rules at the head of this file.
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

    /// Whether a waiting job of this client may rank as urgent.
    fn may_press(&self, client: usize) -> bool {
        let Client { paid, urgent, .. } = self.clients[client];
        !urgent && paid <= self.share + URGENT_TOKENS * PARTS
    }

    /// The order of waiting or parked jobs: the smallest goes first.
    fn order(&self, entry: &Entry) -> impl Ord + use<> {
        let client = &self.clients[entry.client];
        (
            Reverse(self.rank(entry)),
            !entry.due,
            client.service,
            client.last_start,
            entry.arrival,
        )
    }

    /// The index of the job that goes first, and its rank.
    fn first(&self, entries: &[Entry]) -> Option<(usize, Priority)> {
        let index = (0..entries.len()).min_by_key(|&i| self.order(&entries[i]))?;
        Some((index, self.rank(&entries[index])))
    }

    /// A place for a job of this rank. If none is free, the job of the lowest rank yields; of several the one whose client
    /// was served most, and then the one that came last.
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

    /// Whether a new job would be in the next step if its pages are free.
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
            // only the first urgent job of a client will rank as urgent
            let second = || urgent_before(e.job.client, &self.waiting[..*i]);
            before(e) && !(rank == Priority::Urgent && second())
        });
        waiting.count() + self.parked.iter().filter(|e| before(e)).count() < places
    }

    /// The index of a client in the table, where it is entered if it is new. In a full table the client without a job that was
    /// served least is forgotten. A client that comes back starts level with those that run: the time without a request earns
    /// it no credit.
    fn client(&mut self, name: u64) -> usize {
        let new = Client {
            name,
            jobs: 0,
            service: 0,
            last_start: 0,
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

/// Appends to a list that the caller knows to have room.
fn put<T, const N: usize>(list: &mut Vec<T, N>, item: T) {
    let pushed = list.push(item);
    debug_assert!(pushed.is_ok(), "a bound of the scheduler is wrong");
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
