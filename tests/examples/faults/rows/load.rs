//! More than there is room for: F22, F33, F34, and a flood of prompts that are refused.

use crate::asker::{Asker, unlike};
use crate::common::{ENGINE, body, gaps, last, model_in, quantile, rest, world};
use crate::table::{Outcome, Row, Run, Tally};
use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::daemon::Daemon;
use glowplug_tests::world::{Kind, World, request, tiny, topic};
use glowplug_tests::{Real, Tiny, real_model};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) const ROWS: [Row; 4] = [
    Row {
        name: "F22",
        fault: "1,000 sessions on 64 pages",
        asked: "each turn answered or refused in words, 64 pages at most, equal questions have equal answers, pages back",
        run: crowd,
    },
    Row {
        name: "F33",
        fault: "soak",
        asked: "after the warm-up 1 MiB more at most, descriptors and threads constant; with --times p99 within 5 %",
        run: soak,
    },
    Row {
        name: "F34",
        fault: "1,000 silent sockets on the embedded broker",
        asked: "a new client is answered; with --times within a second",
        run: silent,
    },
    Row {
        name: "flood",
        fault: "256 KiB prompts that are refused, one after the other",
        asked: "another stream has all its tokens; with --times no gap longer by half the median than alone",
        run: flood,
    },
];

fn crowd(run: &Run, tally: &Tally) -> Outcome {
    const TOKENS: u32 = 4;
    const CLIENTS: usize = 8;
    const QUESTIONS: usize = 10;
    let (sessions, turns) = (1000, run.of(2, 10));
    let engine = "max_streams = 4\nqueue = 16\n[memory]\nkv_pages = 64";
    let world = world(Kind::Mosquitto, "context = 512", engine);
    let before = rest(&world);
    assert_eq!(before["kv"]["pages_total"], 64);
    let frames = AtomicU64::new(0);
    let (door, frames) = (world.door(), &frames);
    // what the same turn of the same conversation was answered with
    let mut texts: BTreeMap<(usize, usize), Vec<Value>> = BTreeMap::new();
    std::thread::scope(|scope| {
        let asking = (0..CLIENTS).map(|c| {
            let door = door.clone();
            scope.spawn(move || {
                let asker = Asker::numbered(c, 4, door, frames);
                let of = |turn: usize| {
                    let mut own = (0..sessions).filter(|s| s % CLIENTS == c);
                    asker.ask(|| {
                        let session = own.next()?;
                        let mut body = body(&format!("{turn}-{session}"), TOKENS);
                        body["session"] = format!("s{session}").into();
                        let question = format!("question {} of turn {turn}", session % QUESTIONS);
                        body["messages"][0]["content"] = question.into();
                        Some(body)
                    })
                };
                (0..turns).map(of).collect::<Vec<_>>()
            })
        });
        let asking: Vec<_> = asking.collect();
        for asked in asking {
            for (turn, answers) in asked.join().unwrap().into_iter().enumerate() {
                tally.injected(answers.last.len() as u64);
                let unlike = unlike(&answers, TOKENS);
                tally.survived((answers.last.len() - unlike) as u64);
                if unlike > 0 {
                    let one = answers.last.values().find(|f| !f["error"].is_null());
                    tally.fell_short(format!("{unlike} not answered in full: {one:?}"));
                }
                for (id, frame) in answers.last {
                    let session: usize = id.rsplit('-').next().unwrap().parse().unwrap();
                    let text = &frame["choices"][0]["message"]["content"];
                    let prompt = &frame["usage"]["prompt_tokens"];
                    let all = texts.entry((turn, session % QUESTIONS)).or_default();
                    let known = json!([text, prompt]);
                    if !all.contains(&known) {
                        all.push(known);
                    }
                }
            }
        }
    });
    if let Some((turn, all)) = texts.iter().find(|(_, all)| all.len() > 1) {
        tally.fell_short(format!(
            "turn and question {turn:?} had {} answers: {all:?}",
            all.len()
        ));
    }
    let after = rest(&world);
    let used = after["kv"]["pages_used"].as_u64().unwrap();
    if used > 64 {
        tally.fell_short(format!("{used} pages"));
    }
    Ok(format!("{used} pages in use at the end"))
}

