//! A request whose tools the daemon runs: its rounds through the engine, and its waits between them. In a round the model
//! speaks; then the daemon runs the tools of its own that were called, and their results go into the next round.
//!
//! While a tool is waited for the engine does not know the request. It has no place among the streams, and its pages are kept as
//! those of an idle session are.

use std::sync::Arc;

use glowplug_model::engine::{Finish, Outcome, Refusal, Request};
use glowplug_model::text::{Message, Role, ToolCall, ToolChoice, Tools};

use crate::inference::messages::{Text, unheard};
use crate::tools::definition::{Definition, Definitions, Planned};

/// Tokens that a result costs besides its text: what the template writes around it, and the note of a cut.
const AROUND: usize = 24;
/// The results of one request take this part of the context.
const PART: usize = 8;

/// Cuts a text to at most so many tokens, and says how many it then has.
pub(super) type Cut = Box<dyn Fn(&str, usize) -> (String, usize) + Send>;

/// What bounds the rounds of every request.
pub(super) struct Bounds {
    pub(super) rounds: usize,
    /// Tokens of the context.
    pub(super) context: usize,
    pub(super) cut: Cut,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            rounds: 0,
            context: 0,
            cut: Box::new(|_, _| (String::new(), 0)),
        }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The engine has it.
    Engine,
    /// It is being written to the disk that it acts.
    Recording,
    /// Its calls are in flight.
    Calling,
}

/// A call that the daemon makes, and its result once there is one.
#[derive(Debug)]
struct Run {
    call: ToolCall,
    result: Option<String>,
}

/// The rounds of one request.
#[derive(Debug)]
pub(super) struct Rounds {
    /// The daemon's tools that it may use.
    own: Definitions,
    /// What the engine is asked in the next round.
    request: Box<Request>,
    /// Tokens of all its rounds together.
    max_tokens: u32,
    /// How often it may still go on.
    left: usize,
    /// Tokens that its results may still have.
    room: usize,
    /// What the rounds before came to.
    before: Outcome,
    stage: Stage,
    /// It was written to the disk that it acts.
    recorded: bool,
    /// What was said and called in this round.
    said: String,
    called: Vec<ToolCall>,
    /// The calls of this round that the daemon makes.
    runs: Vec<Run>,
    /// Whether this is the wait before the first round, for calls that the client has confirmed.
    confirmed: bool,
}

impl Rounds {
    pub(super) fn new(own: Definitions, request: &mut Request, bounds: &Bounds) -> Self {
        let room = bounds.context / PART;
        request.reserve = room;
        Self {
            own,
            request: Box::new(request.clone()),
            max_tokens: request.max_tokens,
            left: bounds.rounds,
            room,
            before: unheard(Finish::Stop),
            stage: Stage::Engine,
            recorded: false,
            said: String::new(),
            called: Vec::new(),
            runs: Vec::new(),
            confirmed: false,
        }
    }

    /// Whether the request waits for tools, so that the engine does not know it.
    pub(super) fn is_waiting(&self) -> bool {
        self.stage != Stage::Engine
    }

    /// Whether the request may have acted on the world.
    pub(super) fn has_acted(&self) -> bool {
        self.recorded || self.is_waiting()
    }

    /// Whether it is written to the disk that the request acts.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Whether the wait is that before the first round.
    pub(super) fn is_confirming(&self) -> bool {
        self.confirmed
    }

    /// Makes these calls before the first round, because the client has confirmed them.
    pub(super) fn confirm(&mut self, calls: Vec<ToolCall>) {
        let run = |call| Run { call, result: None };
        self.runs = calls.into_iter().map(run).collect();
        (self.stage, self.confirmed) = (Stage::Recording, true);
    }

    /// Takes the calls out of new text that the daemon makes, and remembers what was said.
    pub(super) fn hear(&mut self, text: &mut Text) {
        self.said.push_str(&text.content);
        self.called.extend_from_slice(&text.calls);
        let own = &self.own;
        text.calls.retain(|call| !is_run(own, call));
    }

    /// Whether a round that ended so is followed by calls of the daemon's.
    pub(super) fn goes_on(&self, outcome: &Outcome) -> bool {
        outcome.finish.is_heard_out() && self.called.iter().any(|call| is_run(&self.own, call))
    }

    /// Waits for the calls of the round that has ended so.
    pub(super) fn pause(&mut self, outcome: &Outcome) {
        self.before = self.total(outcome);
        let own = self.called.iter().filter(|call| is_run(&self.own, call));
        let run = |call: &ToolCall| Run {
            call: call.clone(),
            result: None,
        };
        self.runs = own.map(run).collect();
        self.stage = Stage::Recording;
    }

