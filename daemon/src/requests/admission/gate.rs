//! Which requests are let in, and when the others may come again.

use std::time::Instant;

use glowplug_model::engine::Outcome;

use super::{Admission, Live, Phase};
use crate::pool::membership::Places;
use crate::wire::fault::{Code, Fault};

/// When a client may come again while the model loads.
const LOADING_RETRY_MS: u64 = 1000;
/// How long a request is taken to last before one was observed.
const SERVICE_GUESS_MS: f64 = 2000.0;
/// The shortest time that a client is told to wait.
pub(super) const RETRY_MIN_MS: u64 = 250;

/// How many requests of one client may wait in an otherwise empty queue: as many as it leaves free. Where others wait
/// it is fewer, so that the last free place is always for a client that has none.
#[must_use]
pub fn share(queue: usize) -> usize {
    queue.div_ceil(2)
}

impl Admission {
    /// How many requests may wait, and how many are answered at a time.
    fn bounds(&self) -> (usize, usize) {
        if self.strained {
            (share(self.queue), 1)
        } else {
            (self.queue, self.streams)
        }
    }

    /// Whether the broker may still give us requests of the pool. A daemon that drains takes them until it may not.
    pub fn in_pool(&mut self, in_pool: bool) {
        self.in_pool = in_pool;
    }

    /// How many more requests can be accepted, and how many in all. `room` is how many last frames the outbox can take.
    #[must_use]
    pub fn places(&self, room: usize) -> Places {
        let (queue, streams) = self.bounds();
        let free = (queue + streams).saturating_sub(self.live.len());
        Places {
            free: free.min(room.saturating_sub(self.outstanding())),
            all: queue + streams,
        }
    }

    /// Why a request of this client cannot be accepted now.
    pub(super) fn objection(
        &self,
        now: Instant,
        room: usize,
        client: &str,
        late: bool,
        pooled: bool,
    ) -> Option<Fault> {
        match self.closed() {
            // who sent it could not know, and the broker takes us out of the group at this moment
            Some(_) if self.phase == Phase::Draining && pooled && self.in_pool => {}
            // another daemon may take it
            Some(fault) if pooled && fault.retry_after_ms.is_none() => {
                return Some(fault.retry_after(RETRY_MIN_MS));
            }
            closed @ Some(_) => return closed,
            None => {}
        }
        let overloaded = |why: String| {
            Fault::new(Code::Overloaded, why).retry_after(self.retry_after_ms(now, 0))
        };
        let (queue, streams) = self.bounds();
        if self.live.len() >= queue + streams {
            return Some(overloaded(format!(
                "{} requests are waiting, the limit is {queue}",
                self.live.len() - streams,
            )));
        }
        if room <= self.outstanding() {
            return Some(overloaded(
                "replies are not being taken by the broker".to_owned(),
            ));
        }
        // what the free streams are about to take does not count as waiting
        let free = streams.saturating_sub(self.started());
        let waiting = || self.live.values().filter(|l| !l.has_started());
        let own = waiting().skip(free).filter(|l| *l.client == *client);
        let (own, left) = (own.count(), queue + free - waiting().count());
        if own >= left {
            let before = waiting().take_while(|l| *l.client != *client).count();
            let why = format!(
                "{own} requests of this client are waiting, and {left} places are left for all"
            );
            return Some(
                Fault::new(Code::RateLimited, why).retry_after(self.retry_after_ms(now, before)),
            );
        }
        late.then(|| Fault::new(Code::DeadlineExceeded, "the deadline had passed on arrival"))
    }

    /// Why nothing at all can be accepted, if so.
    pub(super) fn closed(&self) -> Option<Fault> {
        match self.phase {
            Phase::Starting => Some(
                Fault::new(Code::ModelLoading, "the model is being loaded")
                    .retry_after(LOADING_RETRY_MS),
            ),
            Phase::Draining => Some(Fault::new(
                Code::Draining,
                "the daemon takes no more requests",
            )),
            Phase::Online => None,
        }
    }

    /// Follows how long turns take; the last few count most.
    pub(super) fn observe(&mut self, now: Instant, live: &Live, outcome: &Outcome) {
        if let Some(started) = live.stream.started() {
            self.counters.prompt_tokens += u64::from(outcome.prompt_tokens);
            self.counters.prefix_hit_tokens += u64::from(outcome.cached_tokens);
            if live.rounds.is_some() {
                // its turns were as long as its tools took
                return;
            }
            let took = now.saturating_duration_since(started).as_secs_f64() * 1e3;
            self.service_ms = Some(self.service_ms.map_or(took, |ms| ms + (took - ms) / 5.0));
        }
    }

    /// When a place will be free for one with `before` others before it, judged by how long turns took. The next to
    /// leave is the oldest that is not overdue; after it one leaves in every stream's share of a turn. What is overdue
    /// (parked, or longer than most) says nothing about the next.
    fn retry_after_ms(&self, now: Instant, before: usize) -> u64 {
        let service = self.service_ms.unwrap_or(SERVICE_GUESS_MS);
        let pace = service / self.bounds().1.max(1) as f64;
        let next = self
            .live
            .values()
            .filter_map(|l| l.stream.started())
            .map(|at| service - now.saturating_duration_since(at).as_secs_f64() * 1e3)
            .filter(|left| *left > 0.0)
            .min_by(f64::total_cmp);
        let first = next.unwrap_or(if self.started() == 0 { service } else { pace });
        ((first + before as f64 * pace) as u64).max(RETRY_MIN_MS)
    }
}
