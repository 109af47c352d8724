//! How a conversation that has outgrown the context forgets its beginning: whole turns go, the oldest first.
//!
//! What is left is a prompt like any other: it is computed exactly, later prompts find its pages, and it has the shape that
//! the template gives. Enough turns go at once to free half of the context, so that the next turns find their beginning in
//! the cache again.

use super::SessionKey;
use crate::engine::memory::Memory;
use crate::engine::prompt::PromptBuilder;
use crate::engine::request::{Refusal, Request};
use crate::text::{Message, Prompt, Role};
use std::ops::Range;

impl PromptBuilder {
    /// Makes the prompt of a request whose first `history` messages are its session's. Gives it with the range of messages
    /// that were forgotten for it, which are taken out of `messages`. The bytes of text that were read are added to `bytes`.
    ///
    /// # Errors
    /// [`Refusal`] if there is no prompt, or not even the new messages have room.
    pub(in crate::engine) fn fit(
        &self,
        request: &Request,
        messages: &mut Vec<Message>,
        history: usize,
        bytes: &mut usize,
    ) -> Result<(Prompt, Range<usize>), Refusal> {
        let limit = self.context.saturating_sub(request.reserve);
        let prompt = self.prompt(request, messages, bytes)?;
        let (tokens, whole) = (prompt.tokens.len(), self.whole.min(limit));
        let answer = (request.max_tokens as usize).clamp(1, (whole / 4).max(1));
        // the engine's own work computes a conversation as it is
        let may = self.window && history > 0 && request.max_tokens > 0;
        if !may || tokens + answer <= whole {
            return if tokens < limit {
                Ok((prompt, 0..0))
            } else {
                Err(Refusal::ContextLength { tokens, limit })
            };
        }
        let (system, mut ends) = turns(&messages[..history]);
        if messages[history].role == Role::Tool {
            // the calls that these results answer are in the last turn
            ends.pop();
        }
        let mut without = |end: usize| {
            let left = [&messages[..system], &messages[end..]].concat();
            self.prompt(request, &left, bytes)
        };
        // finds the fewest turns whose loss is enough; the prompt gets shorter with each
        let (mut enough, mut few) = (ends.len().saturating_sub(1), 0);
        while few < enough {
            let middle = usize::midpoint(few, enough);
            if without(ends[middle])?.tokens.len() <= whole / 2 {
                enough = middle;
            } else {
                few = middle + 1;
            }
        }
        let Some(&end) = ends.get(enough) else {
            return Err(Refusal::ContextLength { tokens, limit });
        };
        messages.drain(system..end);
        let prompt = self.prompt(request, messages, bytes)?;
        match prompt.tokens.len() {
            tokens if tokens < whole => Ok((prompt, system..end)),
            tokens => Err(Refusal::ContextLength { tokens, limit }),
        }
    }
}

/// How many messages of a history come before its first turn, and where each turn ends.
fn turns(history: &[Message]) -> (usize, Vec<usize>) {
    let system = history.iter().take_while(|m| m.role == Role::System);
    let system = system.count();
    let starts = (system + 1..history.len()).filter(|&i| history[i].role == Role::User);
    let end = (history.len() > system).then_some(history.len());
    (system, starts.chain(end).collect())
}

impl Memory {
    /// Takes messages out of a session and holds its pages no longer. The next prompt still finds those that it begins with,
    /// as long as nobody needs their room.
    pub(in crate::engine) fn cut(&mut self, key: &SessionKey, messages: Range<usize>) {
        self.sessions.cut(key, messages);
        self.hold(key, None);
    }
}
