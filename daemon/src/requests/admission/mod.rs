//! Who gets a turn, who waits, who is refused, and how each request ends. A state machine: events and `now` go in,
//! actions come out; it does no I/O and reads no clock. It holds every request from its acceptance to its last frame,
//! and each request gets exactly one last frame.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_firmware_config::limits::{QUEUE_MAX, STREAMS_MAX};
use glowplug_model::engine::{Finish, Request, RequestId};

use super::answer::{Kind, Speaker, Stream};
use super::dedup::{Key, Known, RecentRequests};
use crate::inference::messages::{Command, End, VERBS_MAX, unheard};
use crate::mqtt::Lane;
use crate::tools::definition::Definitions;
use crate::tools::journal::Acted;
use crate::wire::admin::{Admin, Asker};
use crate::wire::chat::reply;
use crate::wire::fault::Fault;
use crate::wire::properties::ReplyTo;

pub use gate::share;
pub use kept::BYTES_MAX as KEPT_BYTES_MAX;
use kept::Kept;
use rounds::{Bounds, Rounds};
pub use tools::ToolAction;
use tools::acted;
use verbs::Verb;

mod cancel;
mod gate;
mod kept;
mod progress;
mod rounds;
mod tools;
mod verbs;

const _: () = assert!(
    QUEUE_MAX + STREAMS_MAX + VERBS_MAX < Lane::Last.capacity(),
    "there must be room for the last frame of everything accepted"
);

/// What the daemon as a whole is doing; its `status` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The first model loads.
    Starting,
    Online,
    /// Requests end, and no new ones are taken.
    Draining,
}

/// A request that was read and found valid.
#[derive(Debug)]
pub struct Arrival {
    pub kind: Kind,
    /// The client's own id. None: the request cannot be repeated.
    pub id: Option<String>,
    /// The id of its frames if it has none of its own.
    pub made_id: String,
    /// Whether it came to whichever daemon of the pool: it goes on record, and another daemon may take it instead.
    pub pooled: bool,
    pub reply: ReplyTo,
    pub request: Request,
    /// Whether the answer is spoken: without marks of Markdown, in sentences.
    pub spoken: bool,
    /// Fields of its body that had no effect.
    pub ignored: Vec<&'static str>,
    /// Tools of the daemon's own that are offered; the daemon runs them.
    pub own: Definitions,
    /// Counted from the arrival.
    pub deadline: Option<Duration>,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Action {
    /// Tell the inference thread.
    Engine(Command),
    /// Do or answer an admin verb that concerns the whole daemon: admission does not know what it asks about.
    Admin(Admin, Asker),
    /// Do something for the daemon's own tools.
    Tools(ToolAction),
    /// Put a request of the pool on record, under the number that the last frame's [`ReplyTo`] has.
    Record(RequestId, Box<Acted>),
    /// Send a frame in the room of this lane.
    Publish {
        to: ReplyTo,
        frame: Bytes,
        lane: Lane,
    },
}

/// The numbers that `metrics` publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Error frames by code, and what was dropped without one.
    pub refused: BTreeMap<&'static str, u64>,
    /// Requests that ended in any way.
    pub finished: u64,
    /// Requests that came again within the window.
    pub duplicates: u64,
    /// Prompt tokens of the requests whose turn came.
    pub prompt_tokens: u64,
    /// Those of them that were found in the cache.
    pub prefix_hit_tokens: u64,
}

struct Live {
    key: Option<Key>,
    client: Arc<str>,
    session: Option<Arc<str>>,
    stream: Stream,
    deadline: Option<Instant>,
    ending: bool,
    end_thinking: usize,
    /// None: it has no tools that the daemon runs.
    rounds: Option<Box<Rounds>>,
}

/// The queue of requests before the engine.
pub struct Admission {
    queue: usize,
    streams: usize,
    chunk: Duration,
    speaker: Speaker,
    phase: Phase,
    strained: bool,
    /// Requests of the pool may come although nothing else is taken any more.
    in_pool: bool,
    live: BTreeMap<RequestId, Live>,
    verbs: BTreeMap<RequestId, Verb>,
    /// Requests that are accepted but not yet the engine's, while the model is being changed.
    held: Option<BTreeMap<RequestId, Box<Request>>>,
    by_key: HashMap<Key, RequestId>,
    done: RecentRequests,
    next: RequestId,
    starved_until: Option<Instant>,
    service_ms: Option<f64>,
    frame_max: usize,
    counters: Counters,
    bounds: Bounds,
    kept: Kept,
}

