//! What admission does for requests whose tools the daemon runs: it has their calls made between two rounds, tells the
//! client, and gives each its one last frame, whatever happens in the wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_model::engine::{Finish, Outcome, RequestId};
use glowplug_model::text::{Message, ToolCall};

use super::rounds::Bounds;
use super::{Action, Admission, Live};
use crate::inference::messages::{Command, End, unheard};
use crate::mqtt::{Lane, Qos};
use crate::requests::answer::{Kind, Stream};
use crate::requests::dedup::{Key, Known};
use crate::tools::definition::Planned;
use crate::tools::journal::Acted;
use crate::wire::fault::Fault;
use crate::wire::properties::ReplyTo;

/// What is to be done for the tools of a request.
#[derive(Debug)]
pub enum ToolAction {
    /// Write to the disk that this request is about to act, and say when that is done.
    Record(RequestId, Box<Acted>),
    /// Make a call of this id, and say how it ends.
    Call {
        request: RequestId,
        client: Arc<str>,
        call: String,
        planned: Planned,
    },
    /// Nobody waits for this request's calls any more.
    Forget(RequestId),
    /// A request that acted has its last frame.
    Ended {
        client: Arc<str>,
        ask: bool,
        id: String,
    },
    /// A call has ended.
    Audit {
        client: Arc<str>,
        id: String,
        call: ToolCall,
        outcome: String,
    },
}

impl Admission {
    /// How often a model goes on with results, the tokens of the context, and how a result is cut to its tokens.
    pub fn bound_rounds(
        &mut self,
        rounds: usize,
        context: usize,
        cut: impl Fn(&str, usize) -> (String, usize) + Send + 'static,
    ) {
        let cut = Box::new(cut);
        self.bounds = Bounds {
            rounds,
            context,
            cut,
        };
    }

    /// A round has ended with calls of the daemon's tools: they are made.
    pub(super) fn run_tools(
        &mut self,
        now: Instant,
        number: RequestId,
        outcome: &Outcome,
        room: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(Live {
            client,
            session,
            stream,
            rounds: Some(rounds),
            ..
        }) = self.live.get_mut(&number)
        else {
            return;
        };
        // the session has what it was owed, and this round
        if session.is_some() {
            self.kept.settle(client, session.as_ref());
        }
        rounds.pause(outcome);
        stream.pause(now);
        self.record(now, number, out);
        self.chunk(now, number, room.saturating_sub(out.len()), out);
    }

    /// Has it written that a request acts, unless that was done.
    pub(super) fn record(&mut self, now: Instant, number: RequestId, out: &mut Vec<Action>) {
        let Some(Live {
            client,
            stream,
            rounds: Some(rounds),
            ..
        }) = self.live.get_mut(&number)
        else {
            return;
        };
        rounds.calls().for_each(|call| stream.calls(call));
        if rounds.is_recorded() {
            return self.recorded(now, number, true, out);
        }
        let acted = acted(client, stream.kind(), stream.id(), &stream.reply);
        out.push(Action::Tools(ToolAction::Record(number, Box::new(acted))));
    }

    /// It is on the disk that a request acts, or it cannot be written.
    pub fn recorded(
        &mut self,
        now: Instant,
        number: RequestId,
        written: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(live) = self.live.get_mut(&number) else {
            return;
        };
        let client = live.client.clone();
        let calls = live
            .rounds
            .as_mut()
            .and_then(|rounds| rounds.start(written));
        let mut not_done = Vec::new();
        for (call, planned) in calls.unwrap_or_default() {
            match planned {
                Ok(planned) => out.push(Action::Tools(ToolAction::Call {
                    request: number,
                    client: client.clone(),
                    call,
                    planned,
                })),
                Err(why) => not_done.push((call, format!("error: not done: {why}"))),
            }
        }
        for (call, why) in not_done {
            self.tool_ended(now, number, &call, &why, Duration::ZERO, usize::MAX, out);
        }
    }

    /// A call has ended with this result. After the last one the model goes on, or the request ends for its client to make
    /// the other calls. `room` is how many chunks the outbox can take.
    #[allow(clippy::too_many_arguments, reason = "the parts of one event")]
    pub fn tool_ended(
        &mut self,
        now: Instant,
        number: RequestId,
        call: &str,
        said: &str,
        took: Duration,
        room: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(Live {
            client,
            stream,
            rounds: Some(rounds),
            ..
        }) = self.live.get_mut(&number)
        else {
            return;
        };
        let Some((call, content)) = rounds.take(call, said, &self.bounds.cut) else {
            return;
        };
        stream.ran(&call, &content, took);
        out.push(Action::Tools(ToolAction::Audit {
            client: client.clone(),
            id: stream.id().to_owned(),
            call,
            outcome: content,
        }));
        let ended = rounds.unanswered().next().is_none();
        self.chunk(now, number, room.saturating_sub(out.len()), out);
        if ended {
            self.next_round(now, number, room, out);
        }
    }

    fn next_round(&mut self, now: Instant, number: RequestId, room: usize, out: &mut Vec<Action>) {
        let rounds = self
            .live
            .get_mut(&number)
            .and_then(|live| live.rounds.as_mut());
        let Some(rounds) = rounds else {
            return;
        };
        let first = rounds.is_confirming();
        let why = if !first && rounds.leaves() {
            Finish::Stop
        } else if let Some(request) = rounds.next() {
            return match &mut self.held {
                // no engine has seen it: it is for the next one
                Some(held) if first => drop(held.insert(number, request)),
                _ => out.push(Action::Engine(Command::Submit(number, request))),
            };
        } else {
            Finish::Length
        };
        self.finish(now, number, End::Finished(unheard(why)), room, out);
    }

