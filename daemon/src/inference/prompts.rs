//! The thread on which prompts are rendered and tokenised, so that a long one takes no time from the steps of the
//! others. Requests take turns for it by start-time fair queueing: each client's requests follow one another by the
//! amount of their text, so that a flood of long ones delays only itself. A session's history is gathered when its turn
//! has come, and so few prompts are under way at a time that a short one does not wait behind many.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use glowplug_firmware_config::limits::{QUEUE_MAX, STREAMS_MAX};
use glowplug_model::engine::{Priority, PromptBuilder, PromptJob, Refusal, Request, RequestId};

use super::messages::Command;

/// Prompts that may be under way: one that is being prepared, and the next.
pub(super) const AHEAD: usize = 2;
/// Most requests that wait for their turn; admission lets in no more.
const WAITING_MAX: usize = QUEUE_MAX + STREAMS_MAX;
/// Most clients whose last turn is remembered.
const CLIENTS_MAX: usize = 2 * WAITING_MAX;
/// The niceness of the thread: where it and a thread that decodes want the same core, it gets a tenth of it. Under a
/// flood of prompts of 256 KiB, on two cores of a Xeon that others used too, it ran for 3.3 s of 20, and for 7.1 s of 20
/// without this.
const NICE: i32 = 10;
/// So many bytes of text cost as much as a request by itself.
const BYTES_A_UNIT: usize = 1 << 10;
/// What compiling the schemas of a request costs besides: as much as reading 64 KiB of text.
const COMPILING: u64 = 64;

/// Starts the thread, which ends when nobody can send jobs any more.
pub(super) fn start(
    builder: PromptBuilder,
    results: Weak<SyncSender<Command>>,
) -> io::Result<(SyncSender<PromptJob>, JoinHandle<()>)> {
    let (jobs, inbox) = sync_channel::<PromptJob>(AHEAD);
    let thread = std::thread::Builder::new()
        .name("prompts".to_owned())
        .spawn(move || {
            // on Linux of this thread alone; where it is not allowed, prompts only cost the streams more
            let _ = rustix::process::nice(NICE);
            for job in inbox {
                let id = job.id();
                let prepared = catch_unwind(AssertUnwindSafe(|| builder.prepare(job))).ok();
                let result = Command::Prepared(id, prepared.map(Box::new));
                let sent = results.upgrade().map(|results| results.try_send(result));
                if !matches!(sent, Some(Ok(()))) {
                    // there is always room for these results among the commands, so nobody needs the engine any more
                    return;
                }
            }
        })?;
    Ok((jobs, thread))
}

/// A request that waits for its prompt to be prepared.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Box<Request>,
    /// When its turn begins, on the clock of the queue.
    start: u64,
    cost: u64,
}

/// The requests that wait for the thread, and how many are with it.
#[derive(Debug)]
pub(super) struct Prompts {
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    /// When each client's last request will have had its turn, if that is still to come.
    paid: BTreeMap<Arc<str>, u64>,
    /// When the last turn was due.
    clock: u64,
    turns: u64,
    under_way: usize,
    jobs: SyncSender<PromptJob>,
}

impl Prompts {
    pub(super) fn new(jobs: SyncSender<PromptJob>) -> Self {
        Self {
            waiting: Vec::new(),
            paid: BTreeMap::new(),
            clock: 0,
            turns: 0,
            under_way: 0,
            jobs,
        }
    }

    pub(super) fn push(&mut self, id: RequestId, request: Box<Request>) -> Result<(), Refusal> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(Refusal::Overloaded {
                queued: self.waiting.len(),
                limit: WAITING_MAX,
            });
        }
        let compiling = u64::from(request.compiles()) * COMPILING;
        let cost = 1 + (request.bytes() / BYTES_A_UNIT) as u64 + compiling;
        let paid = self.paid.entry(request.client.clone()).or_default();
        let start = self.clock.max(*paid);
        *paid = start + cost;
        self.waiting.push(Waiting {
            id,
            request,
            start,
            cost,
        });
        self.forget_clients();
        Ok(())
    }

    /// Removes a request whose turn has not come. False: it is not here.
    pub(super) fn remove(&mut self, id: RequestId) -> bool {
        let Some(at) = self.waiting.iter().position(|w| w.id == id) else {
            return false;
        };
        let gone = self.waiting.remove(at);
        // later ones of its client need not wait for what will not be done
        for later in &mut self.waiting[at..] {
            if later.request.client == gone.request.client {
                later.start -= gone.cost;
            }
        }
        if let Some(paid) = self.paid.get_mut(&gone.request.client) {
            *paid -= gone.cost;
        }
        true
    }

    /// Whether a request of this session waits.
    pub(super) fn has_session(&self, client: &str, session: &str) -> bool {
        self.waiting
            .iter()
            .any(|w| *w.request.client == *client && w.request.session.as_deref() == Some(session))
    }

    /// The request whose turn it is, if there is room under way. In every second turn the higher priority goes first:
    /// so an urgent request waits for one other, and no client can keep the others out by urgency.
    pub(super) fn next(&mut self) -> Option<(RequestId, Box<Request>)> {
        if self.under_way >= AHEAD {
            return None;
        }
        let by_priority = self.turns.is_multiple_of(2);
        let rank = |w: &Waiting| by_priority.then_some(w.request.priority);
        let (at, _) =
            (self.waiting.iter().enumerate()).min_by_key(|(_, w)| (Reverse(rank(w)), w.start))?;
        let next = self.waiting.remove(at);
        self.turns += 1;
        self.clock = self.clock.max(next.start);
        Some((next.id, next.request))
    }

    /// Hands a job to the thread. False: the thread is gone.
    pub(super) fn send(&mut self, job: PromptJob) -> bool {
        let sent = self.jobs.try_send(job).is_ok();
        self.under_way += usize::from(sent);
        sent
    }

    /// A job has come back from the thread.
    pub(super) fn returned(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// Forgets clients that have nothing to wait for: they begin like newcomers. If there are still too many, those
    /// that wait for the least are forgotten too.
    fn forget_clients(&mut self) {
        let clock = self.clock;
        self.paid.retain(|_, paid| *paid > clock);
        while self.paid.len() > CLIENTS_MAX {
            let soonest = self.paid.iter().min_by_key(|(_, paid)| **paid);
            let Some(client) = soonest.map(|(client, _)| client.clone()) else {
                return;
            };
            self.paid.remove(&client);
        }
    }
}

