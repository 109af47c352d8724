//! A board that becomes hot, and cool again, under a daemon that answers. The board is a folder of files.

use super::alone;
use glowplug_tests::world::client::{Client, Message, PATIENCE, Version};
use glowplug_tests::world::{Kind, World, frame, request, tell, topic};
use glowplug_tests::{Real, real_model};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const TRIP: u32 = 80_000;
const COOL: u32 = 55_000;

/// Files of a board with a trip point at 80 °C and memory enough.
fn board(root: &Path) {
    let zone = "sys/class/thermal/thermal_zone0";
    for (path, text) in [
        (format!("{zone}/type"), "cpu-thermal\n".to_owned()),
        (format!("{zone}/temp"), format!("{COOL}\n")),
        (format!("{zone}/trip_point_0_type"), "passive\n".to_owned()),
        (format!("{zone}/trip_point_0_temp"), format!("{TRIP}\n")),
        (
            "proc/meminfo".to_owned(),
            "MemTotal: 4000000 kB\nMemAvailable: 3500000 kB\n".to_owned(),
        ),
        (
            "proc/device-tree/compatible".to_owned(),
            "raspberrypi,4-model-b\0brcm,bcm2711\0".to_owned(),
        ),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn heat(root: &Path, millidegrees: u32) {
    // renamed into place: a reader must not find half a number
    let (new, temp) = (
        root.join("new"),
        root.join("sys/class/thermal/thermal_zone0/temp"),
    );
    std::fs::write(&new, format!("{millidegrees}\n")).unwrap();
    std::fs::rename(new, temp).unwrap();
}

/// All numbers, which the daemon's own loop gives.
fn stats(client: &mut Client) -> Value {
    client.publish(&Message::new(topic("admin/stats/request"), "{}"));
    let answer = client.until("the stats", |m| {
        (m.topic == topic("admin/stats/response")).then(|| m.json())
    });
    answer["stats"].clone()
}

/// Asks until this is true of the numbers: the board is read twice a second, whenever the machine comes to it.
fn until(client: &mut Client, what: &str, of: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let stats = stats(client);
        if of(&stats) {
            return stats;
        }
        assert!(begin.elapsed() < PATIENCE, "never {what}: {stats}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tokens(stats: &Value) -> u64 {
    stats["tokens"].as_u64().unwrap()
}

/// Decodes so many tokens more; says how fast that was, of which nothing is judged.
fn decode(client: &mut Client, what: &str) {
    let (begin, first) = (Instant::now(), tokens(&stats(client)));
    let last = until(client, "more tokens", |s| tokens(s) >= first + TOKENS);
    let rate = (tokens(&last) - first) as f64 / begin.elapsed().as_secs_f64();
    eprintln!("{what}: {rate:.1} tokens/s");
}

/// A story that goes on until it is cancelled.
fn story(id: &str) -> Value {
    json!({
        "id": id,
        "messages": [{"role": "user", "content": "Tell me a long story of a lighthouse."}],
        // words at random: where a text repeats itself, drafts make it faster, and the rate would be the text's
        "temperature": 2,
        "top_p": 1,
        "top_k": 0,
        "seed": 1,
        "max_tokens": 7000,
        // the tokens that would end it
        "logit_bias": {"0": -100, "2": -100},
    })
}

/// Decoded in each state of the board.
const TOKENS: u64 = 50;

/// How much less it decodes is `pace`'s to say, and `governor`'s when, where time is a number of the test's own.
#[test]
fn heat_makes_it_work_less_and_ends_nothing() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    board(root.path());
    let smol = real_model(Real::Smol);
    let env = [("GLOWPLUG_ROOT", root.path())];
    let context = "context = 8192";
    let mut world = World::start_with(Kind::Embedded, folder, &smol, context, "", &env);
    world.online();
    let mut alice = world.client(Version::V5, "alice");
    let mut admin = world.connect(Version::V5, "admin");
    admin.subscribe(&topic("admin/stats/response"));

    request(&mut alice, &story("a"));
    alice.until("a chunk", |m| frame(m, "a"));
    let before = stats(&mut admin);
    assert_eq!(before["temperature_c"], 55.0);
    assert_eq!(before["throttle"], json!({"heat": 0, "pressure": 0}));
    decode(&mut admin, "cool");

    heat(root.path(), TRIP + 2000);
    let rung = |stats: &Value| stats["throttle"]["heat"].as_u64().unwrap();
    let hot = until(&mut admin, "hot", |stats| rung(stats) > 0);
    assert_eq!(hot["temperature_c"], 82.0);
    decode(&mut admin, "hot");

    // a cancel is answered while the next step waits
    let mut bob = world.client(Version::V5, "bob");
    request(&mut bob, &story("b"));
    tell(&mut bob, "cancel", &json!({"id": "b"}));
    let last = bob.until("the end", |m| {
        frame(m, "b").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(last["choices"][0]["finish_reason"], "cancelled");

    heat(root.path(), COOL);
    until(&mut admin, "cool again", |stats| rung(stats) == 0);
    decode(&mut admin, "cool again");
    // it was never ended
    tell(&mut alice, "cancel", &json!({"id": "a"}));
    let last = alice.until("the end", |m| {
        frame(m, "a").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(last["choices"][0]["finish_reason"], "cancelled");
    assert!(
        world
            .daemon
            .said()
            .contains("the board is strained: working slower")
    );
}

#[test]
fn the_board_is_found_and_told() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    board(root.path());
    let smol = real_model(Real::Smol);
    let env = [("GLOWPLUG_ROOT", root.path())];
    let mut world = World::start_with(Kind::Embedded, folder, &smol, "context = 512", "", &env);
    world.online();
    let mut client = world.connect(Version::V5, "info");
    client.subscribe(&topic("info"));
    let info = client.next().json();
    assert_eq!(
        info["board"],
        json!({"name": "raspberry-pi-4-4g", "why": "device tree `raspberrypi,4-model-b`, 3.8 GiB"})
    );
}
