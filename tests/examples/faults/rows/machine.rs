//! The machine around the daemon: clocks and heat, F14 and F15.

use crate::common::{ENGINE, body, last, model_in, stats};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use glowplug_tests::SplitMix;
use glowplug_tests::world::client::{PATIENCE, Version};
use glowplug_tests::world::{Kind, World, frame, request, tiny, topic};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const ROWS: [Row; 2] = [
    Row {
        name: "F14",
        fault: "the clock jumps ten years, forth and back, between tokens",
        asked: "no deadline, session or timer ends early or never",
        run: clock,
    },
    Row {
        name: "F15",
        fault: "the board is too hot",
        asked: "it works less, answers, ends nothing, and recovers",
        run: heat,
    },
];

/// The library that Debian's `faketime` brings.
fn faketime() -> Result<PathBuf, NotRun> {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .ok_or_else(|| NotRun("`apt-get install faketime`".to_owned()))
}

fn clock(run: &Run, tally: &Tally) -> Outcome {
    let library = faketime()?;
    let folder = tempfile::tempdir().unwrap();
    let model = model_in(folder.path(), &tiny());
    let offset = folder.path().join("offset");
    let jump = |to: &str| {
        let new = offset.with_extension("new");
        std::fs::write(&new, to).unwrap();
        std::fs::rename(&new, &offset).unwrap();
    };
    jump("+0");
    let env = [
        ("LD_PRELOAD", library.as_path()),
        ("FAKETIME_TIMESTAMP_FILE", offset.as_path()),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        // what jumps is what people set, not the time since the start
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ("DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let context = "context = 8192";
    let engine = format!(
        "{ENGINE}\n[sessions]\ndir = \"{}\"\nexpire_s = 3600",
        folder.path().join("sessions").display()
    );
    let mut world = World::start_with(Kind::Mosquitto, folder, &model, context, &engine, &env);
    world.online();
    let mut alice = world.client(Version::V5, "alice");
    let mut bob = world.client(Version::V5, "bob");
    let mut turn = |id: &str| {
        let mut body = World::endless(id, 4);
        body["session"] = json!("s");
        body["deadline_ms"] = json!(600_000);
        request(&mut bob, &body);
        let end = last(&mut bob, id);
        assert_eq!(end["choices"][0]["finish_reason"], "length", "{end}");
        end["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let mut before = turn("first");
    let mut random = SplitMix::new(run.seed, "F14");
    let jumps = run.of(10, 200);
    for n in 0..jumps {
        tally.injected(1);
        let id = format!("s{n}");
        let mut long = body(&id, 60);
        long["deadline_ms"] = json!(600_000);
        request(&mut alice, &long);
        for _ in 0..1 + random.below(10) {
            alice.until("a chunk", |m| frame(m, &id));
        }
        jump(["+10y", "-10y", "+1d", "+0"][random.below(4)]);
        let end = last(&mut alice, &id);
        let of = end["usage"]["completion_tokens"].as_u64();
        let now = turn(&format!("t{n}"));
        if of == Some(60) && now > before {
            tally.survived(1);
        } else {
            tally.fell_short(format!("{now} tokens of a session of {before}; {end}"));
        }
        before = now;
    }
    // and that it jumped at all: the status at the end tells the time. An idle daemon is `offline` so soon that
    // `draining` is never sent, since only the newest status is.
    jump("+10y");
    world.daemon.signal("TERM");
    let since = world.watch.until("the end", |m| {
        let status = (m.topic == topic("status")).then(|| m.json())?;
        (status["state"] != "online").then(|| status["since"].as_u64().unwrap())
    });
    let real = std::time::SystemTime::now();
    let real = real
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let years = since.saturating_sub(real) / (1000 * 86_400 * 365);
    if years < 9 {
        return Err(NotRun("the clock could not be faked".to_owned()));
    }
    let code = world.daemon.ended().code();
    tally.check(code == Some(0), || format!("exit code {code:?}"));
    Ok(format!("{jumps} jumps"))
}

fn heat(run: &Run, tally: &Tally) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let zone = "sys/class/thermal/thermal_zone0";
    for (path, text) in [
        (format!("{zone}/type"), "cpu-thermal\n"),
        (format!("{zone}/temp"), "55000\n"),
        (format!("{zone}/trip_point_0_type"), "passive\n"),
        (format!("{zone}/trip_point_0_temp"), "80000\n"),
        (
            "proc/meminfo".to_owned(),
            "MemTotal: 4000000 kB\nMemAvailable: 3500000 kB\n",
        ),
    ] {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let temperature = |millidegrees: u32| {
        // a reader must not find half a number
        let new = root.path().join("new");
        std::fs::write(&new, format!("{millidegrees}\n")).unwrap();
        std::fs::rename(new, root.path().join(zone).join("temp")).unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let model = model_in(folder.path(), &tiny());
    let env = [("GLOWPLUG_ROOT", root.path())];
    let context = "context = 8192";
    let mut world = World::start_with(Kind::Mosquitto, folder, &model, context, ENGINE, &env);
    world.online();
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    let mut slowest = Duration::ZERO;
    let mut until = |hot: bool| {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let asked = Instant::now();
            let heat = stats(&mut operator)["throttle"]["heat"].as_f64().unwrap();
            slowest = slowest.max(asked.elapsed());
            if (heat > 0.0) == hot {
                return;
            }
            assert!(Instant::now() < give_up, "heat {heat}, and hot is {hot}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for n in 0..run.of(1, 10) {
        tally.injected(1);
        let id = n.to_string();
        request(&mut client, &body(&id, 4000));
        client.until("a chunk", |m| frame(m, &id));
        temperature(85_000);
        until(true);
        temperature(55_000);
        until(false);
        let end = last(&mut client, &id);
        assert_eq!(end["usage"]["completion_tokens"], 4000, "{end}");
        tally.survived(1);
    }
    if run.times && slowest > Duration::from_millis(200) {
        tally.fell_short(format!("numbers told after {slowest:.1?}"));
    }
    Ok(format!("numbers told after {slowest:.1?} at most"))
}
