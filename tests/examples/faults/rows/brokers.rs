//! The broker, and the network to it: F1, F2, F4 of the daemon's own link.

use crate::asker::{Answers, CLIENTS, TOKENS, asked, unlike, wait};
use crate::common::{ENGINE, body, model_in, quantile, rest};
use crate::table::{Outcome, Row, Run, Tally};
use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::Version;
use glowplug_tests::world::{Kind, World, reply, request, tiny};
use glowplug_tests::{Faults, Link, SplitMix};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const ROWS: [Row; 3] = [
    Row {
        name: "F1",
        fault: "the broker is killed and comes back mid-generation",
        asked: "0 lost and 0 doubled; with --times connected 5 s after the port is open (99 %)",
        run: killed,
    },
    Row {
        name: "F2",
        fault: "the daemon's connection is half open",
        asked: "all answered, nothing hung, pages back; with --times noticed in 25 s",
        run: half_open,
    },
    Row {
        name: "F2b",
        fault: "the daemon's link loses, cuts and delays by seed",
        asked: "0 lost and 0 doubled",
        run: weather,
    },
];

/// A daemon whose link to Mosquitto is ours, and the link.
pub(crate) fn linked(seed: u64, faults: Faults) -> (World, Link) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(folder.path());
    let link = Link::new(seed, broker.port, faults).unwrap();
    let url = format!("mqtt://127.0.0.1:{}", link.port);
    let env = [("GLOWPLUG_MQTT_URL", Path::new(&url))];
    let model = model_in(folder.path(), &tiny());
    let context = "context = 2048";
    let mut world = World::start_on(Some(broker), folder, &model, context, ENGINE, &env);
    world.online();
    (world, link)
}

/// Judges that every request had its answer, the right one, and was computed once.
fn account(world: &World, answers: &[Answers], tally: &Tally) -> usize {
    let requests: usize = answers.iter().map(|a| a.last.len()).sum();
    for answers in answers {
        if !answers.doubled.is_empty() || !answers.again.is_empty() {
            let (twice, again) = (&answers.doubled, &answers.again);
            tally.fell_short(format!("two answers: {twice:?}, two frames: {again:?}"));
        }
        let unlike = unlike(answers, TOKENS);
        if unlike > 0 {
            let example = answers
                .last
                .values()
                .find(|f| f["usage"]["completion_tokens"] != TOKENS);
            tally.fell_short(format!("{unlike} not answered in full: {example:?}"));
        }
    }
    let stats = rest(world);
    if stats["finished"] != requests {
        let ran = &stats["finished"];
        tally.fell_short(format!("{ran} runs of {requests} requests: {stats}"));
    }
    requests
}

fn killed(run: &Run, tally: &Tally) -> Outcome {
    let (worlds, kills) = (run.of(4, 16), run.of(20, 1000));
    let requests = run.of(200, 10_000);
    let sums = std::thread::scope(|scope| {
        let worlds = (0..worlds).map(|n| {
            scope.spawn(move || {
                let kills = kills / worlds + usize::from(n < kills % worlds);
                let mut world = {
                    let (folder, model) = (tempfile::tempdir().unwrap(), tiny());
                    let model = model_in(folder.path(), &model);
                    World::start(Kind::Mosquitto, folder, &model, "context = 2048", ENGINE)
                };
                world.online();
                let mut random = SplitMix::new(run.seed, &format!("F1 {n}"));
                let mut back = Vec::new();
                let door = world.door();
                let mut broker = world.broker.take().unwrap();
                let answers = asked(&door, requests / worlds / CLIENTS + 1, |frames| {
                    for _ in 0..kills {
                        if !wait(frames, 1 + random.below(20 * TOKENS as usize) as u64) {
                            break;
                        }
                        tally.injected(1);
                        broker.kill_and_restart();
                        let open = Instant::now();
                        if wait(frames, 1) {
                            tally.survived(1);
                            back.push(open.elapsed());
                        }
                    }
                });
                world.broker = Some(broker);
                (account(&world, &answers, tally), back)
            })
        });
        let worlds: Vec<_> = worlds.collect();
        worlds
            .into_iter()
            .map(|w| w.join().unwrap())
            .collect::<Vec<_>>()
    });
    let requests: usize = sums.iter().map(|(requests, _)| requests).sum();
    let mut back: Vec<_> = sums.into_iter().flat_map(|(_, back)| back).collect();
    let late = quantile(&mut back, 0.99);
    if run.times && late > Duration::from_secs(5) {
        tally.fell_short(format!("{late:.1?} until the next answer (99 %)"));
    }
    let middle = quantile(&mut back, 0.5);
    Ok(format!(
        "{requests} requests; next answer {middle:.1?} after the port was open (median), {late:.1?} (99 %)"
    ))
}

