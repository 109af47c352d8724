//! What waits to be sent: one order for everything, but each kind of publication has room of its own that no other kind
//! can take.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use glowplug_firmware_config::limits::CALLS_IN_FLIGHT_MAX;
use tokio::sync::Notify;

use super::{Full, Publication};

/// Bytes of payloads that may wait before no more chunks, refusals and requests are taken. Last frames are always
/// taken: how many there can be was decided when their requests were accepted.
pub const OUTBOX_BYTES: usize = 2 << 20;
/// Refusals to one client that may wait.
const REFUSALS_PER_CLIENT: usize = 8;

/// Whose room a publication takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Ends something that was accepted, or is a request of a client program. Its room is made sure of beforehand.
    Last,
    /// A piece of an answer; the last frame repeats all of them.
    Chunk,
    /// Answers what was not accepted, or a repeated request.
    Refusal,
    /// Answers an administrator's verb.
    Admin,
    /// Calls a tool. It is never sent again on another connection, because the tool may have had it.
    Tool,
    /// Says what tools were called. The log has it too.
    Audit,
    /// Says how the daemon is. A newer one on the same topic replaces one that waits.
    State,
}

/// How many kinds of publication [`Lane`] has.
const LANES: usize = 7;

impl Lane {
    /// How many publications of this lane may wait or be in flight.
    #[must_use]
    pub const fn capacity(self) -> usize {
        match self {
            Self::Last => 320,
            Self::Chunk => 128,
            Self::Refusal => 64,
            Self::Admin => 16,
            // a call may have two numbers on topics of their own before its state
            Self::Tool => 3 * CALLS_IN_FLIGHT_MAX,
            Self::Audit => 2 * CALLS_IN_FLIGHT_MAX,
            Self::State => 8,
        }
    }
}

/// A publication to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub lane: Lane,
    /// The client that hears it, because refusals are bounded for each client.
    pub client: Arc<str>,
    pub message: Publication,
    /// The topic on which its client listens anyway, if the publication goes to another one.
    pub default_topic: Option<String>,
    /// It replaces a publication that the broker refused, and is itself not replaced.
    pub instead: bool,
    /// Who publishes it wants to know by this number when the broker has it.
    pub token: Option<u64>,
}

impl Outgoing {
    /// A publication that is not a reply to a client.
    #[must_use]
    pub fn new(lane: Lane, message: Publication) -> Self {
        Self {
            lane,
            client: "".into(),
            message,
            default_topic: None,
            instead: false,
            token: None,
        }
    }
}

/// What waits, and how many of each lane wait or are in flight.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Outgoing>,
    held: [usize; LANES],
    refusals: HashMap<Arc<str>, usize>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, out: Outgoing) -> Result<(), Full> {
        if out.lane == Lane::State
            && let Some(older) = self
                .waiting
                .iter_mut()
                .find(|o| o.lane == Lane::State && o.message.topic == out.message.topic)
        {
            self.bytes = self.bytes + out.message.payload.len() - older.message.payload.len();
            *older = out;
            return Ok(());
        }
        let room = match out.lane {
            Lane::Last => out.lane.capacity() - self.held[out.lane as usize],
            lane => self.room(lane),
        };
        let of_client = self.refusals.get(&out.client).copied().unwrap_or(0);
        if room == 0 || (out.lane == Lane::Refusal && of_client >= REFUSALS_PER_CLIENT) {
            return Err(Full);
        }
        self.held[out.lane as usize] += 1;
        self.bytes += out.message.payload.len();
        if out.lane == Lane::Refusal {
            self.refusals.insert(out.client.clone(), of_client + 1);
        }
        self.waiting.push_back(out);
        Ok(())
    }

    fn room(&self, lane: Lane) -> usize {
        let long = matches!(lane, Lane::Last | Lane::Chunk | Lane::Refusal);
        if long && self.bytes >= OUTBOX_BYTES {
            return 0;
        }
        lane.capacity() - self.held[lane as usize]
    }

    fn release(&mut self, out: &Outgoing) {
        self.held[out.lane as usize] -= 1;
        self.bytes -= out.message.payload.len();
        if out.lane == Lane::Refusal
            && let Some(n) = self.refusals.get_mut(&out.client)
        {
            *n -= 1;
            if *n == 0 {
                self.refusals.remove(&out.client);
            }
        }
    }
}

