//! When the next step may come. Fewer threads alone do not slow decoding down where memory is its limit, and where
//! there is one thread there cannot be fewer. Pure: durations go in, a pause comes out.

use std::time::Duration;

use glowplug_firmware_config::limits::STREAMS_MAX;

use crate::machine::governor::Decision;

/// The longest pause. A step that was held up by something else must not hold up the next.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The latest step counts a quarter of the average, and for no more than twice the average before it.
const WEIGHT: u32 = 4;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It decoded a token for each of so many streams.
    Decode(usize),
    /// It computed a part of a prompt.
    Prompt,
}

/// Remembers how long steps of decoding take at full speed.
#[derive(Debug, Default)]
pub struct Pace {
    /// The duration by the number of streams; none if such a step was not seen.
    full: [Option<Duration>; STREAMS_MAX + 1],
}

impl Pace {
    /// How long to wait after a step that took so long on `threads` of the `all` threads of its phase.
    pub fn pause(
        &mut self,
        step: Step,
        took: Duration,
        decision: Decision,
        (threads, all): (usize, usize),
    ) -> Duration {
        let due = match step {
            Step::Decode(streams) => {
                let Some(full) = self.full.get_mut(streams) else {
                    return Duration::ZERO;
                };
                if decision == Decision::default() {
                    *full = Some(full.map_or(took, |full| {
                        (full * (WEIGHT - 1) + took.min(full * 2)) / WEIGHT
                    }));
                }
                // at full speed a step that was quicker than the average waits for nothing
                if decision.pace() == 1 {
                    return Duration::ZERO;
                }
                full.unwrap_or(took) * decision.pace()
            }
            // arithmetic is its limit: on half of the threads it took twice as long already
            Step::Prompt => took * decision.pace() * threads as u32 / all.max(1) as u32,
        };
        due.saturating_sub(took).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    const FREE: Decision = Decision {
        heat: 0,
        pressure: 0,
    };
    const HALF: Decision = Decision { heat: 1, ..FREE };
    const QUARTER: Decision = Decision { heat: 3, ..FREE };
    const PRESSED: Decision = Decision {
        pressure: 2,
        ..FREE
    };

    #[test]
    fn a_free_engine_never_waits() {
        let mut pace = Pace::default();
        for step in [Step::Decode(1), Step::Decode(STREAMS_MAX), Step::Prompt] {
            assert_eq!(pace.pause(step, ms(100), FREE, (4, 4)), ms(0));
            assert_eq!(pace.pause(step, ms(100), PRESSED, (2, 4)), ms(0));
            // a step that checks a draft takes longer than the next
            assert_eq!(pace.pause(step, ms(300), FREE, (4, 4)), ms(0));
            assert_eq!(pace.pause(step, ms(100), FREE, (4, 4)), ms(0));
            assert_eq!(pace.pause(step, ms(100), PRESSED, (4, 4)), ms(0));
        }
    }

    #[test]
    fn half_is_half_of_what_full_speed_was() {
        let mut pace = Pace::default();
        for _ in 0..50 {
            pace.pause(Step::Decode(1), ms(40), FREE, (4, 4));
            pace.pause(Step::Decode(2), ms(50), FREE, (4, 4));
        }
        let mut pause =
            |streams, took, decision| pace.pause(Step::Decode(streams), ms(took), decision, (2, 4));
        // memory is the limit: as fast on half of the threads
        assert_eq!(pause(1, 40, HALF), ms(40));
        assert_eq!(pause(1, 55, HALF), ms(25));
        // arithmetic is the limit
        assert_eq!(pause(1, 80, HALF), ms(0));
        assert_eq!(pause(1, 90, HALF), ms(0));
        assert_eq!(pause(2, 50, QUARTER), ms(150));
        // so many streams were never seen at full speed
        assert_eq!(pause(3, 60, HALF), ms(60));
        assert_eq!(pause(STREAMS_MAX + 1, 60, HALF), ms(0));
    }

    #[test]
    fn what_interrupted_a_step_is_forgotten() {
        let mut pace = Pace::default();
        for took in [40, 40, 40_000, 40, 40, 40, 40, 40, 40, 40] {
            pace.pause(Step::Decode(1), ms(took), FREE, (1, 1));
        }
        let pause = pace.pause(Step::Decode(1), ms(40), HALF, (1, 1));
        assert!((ms(40)..ms(44)).contains(&pause), "{pause:?}");
        assert_eq!(
            pace.pause(Step::Prompt, ms(90_000), HALF, (1, 1)),
            PAUSE_MAX
        );
    }

    #[test]
    fn a_prompt_waits_for_what_its_threads_have_not_saved() {
        let mut pace = Pace::default();
        let mut pause = |decision, threads| pace.pause(Step::Prompt, ms(90), decision, threads);
        assert_eq!(pause(HALF, (2, 4)), ms(0));
        assert_eq!(pause(HALF, (1, 1)), ms(90));
        assert_eq!(pause(HALF, (2, 3)), ms(30));
        assert_eq!(pause(QUARTER, (1, 2)), ms(90));
    }
}
