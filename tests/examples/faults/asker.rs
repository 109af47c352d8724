//! Clients that must have their answers: what gets none is asked again under its id, over as many connections as it takes.

use crate::common::{Stop, body, ended};
use glowplug_tests::world::client::{Client, Message, PATIENCE, Version};
use glowplug_tests::world::{Door, topic};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a client waits for a word before it asks again. Asking again costs nothing but a frame.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two tries to connect, and before a request is sent again that was refused for now.
const PAUSE: Duration = Duration::from_millis(5);

/// One client's requests, from the first to the last answer.
pub(crate) struct Asker<'a> {
    door: Door,
    name: String,
    /// how many are asked before the first is answered
    window: usize,
    /// frames of everybody so far
    frames: &'a AtomicU64,
}

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// the last frame of each id
    pub(crate) last: BTreeMap<String, Value>,
    /// ids that had two last frames, which differ
    pub(crate) doubled: Vec<String>,
    /// ids that had two frames of one `seq`, which differ: computed twice, as after a restart
    pub(crate) again: Vec<String>,
    /// refused for now, and asked again
    pub(crate) put_off: u64,
}

struct Open {
    body: Value,
    frames: BTreeMap<u64, Value>,
}

impl<'a> Asker<'a> {
    /// The client that rows number so; it asks for `window` answers before it has the first.
    pub(crate) fn numbered(n: usize, window: usize, door: Door, frames: &'a AtomicU64) -> Self {
        Self {
            door,
            name: format!("c{n}"),
            window,
            frames,
        }
    }

    /// Asks as long as `next` gives bodies, and waits for every answer.
    pub(crate) fn ask(&self, mut next: impl FnMut() -> Option<Value>) -> Answers {
        let mut answers = Answers::default();
        let mut open: BTreeMap<String, Open> = BTreeMap::new();
        let mut client: Option<Client> = None;
        let (mut heard, mut dry) = (Instant::now(), false);
        loop {
            while !dry && open.len() < self.window {
                let Some(body) = next() else {
                    dry = true;
                    break;
                };
                let id = body["id"].as_str().unwrap().to_owned();
                if let Some(at) = &mut client
                    && self.publish(at, &body).is_err()
                {
                    client = None;
                }
                let frames = BTreeMap::new();
                open.insert(id, Open { body, frames });
            }
            if open.is_empty() {
                return answers;
            }
            assert!(
                heard.elapsed() < PATIENCE,
                "{}: never answered: {:?}",
                self.name,
                open.keys()
            );
            let Some(at) = &mut client else {
                client = self.connected().ok();
                match &mut client {
                    Some(at) => {
                        if !self.again(at, &open) {
                            client = None;
                        }
                    }
                    None => std::thread::sleep(PAUSE),
                }
                continue;
            };
            match at.within(AGAIN) {
                Ok(Some(message)) => {
                    // what was asked while the daemon was away is lost
                    if online(&message) && !self.again(at, &open) {
                        client = None;
                    } else if let Some(frame) = self.frame(&message) {
                        heard = Instant::now();
                        if let Some(body) = take(frame, &mut open, &mut answers) {
                            std::thread::sleep(PAUSE);
                            // the next silence finds out whether that went well
                            let _ = self.publish(at, &body);
                        }
                    }
                }
                Ok(None) => {
                    if !self.again(at, &open) {
                        client = None;
                    }
                }
                Err(_) => client = None,
            }
        }
    }

    /// A client that hears its answers, and when the daemon comes back.
    fn connected(&self) -> std::io::Result<Client> {
        let mut client = self.door.client(Version::V5, &self.name)?;
        client.granted(&topic("status"))?;
        Ok(client)
    }

    fn publish(&self, client: &mut Client, body: &Value) -> std::io::Result<u16> {
        let request = topic(&format!("chat/{}/request", self.name));
        client.try_publish(&Message::new(request, body.to_string()))
    }

    fn again(&self, client: &mut Client, open: &BTreeMap<String, Open>) -> bool {
        open.values()
            .all(|open| self.publish(client, &open.body).is_ok())
    }

    fn frame(&self, message: &Message) -> Option<Value> {
        let ours = message.topic == topic(&format!("chat/{}/reply", self.name));
        self.frames.fetch_add(u64::from(ours), Ordering::Relaxed);
        ours.then(|| message.json())
    }
}

fn online(message: &Message) -> bool {
    message.topic == topic("status") && message.json()["state"] == "online"
}

/// Puts a frame where it belongs; gives a request back that was refused for now.
fn take(frame: Value, open: &mut BTreeMap<String, Open>, answers: &mut Answers) -> Option<Value> {
    let id = frame["id"].as_str().unwrap_or_default().to_owned();
    if let Some(last) = answers.last.get(&id) {
        // its answer again, or chunks of it that were on their way
        if ended(&frame) && *last != frame {
            answers.doubled.push(id);
        }
        return None;
    }
    let of = open.get_mut(&id)?;
    let code = frame["error"]["code"].as_str();
    if matches!(
        code,
        Some("overloaded" | "rate_limited" | "draining" | "model_loading")
    ) {
        answers.put_off += 1;
        return Some(of.body.clone());
    }
    let seq = frame["seq"].as_u64().unwrap_or_default();
    let before = of.frames.insert(seq, frame.clone());
    if before.is_some_and(|before| before["choices"] != frame["choices"]) {
        answers.again.push(id.clone());
    }
    if ended(&frame) {
        open.remove(&id);
        answers.last.insert(id, frame);
    }
    None
}

/// How often the answer is not the one that was asked for: not finished by its length, or not of so many tokens.
pub(crate) fn unlike(answers: &Answers, tokens: u32) -> usize {
    let like = |frame: &&Value| {
        frame["choices"][0]["finish_reason"] == "length"
            && frame["usage"]["completion_tokens"] == tokens
    };
    answers.last.values().filter(|frame| !like(frame)).count()
}

/// Tokens of the answers to [`asked`].
pub(crate) const TOKENS: u32 = 10;
/// How many clients ask at the same time.
pub(crate) const CLIENTS: usize = 2;

/// Clients that ask until they are told to stop and have had so many answers; `disturb` runs beside them until it has
/// done all its harm.
pub(crate) fn asked(
    door: &Door,
    requests: usize,
    disturb: impl FnOnce(&AtomicU64),
) -> Vec<Answers> {
    let (frames, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let asking = (0..CLIENTS).map(|n| {
            let (door, frames, done) = (door.clone(), &frames, &done);
            scope.spawn(move || {
                let asker = Asker::numbered(n, 4, door, frames);
                let mut n = 0;
                asker.ask(|| {
                    n += 1;
                    let more = n <= requests || !done.load(Ordering::Relaxed);
                    more.then(|| body(&n.to_string(), TOKENS))
                })
            })
        });
        let asking: Vec<_> = asking.collect();
        let stop = Stop(&done);
        disturb(&frames);
        drop(stop);
        asking.into_iter().map(|a| a.join().unwrap()).collect()
    })
}

/// Waits until so many more frames have come; false if they never do.
pub(crate) fn wait(frames: &AtomicU64, more: u64) -> bool {
    let (goal, until) = (
        frames.load(Ordering::Relaxed) + more,
        Instant::now() + PATIENCE,
    );
    while frames.load(Ordering::Relaxed) < goal {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
