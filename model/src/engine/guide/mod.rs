//! What holds an answer to its format, or its calls to the schemas of their tools.
//!
//! A guide begins with the first token after the thought. [`Guide::stretch`] gives the tokens that must come next, which are
//! fed without being drawn; where there are none, [`Guide::mask`] says which may be drawn. `compile` makes guides, on the
//! thread that prepares prompts; `masks` works ahead for them while the network computes.

mod compile;
mod masks;

pub(super) use compile::Guides;
pub(super) use masks::Masks;

use crate::text::{CallSplitter, Constraint, ConstraintError, Mask};

/// The state of one answer that is held to something.
pub(in crate::engine) struct Guide {
    kind: Kind,
    /// whether what must come is written; with log-probabilities every token is drawn
    writes: bool,
    /// whether it is known what must come next, and nothing must
    settled: bool,
    /// tokens that must come next, if they were looked for ahead of time
    ahead: Vec<u32>,
}

enum Kind {
    /// From its first token to its last the answer is one of these, of which those are left that it may still become: a text
    /// in a format, or calls.
    Whole {
        left: Vec<Constraint>,
        /// the token that opens a thought, which may come instead of the first token of the answer
        thought: Option<u32>,
        /// what any of them allows, where one mask is not enough
        joined: Option<Mask>,
    },
    /// The answer is free, but for the calls in it: each is held from the moment that it has named one of the tools.
    Calls { call: Box<Constraint>, at: At },
}

/// Where an answer is whose calls are held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// in text, or in a call that has not named its tool
    Text,
    /// in a call that is held
    Call,
}

impl Guide {
    /// Holds the whole answer to one of these constraints. The token `thought` may come before it.
    pub(in crate::engine) fn whole(
        one_of: Vec<Constraint>,
        thought: Option<u32>,
        writes: bool,
    ) -> Self {
        Self::new(
            Kind::Whole {
                left: one_of,
                thought,
                joined: None,
            },
            writes,
        )
    }

    /// Holds each call of an answer to this constraint.
    pub(in crate::engine) fn calls(call: Constraint, writes: bool) -> Self {
        let (call, at) = (Box::new(call), At::Text);
        Self::new(Kind::Calls { call, at }, writes)
    }

    fn new(kind: Kind, writes: bool) -> Self {
        Self {
            kind,
            writes,
            settled: false,
            ahead: Vec::new(),
        }
    }

    /// Whether all of the answer is held, so that no text of it is anything but the answer.
    pub(in crate::engine) fn is_whole(&self) -> bool {
        matches!(self.kind, Kind::Whole { .. })
    }

    /// Whether it holds the next token, so that there is work to be done for it.
    pub(in crate::engine) fn holds(&self) -> bool {
        match &self.kind {
            Kind::Whole { .. } => true,
            Kind::Calls { at, .. } => *at == At::Call,
        }
    }

    /// Whether this token opens a thought before the answer. The answer begins after that.
    pub(in crate::engine) fn opens_thought(&mut self, token: u32) -> bool {
        match &mut self.kind {
            Kind::Whole {
                thought, joined, ..
            } if *thought == Some(token) => {
                (*thought, *joined) = (None, None);
                self.settled = false;
                true
            }
            _ => false,
        }
    }

    /// Does the work for the next token ahead of time, so that it is there when the logits are.
    pub(in crate::engine) fn prepare(&mut self) {
        // an error stays, and is found again when the token is drawn
        self.ahead = self.stretch();
        if self.ahead.is_empty() {
            let _ = self.mask();
        }
    }

    /// The tokens that must come next. They are not accepted yet.
    pub(in crate::engine) fn stretch(&mut self) -> Vec<u32> {
        if self.settled {
            return std::mem::take(&mut self.ahead);
        }
        self.settled = true;
        match &mut self.kind {
            _ if !self.writes => Vec::new(),
            Kind::Whole {
                left,
                thought: None,
                ..
            } => match &mut left[..] {
                [one] => one.forced(),
                _ => Vec::new(),
            },
            Kind::Calls { call, at: At::Call } => call.forced(),
            Kind::Whole { .. } | Kind::Calls { .. } => Vec::new(),
        }
    }

