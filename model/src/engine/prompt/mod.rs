//! From a request to its prompt in three steps. The engine gathers what was said from the session; the prompt is prepared
//! from that alone; the engine accepts the result into its queue. The second step takes time that grows with the text and
//! needs nothing of the engine, so another thread can do it while the engine goes on.

mod builder;

pub use builder::PromptBuilder;

use super::Engine;
use super::guide::Guide;
use super::request::{Event, Finish, Outcome, Priority, Refusal, Request, RequestId};
use super::scheduler::{Job, SubmitError};
use super::sequence::{Calls, Sequence};
use super::session::{SessionKey, Turn, text};
use crate::text::{CallSplitter, Message, Prompt, Tools, settle_results};
use glowplug_firmware_config::limits::{PAGE_TOKENS, QUEUE_MAX, STREAMS_MAX};
use std::collections::btree_map::Entry;
use std::hash::BuildHasher;
use std::ops::Range;

/// Most prompts that are gathered and not yet accepted.
const PREPARING_MAX: usize = QUEUE_MAX + STREAMS_MAX;

/// Bytes of text whose preparation counts as one token of the client's share. On the machine that the shares were tuned on
/// they take 6 ms, and a token of the smallest model of the catalogue takes 11 ms.
const BYTES_A_TOKEN: usize = 16 << 10;

/// A request, with everything that its prompt is made of.
#[derive(Debug)]
pub struct PromptJob {
    id: RequestId,
    /// its `messages` are only the new ones
    request: Request,
    /// the messages of its session before it
    history: Vec<Message>,
}

/// A request, with its prompt or the reason why it has none.
#[derive(Debug)]
pub struct Prepared {
    id: RequestId,
    request: Request,
    made: Result<Made, Refusal>,
    /// bytes of text that were rendered and read for it, and what else was done in the time of so many
    bytes: usize,
}

/// What was made of a request.
#[derive(Debug)]
struct Made {
    prompt: Prompt,
    /// the range of the session's messages that were forgotten for it
    forgotten: Range<usize>,
    /// what holds the answer to what the request asks of it
    guide: Option<Guide>,
    /// tokens that later prompts are likely to share: see `Sequence::check_at`
    checkpoints: [usize; 2],
}

/// What the engine keeps of a request whose prompt is being prepared.
#[derive(Debug)]
pub(in crate::engine) struct Preparing {
    session: Option<SessionKey>,
    /// whether the session exists only for this request
    new: bool,
    /// whether it is the engine's own work: see [`Engine::chore`]
    own: bool,
    ended: Option<Finish>,
}

impl Preparing {
    /// The engine's own work on a session.
    pub(in crate::engine) fn own(session: SessionKey) -> Self {
        Self {
            session: Some(session),
            new: false,
            own: true,
            ended: None,
        }
    }
}

impl PromptJob {
    pub(in crate::engine) fn new(id: RequestId, request: Request, history: Vec<Message>) -> Self {
        Self {
            id,
            request,
            history,
        }
    }

    /// The request that the prompt is for.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// How soon the request must run.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.request.priority
    }

    /// Whether schemas have to be compiled for it.
    #[must_use]
    pub fn compiles(&self) -> bool {
        self.request.compiles()
    }

    /// Bytes of the text that its prompt is made of.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let history = self.history.iter().map(Message::bytes);
        history.sum::<usize>() + self.request.bytes()
    }
}

impl Engine {
    /// The builder that prepares the prompts of this engine.
    #[must_use]
    pub fn prompts(&self) -> &PromptBuilder {
        &self.prompts
    }

    /// Takes a request into the bounded queue and gives the number of requests before it. This is [`Self::gather`],
    /// [`PromptBuilder::prepare`] and [`Self::accept`] in one.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed, except that at a bound some sessions may have gone to their files.
    pub fn submit(&mut self, id: RequestId, request: Request) -> Result<usize, Refusal> {
        let job = self.gather(id, request)?;
        let prepared = self.prompts.prepare(job);
        self.accept(prepared)
    }

    /// Gathers what the prompt of a request is made of. From here on the engine has the request: it is the turn of its
    /// session, and [`Self::end`] ends it. The caller prepares the prompt and hands it to [`Self::accept`].
    ///
    /// # Errors
    /// [`Refusal`], as for [`Self::submit`].
    pub fn gather(&mut self, id: RequestId, mut request: Request) -> Result<PromptJob, Refusal> {
        if self.sequences.contains_key(&id) || self.preparing.contains_key(&id) {
            return Err(Refusal::Invalid {
                param: "id",
                message: format!("request {id} is not answered yet"),
            });
        }
        if self.preparing.len() >= PREPARING_MAX {
            return Err(Refusal::Overloaded {
                queued: self.preparing.len(),
                limit: PREPARING_MAX,
            });
        }
        request.check(self.info.vocab)?;
        self.prompts.may_fit(&request)?;
        let session = request.session.clone().map(|name| SessionKey {
            client: request.client.clone(),
            name,
        });
        let (mut history, mut new) = (Vec::new(), false);
        if let Some(key) = &session {
            self.settle_ended(key);
            self.room_for(key, text(&request.messages))?;
            self.end_tidying(key);
            let known = self.memory.sessions.get(key);
            new = known.is_none();
            history = known.map_or_else(Vec::new, |session| session.messages.clone());
        }
        if !request.raw {
            let fills = session.is_some();
            let settled = settle_results(&history, &mut request.messages, fills);
            settled.map_err(|misplaced| Refusal::Invalid {
                param: "messages",
                message: misplaced.to_string(),
            })?;
        }
        if let Some(key) = &session {
            let asked = text(&request.messages);
            self.room_for(key, asked)?;
            let session = self.memory.sessions.begin(key, id, asked);
            session.system.clone_from(&request.system);
        }
        let preparing = Preparing {
            session,
            new,
            own: false,
            ended: None,
        };
        self.preparing.insert(id, preparing);
        Ok(PromptJob::new(id, request, history))
    }

