//! What the daemon costs while nobody asks it anything.

use glowplug_tests::world::client::Version;
use glowplug_tests::world::{Kind, World, request, topic};
use glowplug_tests::{Real, real_model};
use serde_json::json;

/// The measurement, in `metrics`, of which one comes a second: a loaded machine makes it longer, not the daemon busier.
const WATCHED: u64 = 10;
/// How often its threads may wake for one of them: the readings of the board twice, the broker, both ends of one message on
/// loopback.
const WAKES: u64 = 30;
/// Ticks of 10 ms, as `/proc` has them, for one of them: what spins takes a hundred.
const TICKS: u64 = 10;

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

/// How often its threads have slept and gone on; those that came and went meanwhile do not count.
fn wakes(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |thread: std::path::PathBuf| {
        let status = std::fs::read_to_string(thread.join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    threads.filter_map(|t| of(t.unwrap().path())).sum()
}

#[test]
fn an_idle_daemon_sleeps() {
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

    let pid = world.daemon.pid();
    let before = (ticks(pid), wakes(pid));
    for _ in 0..WATCHED {
        world.metrics("another second", |_| true);
    }
    let (used, woken) = (ticks(pid) - before.0, wakes(pid) - before.1);
    eprintln!("idle, for {WATCHED} metrics: {used} ticks, {woken} wakes");
    assert!(woken <= WATCHED * WAKES, "{woken} wakes");
    assert!(used <= WATCHED * TICKS, "{used} ticks");
}