    /// The tokens that may come next; none where all may.
    pub(in crate::engine) fn mask(&mut self) -> Result<Option<&Mask>, ConstraintError> {
        match &mut self.kind {
            Kind::Whole {
                left,
                thought,
                joined,
            } => {
                if left.len() == 1 && thought.is_none() {
                    return left[0].mask().map(Some);
                }
                if joined.is_none() {
                    *joined = join(left, *thought)?;
                }
                Ok(joined.as_ref())
            }
            Kind::Calls { call, at: At::Call } => call.mask().map(Some),
            Kind::Calls { .. } => Ok(None),
        }
    }

    /// How many tokens of a draft may come, one after the other.
    pub(in crate::engine) fn agreed(&mut self, draft: &[u32]) -> usize {
        match &mut self.kind {
            Kind::Whole { left, .. } => {
                let agreed = left.iter_mut().map(|one| one.agreed(draft));
                agreed.max().unwrap_or(0)
            }
            Kind::Calls { call, at: At::Call } => call.agreed(draft),
            Kind::Calls { .. } => draft.len(),
        }
    }

    /// Takes the token that came.
    pub(in crate::engine) fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.settled = false;
        match &mut self.kind {
            Kind::Whole {
                left,
                thought,
                joined,
            } => {
                (*thought, *joined) = (None, None);
                let mut refused = Ok(());
                left.retain_mut(|one| {
                    let taken = one.accept(token);
                    let stays = taken.is_ok();
                    if !stays {
                        refused = taken;
                    }
                    stays
                });
                if left.is_empty() { refused } else { Ok(()) }
            }
            Kind::Calls { call, at: At::Call } => call.accept(token),
            Kind::Calls { .. } => Ok(()),
        }
    }

    /// Looks where the answer is after a token, of which `calls` has the text. An answer that is held as a whole knows by
    /// itself. A call that has begun in a way that no schema describes cannot be held, so it is none.
    pub(in crate::engine) fn follow(
        &mut self,
        calls: &mut CallSplitter,
    ) -> Result<(), ConstraintError> {
        let Kind::Calls { call, at } = &mut self.kind else {
            return Ok(());
        };
        let next = match (*at, calls.open_call()) {
            // it has been given out; its closing mark is the model's own
            (At::Call, None) => At::Text,
            (At::Call, Some(_)) if call.is_over() => At::Text,
            (At::Text, Some(begun)) => {
                call.restart()?;
                match call.begin(begun) {
                    Ok(()) => At::Call,
                    Err(ConstraintError::Text) => {
                        calls.give_up();
                        At::Text
                    }
                    Err(error) => return Err(error),
                }
            }
            (at, _) => at,
        };
        self.settled &= *at == next;
        *at = next;
        Ok(())
    }

    /// Whether the answer is complete and nothing but its end may follow.
    pub(in crate::engine) fn is_over(&self) -> bool {
        match &self.kind {
            Kind::Whole { left, .. } => left.iter().all(Constraint::is_over),
            Kind::Calls { .. } => false,
        }
    }
}

/// What any of these constraints allows, and the token that opens a thought.
fn join(several: &mut [Constraint], thought: Option<u32>) -> Result<Option<Mask>, ConstraintError> {
    let mut joined: Option<Mask> = None;
    for one in several {
        let mask = one.mask()?;
        match &mut joined {
            Some(joined) => joined.join(mask),
            None => joined = Some(mask.clone()),
        }
    }
    if let (Some(joined), Some(thought)) = (&mut joined, thought) {
        joined.allow(thought);
    }
    Ok(joined)
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}
