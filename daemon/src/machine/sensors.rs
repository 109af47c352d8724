//! What the board says about its state: temperatures, clocks, pressure. A thread of its own reads them twice a second,
//! asks the [`Governor`], and shows the others what came of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use glowplug_firmware_config::units::Celsius;
use tokio::sync::watch;

use super::governor::{Decision, Governor, Readings};
use super::kernel_files;

/// The time between two readings. Together with a step of the engine it is well below the two seconds in which a trip
/// must have its effect.
const EVERY: Duration = Duration::from_millis(500);
/// Most thermal zones that are looked at.
const ZONES_MAX: usize = 64;
/// Most trip points of a zone that are looked at.
const TRIPS_MAX: usize = 16;
/// Zones with these words in their type belong to parts that we do not heat.
const FOREIGN: &[&str] = &["battery", "charger", "wifi", "iwl", "nvme", "modem"];
/// Trip points below this are for fans, and are reached every day.
const TRIP_MIN: f32 = 60.0;
/// Where it throttles, if neither a zone nor a board says so.
const TRIP_DEFAULT: Celsius = Celsius(80);
/// Where only the critical point is known, it throttles this many degrees below it.
const BELOW_CRITICAL: f32 = 10.0;
/// A sensor that says anything outside of this is broken or absent.
const SANE: std::ops::Range<f32> = -40.0..150.0;

/// The last readings, and what follows from them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MachineState {
    /// Temperature of the hottest zone in degrees Celsius.
    pub temperature: Option<f32>,
    /// What the governor decided, for the engine and for admission.
    pub decision: Decision,
}

/// Reads until nobody looks any more. `throttle` is the board's. If no thread can be had, the first state is the last.
#[must_use]
pub fn watch(root: &Path, throttle: Option<Celsius>) -> watch::Receiver<MachineState> {
    let sensors = Sensors::new(root, throttle.unwrap_or(TRIP_DEFAULT));
    let mut governor = Governor::default();
    let (show, seen) = watch::channel(sensors.state(&mut governor));
    let spawned = std::thread::Builder::new()
        .name("sensors".to_owned())
        .spawn(move || {
            while !show.is_closed() {
                std::thread::sleep(EVERY);
                let (before, now) = (*show.borrow(), sensors.state(&mut governor));
                if before.decision != now.decision {
                    tell(now);
                }
                show.send_replace(now);
            }
        });
    if let Err(error) = spawned {
        tracing::warn!("heat and pressure are not watched: {error}");
    }
    seen
}

fn tell(state: MachineState) {
    let Decision { heat, pressure } = state.decision;
    let temperature = state.temperature;
    if state.decision == Decision::default() {
        tracing::info!(temperature, "at full speed again");
    } else {
        tracing::warn!(
            temperature,
            heat,
            pressure,
            "the board is strained: working slower"
        );
    }
}

/// Where the readings come from.
#[derive(Debug)]
struct Sensors {
    zones: Vec<Zone>,
    /// Folders of cpufreq, one for the processors that share a clock.
    policies: Vec<PathBuf>,
    /// The folder of the pressure files of the whole system.
    pressure: PathBuf,
}

#[derive(Debug)]
struct Zone {
    temperature: PathBuf,
    trip: f32,
}

impl Sensors {
    /// Looks for the files once: zones do not come and go.
    fn new(root: &Path, throttle: Celsius) -> Self {
        let cpu = root.join("sys/devices/system/cpu/cpufreq");
        Self {
            zones: kernel_files::numbered(&root.join("sys/class/thermal"), "thermal_zone")
                .iter()
                .take(ZONES_MAX)
                .filter_map(|zone| Zone::new(zone, throttle.0.into()))
                .collect(),
            policies: kernel_files::numbered(&cpu, "policy"),
            pressure: root.join("proc/pressure"),
        }
    }

    fn state(&self, governor: &mut Governor) -> MachineState {
        let zones = self.zones.iter();
        let hot: Vec<(f32, f32)> = zones
            .filter_map(|zone| Some((degrees(&zone.temperature)?, zone.trip)))
            .collect();
        let clocks = self.policies.iter().filter_map(|policy| {
            let khz =
                |name| kernel_files::number::<f32>(&policy.join(name)).filter(|khz| *khz > 0.0);
            Some(khz("scaling_max_freq")? / khz("cpuinfo_max_freq")?)
        });
        let readings = Readings {
            heat: hot.iter().map(|(now, trip)| now - trip).reduce(f32::max),
            clock: clocks.reduce(f32::min),
            memory: waited(&self.pressure.join("memory")),
            cpu: waited(&self.pressure.join("cpu")),
        };
        MachineState {
            temperature: hot.iter().map(|(now, _)| *now).reduce(f32::max),
            decision: governor.step(readings, Instant::now()),
        }
    }
}

