//! A conversation that has outgrown the context and may forget its beginning: whole turns go, the oldest first.
//!
//! What is left is a prompt like any other: computed exactly, found by others, of the template's shape. So much goes at once
//! that half of the context is free, so that the turns to come find their beginning in the cache again.

use super::Engine;
use super::memory::Memory;
use super::request::{Refusal, Request};
use super::session::SessionKey;
use crate::text::{Message, Prompt, Role};
use glowplug_firmware_config::limits::PAGE_TOKENS;
use std::ops::Range;

impl Engine {
    /// The prompt of a request whose first `history` messages are its session's, and which of these were forgotten for it:
    /// they are taken out of the request.
    ///
    /// # Errors
    /// [`Refusal`]: no prompt, or not even the new messages have room.
    pub(super) fn fit(
        &self,
        request: &mut Request,
        history: usize,
    ) -> Result<(Prompt, Range<usize>), Refusal> {
        let (prompt, limit) = (self.prompt(request)?, self.info.context);
        let tokens = prompt.tokens.len();
        let whole = limit.min(self.memory.pages.total() * PAGE_TOKENS);
        let answer = (request.max_tokens as usize).clamp(1, (whole / 4).max(1));
        let may = self.window && history > 0;
        if !may || tokens + answer <= whole {
            return if tokens < limit {
                Ok((prompt, 0..0))
            } else {
                Err(Refusal::ContextLength { tokens, limit })
            };
        }
        let (system, ends) = turns(&request.messages[..history]);
        let without = |end: usize| {
            let mut request = request.clone();
            request.messages.drain(system..end);
            self.prompt(&request)
        };
        // the fewest turns whose loss is enough: the prompt gets shorter with each
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
        request.messages.drain(system..end);
        let prompt = self.prompt(request)?;
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
    /// Takes messages out of a session. Its pages are held no longer: what of them the next prompt begins with is found as
    /// long as nobody needs their room.
    pub(super) fn cut(&mut self, key: &SessionKey, messages: Range<usize>) {
        self.sessions.cut(key, messages);
        self.hold(key, None);
    }
}
