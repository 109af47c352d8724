//! How hard the engine may work: readings and `now` in, a [`Decision`] out. A state machine that reads no file and no clock.
//!
//! Two ladders, one for heat and one for pressure. The first rung is climbed at once, each further one when the one before
//! did not help for [`HOLD`]; down it goes one rung at a time, each after as long of ease. Between a mark that climbs and the
//! mark of ease nothing changes, so that a temperature that swings by a degree does not switch anything. Nothing that runs
//! is ever ended.

use std::time::{Duration, Instant};

/// How long a rung is held before the next, up or down. A heat sink answers within some seconds; the pressure files are
/// averages over ten.
pub const HOLD: Duration = Duration::from_secs(10);

/// Degrees below its trip point at which a zone is at ease.
const COOL: f32 = -5.0;
/// Degrees above its trip point at which the whole ladder is climbed at once: next comes the board's own emergency brake.
const BURNING: f32 = 5.0;
/// Share of the highest clock it was ever allowed, below which a processor is being throttled by its kernel.
const THROTTLED: f32 = 0.75;
/// Share of the clock at which it is at ease.
const UNTHROTTLED: f32 = 0.9;
/// Percent of the time in which some task waited for memory: pages are read again and again.
const MEMORY: f32 = 20.0;
/// At ease.
const MEMORY_EASE: f32 = 5.0;
/// Percent of the time in which some task waited for a processor. Our own threads, one a core, are behind a few of them.
const CPU: f32 = 90.0;
/// At ease.
const CPU_EASE: f32 = 60.0;

/// Fewer threads and half the pace; one stream after the other; a quarter of the pace.
const HEAT_TOP: u8 = 3;
/// A throttled clock slows us by itself: it is not worth more than the first rung.
const CLOCK_TOP: u8 = 1;
/// Fewer threads; one stream after the other.
const MEMORY_TOP: u8 = 2;
/// Who waits for processors gets some.
const CPU_TOP: u8 = 1;

/// What the sensors say; none: there is no such sensor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// degrees above its trip point, of the zone where that is most; below it negative
    pub heat: Option<f32>,
    /// share of its own clock that the processor most limited may use now
    pub clock: Option<f32>,
    /// percent of the last ten seconds in which some task waited for memory
    pub memory: Option<f32>,
    /// percent of the last ten seconds in which some task waited for a processor
    pub cpu: Option<f32>,
}

/// Rungs, 0 is free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decision {
    /// 0 to 3
    pub heat: u8,
    /// 0 to 2
    pub pressure: u8,
}

impl Decision {
    /// So many of a phase's threads work.
    #[must_use]
    pub fn threads(self, all: usize) -> usize {
        let heat = self.pace() as usize;
        all.div_ceil(if self.pressure > 0 { heat.max(2) } else { heat })
    }

    /// A step may come every so many times the duration it has at full speed.
    #[must_use]
    pub fn pace(self) -> u32 {
        match self.heat {
            0 => 1,
            HEAT_TOP => 4,
            _ => 2,
        }
    }

    /// No stream begins beside another: a prompt is the hottest work, and takes pages and a share of every step.
    #[must_use]
    pub fn one_at_a_time(self) -> bool {
        self.heat > 1 || self.pressure > 1
    }
}

/// The state machine.
#[derive(Debug, Default)]
pub struct Governor {
    heat: Ladder,
    pressure: Ladder,
    /// the largest share of the clock there was
    clock: f32,
}

impl Governor {
    /// What follows from these readings. `now` never goes back.
    pub fn step(&mut self, readings: Readings, now: Instant) -> Decision {
        let Readings {
            heat,
            clock,
            memory,
            cpu,
        } = readings;
        self.clock = self.clock.max(clock.unwrap_or_default());
        let clock = clock.map(|share| share / self.clock.max(f32::MIN_POSITIVE));
        let burning = heat.is_some_and(|degrees| degrees >= BURNING);
        let strains = [
            Strain::above(heat, 0.0, COOL, HEAT_TOP),
            Strain::above(clock.map(|c| -c), -THROTTLED, -UNTHROTTLED, CLOCK_TOP),
        ];
        self.heat.step(strains, burning, now);
        let strains = [
            Strain::above(memory, MEMORY, MEMORY_EASE, MEMORY_TOP),
            Strain::above(cpu, CPU, CPU_EASE, CPU_TOP),
        ];
        self.pressure.step(strains, false, now);
        Decision {
            heat: self.heat.rung,
            pressure: self.pressure.rung,
        }
    }
}

/// What one reading says of a ladder.
#[derive(Debug, Clone, Copy)]
struct Strain {
    /// worth climbing to
    climb: u8,
    /// worth staying on
    stay: u8,
}

impl Strain {
    /// A reading at or above `mark` is worth `top` rungs, and until it is at `ease` it holds them.
    fn above(reading: Option<f32>, mark: f32, ease: f32, top: u8) -> Self {
        let worth = |yes: bool| if yes { top } else { 0 };
        Self {
            climb: worth(reading.is_some_and(|r| r >= mark)),
            stay: worth(reading.is_some_and(|r| r > ease)),
        }
    }
}

#[derive(Debug, Default)]
struct Ladder {
    rung: u8,
    /// of the last change, or since when there has been ease
    since: Option<Instant>,
}

impl Ladder {
    fn step(&mut self, strains: [Strain; 2], at_once: bool, now: Instant) {
        let most = |of: fn(&Strain) -> u8| strains.iter().map(of).max().unwrap_or(0);
        let (climb, stay) = (most(|s| s.climb), most(|s| s.stay));
        let since = *self.since.get_or_insert(now);
        let held = now.saturating_duration_since(since) >= HOLD;
        if self.rung < climb {
            if at_once {
                self.rung = climb;
            } else if self.rung == 0 || held {
                self.rung += 1;
            } else {
                return;
            }
        } else if self.rung > stay {
            if !held {
                return;
            }
            self.rung -= 1;
        }
        // changed, or neither way: the time begins again
        self.since = Some(now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