impl Zone {
    /// A zone, unless it is not ours or cannot be read.
    fn new(folder: &Path, throttle: f32) -> Option<Self> {
        let kind = kernel_files::text(&folder.join("type"))?.to_ascii_lowercase();
        let temperature = folder.join("temp");
        degrees(&temperature)?;
        if FOREIGN.iter().any(|part| kind.contains(part)) {
            return None;
        }
        let trips = |wanted: &'static [&'static str]| {
            let of_kind = move |trip: &usize| {
                let kind = kernel_files::text(&folder.join(format!("trip_point_{trip}_type")));
                kind.is_some_and(|kind| wanted.contains(&kind.trim()))
            };
            let at = |trip| degrees(&folder.join(format!("trip_point_{trip}_temp")));
            (0..TRIPS_MAX).filter(of_kind).filter_map(at)
        };
        let throttles = trips(&["passive", "hot"]).filter(|degrees| *degrees >= TRIP_MIN);
        let trip = throttles.reduce(f32::min).unwrap_or_else(|| {
            let critical = trips(&["critical"]).reduce(f32::min);
            critical.map_or(throttle, |c| (c - BELOW_CRITICAL).min(throttle))
        });
        Some(Self { temperature, trip })
    }
}

/// Reads a temperature; the kernel's files are in thousandths.
fn degrees(path: &Path) -> Option<f32> {
    let degrees = kernel_files::number::<f32>(path)? / 1e3;
    SANE.contains(&degrees).then_some(degrees)
}

/// Reads the percentage of the last ten seconds in which some task waited: `some avg10=1.50 avg60=…`.
fn waited(path: &Path) -> Option<f32> {
    let text = kernel_files::text(path)?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut values = some.split_whitespace();
    values
        .find_map(|value| value.strip_prefix("avg10="))?
        .parse()
        .ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::machine::kernel_files::tests::tree;

    fn state(files: &[(&str, &str)]) -> (Vec<f32>, MachineState) {
        let root = tree(files);
        let sensors = Sensors::new(root.path(), Celsius(82));
        let state = sensors.state(&mut Governor::default());
        (sensors.zones.iter().map(|zone| zone.trip).collect(), state)
    }

    /// where the board throttles
    const THROTTLE: f32 = 82.0;
    const SOC: &str = "sys/class/thermal/thermal_zone0";

    #[test]
    fn a_zone_s_own_trip_point_counts() {
        let table: [(&[(&str, &str)], f32); 5] = [
            (&[], THROTTLE),
            // fans and emergencies alone
            (
                &[
                    ("0_type", "active"),
                    ("0_temp", "50000"),
                    ("1_type", "critical"),
                    ("1_temp", "110000"),
                ],
                THROTTLE,
            ),
            (&[("0_type", "critical\n"), ("0_temp", "85000\n")], 75.0),
            (
                &[
                    ("0_type", "passive"),
                    ("0_temp", "85000"),
                    ("1_type", "passive"),
                    ("1_temp", "75000"),
                    ("2_type", "critical"),
                    ("2_temp", "115000"),
                ],
                75.0,
            ),
            (
                &[
                    ("0_type", "passive"),
                    ("0_temp", "45000"),
                    ("1_type", "hot"),
                    ("1_temp", "-274000"),
                ],
                THROTTLE,
            ),
        ];
        for (trips, trip) in table {
            let files = trips
                .iter()
                .map(|(name, text)| (format!("{SOC}/trip_point_{name}"), *text));
            let mut files: Vec<(String, &str)> = files.collect();
            files.push((format!("{SOC}/type"), "cpu-thermal\n"));
            files.push((format!("{SOC}/temp"), "61850\n"));
            let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), *t)).collect();
            let (trips, state) = state(&files);
            assert_eq!(trips, [trip], "{files:?}");
            assert_eq!(state.temperature, Some(61.85));
            assert_eq!(state.decision, Decision::default());
        }
    }

    #[test]
    fn the_hottest_of_our_own_zones_decides() {
        let zone = |n: usize, kind: &str, temperature: &str| {
            let folder = format!("sys/class/thermal/thermal_zone{n}");
            [
                (format!("{folder}/type"), kind.to_owned()),
                (format!("{folder}/temp"), temperature.to_owned()),
            ]
        };
        let files: Vec<(String, String)> = [
            zone(0, "cpu0-thermal", "79000"),
            zone(1, "cpu1-thermal", "83000"),
            zone(2, "Battery", "99000"),
            zone(3, "gpu-thermal", "-273000"),
            zone(10, "soc", "hot"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(p, t)| (p.as_str(), t.as_str()))
            .collect();
        let (trips, state) = state(&files);
        assert_eq!(trips.len(), 2);
        assert_eq!((state.temperature, state.decision.heat), (Some(83.0), 1));
    }

    #[test]
    fn clocks_and_pressure_are_read() {
        let policy = "sys/devices/system/cpu/cpufreq/policy0";
        let (max, own) = (
            format!("{policy}/scaling_max_freq"),
            format!("{policy}/cpuinfo_max_freq"),
        );
        let root = tree(&[
            (&max, "1800000\n"),
            (&own, "1800000\n"),
            (
                "proc/pressure/memory",
                "some avg10=25.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            ),
            ("proc/pressure/cpu", "nonsense"),
        ]);
        let (sensors, mut governor) = (Sensors::new(root.path(), Celsius(82)), Governor::default());
        let first = sensors.state(&mut governor);
        assert_eq!(
            (
                first.temperature,
                first.decision.heat,
                first.decision.pressure
            ),
            (None, 0, 1)
        );
        std::fs::write(root.path().join(&max), "600000").unwrap();
        assert_eq!(sensors.state(&mut governor).decision.heat, 1);
    }

    #[test]
    fn a_machine_without_sensors_works_freely() {
        assert_eq!(state(&[]), (Vec::new(), MachineState::default()));
    }
}