fn half_open(run: &Run, tally: &Tally) -> Outcome {
    let (worlds, rounds) = (run.of(3, 12), run.of(1, 4));
    let times = std::thread::scope(|scope| {
        let worlds = (0..worlds).map(|n| {
            scope.spawn(move || {
                let (mut world, link) = linked(run.seed + n as u64, Faults::default());
                let boot = world.online_again();
                let pages = rest(&world)["kv"]["pages_used"].clone();
                let mut random = SplitMix::new(run.seed, &format!("F2 {n}"));
                let mut noticed = Vec::new();
                let answers = asked(&world.door(), 20, |frames| {
                    for _ in 0..rounds {
                        wait(frames, 1 + random.below(20 * TOKENS as usize) as u64);
                        tally.injected(1);
                        let begin = Instant::now();
                        link.silence();
                        // what was on its way when the link fell silent
                        std::thread::sleep(Duration::from_millis(100));
                        if wait(frames, 1) {
                            tally.survived(1);
                            noticed.push(begin.elapsed());
                        }
                    }
                });
                account(&world, &answers, tally);
                if world.online_again() != boot {
                    tally.fell_short("it is another daemon".to_owned());
                }
                let after = &rest(&world)["kv"]["pages_used"];
                if *after != pages {
                    tally.fell_short(format!("{pages} pages in use before, {after} after"));
                }
                noticed
            })
        });
        let worlds: Vec<_> = worlds.collect();
        worlds
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect::<Vec<_>>()
    });
    let late = times.iter().max().copied().unwrap_or_default();
    // two times the keep alive of 10 s, and 5
    if run.times && late > Duration::from_secs(25) {
        tally.fell_short(format!("noticed after {late:.1?}"));
    }
    Ok(format!("answers again after {late:.1?} at most"))
}

fn weather(run: &Run, tally: &Tally) -> Outcome {
    let (mut world, link) = linked(run.seed, Faults::default());
    let boot = world.online_again();
    let mut random = SplitMix::new(run.seed, "F2b");
    let rounds = run.of(6, 100);
    let answers = asked(&world.door(), 100, |frames| {
        for round in 0..rounds {
            wait(frames, 1 + random.below(5 * TOKENS as usize) as u64);
            tally.injected(1);
            link.faults(Faults {
                delay_ms: 3,
                // long enough that a connection can be made of it
                close_within: (round % 2 == 0).then_some(20_000),
                ..Faults::default()
            });
            match random.below(3) {
                0 => link.cut(),
                1 => {
                    link.refuse(true);
                    link.cut();
                    std::thread::sleep(Duration::from_millis(random.below(50) as u64));
                    link.refuse(false);
                }
                _ => {}
            }
            if wait(frames, 1) {
                tally.survived(1);
            }
        }
        link.faults(Faults::default());
        link.cut();
    });
    let requests = account(&world, &answers, tally);
    if world.online_again() != boot {
        tally.fell_short("it is another daemon".to_owned());
    }
    let mut bob = world.client(Version::V5, "bob");
    request(&mut bob, &body("b", TOKENS));
    reply(&mut bob, "b");
    Ok(format!("{requests} requests"))
}
