//! Memory that ends: F16 and F17.

use crate::asker::Asker;
use crate::cgroup::Cgroup;
use crate::common::{self, ENGINE, body, last, model_in, stats, under, world};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use glowplug_tests::world::client::Version;
use glowplug_tests::world::{Kind, World, request, tiny, topic};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const ROWS: [Row; 2] = [
    Row {
        name: "F16",
        fault: "memory is limited by a control group to the budget, and to 5 % more",
        asked: "never killed, never above the budget; 10 % less refuses to start, in words",
        run: memory,
    },
    Row {
        name: "F17",
        fault: "the address space ends somewhere while it starts",
        asked: "it serves, or ends with words; only what is small may abort it; the next start serves",
        run: space,
    },
];

fn memory(run: &Run, tally: &Tally) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let model = model_in(folder.path(), &tiny());
    // what this daemon plans for is its budget
    let mut world = World::start(Kind::Mosquitto, folder, &model, "context = 2048", ENGINE);
    world.online();
    let budget = stats(&mut world.operator())["bytes"]["budget"]
        .as_u64()
        .unwrap();
    let config = world.folder().join(glowplug_tests::world::CONFIG);
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!("[memory]\nbudget = {budget}\n"));
    std::fs::write(&config, text).unwrap();
    let mut most = 0;
    for percent in [105, 100] {
        let group = Cgroup::new(budget / 100 * percent)?;
        under(&mut world, &group.wrapper(), &[]);
        world.online();
        let before = group.kills();
        tally.injected(1);
        let highest = load(&world, &group, run, percent);
        most = most.max(highest);
        let kills = group.kills() - before;
        if kills == 0 && world.daemon.alive() && highest <= budget {
            tally.survived(1);
        } else {
            tally.fell_short(format!(
                "{percent} %: {kills} kills, {highest} bytes of {budget}"
            ));
        }
        common::stop(&mut world);
    }
    let group = Cgroup::new(budget / 100 * 90)?;
    under(&mut world, &group.wrapper(), &[]);
    let code = world.daemon.ended().code();
    let said = world.daemon.said();
    let words = said.lines().last().unwrap_or_default().to_owned();
    tally.check(
        matches!(code, Some(1 | 2)) && words.starts_with("glowplug: "),
        || format!("at 90 %: code {code:?}: {said}"),
    );
    Ok(format!(
        "at most {} KiB of {} KiB; at 90 %: {words}",
        most >> 10,
        budget >> 10
    ))
}

/// Everything at once: streams, conversations, large payloads; the most that the group held meanwhile.
fn load(world: &World, group: &Cgroup, run: &Run, round: u64) -> u64 {
    let frames = AtomicU64::new(0);
    let highest = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let mut mallory = world.client(Version::V5, "mallory");
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6)
            .map(|c| {
                let (door, frames) = (world.door(), &frames);
                scope.spawn(move || {
                    let asker = Asker::numbered(c, 4, door, frames);
                    let mut n = 0;
                    let answers = asker.ask(|| {
                        n += 1;
                        let mut body = body(&format!("{round}-{n}"), 100);
                        if n % 2 == 0 {
                            body["session"] = format!("s{}", n % 20).into();
                        }
                        body["messages"][0]["content"] = "the rain ".repeat(n % 40 + 1).into();
                        (n <= run.of(40, 1000)).then_some(body)
                    });
                    assert_eq!(answers.last.len(), run.of(40, 1000));
                })
            })
            .collect();
        let watching = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                highest.fetch_max(group.anonymous(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let _stop = common::Stop(&done);
        let large = format!("{{\"id\":\"{}\"}}", "x".repeat(250_000));
        let request = topic("chat/mallory/request");
        while !asking
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let mut message =
                glowplug_tests::world::client::Message::new(&*request, large.as_str()).wrong();
            message.qos = 0;
            mallory.publish(&message);
            std::thread::sleep(Duration::from_millis(2));
            mallory.rest();
        }
        done.store(true, Ordering::Relaxed);
        watching.join().unwrap();
    });
    highest.into_inner()
}

fn space(run: &Run, tally: &Tally) -> Outcome {
    let mut world = world(Kind::Mosquitto, "context = 512", ENGINE);
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|l| l.strip_prefix("VmPeak:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let program = program_bytes(world.daemon.pid());
    if Command::new("prlimit").arg("--version").output().is_err() {
        return Err(NotRun("`prlimit` of util-linux".to_owned()));
    }
    let (steps, mut served, mut aborts) = (run.of(16, 200), 0, 0);
    // below the program's own size it is the kernel's, and most of what happens does so just above that; a start asks for
    // more room than it needs
    let more = 1.5 * (peak * 1024) as f64 / program as f64;
    for n in 1..=steps {
        let limit = program as f64 * more.powf(n as f64 / steps as f64);
        let limit = format!("--as={}", limit as u64);
        tally.injected(1);
        under(&mut world, &["prlimit", &limit], &[]);
        if common::comes(&mut world) {
            served += 1;
            let mut client = world.client(Version::V5, "c");
            let id = n.to_string();
            request(&mut client, &body(&id, 4));
            last(&mut client, &id);
            tally.survived(1);
        } else {
            let status = world.daemon.ended();
            let said = world.daemon.said();
            // the loader's own words where it could not even be loaded; 2 is for what no other start can help
            let in_words = match status.code() {
                Some(1 | 127) => true,
                Some(2) => !said.contains("panicked"),
                _ => false,
            };
            // the standard library aborts where there is no room for a thread's stack, or for a few bytes
            let small =
                status.signal() == Some(6) && !said.contains("SIGSEGV") && !aborted_large(&said);
            aborts += usize::from(small);
            if in_words || small {
                tally.survived(1);
            } else {
                tally.fell_short(format!("{limit}: {status}: {said}"));
            }
        }
    }
    common::stop(&mut world);
    world.restart();
    tally.check(world.daemon.alive(), || "it never serves again".to_owned());
    Ok(format!(
        "{served} of {steps} starts served, {aborts} were aborted for want of a few bytes"
    ))
}

/// The bytes that a process's program and libraries are mapped with.
fn program_bytes(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let files = maps.lines().filter(|line| {
        let path = line.split_whitespace().nth(5);
        path.is_some_and(|path| path.ends_with("/glowplug") || path.contains(".so"))
    });
    let bytes = files.map(|line| {
        let (from, to) = line
            .split_whitespace()
            .next()
            .unwrap()
            .split_once('-')
            .unwrap();
        let at = |hex| u64::from_str_radix(hex, 16).unwrap();
        at(to) - at(from)
    });
    // and what the kernel and the loader need besides
    bytes.sum::<u64>() + (1 << 20)
}

/// Was it aborted for want of an allocation that is planned, and could have been refused?
fn aborted_large(said: &str) -> bool {
    const LARGE: u64 = 64 << 10;
    said.split("memory allocation of ").skip(1).any(|rest| {
        let bytes = rest.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        bytes.is_some_and(|bytes| bytes >= LARGE)
    })
}
