//! Clients that die, lag, repeat themselves or speak out of turn: F3 to F6.

use crate::common::{ENGINE, Stop, body, ended, gaps, last, rest, stats, world};
use crate::table::{Outcome, Row, Run, Tally};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Door, Kind, frame, request, tell, topic};
use glowplug_tests::{Faults, Link, SplitMix};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const ROWS: [Row; 5] = [
    Row {
        name: "F3",
        fault: "a client vanishes mid-stream",
        asked: "each ends within its own tokens, all pages are free again",
        run: vanish,
    },
    Row {
        name: "F4",
        fault: "a client reads 100 bytes a second",
        asked: "others are answered in full, memory stays in the budget; with --times gaps at 95 % as beside one that reads fast",
        run: slow,
    },
    Row {
        name: "F4b",
        fault: "refusals flood a slow link of the daemon's",
        asked: "others' last frames come, acknowledgements too",
        run: deaf,
    },
    Row {
        name: "F5",
        fault: "a request is delivered again and again",
        asked: "each id is computed once; after a restart it is answered with the same text",
        run: repeat,
    },
    Row {
        name: "F6",
        fault: "cancels out of order, and of others' requests",
        asked: "one last frame each; cancelled before its prompt, 0 tokens; another's is not reached",
        run: shuffle,
    },
];

fn vanish(run: &Run, tally: &Tally) -> Outcome {
    const TOKENS: u32 = 400;
    let world = world(Kind::Mosquitto, "context = 2048", ENGINE);
    let before = rest(&world);
    let mut random = SplitMix::new(run.seed, "F3");
    let rounds = run.of(40, 1000);
    for n in 0..rounds {
        tally.injected(1);
        let mut client = world.client(Version::V5, &format!("c{}", n % 8));
        let id = n.to_string();
        request(&mut client, &body(&id, TOKENS));
        for _ in 0..1 + random.below(8) {
            client.until("a frame", |m| frame(m, &id));
        }
        drop(client);
        if n % 4 == 3 {
            rest(&world);
        }
        tally.survived(1);
    }
    let after = rest(&world);
    // with the few of the question that it asks itself when it starts
    let tokens = after["tokens"].as_u64().unwrap();
    if after["finished"] != rounds || tokens > rounds as u64 * u64::from(TOKENS) + 16 {
        tally.fell_short(format!("{tokens} tokens: {after}"));
    }
    if after["kv"]["pages_used"] != before["kv"]["pages_used"] {
        tally.fell_short(format!(
            "{} in use before, {} after",
            before["kv"], after["kv"]
        ));
    }
    Ok(format!(
        "{tokens} tokens decoded of {}",
        rounds as u64 * u64::from(TOKENS)
    ))
}

/// The pauses between the frames of so many answers to `client`, while four long ones go to another through `door`.
fn pauses(client: &mut Client, door: &Door, what: &str, rounds: usize) -> Vec<Duration> {
    let mut alice = door.client(Version::V5, "alice").unwrap();
    for n in 0..4 {
        request(&mut alice, &body(&format!("{what}{n}"), LONG));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // as fast as the link lets it
            let mut open = true;
            while open && !done.load(Ordering::Relaxed) {
                open = alice.within(Duration::from_millis(100)).is_ok();
            }
        });
        let _stop = Stop(&done);
        let of = |n| gaps(client, &body(&format!("{what} {n}"), 40));
        (0..rounds).flat_map(of).collect()
    })
}

/// Tokens of an answer that takes longer than all that is measured beside it.
const LONG: u32 = 3000;

