//! What the daemon costs while nobody asks it anything.

use super::client::Version;
use super::world::{Kind, World, request, topic};
use glowplug_tests::{Real, real_model};
use serde_json::json;
use std::time::{Duration, Instant};

/// Clock ticks a second in `/proc`, on every Linux.
const TICKS: f64 = 100.0;
/// The measurement: half a percent of it is 5 ticks.
const WATCHED: Duration = Duration::from_secs(10);

/// Ticks of user and system time of all its threads: fields 14 and 15, the name before them may hold anything.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let field = |n: usize| fields.split_whitespace().nth(n - 3).unwrap();
    [14, 15]
        .map(|n| field(n).parse::<u64>().unwrap())
        .iter()
        .sum()
}

#[test]
fn an_idle_daemon_uses_under_half_a_percent_of_a_core() {
    let folder = tempfile::tempdir().unwrap();
    let smol = real_model(Real::Smol);
    // the embedded broker's work is the daemon's own; metrics are ten times as frequent as by default
    let mut world = World::start(Kind::Embedded, folder, &smol, "context = 512", "");
    world.online();
    // its threads have worked and rest
    let mut alice = world.client(Version::V5, "alice");
    let question = json!([{"role": "user", "content": "Hello"}]);
    request(
        &mut alice,
        &json!({"id": "a", "messages": question, "max_tokens": 4}),
    );
    let mut info = world.connect(Version::V5, "info");
    info.subscribe(&topic("info"));
    info.until("the model's hash", |m| {
        m.json()["model"]["sha256"].as_str().map(drop)
    });
    world.metrics("rest", |m| m["finished"] == 1 && m["running"] == 0);

    let (before, start) = (ticks(world.daemon.pid()), Instant::now());
    std::thread::sleep(WATCHED);
    let used = ticks(world.daemon.pid()) - before;
    let percent = used as f64 / TICKS / start.elapsed().as_secs_f64() * 100.0;
    eprintln!("idle: {percent:.2} % of a core ({used} ticks)");
    assert!(percent < 0.5, "{percent:.2} % of a core");
}
