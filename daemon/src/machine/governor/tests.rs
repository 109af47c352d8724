//! The ladders, by hand and at random.

use super::*;
use proptest::prelude::*;

const TICK: Duration = Duration::from_millis(500);

fn hot(degrees: f32) -> Readings {
    Readings {
        heat: Some(degrees),
        ..Readings::default()
    }
}

/// Decisions of one governor, each after `seconds` of the same readings.
fn story(chapters: &[(u64, Readings)]) -> Vec<Decision> {
    let (mut governor, mut now) = (Governor::default(), Instant::now());
    let tell = |&(seconds, readings): &(u64, Readings)| {
        let mut last = Decision::default();
        for _ in 0..seconds * 2 {
            last = governor.step(readings, now);
            now += TICK;
        }
        last
    };
    chapters.iter().map(tell).collect()
}

fn heats(chapters: &[(u64, Readings)]) -> Vec<u8> {
    story(chapters).iter().map(|d| d.heat).collect()
}

#[test]
fn a_trip_halves_at_once_and_what_does_not_help_is_doubled() {
    let first = Governor::default().step(hot(0.0), Instant::now());
    assert_eq!(
        (first.heat, first.pace(), first.one_at_a_time()),
        (1, 2, false)
    );
    assert_eq!(
        [1, 2, 3, 4, 8].map(|all| first.threads(all)),
        [1, 1, 2, 2, 4]
    );
    assert_eq!(
        heats(&[(9, hot(1.0)), (2, hot(1.0)), (9, hot(1.0)), (60, hot(1.0))]),
        [1, 2, 2, 3]
    );
    let top = Decision {
        heat: 3,
        pressure: 0,
    };
    assert_eq!((top.pace(), top.threads(8), top.threads(1)), (4, 2, 1));
    assert!(top.one_at_a_time());
    // far above there is no time to wait
    assert_eq!(heats(&[(1, hot(BURNING))]), [3]);
}

#[test]
fn it_recovers_a_rung_at_a_time_when_it_has_been_cool_for_long_enough() {
    let (burning, cool) = (hot(9.0), hot(-6.0));
    assert_eq!(
        heats(&[(1, burning), (9, cool), (2, cool), (10, cool), (10, cool)]),
        [3, 3, 2, 1, 0]
    );
    // between the marks nothing moves, and the time of ease begins again
    assert_eq!(
        heats(&[
            (1, hot(0.0)),
            (100, hot(-2.0)),
            (9, cool),
            (1, hot(-4.9)),
            (9, cool),
            (2, cool)
        ]),
        [1, 1, 1, 1, 1, 0]
    );
    // a sensor that is gone holds nothing
    assert_eq!(heats(&[(1, hot(0.0)), (11, Readings::default())]), [1, 0]);
}

#[test]
fn a_clock_below_its_best_is_heat_of_one_rung() {
    let clock = |share| Readings {
        clock: Some(share),
        ..Readings::default()
    };
    // set low from the start by whoever runs the board: nobody throttles
    assert_eq!(heats(&[(60, clock(0.5))]), [0]);
    assert_eq!(
        heats(&[
            (1, clock(1.0)),
            (60, clock(0.6)),
            (60, clock(0.8)),
            (11, clock(1.0))
        ]),
        [0, 1, 1, 0]
    );
}

#[test]
fn pressure_takes_threads_and_beginners_and_no_pace() {
    let pressed = |memory, cpu| Readings {
        memory: Some(memory),
        cpu: Some(cpu),
        ..Readings::default()
    };
    let told = story(&[
        (60, pressed(0.0, 95.0)),
        (60, pressed(30.0, 0.0)),
        (11, pressed(1.0, 80.0)),
        (11, pressed(1.0, 1.0)),
    ]);
    let pressure: Vec<u8> = told.iter().map(|d| d.pressure).collect();
    assert_eq!(pressure, [1, 2, 1, 0]);
    assert!(told.iter().all(|d| d.pace() == 1 && d.heat == 0));
    assert_eq!((told[0].threads(4), told[0].one_at_a_time()), (2, false));
    assert!(told[1].one_at_a_time());
    let both = Decision {
        heat: 1,
        pressure: 2,
    };
    assert_eq!((both.threads(8), both.pace()), (4, 2));
}

fn reading(range: std::ops::Range<f32>) -> impl Strategy<Value = Option<f32>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(f32::NAN)), 8 => range.prop_map(Some)]
}

fn readings() -> impl Strategy<Value = Readings> {
    (
        reading(-60.0..20.0),
        reading(0.0..1.1),
        reading(0.0..100.0),
        reading(0.0..100.0),
    )
        .prop_map(|(heat, clock, memory, cpu)| Readings {
            heat,
            clock,
            memory,
            cpu,
        })
}

proptest! {
    /// Whatever the sensors say: rungs stay on their ladders, somebody always works, a descent is one rung and as late as
    /// `HOLD`, a climb beyond the first rung as well unless it burns, and only a reason climbs.
    #[test]
    fn no_reading_breaks_it(steps in proptest::collection::vec((readings(), 0..20_000_u64), 1..200)) {
        let (mut governor, mut now) = (Governor::default(), Instant::now());
        let mut last = Decision::default();
        let mut changed = [None::<Instant>; 2];
        for (readings, ms) in steps {
            let decision = governor.step(readings, now);
            prop_assert!(decision.heat <= HEAT_TOP && decision.pressure <= MEMORY_TOP);
            for all in 1..=64 {
                prop_assert!((1..=all).contains(&decision.threads(all)));
            }
            let over = |reading: Option<f32>, mark| reading.is_some_and(|r| r >= mark);
            let pairs = [(last.heat, decision.heat), (last.pressure, decision.pressure)];
            for (changed, (before, after)) in changed.iter_mut().zip(pairs) {
                if before == after {
                    continue;
                }
                let waited = changed.is_none_or(|at| now - at >= HOLD);
                let burning = over(readings.heat, BURNING);
                prop_assert!(after.abs_diff(before) == 1 || (burning && after == HEAT_TOP));
                prop_assert!(waited || (after > before && (before == 0 || burning)));
                *changed = Some(now);
            }
            if decision.heat > last.heat {
                prop_assert!(over(readings.heat, 0.0) || (readings.clock.is_some() && decision.heat == CLOCK_TOP));
            }
            if decision.pressure > last.pressure {
                prop_assert!(over(readings.memory, MEMORY) || (over(readings.cpu, CPU) && decision.pressure == CPU_TOP));
            }
            last = decision;
            now += Duration::from_millis(ms);
        }
    }

    /// From wherever it is, with ease it is free after `HOLD` for each rung, and stays free.
    #[test]
    fn ease_frees_it(steps in proptest::collection::vec(readings(), 0..100)) {
        let (mut governor, mut now) = (Governor::default(), Instant::now());
        let mut step = |readings| {
            now += TICK;
            governor.step(readings, now)
        };
        for readings in steps {
            step(readings);
        }
        let ease = Readings { heat: Some(-30.0), clock: Some(1.1), memory: Some(0.0), cpu: Some(0.0) };
        let ticks = |rungs: u8| (HOLD.as_millis() / TICK.as_millis()) as u64 * u64::from(rungs) + 2;
        for _ in 0..ticks(HEAT_TOP) {
            step(ease);
        }
        for _ in 0..100 {
            prop_assert_eq!(step(ease), Decision::default());
        }
    }
}