fn slow(run: &Run, tally: &Tally) -> Outcome {
    let mut found = Vec::new();
    for kind in [Kind::Mosquitto, Kind::Embedded] {
        let world = world(kind, "context = 16384", ENGINE);
        let rounds = run.of(20, 200);
        let mut bob = world.client(Version::V5, "bob");
        let link = Link::new(run.seed, world.port, Faults::default()).unwrap();
        let mut through = world.door();
        through.port = link.port;
        let mut fast = pauses(&mut bob, &through, "fast", rounds);
        rest(&world);
        link.faults(Faults {
            bytes_per_tick: Some(1),
            ..Faults::default()
        });
        tally.injected(1);
        let mut beside = pauses(&mut bob, &through, "slow", rounds);
        let stats = rest(&world);
        let [peak, budget] = ["peak", "budget"].map(|n| stats["bytes"][n].as_u64().unwrap());
        if peak > budget {
            tally.fell_short(format!("{peak} bytes of {budget}"));
        }
        let [fast, beside] =
            [&mut fast, &mut beside].map(|times| crate::common::quantile(times, 0.95));
        if run.times && beside > fast.mul_f64(1.1) {
            tally.fell_short(format!(
                "gaps of {beside:.1?}, {fast:.1?} beside a fast reader"
            ));
        }
        // what she was too slow for is not lost
        let mut alice = world.client(Version::V5, "alice");
        for n in 0..4 {
            let id = format!("slow{n}");
            request(&mut alice, &body(&id, LONG));
            let last = last(&mut alice, &id);
            assert_eq!(last["usage"]["completion_tokens"], LONG, "{last}");
        }
        tally.survived(1);
        found.push(format!(
            "{kind:?}: gaps at 95 % {fast:.1?} beside a fast reader, {beside:.1?} beside it"
        ));
    }
    Ok(found.join("; "))
}

fn deaf(run: &Run, tally: &Tally) -> Outcome {
    let flood = run.of(1500, 20_000);
    let slow = Faults {
        delay_ms: 20,
        ..Faults::default()
    };
    let (mut world, _link) = crate::rows::brokers::linked(run.seed, slow);
    let boot = world.online_again();
    let mut mallory = world.client(Version::V5, "mallory");
    let mut bob = world.client(Version::V5, "bob");
    request(&mut bob, &body("long", 1500));
    bob.until("a chunk", |m| frame(m, "long"));
    let mut open: Vec<String> = vec!["long".to_owned()];
    let (mut sent, mut again) = (0, 0);
    // more than the 64 that a broker sends before the first is acknowledged
    const ASKED: usize = 100;
    while sent < ASKED || !open.is_empty() {
        if sent < ASKED && open.len() < 3 {
            for n in 0..flood / ASKED {
                let id = format!("{sent}-{n}");
                let mut bad = Message::new(
                    topic("chat/mallory/request"),
                    json!({"id": id, "messages": []}).to_string(),
                )
                .wrong();
                bad.qos = 0;
                mallory.publish(&bad);
            }
            let id = format!("b{sent}");
            tally.injected(1);
            request(&mut bob, &body(&id, 3));
            open.push(id);
            sent += 1;
            continue;
        }
        let last = bob.until("a last frame of bob's", |m| {
            let reply = m.topic.ends_with("/reply").then(|| m.json());
            reply.filter(ended)
        });
        let id = last["id"].as_str().unwrap().to_owned();
        if matches!(
            last["error"]["code"].as_str(),
            Some("rate_limited" | "overloaded")
        ) {
            again += 1;
            request(&mut bob, &body(&id, 3));
            continue;
        }
        assert_eq!(last["choices"][0]["finish_reason"], "length", "{last}");
        open.retain(|other| *other != id);
        tally.survived(u64::from(id != "long"));
    }
    if world.online_again() != boot {
        tally.fell_short("it is another daemon".to_owned());
    }
    Ok(format!(
        "{flood} requests refused meanwhile, {again} of others'"
    ))
}