    /// Takes a request with its prompt into the bounded queue and gives the number of requests before it; 0 if it was ended
    /// meanwhile or is a [`Self::chore`].
    ///
    /// # Errors
    /// [`Refusal`]; nothing is left of the request.
    pub fn accept(&mut self, prepared: Prepared) -> Result<usize, Refusal> {
        let (id, bytes) = (prepared.id, prepared.bytes);
        // the work was done for this client, whether the request is refused or not
        let client = self.share(&prepared.request.client);
        self.scheduler
            .charge(client, (bytes / BYTES_A_TOKEN) as u64);
        let Preparing {
            session, new, own, ..
        } = match self.preparing.entry(id) {
            Entry::Occupied(entry) if entry.get().ended.is_none() => entry.remove(),
            _ => return Ok(0),
        };
        let before = self.queue(prepared, client, session.clone());
        if before.is_err() {
            if own {
                return Ok(0);
            }
            self.settle(id, None);
            if let Some(key) = session.filter(|_| new) {
                self.memory.forget(&key);
            }
        }
        before
    }

    /// Puts a request into the scheduler's queue, as the turn of its session.
    fn queue(
        &mut self,
        prepared: Prepared,
        client: u64,
        session: Option<SessionKey>,
    ) -> Result<usize, Refusal> {
        let Prepared {
            id,
            mut request,
            made,
            ..
        } = prepared;
        let Made {
            prompt,
            forgotten,
            guide,
            checkpoints,
        } = made?;
        let turn = session.map(|session| Turn {
            session,
            messages: std::mem::take(&mut request.messages),
            answer: String::new(),
            calls: Vec::new(),
            offered: request.tools.is_some(),
        });
        let priority = request.priority;
        let owner = self.owner(&request.client);
        let vocab = self.info.vocab;
        let (reserve, context) = (
            request.reserve,
            self.info.context.saturating_sub(request.reserve),
        );
        let calls = request.tools.as_ref().map(|tools| self.splitter(tools));
        // a request of the same number that goes on with results has a longer prompt
        let seed = self.hasher.hash_one((id, prompt.tokens.len()));
        let mut sequence = Sequence::new(id, owner, request, prompt, vocab, context, &self.closing);
        sequence.calls = calls.map(|splitter| Calls::new(splitter, seed));
        sequence.guide = guide;
        if self.model.kv.has_states() {
            sequence.check_at(checkpoints);
        }
        sequence.forgotten = forgotten.len();
        sequence.pauses = reserve > 0 && turn.is_none();
        let (needed, pages) = (
            (sequence.limit + reserve).div_ceil(PAGE_TOKENS),
            self.memory.pages.total(),
        );
        if needed > pages {
            return Err(Refusal::Memory { needed, pages });
        }
        let job = Job {
            id,
            client,
            priority,
        };
        let before = self
            .scheduler
            .submit(job)
            .map_err(|refused| match refused {
                SubmitError::Full { waiting, limit } => Refusal::Overloaded {
                    queued: waiting,
                    limit,
                },
                SubmitError::Twice(id) => Refusal::Invalid {
                    param: "id",
                    message: format!("request {id} is not answered yet"),
                },
            })?;
        if let Some(turn) = turn.as_ref().filter(|_| !forgotten.is_empty()) {
            self.memory.cut(&turn.session, forgotten);
        }
        sequence.turn = turn;
        self.sequences.insert(id, sequence);
        Ok(before)
    }

    /// Finds the calls in an answer to a request with these tools.
    fn splitter(&self, tools: &Tools) -> CallSplitter {
        let (convention, most) = self.prompts.calls();
        let most = if tools.parallel { most } else { 1 };
        CallSplitter::new(convention, tools.list.clone(), most)
    }

    /// Ends a request whose prompt is being prepared. Gives none if its prompt is not being prepared.
    pub(in crate::engine) fn end_preparing(&mut self, id: RequestId, why: Finish) -> Option<bool> {
        let preparing = self.preparing.get_mut(&id)?;
        let ends = preparing.ended.is_none();
        if ends {
            preparing.ended = Some(why);
            self.settle(id, None);
        }
        Some(ends)
    }

    /// Reports the requests that ended while their prompts were being prepared. Gives false if there was none.
    pub(in crate::engine) fn finish_preparing(
        &mut self,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> bool {
        let before = self.preparing.len();
        self.preparing.retain(|id, preparing| {
            let Some(finish) = preparing.ended else {
                return true;
            };
            if !preparing.own {
                let outcome = Outcome {
                    finish,
                    prompt_tokens: 0,
                    cached_tokens: 0,
                    completion_tokens: 0,
                    reasoning_tokens: 0,
                    forgotten_messages: 0,
                };
                sink(*id, Event::Finished(outcome));
            }
            false
        });
        self.preparing.len() < before
    }

    /// Drops the engine's own work on this session that is being prepared.
    pub(in crate::engine) fn drop_chores(&mut self, key: &SessionKey) {
        self.preparing
            .retain(|_, p| !(p.own && p.session.as_ref() == Some(key)));
    }

    /// Adds a turn that has ended to its session before its last event is reported, so that the next turn goes on from it.
    fn settle_ended(&mut self, key: &SessionKey) {
        let busy = self.memory.sessions.get(key).and_then(|s| s.busy);
        if let Some(id) = busy
            && let Some(sequence) = self.sequences.get_mut(&id)
            && sequence.ended.is_some()
        {
            let turn = sequence.answered();
            self.settle(id, turn);
        }
    }
}