impl Admission {
    /// `queue` requests may wait, and `streams` are answered at a time. A chunk has the text of the time `chunk`.
    /// `window` is that of de-duplication.
    #[must_use]
    pub fn new(
        queue: usize,
        streams: usize,
        chunk: Duration,
        window: Duration,
        speaker: Speaker,
    ) -> Self {
        Self {
            queue,
            streams,
            chunk,
            speaker,
            phase: Phase::Starting,
            strained: false,
            in_pool: false,
            live: BTreeMap::new(),
            verbs: BTreeMap::new(),
            held: None,
            by_key: HashMap::new(),
            done: RecentRequests::new(window),
            next: 1,
            starved_until: None,
            service_ms: None,
            frame_max: usize::MAX,
            counters: Counters::default(),
            bounds: Bounds::default(),
            kept: Kept::default(),
        }
    }

    /// A model answers. Its name goes into every frame and its hash into every last one. What was held goes to its
    /// engine.
    pub fn online(&mut self, model: String, sha256: Option<String>, out: &mut Vec<Action>) {
        (self.speaker.model, self.speaker.sha256) = (model, sha256);
        if self.phase == Phase::Starting {
            self.phase = Phase::Online;
        }
        let held = self.held.take().unwrap_or_default();
        out.extend(
            held.into_iter()
                .map(|(number, request)| Action::Engine(Command::Submit(number, request))),
        );
    }

