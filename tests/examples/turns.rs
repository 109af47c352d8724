//! How long requests wait from their turn, in 64 pages under a load that is too much:
//! `cargo run --release -p glowplug-tests --example turns -- [SECONDS]`.
//!
//! Eight clients with 1,000 sessions ask, cancel and drop at random for a minute (or SECONDS), in floods and calms, of
//! `smol` in four streams. A request's *turn* is when the scheduler makes it the next: it was accepted, a place is free,
//! and who started before it has started. From there its pages must be had, and the step that runs must end.

use glowplug_firmware_config::kv::KvFormat;
use glowplug_model::engine::{
    Engine, EngineConfig, Event, Finish, KvFormats, Priority, Request, RequestId, SessionVerb,
    Thinking,
};
use glowplug_model::gguf::Gguf;
use glowplug_model::text::{Message, SamplerParams};
use glowplug_tests::{Real, SplitMix, real_model};
use std::collections::{HashMap, HashSet, VecDeque};
use std::error::Error;
use std::time::{Duration, Instant};

const PAGES: usize = 64;
const STREAMS: usize = 4;
const CLIENTS: u64 = 8;
/// How many sessions each client has.
const SESSIONS: u64 = 125;
/// Tokens of an answer.
const ANSWER: u32 = 24;
/// What a request is to be answered within.
const BOUND: Duration = Duration::from_millis(250);

const OPENING: &str =
    "You are the voice of a house. Answer in one short sentence, and say what you do not know. ";
const LINES: [&str; 4] = [
    "Is the window of the kitchen open?",
    "What does the heating do at night, and why is the cellar damp again after all of this rain?",
    "Thanks.",
    "Name three trees.",
];

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(60), |s| s.parse())?;
    let threads = std::thread::available_parallelism()?.get();
    let config = EngineConfig {
        pages: PAGES,
        queue: 16,
        prefill_threads: threads,
        decode_threads: threads,
        ..EngineConfig::new(512, STREAMS, KvFormats::both(KvFormat::Q8_0))
    };
    let mut engine = Engine::load(&Gguf::open(&real_model(Real::Smol))?, &config)?;
    let mut random = SplitMix::new(7, "turns");
    let mut below = |n: u64| random.next_u64() % n;
    let mut clients = Clients::new();
    let (mut id, mut steps) = (0, Vec::new());
    let (mut submits, mut refused, mut fullest) = (Vec::new(), 0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        let (client, session) = (below(CLIENTS).to_string(), below(SESSIONS).to_string());
        // three seconds of flood, three of calm
        let flood = (start.elapsed().as_secs() / 3).is_multiple_of(2);
        let dice = if flood { 6 } else { 60 };
        match below(dice) {
            0..=2 => {
                id += 1;
                let mut asked = request(&client, &mut below);
                if below(2) == 0 {
                    asked.session = Some(session.as_str().into());
                }
                let now = Instant::now();
                match engine.submit(id, asked) {
                    Ok(_) => clients.accepted(id),
                    Err(_) => refused += 1,
                }
                submits.push(now.elapsed());
            }
            3 => {
                engine.end(id.saturating_sub(below(20)), Finish::Cancelled);
            }
            4 => {
                // who is not there cannot be dropped
                let _ = engine.session(&client, &session, SessionVerb::Drop);
            }
            _ => {}
        }
        let now = Instant::now();
        engine.step(&mut |id, event| clients.hear(id, &event));
        steps.push(now.elapsed());
        let counts = engine.counts();
        clients.places(counts.running);
        fullest = fullest.max(counts.pages_used);
    }
    println!(
        "{id} requests in {seconds} s, {refused} refused; pages in use at most {fullest} of {PAGES}"
    );
    for (what, times) in [
        ("a step", &mut steps),
        ("taken or refused", &mut submits),
        ("from its turn to its start", &mut clients.to_start),
        ("from its turn to its first token", &mut clients.to_token),
    ] {
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        let beyond = times.iter().filter(|time| **time > BOUND).count();
        println!(
            "{what}: median {:.1} ms, 99 % {:.1} ms, largest {:.1} ms; {beyond} of {} above {} ms",
            at(0.5),
            at(0.99),
            at(1.0),
            times.len(),
            BOUND.as_millis()
        );
    }
    Ok(())
}

fn request(client: &str, below: &mut dyn FnMut(u64) -> u64) -> Request {
    let line = LINES[below(LINES.len() as u64) as usize];
    let content = if below(2) == 0 {
        format!("{OPENING}{line}")
    } else {
        line.to_owned()
    };
    Request {
        priority: [
            Priority::Normal,
            Priority::Normal,
            Priority::Urgent,
            Priority::Background,
        ][below(4) as usize],
        sampler: SamplerParams {
            seed: below(1000),
            ..SamplerParams::default()
        },
        thinking: Thinking {
            enabled: true,
            ..Thinking::default()
        },
        ..Request::new(client, vec![Message::user(content)], ANSWER)
    }
}

/// What the clients have seen, and when.
struct Clients {
    accepted: HashMap<RequestId, Instant>,
    /// the turns of those that started and said nothing yet
    turns: HashMap<RequestId, Instant>,
    running: HashSet<RequestId>,
    last_start: Instant,
    /// since when each free place is free
    free: VecDeque<Instant>,
    to_start: Vec<Duration>,
    to_token: Vec<Duration>,
}

impl Clients {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            accepted: HashMap::new(),
            turns: HashMap::new(),
            running: HashSet::new(),
            last_start: now,
            free: [now; STREAMS].into(),
            to_start: Vec::new(),
            to_token: Vec::new(),
        }
    }

    fn accepted(&mut self, id: RequestId) {
        self.accepted.insert(id, Instant::now());
    }

    fn hear(&mut self, id: RequestId, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Started { .. } => {
                let accepted = self.accepted.remove(&id).unwrap_or(now);
                // without a free place, it took that of one that yields
                let place = self.free.pop_front().unwrap_or(accepted);
                let turn = accepted.max(place).max(self.last_start);
                self.to_start.push(now - turn);
                self.turns.insert(id, turn);
                self.running.insert(id);
                self.last_start = now;
            }
            Event::Text { .. } => self.spoke(id, now),
            Event::Finished(_) => {
                self.spoke(id, now);
                self.accepted.remove(&id);
                if self.running.remove(&id) {
                    self.free.push_back(now);
                }
            }
            Event::Prefilled | Event::Call(_) => {}
        }
    }

    fn spoke(&mut self, id: RequestId, now: Instant) {
        if let Some(turn) = self.turns.remove(&id) {
            self.to_token.push(now - turn);
        }
    }

    /// After a step: parked ones have taken the places that are not free, without a word.
    fn places(&mut self, running: usize) {
        while self.free.len() > STREAMS - running.min(STREAMS) {
            self.free.pop_front();
        }
    }
}
