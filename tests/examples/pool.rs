//! Four daemons of one pool, 16 clients and 1,000 requests, while one daemon is killed and started again and another one drains:
//! `cargo run --release -p glowplug-tests --example pool -- [REQUESTS]`.
//!
//! Prints who took how many and what each request's end was; exit code 1 if a request has no end or two, if a session moved, or
//! if a daemon took more than 1.3 times its share. The share of a request is one for all daemons in the group when it was asked,
//! so that a daemon which is away for a while is judged by what it was there for.

#![allow(clippy::unwrap_used)]

use glowplug_tests::world::World;
use glowplug_tests::world::client::Client;
use glowplug_tests::world::fleet::{Fleet, ask, client, end};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const DAEMONS: usize = 4;
const CLIENTS: usize = 16;
/// So long that the daemons are at work most of the time, and the kill meets requests that run.
const TOKENS: u32 = 400;
/// The daemon that is killed, and the one that drains.
const KILLED: usize = 1;
const DRAINED: usize = 2;
/// Every so many requests of a client begin a session, which three more requests go on with.
const SESSION_EVERY: usize = 8;
const SESSION_TURNS: usize = 3;
/// What is not answered so long after the killed daemon is back was lost on its way to it: its client asks again.
const GRACE: Duration = Duration::from_secs(5);

/// What the fleet is at the moment.
#[derive(Default)]
struct Scene {
    /// Who is in the group.
    present: [bool; DAEMONS],
    /// When the killed daemon was back.
    back: Option<Instant>,
}

/// All that the clients have seen.
#[derive(Default)]
struct Seen {
    /// The ends of each request: who gave it, and how.
    ends: BTreeMap<String, Vec<(String, String)>>,
    share: [f64; DAEMONS],
    taken: [usize; DAEMONS],
    again: usize,
    turns: usize,
    moved: usize,
}