fn repeat(run: &Run, tally: &Tally) -> Outcome {
    const TOKENS: u32 = 12;
    let mut world = world(Kind::Mosquitto, "context = 2048", ENGINE);
    let ids: Vec<String> = (0..run.of(60, 2000)).map(|n| n.to_string()).collect();
    let mut alice = world.client(Version::V5, "alice");
    let mut texts = BTreeMap::new();
    for id in &ids {
        let body = body(id, TOKENS);
        tally.injected(4);
        // before anything came, while it comes, and when it is there
        request(&mut alice, &body);
        request(&mut alice, &body);
        alice.until("a frame", |m| frame(m, id));
        request(&mut alice, &body);
        let first = last(&mut alice, id);
        request(&mut alice, &body);
        assert_eq!(last(&mut alice, id), first, "its last frame again");
        tally.survived(4);
        texts.insert(
            id.clone(),
            first["choices"][0]["message"]["content"].clone(),
        );
    }
    let stats = rest(&world);
    if stats["finished"] != ids.len() {
        tally.fell_short(format!("{} runs of {} ids", stats["finished"], ids.len()));
    }
    world.kill_and_restart();
    let mut alice = world.client(Version::V5, "alice");
    for (id, text) in texts.iter().take(run.of(20, 500)) {
        request(&mut alice, &body(id, TOKENS));
        let again = last(&mut alice, id);
        let same = again["choices"][0]["message"]["content"] == *text;
        tally.check(same, || format!("after a restart: {again}"));
    }
    Ok(format!("{} ids", ids.len()))
}

fn shuffle(run: &Run, tally: &Tally) -> Outcome {
    const TOKENS: u32 = 60;
    let world = world(Kind::Mosquitto, "context = 2048", ENGINE);
    let mut alice = world.client(Version::V5, "alice");
    let mut mallory = world.client(Version::V5, "mallory");
    let mut random = SplitMix::new(run.seed, "F6");
    let (mut before, mut ran) = (0, 0);
    for n in 0..run.of(60, 1000) {
        let id = n.to_string();
        let cancel = json!({"id": id});
        let when = random.below(4);
        tally.injected(1);
        if when == 0 {
            tell(&mut alice, "cancel", &cancel);
            before += 1;
        }
        request(&mut alice, &body(&id, TOKENS));
        // another's: it names her request on his own topic
        tell(&mut mallory, "cancel", &cancel);
        tell(&mut mallory, "cancel", &json!({}));
        match when {
            1 => tell(&mut alice, "cancel", &cancel),
            2 => {
                alice.until("a frame", |m| frame(m, &id));
                tell(&mut alice, "cancel", &cancel);
            }
            _ => {}
        }
        let end = last(&mut alice, &id);
        if when == 3 {
            tell(&mut alice, "cancel", &cancel);
        }
        let finish = end["choices"][0]["finish_reason"]
            .as_str()
            .unwrap_or_default();
        let tokens = end["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        let right = match when {
            0 => finish == "cancelled" && tokens == 0,
            1 | 2 => finish == "cancelled" || (finish, tokens) == ("length", u64::from(TOKENS)),
            _ => (finish, tokens) == ("length", u64::from(TOKENS)),
        };
        ran += u64::from(when == 0 && tokens > 0);
        if right {
            tally.survived(1);
        } else {
            tally.fell_short(format!(
                "case {when}: {finish:?} after {tokens} tokens: {end}"
            ));
        }
    }
    rest(&world);
    // one last frame each: what is left are chunks, and echoes of her own
    let again = alice.rest();
    let finals = again
        .iter()
        .filter(|m| m.topic.ends_with("/reply") && ended(&m.json()));
    let finals = finals.count();
    if finals > 0 {
        tally.fell_short(format!("{finals} last frames too many"));
    }
    Ok(format!(
        "{before} cancelled before their prompts, of which {ran} ran"
    ))
}

/// Until it is told to stop, a client that asks one request after the other; how many were answered.
pub(crate) fn beside<T>(
    client: &mut Client,
    tokens: u32,
    meanwhile: impl FnOnce() -> T,
) -> (T, usize) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                let id = format!("beside-{n}");
                request(client, &body(&id, tokens));
                let end = last(client, &id);
                assert_eq!(end["usage"]["completion_tokens"], tokens, "{end}");
                n += 1;
            }
            n
        });
        let stop = Stop(&done);
        let what = meanwhile();
        drop(stop);
        (what, asking.join().unwrap())
    })
}

/// The bytes resident and the budget, now.
pub(crate) fn resident(operator: &mut Client) -> (u64, u64) {
    let stats: Value = stats(operator);
    let [resident, budget] = ["resident", "budget"].map(|n| stats["bytes"][n].as_u64().unwrap());
    (resident, budget)
}