/// The queue that the links and the sending task share.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    news: Notify,
    connection: AtomicU64,
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a publication; the order is the same for every lane.
    pub(super) fn push(&self, out: Outgoing) -> Result<(), Full> {
        self.queue().push(out)?;
        self.news.notify_one();
        Ok(())
    }

    /// How many publications of a lane would be taken now.
    pub(super) fn room(&self, lane: Lane) -> usize {
        self.queue().room(lane)
    }

    /// Takes the oldest one. It keeps its room until it is released.
    pub(super) fn pop(&self) -> Option<Outgoing> {
        self.queue().waiting.pop_front()
    }

    /// Gives its room back: the broker has it, or never will.
    pub(super) fn release(&self, out: &Outgoing) {
        self.queue().release(out);
    }

    /// Takes out everything of a lane that waits. It keeps its room until it is released.
    pub(super) fn take(&self, lane: Lane) -> Vec<Outgoing> {
        let mut queue = self.queue();
        let (taken, left) = std::mem::take(&mut queue.waiting)
            .into_iter()
            .partition(|out| out.lane == lane);
        queue.waiting = left;
        let taken: VecDeque<Outgoing> = taken;
        taken.into()
    }

    /// Drops everything that waits.
    pub(super) fn clear(&self) {
        let mut queue = self.queue();
        while let Some(out) = queue.waiting.pop_front() {
            queue.release(&out);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().waiting.is_empty()
    }

    /// How many publications wait or are in flight.
    pub(super) fn held(&self) -> usize {
        self.queue().held.iter().sum()
    }

    /// Waits until something is pushed.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// The number of the connection that stands or is being made, counted from 1.
    pub(super) fn connection(&self) -> u64 {
        self.connection.load(Ordering::Acquire)
    }

    pub(super) fn next_connection(&self) {
        self.connection.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::mqtt::Qos;
    use proptest::prelude::*;

    fn out(lane: Lane, client: &str, bytes: usize) -> Outgoing {
        let message = Publication::new(format!("t/{client}"), vec![b'x'; bytes], Qos::AtLeastOnce);
        Outgoing {
            client: client.into(),
            ..Outgoing::new(lane, message)
        }
    }

    #[test]
    fn no_lane_takes_the_room_of_another() {
        let outbox = Outbox::default();
        // a client that only sends nonsense, and another one
        let taken = |client: &str| {
            (0..1000)
                .filter(|_| outbox.push(out(Lane::Refusal, client, 100)).is_ok())
                .count()
        };
        assert_eq!(taken("a"), REFUSALS_PER_CLIENT);
        assert_eq!(taken("b"), REFUSALS_PER_CLIENT);
        for i in 0..100 {
            taken(&format!("c{i}"));
        }
        assert_eq!(outbox.room(Lane::Refusal), 0);
        for lane in [Lane::Last, Lane::Chunk, Lane::Admin] {
            for i in 0..lane.capacity() {
                assert_eq!(outbox.room(lane), lane.capacity() - i);
                outbox.push(out(lane, "d", 1)).unwrap();
            }
            assert_eq!(outbox.push(out(lane, "d", 1)), Err(Full), "{lane:?}");
        }
    }

    #[test]
    fn a_message_keeps_its_room_until_the_broker_has_it() {
        let outbox = Outbox::default();
        for _ in 0..REFUSALS_PER_CLIENT {
            outbox.push(out(Lane::Refusal, "a", 1)).unwrap();
        }
        let first = outbox.pop().unwrap();
        assert_eq!(outbox.push(out(Lane::Refusal, "a", 1)), Err(Full));
        outbox.release(&first);
        outbox.push(out(Lane::Refusal, "a", 1)).unwrap();
    }

    #[test]
    fn bytes_stop_chunks_and_new_work_but_never_a_last_frame() {
        let outbox = Outbox::default();
        outbox.push(out(Lane::Last, "a", OUTBOX_BYTES)).unwrap();
        for lane in [Lane::Last, Lane::Chunk, Lane::Refusal] {
            assert_eq!(outbox.room(lane), 0, "{lane:?}");
        }
        assert_eq!(outbox.push(out(Lane::Chunk, "a", 1)), Err(Full));
        outbox.push(out(Lane::Last, "a", OUTBOX_BYTES)).unwrap();
        outbox.push(out(Lane::Admin, "a", 1)).unwrap();
    }

    #[test]
    fn the_newest_word_about_a_state_replaces_the_one_that_waits() {
        let outbox = Outbox::default();
        for i in 1..100 {
            outbox.push(out(Lane::State, "status", i)).unwrap();
            outbox.push(out(Lane::State, "info", 5)).unwrap();
        }
        let waiting: Vec<usize> = std::iter::from_fn(|| outbox.pop())
            .map(|o| o.message.payload.len())
            .collect();
        assert_eq!(waiting, [99, 5]);
    }

    proptest! {
        /// Whatever is pushed, taken and released in any order: what is held is what was taken and not released.
        #[test]
        fn room_is_given_back(steps in prop::collection::vec((0..7_usize, 0..3_usize, 0..3_u8), 1..400)) {
            let outbox = Outbox::default();
            let mut flying = VecDeque::new();
            for (lane, client, what) in steps {
                let lane = [Lane::Last, Lane::Chunk, Lane::Refusal, Lane::Admin, Lane::Tool, Lane::Audit, Lane::State][lane];
                match what {
                    0 => flying.extend(outbox.pop()),
                    1 => if let Some(o) = flying.pop_front() { outbox.release(&o) },
                    _ => { let _ = outbox.push(out(lane, &format!("c{client}"), 1000)); }
                }
            }
            outbox.clear();
            for o in &flying {
                outbox.release(o);
            }
            let queue = outbox.queue();
            prop_assert_eq!((queue.held, queue.bytes, queue.refusals.len()), ([0; LANES], 0, 0));
        }
    }
}