    /// A request ends: nobody waits for its calls any more, and what its client or its session needs of them is kept. Gives
    /// how it ends.
    pub(super) fn settle_rounds(
        &mut self,
        now: Instant,
        number: RequestId,
        live: &mut Live,
        end: End,
        out: &mut Vec<Action>,
    ) -> End {
        if let (End::Finished(outcome), Some(session)) = (&end, &live.session)
            && outcome.completion_tokens > 0
        {
            self.kept.settle(&live.client, Some(session));
        }
        let Some(rounds) = &live.rounds else {
            return end;
        };
        let outcome = match end {
            End::Finished(outcome) => outcome,
            End::Refused(refusal) => match rounds.refused(&refusal) {
                Some(finish) => {
                    self.count_refused(Fault::from(refusal).code.name());
                    unheard(finish)
                }
                None => {
                    end_acting(live, out);
                    return End::Refused(refusal);
                }
            },
        };
        if outcome.finish.is_heard_out() {
            for call in rounds.to_confirm() {
                self.kept.ask(now, &live.client, call);
            }
            if let Some(session) = live.session.as_ref().filter(|_| rounds.leaves()) {
                let results: Vec<Message> = rounds.results().collect();
                if !results.is_empty() {
                    self.kept.owe(&live.client, session, results);
                }
            }
        }
        if rounds.is_waiting() {
            let unanswered = rounds.unanswered().cloned().collect::<Vec<_>>();
            for call in unanswered {
                out.push(Action::Tools(ToolAction::Audit {
                    client: live.client.clone(),
                    id: live.stream.id().to_owned(),
                    call,
                    outcome: "nobody waits for it any more".to_owned(),
                }));
            }
            out.push(Action::Tools(ToolAction::Forget(number)));
        }
        // if it failed, there is no engine
        if live.session.is_none() && outcome.finish != Finish::Failed {
            out.push(Action::Engine(Command::Release(number)));
        }
        let total = rounds.total(&outcome);
        end_acting(live, out);
        End::Finished(total)
    }

    /// The last frame of a request that had acted, or was on record, when the run before ended.
    pub(super) fn interrupted_frame(
        &self,
        id: &str,
        kind: Kind,
        to: &ReplyTo,
        now: Instant,
    ) -> Bytes {
        let outcome = unheard(Finish::Interrupted);
        let (id, to) = (id.to_owned(), to.clone());
        let stream = Stream::new(id, kind, to, false, Vec::new(), now, false);
        stream.last(&self.speaker, &outcome, now)
    }

    /// Requests of the run before that had acted or were on record. Those that had not ended end now, and none of them runs
    /// again.
    pub fn acted_before<'a>(&mut self, now: Instant, acted: impl Iterator<Item = &'a Acted>) {
        for of in acted {
            let kind = if of.ask { Kind::Ask } else { Kind::ChatWhole };
            let key = Key {
                client: of.client.as_str().into(),
                topic: kind.into(),
                id: of.id.clone(),
            };
            self.done.insert(now, key, Known::Interrupted);
        }
    }

    /// Sends the last frame of a request of the run before that had acted or was on record, and had not ended.
    pub fn interrupted(
        &mut self,
        now: Instant,
        of: &Acted,
        record: Option<RequestId>,
        out: &mut Vec<Action>,
    ) {
        let kind = if of.ask { Kind::Ask } else { Kind::ChatWhole };
        let to = ReplyTo {
            record,
            ..reply_to(of)
        };
        let frame = self.interrupted_frame(&of.id, kind, &to, now);
        out.push(Action::Publish {
            to,
            frame,
            lane: Lane::Last,
        });
    }
}

/// Notes that a request which may have acted has its last frame.
fn end_acting(live: &Live, out: &mut Vec<Action>) {
    if live
        .rounds
        .as_ref()
        .is_some_and(|rounds| rounds.has_acted())
    {
        out.push(Action::Tools(ToolAction::Ended {
            client: live.client.clone(),
            ask: live.stream.kind() == Kind::Ask,
            id: live.stream.id().to_owned(),
        }));
    }
}

/// What is written of a request that acts, or that came to the pool.
pub(super) fn acted(client: &str, kind: Kind, id: &str, to: &ReplyTo) -> Acted {
    Acted {
        client: client.to_owned(),
        ask: kind == Kind::Ask,
        id: id.to_owned(),
        topic: to.topic.clone(),
        default_topic: to.default_topic.clone(),
        qos: u8::from(to.qos == Qos::AtLeastOnce),
        correlation: to.correlation_data.as_ref().map(|data| data.to_vec()),
        ended: false,
    }
}

/// Where the frames of a request of the run before go.
fn reply_to(of: &Acted) -> ReplyTo {
    ReplyTo {
        client: of.client.as_str().into(),
        topic: of.topic.clone(),
        default_topic: of.default_topic.clone(),
        qos: if of.qos == 0 {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        },
        correlation_data: of.correlation.clone().map(Into::into),
        content_type: if of.ask {
            "text/plain"
        } else {
            "application/json"
        },
        record: None,
    }
}
