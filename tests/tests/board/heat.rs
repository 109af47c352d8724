//! A board that becomes hot, and cool again, under a daemon that answers. The board is a folder of files.

use super::alone;
use super::client::{Client, Message, Version};
use super::world::{Kind, World, frame, request, tell, topic};
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

/// Asks for all numbers, which the daemon's own loop answers; how long that took.
fn stats(client: &mut Client) -> (Value, Duration) {
    let asked = Instant::now();
    client.publish(&Message::new(topic("admin/stats/request"), "{}"));
    let answer = client.until("the stats", |m| {
        (m.topic == topic("admin/stats/response")).then(|| m.json())
    });
    (answer["stats"].clone(), asked.elapsed())
}

/// Tokens a second of all streams over this long; and the slowest answer of the control topics meanwhile.
fn rate(client: &mut Client, over: Duration) -> (f64, Duration) {
    let (begin, mut slowest) = (Instant::now(), Duration::ZERO);
    let first = stats(client).0["tokens"].as_u64().unwrap();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let (stats, took) = stats(client);
        slowest = slowest.max(took);
        if begin.elapsed() >= over {
            let tokens = stats["tokens"].as_u64().unwrap() - first;
            return (tokens as f64 / begin.elapsed().as_secs_f64(), slowest);
        }
    }
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

/// The fastest it may answer to and the longest it may take to become slow.
const CONTROL: Duration = Duration::from_millis(200);
const EFFECT: Duration = Duration::from_secs(2);

#[test]
fn heat_halves_decoding_within_two_seconds_and_ends_nothing() {
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
    let (full, _) = rate(&mut admin, Duration::from_secs(2));
    let before = stats(&mut admin).0;
    assert_eq!(before["temperature_c"], 55.0);
    assert_eq!(before["throttle"], json!({"heat": 0, "pressure": 0}));

    heat(root.path(), TRIP + 2000);
    let tripped = Instant::now();
    let (mut slowest, mut half);
    loop {
        (half, slowest) = rate(&mut admin, Duration::from_millis(500));
        if half <= 0.6 * full {
            break;
        }
        assert!(
            tripped.elapsed() < EFFECT,
            "{half:.1} of {full:.1} tokens/s"
        );
    }
    let effect = tripped.elapsed();
    let (half, over_two_seconds) = rate(&mut admin, Duration::from_secs(2));
    slowest = slowest.max(over_two_seconds);
    eprintln!(
        "{full:.1} tokens/s, {half:.1} when hot (seen after {effect:.1?}); slowest control reply {slowest:.0?}"
    );
    assert!(
        (0.35..=0.6).contains(&(half / full)),
        "{half:.1} of {full:.1} tokens/s"
    );
    assert_eq!(stats(&mut admin).0["temperature_c"], 82.0);

    // a cancel is answered while the next step waits
    let mut bob = world.client(Version::V5, "bob");
    request(&mut bob, &story("b"));
    bob.until("a chunk", |m| frame(m, "b"));
    let cancelled = Instant::now();
    tell(&mut bob, "cancel", &json!({"id": "b"}));
    let last = bob.until("the end", |m| {
        frame(m, "b").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(last["choices"][0]["finish_reason"], "cancelled");
    slowest = slowest.max(cancelled.elapsed());
    assert!(slowest < CONTROL, "{slowest:?}");

    heat(root.path(), COOL);
    let recovering = Instant::now();
    loop {
        let (again, _) = rate(&mut admin, Duration::from_secs(1));
        // not the rate of the beginning: attention takes longer by now
        if again >= 1.3 * half {
            eprintln!(
                "{again:.1} tokens/s again after {:.1?}",
                recovering.elapsed()
            );
            break;
        }
        assert!(
            recovering.elapsed() < Duration::from_secs(60),
            "{again:.1} tokens/s, {half:.1} when hot"
        );
    }
    // it was never ended
    tell(&mut alice, "cancel", &json!({"id": "a"}));
    let last = alice.until("the end", |m| {
        frame(m, "a").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(last["choices"][0]["finish_reason"], "cancelled");
    assert!(world.daemon.said().contains("works less"));
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
