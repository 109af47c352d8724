//! Where a step of a prompt ends, so that the state there is kept and a later prompt may go on from it.

use super::Sequence;
use glowplug_firmware_config::limits::PAGE_TOKENS;

impl Sequence {
    /// Has steps of its prompt end where later prompts are likely to part from it: behind what is everybody's, and at these
    /// numbers of tokens. Each is moved to the end of a whole page before it, because the page that it is in may go with the
    /// thought in its other half.
    pub(in crate::engine) fn check_at(&mut self, [first, answer]: [usize; 2]) {
        let checkpoints = [self.owners.common, first, answer];
        self.checkpoints =
            checkpoints.map(|tokens| tokens.min(self.prompt) / PAGE_TOKENS * PAGE_TOKENS);
    }

    /// How many tokens of the prompt there are before its next checkpoint, if there is one.
    pub(super) fn next_checkpoint(&self) -> Option<usize> {
        let ahead = self.checkpoints.into_iter().filter(|at| *at > self.fed);
        ahead.min().map(|at| at - self.fed)
    }

    /// Whether the tokens that were fed end at a checkpoint.
    pub(in crate::engine) fn is_at_checkpoint(&self) -> bool {
        self.fed > 0 && self.checkpoints.contains(&self.fed)
    }

    /// Whether it is the engine's own work and done. Its last tokens call for an answer, which no later prompt does there.
    pub(in crate::engine) fn is_tidied(&self) -> bool {
        self.is_own() && self.remaining() == 0
    }
}