    /// The model is about to change: what is accepted from now on is for the next one.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Takes requests again after a drain.
    pub fn resume(&mut self) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Online;
        }
    }

    /// Whether the engine has nothing left to do for anybody.
    #[must_use]
    pub fn engine_is_idle(&self) -> bool {
        self.outstanding() == self.held.as_ref().map_or(0, BTreeMap::len)
    }

    /// Whether the engine has anything to do. Requests that wait for tools are none of its.
    #[must_use]
    pub fn engine_works(&self) -> bool {
        let waiting = self.live.values().filter(|live| live.is_waiting()).count();
        self.outstanding() > waiting + self.held.as_ref().map_or(0, BTreeMap::len)
    }

    /// The broker takes no frames of more bytes.
    pub fn frame_max(&mut self, bytes: usize) {
        self.frame_max = bytes;
    }

    /// While the board is strained, half as many requests may wait, and they take their turns one after the other: what
    /// comes too fast is refused while it can still go elsewhere. What was accepted stays.
    pub fn one_at_a_time(&mut self, strained: bool) {
        self.strained = strained;
    }

    /// Takes nothing new from now on.
    pub fn drain(&mut self) {
        self.phase = Phase::Draining;
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How much is accepted and not ended: requests and verbs.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.live.len() + self.verbs.len()
    }

    /// Requests whose turn has come. A parked one has had its turn.
    #[must_use]
    pub fn started(&self) -> usize {
        self.live.values().filter(|l| l.has_started()).count()
    }

    /// Requests whose turn is still to come.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.live.len() - self.started()
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts something that was dropped without an answer or refused elsewhere.
    pub fn count_refused(&mut self, why: &'static str) {
        *self.counters.refused.entry(why).or_default() += 1;
    }

    /// A request came in: it is accepted, answered from memory, or refused. `room` is how many last frames the outbox
    /// can take.
    pub fn request(
        &mut self,
        now: Instant,
        room: usize,
        mut arrival: Arrival,
        out: &mut Vec<Action>,
    ) {
        let client = arrival.request.client.clone();
        let key = arrival.id.clone().map(|id| Key {
            client: client.clone(),
            topic: arrival.kind.into(),
            id,
        });
        let mut cancelled = false;
        if let Some(key) = &key {
            let running = self.by_key.get(key);
            if let Some(live) = running.and_then(|number| self.live.get_mut(number)) {
                // its frames go where they were asked for last
                live.stream.reply = ReplyTo {
                    record: live.stream.reply.record,
                    ..arrival.reply
                };
                self.counters.duplicates += 1;
                return;
            }
            match self.done.get(now, key) {
                Some(Known::Ended(frame)) => {
                    self.counters.duplicates += 1;
                    out.push(Action::Publish {
                        to: arrival.reply,
                        frame: frame.clone(),
                        lane: Lane::Refusal,
                    });
                    return;
                }
                Some(Known::Interrupted) => {
                    self.counters.duplicates += 1;
                    let frame = self.interrupted_frame(&key.id, arrival.kind, &arrival.reply, now);
                    out.push(Action::Publish {
                        to: arrival.reply,
                        frame,
                        lane: Lane::Refusal,
                    });
                    return;
                }
                known => cancelled = known.is_some(),
            }
        }
        let made_id = std::mem::take(&mut arrival.made_id);
        let id = arrival.id.take().unwrap_or(made_id);
        let late = arrival.deadline == Some(Duration::ZERO);
        if let Some(fault) = self.objection(now, room, &client, late, arrival.pooled) {
            self.refuse(&id, arrival.kind, arrival.reply, &fault, out);
            return;
        }
        let session = arrival.request.session.clone();
        if session.is_some() && !cancelled {
            self.end_where(now, Finish::Superseded, out, |live| {
                live.client == client && live.session == session
            });
        }
        let rounds = self.rounds(now, &mut arrival);
        let number = self.number();
        if arrival.pooled {
            let taken = acted(&client, arrival.kind, &id, &arrival.reply);
            arrival.reply.record = Some(number);
            out.push(Action::Record(number, Box::new(taken)));
        }
        let logprobs = arrival.request.sampler.top_logprobs.is_some();
        let stream = Stream::new(
            id,
            arrival.kind,
            arrival.reply,
            logprobs,
            arrival.ignored,
            now,
            arrival.spoken,
        );
        if let Some(key) = &key {
            self.by_key.insert(key.clone(), number);
        }
        let deadline = arrival.deadline.and_then(|d| now.checked_add(d));
        self.live.insert(
            number,
            Live {
                key,
                client,
                session,
                stream,
                deadline,
                ending: false,
                end_thinking: 0,
                rounds,
            },
        );
        if cancelled {
            let end = End::Finished(unheard(Finish::Cancelled));
            return self.finish(now, number, end, usize::MAX, out);
        }
        if self.live.get(&number).is_some_and(Live::is_waiting) {
            // calls that it confirms come before its first round
            return self.record(now, number, out);
        }
        let request = Box::new(arrival.request);
        match &mut self.held {
            Some(held) => drop(held.insert(number, request)),
            None => out.push(Action::Engine(Command::Submit(number, request))),
        }
    }

    /// Ends those that `meant` picks: in the engine, or here if the engine does not know them yet.
    fn end_where(
        &mut self,
        now: Instant,
        why: Finish,
        out: &mut Vec<Action>,
        meant: impl Fn(&Live) -> bool,
    ) {
        let mut unknown = Vec::new();
        for (number, live) in self.live.iter_mut().filter(|(_, live)| meant(live)) {
            let held = self.held.as_mut();
            if live.is_waiting() || held.is_some_and(|held| held.remove(number).is_some()) {
                unknown.push(*number);
            } else {
                live.end(*number, why, out);
            }
        }
        for number in unknown {
            self.finish(now, number, End::Finished(unheard(why)), usize::MAX, out);
        }
    }

    /// What a request needs that has tools of the daemon's: its rounds, the results that its session has not got, and calls
    /// that it confirms.
    fn rounds(&mut self, now: Instant, arrival: &mut Arrival) -> Option<Box<Rounds>> {
        let request = &mut arrival.request;
        let mut messages = self.kept.owed(&request.client, request.session.as_ref());
        let own = std::mem::take(&mut arrival.own);
        let confirmed = if own.is_empty() {
            Vec::new()
        } else {
            self.kept
                .confirmed(now, &request.client, &mut request.messages, |name| {
                    own.iter()
                        .any(|tool| tool.confirm && tool.tool.name() == name)
                })
        };
        messages.append(&mut request.messages);
        request.messages = messages;
        if own.is_empty() {
            return None;
        }
        let mut rounds = Rounds::new(own, request, &self.bounds);
        if !confirmed.is_empty() {
            rounds.confirm(confirmed);
        }
        Some(Box::new(rounds))
    }

    /// A number that no request has.
    pub fn number(&mut self) -> RequestId {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Answers something that was never accepted with an error frame.
    pub fn refuse(
        &mut self,
        id: &str,
        kind: Kind,
        to: ReplyTo,
        fault: &Fault,
        out: &mut Vec<Action>,
    ) {
        self.count_refused(fault.code.name());
        let envelope = reply::Envelope {
            id,
            node: &self.speaker.node,
            model: &self.speaker.model,
            seq: 0,
        };
        let frame = if kind == Kind::Ask {
            reply::error_text(fault)
        } else {
            reply::error(envelope, fault)
        };
        out.push(Action::Publish {
            to,
            frame,
            lane: Lane::Refusal,
        });
    }

    /// Ends everything in the engine. The last frames follow with its updates.
    pub fn end_all(&mut self, now: Instant, why: Finish, out: &mut Vec<Action>) {
        self.end_where(now, why, out, |_| true);
    }
}

impl Live {
    /// Whether it waits for tools, so that the engine does not know it.
    fn is_waiting(&self) -> bool {
        self.rounds
            .as_ref()
            .is_some_and(|rounds| rounds.is_waiting())
    }

    fn has_started(&self) -> bool {
        self.stream.started().is_some()
    }

    fn end(&mut self, number: RequestId, why: Finish, out: &mut Vec<Action>) {
        if !self.ending {
            self.ending = true;
            out.push(Action::Engine(Command::End(number, why)));
        }
    }
}

#[cfg(test)]
mod tests;
