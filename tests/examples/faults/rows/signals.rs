//! A daemon that hangs, is told to end, or is killed: F28, F30, F31.

use crate::asker::{TOKENS, asked, unlike, wait};
use crate::common::{self, ENGINE, body, last, model_in, stats, world};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use glowplug_tests::SplitMix;
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{Kind, World, frame, request, tiny, topic};
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const ROWS: [Row; 3] = [
    Row {
        name: "F28",
        fault: "a step of the model hangs",
        asked: "the watchdog is no longer fed, numbers are still told, the repeated id is answered after the restart",
        run: hang,
    },
    Row {
        name: "F30",
        fault: "SIGTERM under 8 streams",
        asked: "exit code 0, one last frame each, no will",
        run: term,
    },
    Row {
        name: "F31",
        fault: "SIGKILL again and again",
        asked: "serves again by itself, 0 lost, what was saved is there",
        run: kill,
    },
];

/// Holds a thread up behind its next system call until it is dropped.
struct Hold(Child);

impl Hold {
    fn thread(pid: u32, name: &str) -> Result<Self, NotRun> {
        let tasks = format!("/proc/{pid}/task");
        let threads = std::fs::read_dir(&tasks).unwrap().flatten();
        let mut threads = threads.filter(|t| {
            let comm = std::fs::read_to_string(t.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        });
        let thread = threads.next().expect("a thread of this name").file_name();
        let strace = Command::new("strace")
            .args(["-q", "-o", "/dev/null", "-e", "trace=all"])
            // in microseconds: longer than anybody waits; behind the call, so that whom it wakes is awake
            .args(["-e", "inject=all:delay_exit=600000000", "-p"])
            .arg(thread)
            .stderr(Stdio::null())
            .spawn();
        strace
            .map(Self)
            .map_err(|_| NotRun("`apt-get install strace`".to_owned()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // what it held goes on
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hang(run: &Run, tally: &Tally) -> Outcome {
    const WATCHDOG: Duration = Duration::from_secs(1);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(WATCHDOG)).unwrap();
    let env = [
        ("NOTIFY_SOCKET", socket.as_path()),
        ("WATCHDOG_USEC", Path::new("1000000")),
    ];
    let model = model_in(folder.path(), &tiny());
    let context = "context = 16384";
    let mut world = World::start_with(Kind::Mosquitto, folder, &model, context, ENGINE, &env);
    world.online();
    let mut operator = world.operator();
    for n in 0..run.of(1, 10) {
        tally.injected(1);
        let id = n.to_string();
        let mut client = world.client(Version::V5, "c");
        request(&mut client, &body(&id, 12_000));
        client.until("a chunk", |m| frame(m, &id));
        let hold = Hold::thread(world.daemon.pid(), "inference")?;
        // what was sent before; then a manager that hears nothing for so long starts it anew
        let mut fed = 0;
        while manager.recv(&mut [0; 256]).is_ok() {
            fed += 1;
            assert!(fed < 200, "it hangs, and says that it is alive");
        }
        stats(&mut operator);
        drop(hold);
        world.kill_and_restart();
        let mut client = world.client(Version::V5, "c");
        request(&mut client, &body(&id, 12_000));
        let end = last(&mut client, &id);
        assert_eq!(end["usage"]["completion_tokens"], 12_000, "{end}");
        tally.survived(1);
    }
    Ok("numbers were told while it hung".to_owned())
}

fn term(run: &Run, tally: &Tally) -> Outcome {
    let engine = "max_streams = 8\nqueue = 32\nchunk_ms = 0";
    let mut world = world(Kind::Mosquitto, "context = 2048", engine);
    let mut random = SplitMix::new(run.seed, "F30");
    let mut ways: BTreeMap<String, usize> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for n in 0..run.of(5, 100) {
        tally.injected(1);
        let mut clients: Vec<_> = (0..8)
            .map(|c| world.client(Version::V5, &format!("c{c}")))
            .collect();
        let id = n.to_string();
        for client in &mut clients {
            request(client, &body(&id, 1 + random.below(1500) as u32));
        }
        clients[random.below(8)].until("a frame", |m| frame(m, &id));
        let begin = Instant::now();
        world.daemon.signal("TERM");
        let mut right = true;
        for client in &mut clients {
            let end = last(client, &id);
            let finish = end["choices"][0]["finish_reason"].as_str();
            let way = finish.or(end["error"]["code"].as_str()).unwrap_or("none");
            right &= matches!(way, "length" | "interrupted" | "draining");
            *ways.entry(way.to_owned()).or_default() += 1;
        }
        let code = world.daemon.ended().code();
        slowest = slowest.max(begin.elapsed());
        // the broker has said all that it had to say when it answers this
        world.watch.subscribe(&topic("info"));
        let mut states: Vec<String> = Vec::new();
        for message in world.watch.rest() {
            if message.topic == topic("status") {
                states.push(message.json()["state"].as_str().unwrap().to_owned());
            }
        }
        let drained = states.ends_with(&["draining".to_owned(), "offline".to_owned()]);
        let offline = states.iter().filter(|s| *s == "offline").count();
        // the second of two would be the will's
        if right && code == Some(0) && drained && offline == 1 {
            tally.survived(1);
        } else {
            tally.fell_short(format!(
                "code {code:?}, states {states:?}, ended by {ways:?}"
            ));
        }
        world.restart();
    }
    if run.times && slowest > Duration::from_secs(5) {
        tally.fell_short(format!("ended after {slowest:.1?}"));
    }
    Ok(format!(
        "streams ended by {ways:?}, the daemon after {slowest:.1?} at most"
    ))
}

fn kill(run: &Run, tally: &Tally) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let sessions = folder.path().join("sessions");
    let model = model_in(folder.path(), &tiny());
    let engine = format!("{ENGINE}\n[sessions]\ndir = \"{}\"", sessions.display());
    let mut world = World::start(Kind::Mosquitto, folder, &model, "context = 2048", &engine);
    world.online();
    let turn = |world: &World, id: &str| {
        let mut client = world.client(Version::V5, "eve");
        let mut body = World::endless(id, 4);
        body["session"] = json!("s");
        request(&mut client, &body);
        let end = last(&mut client, id);
        client.publish(&Message::new(topic("session/eve/s/save"), ""));
        let result = topic("session/eve/s/result");
        let saved = client.until("saved", |m| (m.topic == result).then(|| m.json()));
        assert_eq!(saved["ok"], true, "{saved}");
        end["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let mut before = turn(&world, "first");
    let mut random = SplitMix::new(run.seed, "F31");
    let kills = run.of(10, 100);
    let mut ready = Vec::new();
    let answers = asked(&world.door(), 0, |frames| {
        for n in 0..kills {
            let more = 1 + random.below(10 * TOKENS as usize) as u64;
            assert!(wait(frames, more), "nothing is answered");
            tally.injected(1);
            let begin = Instant::now();
            world.kill_and_restart();
            ready.push(begin.elapsed());
            let now = turn(&world, &format!("k{n}"));
            if now > before {
                tally.survived(1);
            } else {
                tally.fell_short(format!("{now} tokens of a session that had {before}"));
            }
            before = now;
        }
    });
    let answered: usize = answers.iter().map(|a| a.last.len()).sum();
    let wrong = answers.iter().map(|a| unlike(a, TOKENS) + a.doubled.len());
    let wrong: usize = wrong.sum();
    if wrong > 0 {
        tally.fell_short(format!("{wrong} answers in part or in two ways"));
    }
    let slowest = common::quantile(&mut ready, 1.0);
    if run.times && slowest > Duration::from_secs(3) {
        tally.fell_short(format!("online again after {slowest:.1?}"));
    }
    Ok(format!(
        "{answered} answers, online again after {slowest:.1?} at most"
    ))
}
