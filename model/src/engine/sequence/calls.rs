//! The calls in the answer of one request.

use crate::text::{CallSplitter, Piece, StopStrings, ToolCall};

/// The calls in an answer.
pub(in crate::engine) struct Calls {
    pub(super) splitter: CallSplitter,
    /// what the ids of this answer's calls begin with
    seed: u64,
    found: usize,
}

impl Calls {
    pub(in crate::engine) fn new(splitter: CallSplitter, seed: u64) -> Self {
        let found = 0;
        Self {
            splitter,
            seed,
            found,
        }
    }

    /// Takes text of the answer, or ends it. What is said goes to `stops` and from there to `content`, what is called to
    /// `called`. Gives whether a stop string was found.
    pub(super) fn take(
        &mut self,
        text: Option<&str>,
        stops: &mut StopStrings,
        content: &mut String,
        called: &mut Vec<ToolCall>,
    ) -> bool {
        let (seed, found, mut stopped) = (self.seed, &mut self.found, false);
        let mut emit = |piece: Piece<'_>| match piece {
            Piece::Content(text) => stopped = stopped || stops.push(text, content),
            // what comes after a stop string was never said
            Piece::Call { .. } if stopped => {}
            Piece::Call { name, arguments } => {
                // no stop string goes across a call
                stops.finish(content);
                called.push(ToolCall {
                    id: format!("call_{seed:016x}{found:02x}"),
                    name: name.to_owned(),
                    arguments: arguments.to_owned(),
                });
                *found += 1;
            }
        };
        match text {
            Some(text) => self.splitter.push(text, &mut emit),
            None => self.splitter.finish(&mut emit),
        }
        stopped
    }
}