    /// The calls that the daemon makes now.
    pub(super) fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.runs.iter().map(|run| &run.call)
    }

    /// It is written to the disk that the request acts, or that cannot be written. Gives what each call publishes, by its id,
    /// or why it publishes nothing. None: nobody waits for this.
    pub(super) fn start(
        &mut self,
        written: bool,
    ) -> Option<Vec<(String, Result<Planned, String>)>> {
        if self.stage != Stage::Recording {
            return None;
        }
        self.stage = Stage::Calling;
        self.recorded |= written;
        let plan = |call: &ToolCall| match named(&self.own, call) {
            _ if !written => Err("the state folder cannot be written".to_owned()),
            Some(tool) => tool.plan(&call.arguments),
            None => Err("there is no such tool".to_owned()),
        };
        Some(
            self.calls()
                .map(|call| (call.id.clone(), plan(call)))
                .collect(),
        )
    }

    /// A call has ended with this result. Gives the call and the result as the model reads it: cut to its share of what is
    /// left, which it has together with the calls that are still to come. None: nobody waits for this.
    pub(super) fn take(&mut self, call: &str, said: &str, cut: &Cut) -> Option<(ToolCall, String)> {
        if self.stage != Stage::Calling {
            return None;
        }
        let most = (self.room / self.unanswered().count().max(1)).saturating_sub(AROUND);
        let mut open = self.runs.iter_mut().filter(|run| run.result.is_none());
        let run = open.find(|run| run.call.id == call)?;
        let (mut content, tokens) = cut(said, most);
        if content.len() < said.len() {
            content += &format!(" [cut: {} of {} bytes]", content.len(), said.len());
        }
        self.room = self.room.saturating_sub(tokens + AROUND);
        run.result = Some(content.clone());
        Some((run.call.clone(), content))
    }

    /// The calls of this round that the client has to confirm.
    pub(super) fn to_confirm(&self) -> impl Iterator<Item = &ToolCall> {
        let asks = |call: &&ToolCall| named(&self.own, call).is_some_and(|tool| tool.confirm);
        self.called.iter().filter(asks)
    }

    /// What all rounds came to, of which this is the last.
    pub(super) fn total(&self, last: &Outcome) -> Outcome {
        let before = &self.before;
        Outcome {
            finish: last.finish,
            prompt_tokens: before.prompt_tokens.saturating_add(last.prompt_tokens),
            cached_tokens: before.cached_tokens.saturating_add(last.cached_tokens),
            completion_tokens: before
                .completion_tokens
                .saturating_add(last.completion_tokens),
            reasoning_tokens: before
                .reasoning_tokens
                .saturating_add(last.reasoning_tokens),
            forgotten_messages: before
                .forgotten_messages
                .saturating_add(last.forgotten_messages),
        }
    }

    /// The calls that have no result, because the request ended before.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &ToolCall> {
        let open = self.runs.iter().filter(|run| run.result.is_none());
        open.map(|run| &run.call)
    }

    /// The results as messages, in the order of the calls.
    pub(super) fn results(&self) -> impl Iterator<Item = Message> {
        self.runs.iter().map(|run| Message {
            tool_call_id: Some(run.call.id.clone()),
            ..Message::new(Role::Tool, run.result.clone().unwrap_or_default())
        })
    }

    /// Whether this round has calls that are left to the client.
    pub(super) fn leaves(&self) -> bool {
        self.called.iter().any(|call| !is_run(&self.own, call))
    }

    /// How a refusal of the engine ends the request. One that has run a tool has an answer in any case: whoever got an error
    /// would ask again, and the tool would act twice.
    pub(super) fn refused(&self, refusal: &Refusal) -> Option<Finish> {
        let full = matches!(
            refusal,
            Refusal::ContextLength { .. }
                | Refusal::TextLength { .. }
                | Refusal::Memory { .. }
                | Refusal::Sessions(_)
        );
        let why = if full {
            Finish::Length
        } else {
            Finish::Interrupted
        };
        self.recorded.then_some(why)
    }

    /// The request of the next round. None: no token is left for an answer.
    pub(super) fn next(&mut self) -> Option<Box<Request>> {
        let spent = self.before.completion_tokens;
        self.request.max_tokens = self
            .max_tokens
            .checked_sub(spent)
            .filter(|left| *left > 0)?;
        self.request.reserve = self.room;
        let results: Vec<Message> = self.results().collect();
        if std::mem::take(&mut self.confirmed) {
            for message in &mut self.request.messages {
                let same = |result: &&Message| result.tool_call_id == message.tool_call_id;
                if message.role == Role::Tool
                    && let Some(result) = results.iter().find(same)
                {
                    message.content.clone_from(&result.content);
                }
            }
        } else {
            let said = Message {
                tool_calls: std::mem::take(&mut self.called),
                ..Message::new(Role::Assistant, std::mem::take(&mut self.said).trim())
            };
            if self.request.session.is_some() {
                // the session has the rest
                self.request.messages = results;
            } else {
                self.request.messages.push(said);
                self.request.messages.extend(results);
            }
            self.left = self.left.saturating_sub(1);
            let offers = (self.left > 0).then(|| self.request.tools.take()).flatten();
            self.request.tools = offers.map(|tools| Tools {
                choice: ToolChoice::Auto,
                ..tools
            });
        }
        self.said.clear();
        self.called.clear();
        self.runs.clear();
        self.stage = Stage::Engine;
        Some(self.request.clone())
    }
}

fn named<'a>(own: &'a Definitions, call: &ToolCall) -> Option<&'a Arc<Definition>> {
    own.iter().find(|tool| tool.tool.name() == call.name)
}

/// Whether the daemon makes this call by itself.
fn is_run(own: &Definitions, call: &ToolCall) -> bool {
    named(own, call).is_some_and(|tool| !tool.confirm)
}
