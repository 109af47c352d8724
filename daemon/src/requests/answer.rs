//! One request's text on its way out: what came, what was sent, and the frames that are cut from it. No I/O and no
//! clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glowplug_model::engine::{Finish, Outcome};
use glowplug_model::text::ToolCall;

use super::dedup::Topic;
use crate::inference::messages::{Text, Timestamps};
use crate::speech::{Due, Speech};
use crate::wire::chat::reply::{self, Answer, Call, Delta, Envelope, Timings, ToolEvent, ToolRun};
use crate::wire::fault::{Code, Fault};
use crate::wire::properties::ReplyTo;

/// How a request wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// JSON frames as the text comes.
    Chat,
    /// JSON, but the final frame only.
    ChatWhole,
    /// Plain text at the end, without the thought.
    Ask,
}

impl From<Kind> for Topic {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Chat | Kind::ChatWhole => Self::Chat,
            Kind::Ask => Self::Ask,
        }
    }
}

/// The text and the frames of one request. Its size is bounded by `max_tokens`.
#[derive(Debug)]
pub struct Stream {
    id: String,
    kind: Kind,
    /// Where its frames go.
    pub reply: ReplyTo,
    ignored: Vec<&'static str>,
    arrived: Instant,
    times: Timestamps,
    all: Text,
    logprobs: bool,
    sent: Sent,
    chunked: Option<Instant>,
    /// How it is spoken; none: it is given as the model writes it.
    speech: Option<Speech>,
    /// What is to be told of the daemon's own tools, each after so much content and thought.
    events: VecDeque<(usize, usize, ToolEvent)>,
    /// The calls that the daemon made.
    runs: Vec<ToolRun>,
    /// The model has paused for a tool, and has said nothing since.
    paused: bool,
}

/// How much was sent: the length of each text, and the number of frames.
#[derive(Debug, Default)]
struct Sent {
    content: usize,
    reasoning: usize,
    logprobs: usize,
    calls: usize,
    frames: u64,
}

/// Who speaks; every frame says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    pub node: String,
    pub model: String,
    /// The SHA-256 of the model's file in hexadecimal, once it is known.
    pub sha256: Option<String>,
}