/// Resident bytes, descriptors, threads.
fn size(daemon: &Daemon) -> [u64; 3] {
    let proc = format!("/proc/{}", daemon.pid());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let number = line.split_whitespace().next().unwrap();
        number.parse().unwrap()
    };
    let descriptors = std::fs::read_dir(format!("{proc}/fd")).unwrap().count() as u64;
    [field("VmRSS:") * 1024, descriptors, field("Threads:")]
}

fn soak(run: &Run, tally: &Tally) -> Outcome {
    const CLIENTS: usize = 4;
    const TOKENS: u32 = 1;
    // as many as it takes to fill what is remembered, ten times over
    let requests = run.of(10_000, 100_000);
    let small = Tiny {
        layers: 1,
        context: 512,
        ..tiny()
    };
    let folder = tempfile::tempdir().unwrap();
    let model = model_in(folder.path(), &small);
    let engine = "max_streams = 8\nqueue = 64";
    let mut world = World::start(Kind::Mosquitto, folder, &model, "context = 512", engine);
    world.online();
    let (frames, asked) = (AtomicU64::new(0), AtomicUsize::new(0));
    let begin = Instant::now();
    let (mut sizes, mut late) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let asking = (0..CLIENTS).map(|c| {
            let (door, frames, asked) = (world.door(), &frames, &asked);
            scope.spawn(move || {
                let asker = Asker::numbered(c, 12, door, frames);
                let answers = asker.ask(|| {
                    let n = asked.fetch_add(1, Ordering::Relaxed);
                    (n < requests).then(|| body(&n.to_string(), TOKENS))
                });
                (answers.last.len(), unlike(&answers, TOKENS))
            })
        });
        let asking: Vec<_> = asking.collect();
        for part in 1..=20 {
            while asked.load(Ordering::Relaxed) < requests * part / 20
                && !asking
                    .iter()
                    .all(std::thread::ScopedJoinHandle::is_finished)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            sizes.push(size(&world.daemon));
        }
        for asked in asking {
            let (answered, unlike) = asked.join().unwrap();
            tally.injected(answered as u64);
            tally.survived((answered - unlike) as u64);
            late += unlike;
        }
    });
    if late > 0 {
        tally.fell_short(format!("{late} not answered in full"));
    }
    let stats = rest(&world);
    if stats["finished"] != requests {
        tally.fell_short(format!("{} of {requests} finished", stats["finished"]));
    }
    // the first half fills what is remembered
    let grown = sizes[19][0].saturating_sub(sizes[9][0]);
    if grown > 1 << 20 {
        let all: Vec<u64> = sizes.iter().map(|s| s[0] >> 10).collect();
        tally.fell_short(format!(
            "{grown} bytes more in the second half: {all:?} KiB"
        ));
    }
    for (what, at) in [("descriptors", 1), ("threads", 2)] {
        let (half, end) = (sizes[9][at], sizes[19][at]);
        if half != end {
            tally.fell_short(format!("{half} {what}, then {end}"));
        }
    }
    Ok(format!(
        "{:.0} requests/s, {} KiB resident, {grown} bytes more in the second half, {} descriptors, {} threads",
        requests as f64 / begin.elapsed().as_secs_f64(),
        sizes[19][0] >> 10,
        sizes[19][1],
        sizes[19][2]
    ))
}

fn silent(run: &Run, tally: &Tally) -> Outcome {
    const SOCKETS: usize = 1000;
    let world = world(Kind::Embedded, "context = 512", ENGINE);
    let mut slowest = Duration::ZERO;
    let mut open = Vec::with_capacity(SOCKETS);
    for n in 0..SOCKETS {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", world.port)) else {
            // turned away is what a bound does
            continue;
        };
        if n % 2 == 1 {
            // the begin of a CONNECT; it may have been closed already
            let _ = socket.write_all(&[0x10, 0x20, 0, 4]);
        }
        open.push(socket);
    }
    for n in 0..run.of(5, 50) {
        tally.injected(1);
        let begin = Instant::now();
        let mut client = world.client(Version::V5, &format!("new{n}"));
        request(&mut client, &body("a", 1));
        let end = last(&mut client, "a");
        assert_eq!(end["usage"]["completion_tokens"], 1, "{end}");
        slowest = slowest.max(begin.elapsed());
        tally.survived(1);
    }
    if run.times && slowest > Duration::from_secs(1) {
        tally.fell_short(format!("answered after {slowest:.1?}"));
    }
    Ok(format!(
        "{} sockets open, answered after {slowest:.1?} at most",
        open.len()
    ))
}

