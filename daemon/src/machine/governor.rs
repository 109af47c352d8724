//! How hard the engine may work: readings and `now` go in, a [`Decision`] comes out. A state machine that reads no file
//! and no clock.
//!
//! There are two ladders, one for heat and one for pressure. The first rung is climbed at once, and each further one
//! when the one before did not help for [`HOLD`]. Down it goes one rung at a time, each after the same time of ease.
//! Between the mark for climbing and the mark of ease nothing changes, so that a temperature that swings by a degree
//! switches nothing. Nothing that runs is ever ended.

use std::time::{Duration, Instant};

/// How long a rung is held before the next one, up or down. A heat sink answers within some seconds, and the pressure
/// files are averages over ten.
pub const HOLD: Duration = Duration::from_secs(10);

/// Degrees below its trip point at which a zone is at ease.
const COOL: f32 = -5.0;
/// A zone this many degrees above its trip point climbs the whole ladder at once: next comes the board's own emergency
/// brake.
const BURNING: f32 = 5.0;
/// A processor below this share of the highest clock it was ever allowed is being throttled by its kernel.
const THROTTLED: f32 = 0.75;
/// A processor above this share of that clock is at ease.
const UNTHROTTLED: f32 = 0.9;
/// Above this percentage of time in which some task waited for memory, pages are being read again and again.
const MEMORY: f32 = 20.0;
/// Below this percentage memory is at ease.
const MEMORY_EASE: f32 = 5.0;
/// Above this percentage of time in which some task waited for a processor, others suffer. Our own threads, one for
/// each core, cause a few percent themselves.
const CPU: f32 = 90.0;
/// Below this percentage the processors are at ease.
const CPU_EASE: f32 = 60.0;

/// The rungs of heat: fewer threads and half the pace; one stream after the other; a quarter of the pace.
const HEAT_TOP: u8 = 3;
/// A throttled clock slows us down by itself, so it is worth only the first rung.
const CLOCK_TOP: u8 = 1;
/// The rungs of memory pressure: fewer threads; one stream after the other.
const MEMORY_TOP: u8 = 2;
/// The rung of processor pressure: fewer threads, so that others get some processors.
const CPU_TOP: u8 = 1;

/// What the sensors say; none where there is no such sensor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// How many degrees the zone that is furthest above its trip point is above it; negative while all zones are below.
    pub heat: Option<f32>,
    /// Share of its own clock that the most limited processor may use now.
    pub clock: Option<f32>,
    /// Percentage of the last ten seconds in which some task waited for memory.
    pub memory: Option<f32>,
    /// Percentage of the last ten seconds in which some task waited for a processor.
    pub cpu: Option<f32>,
}

/// The rungs of the two ladders; on rung 0 nothing is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decision {
    /// From 0 to [`HEAT_TOP`].
    pub heat: u8,
    /// From 0 to [`MEMORY_TOP`].
    pub pressure: u8,
}

impl Decision {
    /// How many of a phase's threads should work.
    #[must_use]
    pub fn threads(self, all: usize) -> usize {
        let heat = self.pace() as usize;
        all.div_ceil(if self.pressure > 0 { heat.max(2) } else { heat })
    }

    /// A step may begin every so many times the duration that it has at full speed.
    #[must_use]
    pub fn pace(self) -> u32 {
        match self.heat {
            0 => 1,
            HEAT_TOP => 4,
            _ => 2,
        }
    }

    /// Whether no stream may begin beside another: a prompt is the hottest work, and takes pages and a share of every
    /// step.
    #[must_use]
    pub fn one_at_a_time(self) -> bool {
        self.heat > 1 || self.pressure > 1
    }
}

#[derive(Debug, Default)]
pub struct Governor {
    heat: Ladder,
    pressure: Ladder,
    /// The largest share of the clock that was ever seen.
    clock: f32,
}

impl Governor {
    /// Decides what follows from these readings. `now` never goes back.
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

/// What one reading means for a ladder.
#[derive(Debug, Clone, Copy)]
struct Strain {
    /// The rung that it is worth climbing to.
    climb: u8,
    /// The rung that it is worth staying on.
    stay: u8,
}

impl Strain {
    /// A reading at or above `mark` is worth `top` rungs. They are held until it falls to `ease`.
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
    /// When the rung changed last, or since when there has been ease.
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
        // it changed, or it points neither way: the time begins again
        self.since = Some(now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
