//! Requests in, tokens out: the one owner of network, KV cache and sequences. Never blocks, never reads a clock: the
//! inference thread of the daemon calls [`Engine::step`] in a loop.

mod evaluator;
mod info;
mod model;
mod request;
mod sequence;

use crate::gguf::{Gguf, GgufError};
use crate::kv::NoMemory;
use crate::network::MissingTensor;
use crate::network::dims::DimsError;
use crate::quant::{Isa, UnsupportedIsa};
use crate::text::{ChatTemplate, Prompt, TextError, Tokenizer};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use model::{Model, PREFILL_CHUNK};
use sequence::{Next, Sequence};
use std::collections::VecDeque;

pub use evaluator::Evaluator;
pub use info::ModelInfo;
pub use request::{Event, Finish, Outcome, Refusal, Request, RequestId, Thinking, TokenLogprob};

/// Choices at load; ceilings are in `firmware-config`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// tokens of KV cache; refused if above the model's own
    pub context: usize,
    /// waiting requests; one more is [`Refusal::Overloaded`]
    pub queue: usize,
    /// threads in prefill
    pub prefill_threads: usize,
    /// threads in decode
    pub decode_threads: usize,
    /// forced instruction set
    pub isa: Option<Isa>,
}

/// The file is not one we can serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// not a sound GGUF file
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// dimensions missing, contradictory or too large
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// tokenizer or chat template
    #[error(transparent)]
    Text(#[from] TextError),
    /// a weight
    #[error(transparent)]
    Tensor(#[from] MissingTensor),
    /// KV cache
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// forced instruction set
    #[error(transparent)]
    Isa(#[from] UnsupportedIsa),
    /// worker threads
    #[error("the inference threads could not be started: {0}")]
    Threads(std::io::Error),
    /// configured context
    #[error("a context of {asked} tokens was asked for, the model takes 1 to {limit}")]
    Context {
        /// configuration
        asked: usize,
        /// the file's `context_length`
        limit: usize,
    },
}

/// Numbers for `metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// streams
    pub running: usize,
    /// waiting
    pub queued: usize,
    /// 32-token pages
    pub pages_total: usize,
    /// in use
    pub pages_used: usize,
}

/// One model, one running request, a bounded queue of waiting ones.
pub struct Engine {
    model: Model,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    info: ModelInfo,
    queue_limit: usize,
    queue: VecDeque<Sequence>,
    running: Option<Sequence>,
    /// tokens whose keys and values the cache holds: the next prompt starts after what it shares with them
    held: Vec<u32>,
    /// of the last token in the cache: `[vocab]`
    logits: Vec<f32>,
}

impl Engine {
    /// Maps the weights, makes every buffer.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays behind.
    pub fn load(gguf: &Gguf, config: &EngineConfig) -> Result<Self, LoadError> {
        let (model, tokenizer) = Model::load_with_tokenizer(gguf, config)?;
        let template = ChatTemplate::from_gguf(gguf)?;
        Ok(Self {
            info: ModelInfo::new(gguf, &model, template.thinks()),
            queue_limit: config.queue,
            queue: VecDeque::with_capacity(config.queue),
            running: None,
            held: Vec::with_capacity(config.context),
            logits: Vec::new(),
            model,
            tokenizer,
            template,
        })
    }

    /// About the model.
    #[must_use]
    pub fn model(&self) -> &ModelInfo {
        &self.info
    }

    /// Takes a request into the bounded queue; gives the number of requests before it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub fn submit(&mut self, id: RequestId, request: Request) -> Result<usize, Refusal> {
        let before = self.queue.len() + usize::from(self.running.is_some());
        // one runs or is about to, the rest waits
        if before > self.queue_limit {
            return Err(Refusal::Overloaded {
                queued: self.queue.len(),
                limit: self.queue_limit,
            });
        }
        let prompt = self.prompt(&request)?;
        let limit = self.model.kv.capacity();
        if prompt.tokens.len() + 1 > limit {
            return Err(Refusal::ContextLength {
                tokens: prompt.tokens.len(),
                limit,
            });
        }
        self.queue
            .push_back(Sequence::new(id, request, prompt, self.info.vocab));
        Ok(before)
    }

    /// Ends a queued or running request with this reason: its [`Event::Finished`] comes with the next step. False:
    /// unknown, or already ending.
    pub fn end(&mut self, id: RequestId, why: Finish) -> bool {
        match self
            .running
            .iter_mut()
            .chain(&mut self.queue)
            .find(|s| s.id == id)
        {
            Some(sequence) if sequence.ended.is_none() => {
                sequence.ended = Some(why);
                true
            }
            _ => false,
        }
    }

    /// Closes an open thought of a running request; false if unknown or not thinking.
    pub fn end_thinking(&mut self, id: RequestId) -> bool {
        match &mut self.running {
            Some(sequence) if sequence.id == id => {
                sequence.end_thinking(&self.tokenizer).unwrap_or(false)
            }
            _ => false,
        }
    }

    /// One bounded piece of work: the end of a request, a chunk of prefill, or one decoded token. False when there was
    /// nothing to do.
    pub fn step(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        if let Some(position) = self.queue.iter().position(|s| s.ended.is_some()) {
            if let Some(sequence) = self.queue.remove(position) {
                let why = sequence.ended.unwrap_or(Finish::Cancelled);
                sequence.finish(why, sink);
            }
            return true;
        }
        let Some(mut sequence) = self.running.take() else {
            return self.start(sink);
        };
        let finish = match sequence.ended {
            Some(why) => Some(why),
            None if sequence.fed < sequence.prompt.len() => self.prefill(&mut sequence, sink),
            None => self.decode(&mut sequence, sink),
        };
        match finish {
            Some(why) => sequence.finish(why, sink),
            None => self.running = Some(sequence),
        }
        true
    }

    /// After a panic inside of [`Self::step`]: the request that was running is gone (its id was the last one started and
    /// not finished), and what the cache holds is not trusted any more.
    pub fn recover(&mut self) {
        self.running = None;
        self.held.clear();
        self.model.kv.truncate(0);
    }

    /// Now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            running: usize::from(self.running.is_some()),
            queued: self.queue.len(),
            pages_total: self.model.kv.capacity().div_ceil(PAGE_TOKENS),
            pages_used: if self.running.is_some() {
                self.model.kv.len().div_ceil(PAGE_TOKENS)
            } else {
                0
            },
        }
    }

    fn prompt(&self, request: &Request) -> Result<Prompt, Refusal> {
        let prompt = if request.raw {
            let text = request.messages.first().map_or("", |m| m.content.as_str());
            self.tokenizer.encode(text, true).map(|tokens| Prompt {
                tokens,
                thinking_open: false,
            })
        } else {
            self.template
                .prompt(&self.tokenizer, &request.messages, request.thinking.enabled)
        };
        match prompt {
            Ok(prompt) if prompt.tokens.is_empty() => Err(Refusal::Invalid {
                param: "messages",
                message: "the prompt is empty".to_owned(),
            }),
            Ok(prompt) => Ok(prompt),
            Err(error) => Err(Refusal::Invalid {
                param: "messages",
                message: error.to_string(),
            }),
        }
    }

    fn start(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> bool {
        let Some(mut sequence) = self.queue.pop_front() else {
            return false;
        };
        let shared = self
            .held
            .iter()
            .zip(&sequence.prompt)
            .take_while(|(a, b)| a == b)
            .count();
        // the last token is fed again: its logits are not kept
        let shared = shared.min(sequence.prompt.len() - 1);
        self.held.truncate(shared);
        self.model.kv.truncate(shared);
        (sequence.cached, sequence.fed) = (shared, shared);
        sink(
            sequence.id,
            Event::Started {
                prompt_tokens: sequence.prompt.len() as u32,
                cached_tokens: shared as u32,
            },
        );
        self.running = Some(sequence);
        true
    }

    fn prefill(
        &mut self,
        sequence: &mut Sequence,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Finish> {
        let end = sequence.prompt.len().min(sequence.fed + PREFILL_CHUNK);
        let chunk = &sequence.prompt[sequence.fed..end];
        let Ok(hidden) = self.model.step(chunk) else {
            return Some(Finish::Length);
        };
        self.held.extend_from_slice(chunk);
        if end == sequence.prompt.len() {
            self.logits = self.model.last_logits(hidden, chunk.len());
            sink(sequence.id, Event::Prefilled);
        }
        sequence.fed = end;
        None
    }

    fn decode(
        &mut self,
        sequence: &mut Sequence,
        sink: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Finish> {
        let token = match sequence.decode(&mut self.logits, &self.tokenizer, sink) {
            Ok(Next::Feed(token)) => token,
            Ok(Next::Finish(why)) => return Some(why),
            Err(_) => return Some(Finish::Failed),
        };
        match self.model.step(&[token]) {
            Ok(hidden) => {
                self.held.push(token);
                self.logits = self.model.last_logits(hidden, 1);
                None
            }
            Err(_) => Some(Finish::Length),
        }
    }
}