fn flood(run: &Run, tally: &Tally) -> Outcome {
    // a token of a small model takes no longer than the kernel's slices, so that its gaps are the kernel's: where times are
    // judged, it is the model that the product is for
    let (world, tokens, ends) = if run.times {
        let q15 = real_model(Real::Q15);
        let folder = tempfile::tempdir().unwrap();
        let mut world = World::start(Kind::Mosquitto, folder, &q15, "context = 2048", ENGINE);
        world.online();
        (world, 300, ["151643", "151645"])
    } else {
        (
            world(Kind::Mosquitto, "context = 2048", ENGINE),
            1500,
            ["0", "2"],
        )
    };
    let rounds = run.of(1, 5);
    let answer = |id: String| {
        // the same text alone and beside the flood, so that what drafts make of it is the same
        let mut body = body("stream", tokens);
        body["id"] = json!(id);
        // words at random, since drafts make several tokens at once of a text that repeats itself; none that would end it
        body["temperature"] = json!(2);
        body["seed"] = json!(1);
        for end in ends {
            body["logit_bias"][end] = json!(-100);
        }
        body
    };
    let mut bob = world.client(Version::V5, "bob");
    let mut mallory = world.client(Version::V5, "mallory");
    let long = "the rain ".repeat(28_000);
    let mut alone: Vec<_> = (0..rounds)
        .flat_map(|n| gaps(&mut bob, &answer(format!("alone{n}"))))
        .collect();
    // as many as one client may have, and the next when one is refused
    let prompt = |n: usize| {
        let id = format!("f{n}");
        let messages = json!([{"role": "user", "content": long}]);
        Message::new(
            topic("chat/mallory/request"),
            json!({"id": id, "messages": messages}).to_string(),
        )
    };
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut beside = std::thread::scope(|scope| {
        let listening = scope.spawn(move || {
            let all = (0..rounds).flat_map(|n| gaps(&mut bob, &answer(format!("beside{n}"))));
            all.collect::<Vec<_>>()
        });
        let mut n = 0;
        while n < 12 {
            mallory.publish(&prompt(n));
            n += 1;
        }
        while !listening.is_finished() {
            let Ok(Some(message)) = mallory.within(Duration::from_millis(100)) else {
                continue;
            };
            if !message.topic.ends_with("/reply") {
                continue;
            }
            tally.injected(1);
            if let Some(code) = message.json()["error"]["code"].as_str() {
                tally.survived(1);
                *refused.entry(code.to_owned()).or_default() += 1;
                // what was one too many is not asked again: it would only be the network that is flooded
                if code == "rate_limited" {
                    continue;
                }
            }
            mallory.publish(&prompt(n));
            n += 1;
        }
        listening.join().unwrap()
    });
    let (median, most) = (quantile(&mut alone, 0.5), quantile(&mut alone, 1.0));
    let (late, worst) = (quantile(&mut beside, 0.99), quantile(&mut beside, 1.0));
    // a step that checks a draft takes twice as long by itself, so each is held against the one of its rank alone
    let longer = alone.iter().rev().zip(beside.iter().rev());
    let stretched = longer
        .map(|(alone, beside)| beside.saturating_sub(*alone))
        .max();
    let stretched = stretched.unwrap_or_default();
    if run.times && stretched > median / 2 {
        tally.fell_short(format!(
            "a gap was {stretched:.1?} longer, the median is {median:.1?}"
        ));
    }
    Ok(format!(
        "refused {refused:?}; gaps alone {median:.1?} (median) {most:.1?} (largest), beside it {late:.1?} (99 %) {worst:.1?} (largest), none longer by more than {stretched:.1?}"
    ))
}
