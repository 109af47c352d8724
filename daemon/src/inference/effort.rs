//! How hard the inference thread works: it carries what the governor decided to the engine, and pauses between steps.

use std::time::{Duration, Instant};

use glowplug_model::engine::{Effort, Engine};
use tokio::sync::watch;

use super::pace::{Pace, Step};
use crate::machine::governor::Decision;
use crate::machine::sensors::MachineState;
use crate::models::plan::Threads;

/// The governor's decision as it applies to this engine.
#[derive(Debug)]
pub(super) struct Governed {
    state: watch::Receiver<MachineState>,
    threads: Threads,
    streams: usize,
    applied: Decision,
    pace: Pace,
}

impl Governed {
    /// Until the governor decides otherwise, the engine works with all `threads` and `streams`.
    pub(super) fn new(
        state: watch::Receiver<MachineState>,
        threads: Threads,
        streams: usize,
    ) -> Self {
        Self {
            state,
            threads,
            streams,
            applied: Decision::default(),
            pace: Pace::default(),
        }
    }

    /// Applies the governor's latest decision; called before each step.
    pub(super) fn apply(&mut self, engine: &mut Engine) {
        let decision = self.state.borrow().decision;
        if decision != self.applied {
            self.applied = decision;
            engine.limit(Effort {
                prefill_threads: decision.threads(self.threads.prefill),
                decode_threads: decision.threads(self.threads.decode),
                streams: if decision.one_at_a_time() {
                    1
                } else {
                    self.streams
                },
            });
        }
    }

    /// When the next step may begin, after a step that began at `began` and has just ended.
    pub(super) fn next(&mut self, began: Instant, step: Step) -> Instant {
        let all = match step {
            Step::Decode(_) => self.threads.decode,
            Step::Prompt => self.threads.prefill,
        };
        let ended = Instant::now();
        let threads = (self.applied.threads(all), all);
        let took: Duration = ended - began;
        ended + self.pace.pause(step, took, self.applied, threads)
    }
}