fn main() {
    let many = std::env::args().nth(1).map_or(1000, |n| n.parse().unwrap());
    let mut fleet = Fleet::new(DAEMONS, "");
    let port = fleet.broker.port;
    let (asked, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    let scene = Mutex::new(Scene {
        present: [true; DAEMONS],
        back: None,
    });
    let start = Instant::now();
    let (asked, scene, seen) = (&asked, &scene, &seen);
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            scope.spawn(move || {
                Asker {
                    client: client(port, &format!("c{n}")),
                    asked,
                    scene,
                    seen,
                    many,
                }
                .run();
            });
        }
        let until = |n: usize| {
            while asked.load(Ordering::Relaxed) < n {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        until(many / 5);
        fleet.kill(KILLED);
        lock(scene).present[KILLED - 1] = false;
        until(2 * many / 5);
        fleet.restart(KILLED);
        {
            let mut scene = lock(scene);
            scene.present[KILLED - 1] = true;
            scene.back = Some(Instant::now());
        }
        until(3 * many / 5);
        lock(scene).present[DRAINED - 1] = false;
        fleet.drain(DRAINED);
        fleet.drained(DRAINED);
    });
    let took = start.elapsed();
    if !report(&lock(seen), took) {
        std::process::exit(1);
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Asker<'a> {
    client: Client,
    asked: &'a AtomicUsize,
    scene: &'a Mutex<Scene>,
    seen: &'a Mutex<Seen>,
    many: usize,
}

impl Asker<'_> {
    fn run(mut self) {
        let mut own = 0;
        while self.asked.fetch_add(1, Ordering::Relaxed) < self.many {
            let id = format!("{}-{own}", self.client.name);
            let mut body = World::endless(&id, TOKENS);
            let session = own % SESSION_EVERY == 0;
            if session {
                body["session"] = json!(id);
            }
            own += 1;
            let present = lock(self.scene).present;
            let of = present.iter().filter(|is| **is).count() as f64;
            let asked = Instant::now();
            ask(&mut self.client, "any", &body);
            let (node, how) = self.end(&id, &body, asked);
            {
                let mut seen = lock(self.seen);
                for (share, _) in seen.share.iter_mut().zip(present).filter(|(_, is)| *is) {
                    *share += 1.0 / of;
                }
                seen.taken[number(&node) - 1] += 1;
            }
            if session && how == "length" {
                self.go_on(&id, &node);
            }
        }
        // what comes a second time has come by then
        ask(&mut self.client, "any", &World::endless("last", 1));
        self.end("last", &World::endless("last", 1), Instant::now());
        lock(self.seen).ends.remove("last");
    }

    /// Goes on with a session at the daemon that has it, as long as that is there.
    fn go_on(&mut self, session: &str, home: &str) {
        for turn in 0..SESSION_TURNS {
            if !lock(self.scene).present[number(home) - 1] {
                return;
            }
            let id = format!("{session}-{turn}");
            let mut body = World::endless(&id, TOKENS);
            body["session"] = json!(session);
            let asked = Instant::now();
            ask(&mut self.client, home, &body);
            let until = |asker: &Self| !lock(asker.scene).present[number(home) - 1];
            let Some((node, _)) = self.read(&id, asked, until) else {
                return;
            };
            let mut seen = lock(self.seen);
            seen.ends.remove(&id);
            seen.turns += 1;
            seen.moved += usize::from(node != home);
        }
    }

    /// Waits for a request's end. One that was on its way to the daemon that was killed is asked again when that is back and has
    /// not ended it.
    fn end(&mut self, id: &str, body: &Value, mut asked: Instant) -> (String, String) {
        loop {
            let lost = |asker: &Self| {
                let back = lock(asker.scene).back;
                back.is_some_and(|back| asked < back && back.elapsed() > GRACE)
            };
            if let Some(end) = self.read(id, asked, lost) {
                return end;
            }
            asked = Instant::now();
            lock(self.seen).again += 1;
            ask(&mut self.client, "any", body);
        }
    }

    /// Reads until this request has an end. None: it is given up.
    fn read(
        &mut self,
        id: &str,
        asked: Instant,
        give_up: impl Fn(&Self) -> bool,
    ) -> Option<(String, String)> {
        loop {
            let message = self.client.within(Duration::from_millis(100)).unwrap();
            if let Some((which, node, frame)) = message.as_ref().and_then(end) {
                let code = frame["error"]["code"].as_str();
                let how = code.or(frame["choices"][0]["finish_reason"].as_str());
                let end = (node, how.unwrap_or_default().to_owned());
                let mut seen = lock(self.seen);
                seen.ends
                    .entry(which.clone())
                    .or_default()
                    .push(end.clone());
                if which == id {
                    return Some(end);
                }
            } else if message.is_none() {
                if give_up(self) {
                    return None;
                }
                assert!(asked.elapsed() < Duration::from_secs(300), "{id}: no end");
            }
        }
    }
}

fn number(node: &str) -> usize {
    node[1..].parse().unwrap()
}

fn report(seen: &Seen, took: Duration) -> bool {
    println!(
        "{} requests of {CLIENTS} clients in {:.1} s; n{KILLED} killed and started again, n{DRAINED} drained",
        seen.ends.len(),
        took.as_secs_f64()
    );
    let mut well = true;
    for n in 0..DAEMONS {
        let of = seen.taken[n] as f64 / seen.share[n];
        println!("n{}: took {}, {of:.2} of its share", n + 1, seen.taken[n]);
        well &= of <= 1.3;
    }
    let always = || (0..DAEMONS).filter(|n| ![KILLED, DRAINED].contains(&(n + 1)));
    let most = always().map(|n| seen.taken[n]).max().unwrap_or(0) as f64;
    let mean = always().map(|n| seen.taken[n]).sum::<usize>() as f64 / always().count() as f64;
    println!(
        "of those that were there all the time, the most is {:.2} of the mean",
        most / mean
    );
    let mut hows = BTreeMap::new();
    for (node, how) in seen.ends.values().flatten() {
        *hows.entry((how, node)).or_insert(0) += 1;
    }
    for ((how, node), count) in hows {
        println!("{how} by {node}: {count}");
    }
    let twice = seen.ends.iter().filter(|(_, ends)| ends.len() != 1);
    let twice: Vec<_> = twice.collect();
    println!(
        "{} requests without exactly one end {twice:?}; {} asked again, lost on their way to the killed daemon",
        twice.len(),
        seen.again
    );
    println!("{} turns of sessions, {} elsewhere", seen.turns, seen.moved);
    well && twice.is_empty() && seen.moved == 0 && most <= 1.3 * mean
}