/// Up to this many bytes an urgent prompt is prepared on the inference thread, one between two steps, so that it starts
/// in the next step. 64 times as much takes 25 ms on a server of 2023.
const AT_ONCE_BYTES: usize = 4 << 10;

/// Whether this prompt may be prepared on the inference thread. Schemas are never compiled there.
pub(super) fn at_once(job: &PromptJob) -> bool {
    job.priority() == Priority::Urgent && job.bytes() <= AT_ONCE_BYTES && !job.compiles()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::inference::tests::request;
    use glowplug_model::text::{Message, Role};

    fn prompts() -> Prompts {
        Prompts::new(sync_channel(AHEAD).0)
    }

    fn asked(client: &str, bytes: usize, priority: Priority) -> Box<Request> {
        let mut request = request(client, None);
        request.priority = priority;
        request.messages = vec![Message::new(Role::User, "x".repeat(bytes))];
        request
    }

    /// The clients of the next `n` turns.
    fn turns(prompts: &mut Prompts, n: usize) -> String {
        let client = |_| {
            prompts
                .next()
                .map(|(_, request)| request.client.to_string())
        };
        (0..n).map_while(client).collect()
    }

    #[test]
    fn a_flood_delays_itself() {
        let mut prompts = prompts();
        let mut id = 0;
        let mut push = |prompts: &mut Prompts, client: &str, bytes| {
            id += 1;
            prompts
                .push(id, asked(client, bytes, Priority::Normal))
                .unwrap();
        };
        for _ in 0..10 {
            push(&mut prompts, "f", 256 << 10);
        }
        assert_eq!(turns(&mut prompts, 2), "ff");
        // who comes later and asks for less goes first, as long as it asks for less
        for _ in 0..3 {
            push(&mut prompts, "a", 100);
            push(&mut prompts, "b", 100);
        }
        assert_eq!(turns(&mut prompts, 7), "abababf");
        // two that ask one at a time do not keep the flood out for ever
        let mut order = String::new();
        for _ in 0..700 {
            for client in ["a", "b"] {
                if !prompts.waiting.iter().any(|w| *w.request.client == *client) {
                    push(&mut prompts, client, 1000);
                }
            }
            order += &turns(&mut prompts, 1);
        }
        let flood = order.matches('f').count();
        assert!((1..=3).contains(&flood), "{flood} of 700");
    }

    #[test]
    fn what_is_urgent_waits_for_one_other_and_keeps_nobody_out() {
        let mut prompts = prompts();
        for id in 0..6 {
            prompts.push(id, asked("n", 10, Priority::Normal)).unwrap();
        }
        assert_eq!(turns(&mut prompts, 1), "n");
        for id in 10..20 {
            prompts
                .push(id, asked("u", 10_000, Priority::Urgent))
                .unwrap();
        }
        assert_eq!(turns(&mut prompts, 7), "uununun");
    }

    #[test]
    fn what_is_taken_out_is_not_paid_for() {
        let mut prompts = prompts();
        for id in 0..4 {
            prompts
                .push(id, asked("a", 100 << 10, Priority::Normal))
                .unwrap();
        }
        prompts.push(9, asked("b", 1, Priority::Normal)).unwrap();
        assert!(prompts.remove(0) && prompts.remove(1) && !prompts.remove(1));
        assert!(!prompts.has_session("a", "s"));
        // the third of a is its first now
        assert_eq!(prompts.next().unwrap().0, 2);
        assert_eq!(prompts.next().unwrap().0, 9);
        assert_eq!(prompts.next().unwrap().0, 3);
        assert!(prompts.next().is_none() && prompts.is_idle());
    }

    #[test]
    fn the_queue_and_its_memory_are_bounded() {
        let mut prompts = prompts();
        for id in 0..WAITING_MAX as RequestId {
            let client = format!("c{id}");
            prompts
                .push(id, asked(&client, 1, Priority::Normal))
                .unwrap();
        }
        let refused = prompts.push(999, asked("d", 1, Priority::Normal));
        assert!(matches!(refused, Err(Refusal::Overloaded { .. })));
        for id in 0..4 * CLIENTS_MAX as RequestId {
            prompts.next().unwrap();
            let client = format!("d{id}");
            prompts
                .push(id, asked(&client, 1 << 20, Priority::Normal))
                .unwrap();
        }
        assert!(prompts.paid.len() <= CLIENTS_MAX);
    }
}