impl Stream {
    /// Begins the answer to a request that was accepted at `arrived`. If it is `spoken`, its content is without marks of Markdown,
    /// and its chunks are sentences.
    #[must_use]
    pub fn new(
        id: String,
        kind: Kind,
        reply: ReplyTo,
        logprobs: bool,
        ignored: Vec<&'static str>,
        arrived: Instant,
        spoken: bool,
    ) -> Self {
        let (times, all, sent) = (Timestamps::default(), Text::default(), Sent::default());
        Self {
            id,
            kind,
            reply,
            ignored,
            arrived,
            times,
            all,
            logprobs,
            sent,
            chunked: None,
            speech: spoken.then(Speech::default),
            events: VecDeque::new(),
            runs: Vec::new(),
            paused: false,
        }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When the request's turn came, if it has come.
    #[must_use]
    pub fn started(&self) -> Option<Instant> {
        self.times.started
    }

    /// Adds what the engine said by `now`.
    pub fn push(&mut self, mut text: Text, times: Timestamps, now: Instant) {
        if self.paused && !text.content.is_empty() {
            // what was said before a call and what is said after it are two paragraphs
            let said = self.all.content.trim_end().len();
            if said > 0 && !text.content.starts_with('\n') {
                text.content.insert_str(0, "\n\n");
            }
            self.paused = false;
        }
        match &mut self.speech {
            Some(speech) => speech.push(&text.content, now, &mut self.all.content),
            None => self.all.content.push_str(&text.content),
        }
        self.all.reasoning.push_str(&text.reasoning);
        self.all.logprobs.extend(text.logprobs);
        self.all.calls.extend(text.calls);
        self.times.started = self.times.started.or(times.started);
        self.times.prefilled = self.times.prefilled.or(times.prefilled);
        self.times.first_token = self.times.first_token.or(times.first_token);
    }

    /// The model pauses for tools: what it has said is not held back.
    pub fn pause(&mut self, now: Instant) {
        if let Some(speech) = &mut self.speech {
            speech.pause(now, &mut self.all.content);
        }
        self.paused = true;
    }

    /// Tells that the daemon calls a tool.
    pub fn calls(&mut self, call: &ToolCall) {
        self.tell(ToolEvent::ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
    }

    /// Tells how a call of the daemon's has ended.
    pub fn ran(&mut self, call: &ToolCall, content: &str, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.tell(ToolEvent::ToolResult {
            id: call.id.clone(),
            content: content.to_owned(),
            ms,
        });
        self.runs.push(ToolRun {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
            content: content.to_owned(),
            ms,
        });
    }

    fn tell(&mut self, event: ToolEvent) {
        if self.kind == Kind::Chat {
            let (content, reasoning) = (self.all.content.len(), self.all.reasoning.len());
            self.events.push_back((content, reasoning, event));
        }
    }

    /// Says that no more text comes, so that nothing is held back any longer.
    pub fn end(&mut self, now: Instant) {
        if let Some(speech) = &mut self.speech {
            speech.finish(now, &mut self.all.content);
        }
    }

    /// When the next chunk should be sent; none while there is nothing to send. The first one is due at once, and so are a
    /// sentence that has ended and a call.
    #[must_use]
    pub fn due(&self, every: Duration) -> Option<Instant> {
        if self.kind != Kind::Chat {
            return None;
        }
        if self.all.calls.len() > self.sent.calls || !self.events.is_empty() {
            // a call is complete, and somebody waits to act on it
            return Some(self.arrived);
        }
        let next = || self.chunked.map_or(self.arrived, |at| at + every);
        let thought = self.all.reasoning.len() > self.sent.reasoning;
        let Some(speech) = &self.speech else {
            return (thought || self.all.content.len() > self.sent.content).then(next);
        };
        let said = speech.due(every).map(|due| match due {
            Due::Now => self.arrived,
            Due::At(at) => at,
        });
        said.into_iter().chain(thought.then(next)).min()
    }

    /// A frame with all text that was not sent yet, or with one sentence of it; after the text a frame for each call. None: it has more than `longest` bytes, so
    /// the broker would not take it; the last frame repeats that text.
    pub fn chunk(&mut self, speaker: &Speaker, longest: usize, now: Instant) -> Option<Bytes> {
        // what was said before a tool was called comes before the call
        let whole = (self.all.content.len(), self.all.reasoning.len());
        let (content, reasoning) = self.events.front().map_or(whole, |(c, r, _)| (*c, *r));
        let end = match &mut self.speech {
            None => content,
            // a thought does not wait for a sentence, and takes no clause along
            Some(speech) if speech.has_next() || reasoning == self.sent.reasoning => {
                speech.next(now).unwrap_or(self.sent.content)
            }
            Some(_) => self.sent.content,
        };
        let all_said = end == self.sent.content && reasoning == self.sent.reasoning;
        let call = all_said
            .then(|| self.all.calls.get(self.sent.calls))
            .flatten();
        let role = (self.sent.frames == 0).then_some("assistant");
        if all_said
            && call.is_none()
            && let Some((_, _, event)) = self.events.pop_front()
        {
            let delta = Delta {
                role,
                ..Delta::default()
            };
            let frame = reply::chunk(self.envelope(speaker), delta, None, Some(&event));
            let fits = frame.len() <= longest;
            self.sent.frames += u64::from(fits);
            self.chunked = Some(now);
            return fits.then_some(frame);
        }
        let delta = Delta {
            role,
            content: &self.all.content[self.sent.content..end],
            reasoning_content: &self.all.reasoning[self.sent.reasoning..reasoning],
            tool_calls: call.map(|call| [Call::in_chunk(self.sent.calls, call)]),
        };
        let tokens = self
            .logprobs
            .then(|| &self.all.logprobs[self.sent.logprobs..]);
        let frame = reply::chunk(self.envelope(speaker), delta, tokens, None);
        let fits = frame.len() <= longest;
        self.sent = Sent {
            content: end,
            reasoning,
            logprobs: self.all.logprobs.len(),
            calls: self.sent.calls + usize::from(call.is_some()),
            frames: self.sent.frames + u64::from(fits),
        };
        self.chunked = Some(now);
        fits.then_some(frame)
    }

    /// The frame that ends the request.
    #[must_use]
    pub fn last(&self, speaker: &Speaker, outcome: &Outcome, now: Instant) -> Bytes {
        match outcome.finish {
            Finish::Failed => {
                return self.error(
                    speaker,
                    &Fault::new(Code::Internal, "the request failed inside the daemon"),
                );
            }
            Finish::GpuLost => {
                let why =
                    "the GPU that computed the answer was lost; the processor goes on, ask again";
                return self.error(speaker, &Fault::new(Code::Internal, why));
            }
            Finish::Stuck => {
                let why = "no token of this model may follow this answer by its format, or the format is too complex";
                return self.error(speaker, &Fault::schema("response_format", why));
            }
            Finish::Superseded => {
                return self.error(
                    speaker,
                    &Fault::new(
                        Code::Superseded,
                        "a newer request of the same session took its place",
                    ),
                );
            }
            Finish::DeadlineExceeded if self.times.started.is_none() => {
                return self.error(
                    speaker,
                    &Fault::new(
                        Code::DeadlineExceeded,
                        "the deadline passed before the request's turn came",
                    ),
                );
            }
            _ => {}
        }
        if self.kind == Kind::Ask {
            return if self.all.content.trim().is_empty() {
                reply::no_text(outcome.finish, &self.all.calls)
            } else {
                Bytes::from(self.all.content.clone())
            };
        }
        let answer = Answer {
            content: &self.all.content,
            reasoning: &self.all.reasoning,
            logprobs: self.logprobs.then_some(self.all.logprobs.as_slice()),
            calls: &self.all.calls,
            runs: &self.runs,
            outcome,
            timings: self.timings(outcome, now),
            ignored: &self.ignored,
            fingerprint: speaker.sha256.as_deref(),
        };
        reply::last(self.envelope(speaker), &answer)
    }

    /// The frame that ends a request which failed.
    #[must_use]
    pub fn error(&self, speaker: &Speaker, fault: &Fault) -> Bytes {
        if self.kind == Kind::Ask {
            reply::error_text(fault)
        } else {
            reply::error(self.envelope(speaker), fault)
        }
    }

    fn envelope<'a>(&'a self, speaker: &'a Speaker) -> Envelope<'a> {
        Envelope {
            id: &self.id,
            node: &speaker.node,
            model: &speaker.model,
            seq: self.sent.frames,
        }
    }

    fn timings(&self, outcome: &Outcome, now: Instant) -> Timings {
        let ms = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            // rounded, because clients cannot use more digits
            (Some(from), Some(to)) => {
                (to.saturating_duration_since(from).as_micros() as f64 / 1e3 * 1e2).round() / 1e2
            }
            _ => 0.0,
        };
        let arrived = Some(self.arrived);
        let predicted_ms = ms(self.times.prefilled, Some(now));
        let per_second = f64::from(outcome.completion_tokens) * 1e3 / predicted_ms;
        Timings {
            queue_ms: ms(arrived, self.times.started.or(Some(now))),
            prompt_ms: ms(self.times.started, self.times.prefilled),
            first_token_ms: ms(arrived, self.times.first_token),
            predicted_ms,
            predicted_per_second: if predicted_ms > 0.0 {
                (per_second * 1e2).round() / 1e2
            } else {
                0.0
            },
        }
    }
}
