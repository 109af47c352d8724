//! From what a request asks of its answer to the guide that holds the answer to it.

use super::Guide;
use crate::engine::request::{Refusal, Request};
use crate::text::{Constrainer, Convention, Prompt, Tokenizer, ToolChoice};
use std::sync::{Arc, OnceLock};

/// Makes guides for the vocabulary of one model. The tables that this takes are made for the first of them.
pub(in crate::engine) struct Guides {
    /// logits of a row
    vocab: usize,
    /// the token that opens a thought
    thought: Option<u32>,
    /// if it is an error, this vocabulary cannot be held to anything
    tables: OnceLock<Result<Constrainer, String>>,
}

impl Guides {
    pub(in crate::engine) fn new(vocab: usize, thought: Option<u32>) -> Self {
        let tables = OnceLock::new();
        Self {
            vocab,
            thought,
            tables,
        }
    }

    /// Makes the guide of a request, if it asks for something that has to be enforced. This is the most work that goes into a
    /// request before its turn: bounded, but some milliseconds.
    ///
    /// # Errors
    /// [`Refusal::Schema`] where the schema cannot be enforced, or not within the bounds.
    pub(in crate::engine) fn compile(
        &self,
        tokenizer: &Arc<Tokenizer>,
        (convention, most): (Convention, usize),
        request: &Request,
        prompt: &Prompt,
    ) -> Result<Option<Guide>, Refusal> {
        if !request.compiles() {
            return Ok(None);
        }
        let make = || Constrainer::new(Arc::clone(tokenizer), self.vocab);
        let tables = (self.tables).get_or_init(|| make().map_err(|error| error.to_string()));
        let tables = tables.as_ref().map_err(|why| Refusal::Invalid {
            param: "response_format",
            message: format!("this model's vocabulary cannot be held to a format: {why}"),
        })?;
        // with log-probabilities every token is drawn
        let writes = request.sampler.top_logprobs.is_none();
        let mut one_of = Vec::new();
        let must = (request.tools.as_ref()).is_some_and(|tools| tools.choice != ToolChoice::Auto);
        // calls are answers of their own kind, which a format does not bind
        if let Some(format) = request.format.as_ref().filter(|_| !must) {
            let text = tables.compile(format);
            one_of.push(text.map_err(|error| Refusal::schema(format, error))?);
        }
        if let Some(tools) = &request.tools {
            if !must && one_of.is_empty() {
                let call = tables.compile_call(convention, tools);
                return Ok(Some(Guide::calls(call.map_err(Refusal::tool)?, writes)));
            }
            let most = if tools.parallel { most } else { 1 };
            let calls = tables.compile_calls(convention, tools, most);
            one_of.push(calls.map_err(Refusal::tool)?);
        }
        let may_think = request.thinking.enabled && !prompt.thinking_open;
        let thought = self.thought.filter(|_| may_think);
        Ok(Some(Guide::whole(one_of, thought, writes)))
    }
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides")
            .field("vocab", &self.vocab)
            .finish_non_exhaustive()
    }
}
