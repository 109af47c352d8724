//! Whether every answer that a real model finishes validates: answers by generated schemas from the real daemon, four streams at
//! once, half of them greedy.
//!
//! ```sh
//! cargo build --release --bins
//! cargo run --release -p glowplug-tests --example schemas -- MODEL.gguf [COUNT]
//! ```
//!
//! A fifth of the requests is urgent, so that others are parked for them. Of the others every second one is a turn of a session.
//! Five times the sessions are saved and the daemon is killed, and each session goes on from its file.
//!
//! Prints how the answers ended, and each that does not validate or was streamed as another text; there is none. Exit code 1 if
//! there is.

use glowplug_tests::SplitMix;
use glowplug_tests::schemas::{judge, object};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Door, Kind, World, reply, request, topic};
use serde_json::json;
use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Who keeps the streams busy, and at last who is urgent.
const CLIENTS: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];
/// How often all clients ask their part, between which the daemon is killed.
const ROUNDS: usize = 6;
/// Most turns of a session, so that they fit the context.
const TURNS: usize = 4;
/// Most tokens of an answer.
const MOST: u32 = 400;
const QUESTION: &str = "Make up an example.";

/// How the answers of one client ended.
#[derive(Default)]
struct Tally {
    finished: usize,
    cut: usize,
    wrong: usize,
    tokens: u64,
    /// turns that went on from a file, and found there what was computed
    restored: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let model = args.next().ok_or("which model?")?;
    let count: usize = args.next().map_or(Ok(500), |count| count.parse())?;
    let each = count.div_ceil(ROUNDS * CLIENTS.len());
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("sessions");
    let lines = format!("max_streams = 4\n[sessions]\ndir = \"{}\"", files.display());
    let mut world = World::start(
        Kind::Embedded,
        folder,
        Path::new(&model),
        "context = 4096",
        &lines,
    );
    world.online();
    let (mut sum, mut parked, mut peak) = (Tally::default(), 0, 0.0_f64);
    for round in 0..ROUNDS {
        if round > 0 {
            world.kill_and_restart();
        }
        let door = world.door();
        let tallies = thread::scope(|scope| {
            let door = &door;
            let asks = |name| scope.spawn(move || client(door, name, round, each));
            let threads: Vec<_> = CLIENTS.into_iter().map(asks).collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                let message = world.watch.within(Duration::from_secs(1));
                let message = message
                    .ok()
                    .flatten()
                    .filter(|m| m.topic == topic("metrics"));
                let Some(metrics) = message.map(|m| m.json()) else {
                    continue;
                };
                parked += usize::from(metrics["parked"] != json!(0));
                let bytes = |name: &str| metrics["bytes"][name].as_f64().unwrap_or(f64::NAN);
                peak = peak.max(bytes("peak") / bytes("budget"));
            }
            let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
            joined.collect::<Result<Vec<Tally>, _>>()
        });
        for tally in tallies.map_err(|_| "a client ended in a panic")? {
            sum.finished += tally.finished;
            sum.cut += tally.cut;
            sum.wrong += tally.wrong;
            sum.tokens += tally.tokens;
            sum.restored += tally.restored;
        }
    }
    println!(
        "{} schemas: {} answers are finished and validate, {} met their {MOST} tokens, {} are wrong; {} tokens; {} sessions went \
         on from files; requests were parked in {parked} of the daemon's metrics; resident memory was at most {:.0} % of the budget",
        each * ROUNDS * CLIENTS.len(),
        sum.finished,
        sum.cut,
        sum.wrong,
        sum.tokens,
        sum.restored,
        100.0 * peak
    );
    if sum.wrong > 0 {
        return Err("not every answer is as it should be".into());
    }
    if sum.restored == 0 || parked == 0 {
        return Err("nothing was parked, or no session went on from its file".into());
    }
    Ok(())
}

/// What one client asks in a round, one request after the other.
fn client(door: &Door, name: &str, round: usize, each: usize) -> Tally {
    let urgent = name == CLIENTS[4];
    let mut client = match door.client(Version::V5, name) {
        Ok(client) => client,
        Err(error) => panic!("{name}: {error}"),
    };
    let mut random = SplitMix::new(round as u64, name);
    let mut tally = Tally::default();
    let (mut session, mut turns) = (format!("s{}", round.saturating_sub(1)), 0);
    for n in 0..each {
        let schema = object(&mut random);
        let id = format!("{name}-{round}-{n}");
        let mut body = json!({
            "id": id,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": MOST,
            "temperature": if n % 4 < 2 { 0.0 } else { 1.0 },
            "seed": n,
            "thinking": false,
            "priority": if urgent { "urgent" } else { "background" },
            "response_format": {"type": "json_schema", "json_schema": {"name": "made", "schema": schema}},
        });
        let goes_on = !urgent && n == 0 && round > 0;
        if urgent || n % 2 == 1 {
            body["schema_in_prompt"] = json!(true);
        } else {
            if turns == TURNS {
                verb(&mut client, &session, "drop");
                turns = 0;
            }
            // what was said before must stay as it is, or nothing of it is there already
            body["session"] = json!(session);
            body["messages"][0]["content"] =
                json!(format!("{QUESTION} It must validate by {schema}"));
            turns += 1;
        }
        request(&mut client, &body);
        let answer = reply(&mut client, &id);
        if !answer.last["error"].is_null() {
            println!("{id}: {}", answer.last);
            tally.wrong += 1;
            continue;
        }
        let text = answer.message()["content"].as_str().unwrap_or_default();
        let judged = judge(&schema, text);
        let streamed = answer.text("content") == text;
        match (answer.finish(), judged) {
            ("stop", Ok(())) if streamed => tally.finished += 1,
            ("length", _) if streamed => tally.cut += 1,
            (finish, judged) => {
                println!("{id}: {finish}, {judged:?}, streamed as it is: {streamed}: {text}");
                tally.wrong += 1;
            }
        }
        tally.tokens += answer.completion_tokens();
        if goes_on {
            let cached = &answer.last["usage"]["prompt_tokens_details"]["cached_tokens"];
            tally.restored += usize::from(cached.as_u64() > Some(64));
            verb(&mut client, &session, "drop");
            (session, turns) = (format!("s{round}"), 0);
        }
        if n == 0 && round == 0 && name == CLIENTS[0] {
            println!("an answer by {schema}:\n{text}");
        }
    }
    if turns > 0 {
        verb(&mut client, &session, "save");
    }
    tally
}

/// Has something done with a session.
fn verb(client: &mut Client, session: &str, verb: &str) {
    let of = |what: &str| topic(&format!("session/{}/{session}/{what}", client.name));
    let result = of("result");
    client.publish(&Message::new(of(verb), ""));
    let answer = client.until(verb, |m| (m.topic == result).then(|| m.json()));
    assert_eq!(answer["ok"], json!(true), "{answer}");
}
