//! Many conversations in files, of which every one can be put back, damaged, and asked again.

use crate::asker::Asker;
use crate::common::{last, model_in, stop};
use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, World, request, tiny, topic};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

/// A turn's answer is short.
pub(crate) const TOKENS: u32 = 3;
const CLIENTS: usize = 8;

/// A file of one conversation after its first turn and after its second.
pub(crate) struct Saved {
    pub(crate) path: PathBuf,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

/// A daemon with so many conversations, all alike: what differs between them is what was done to their files.
pub(crate) struct Vault {
    pub(crate) world: World,
    pub(crate) dir: PathBuf,
    pub(crate) saved: Vec<Saved>,
    /// what the first turns are answered with: tokens of the prompt, and the text
    turns: Vec<(Value, Value)>,
    round: usize,
}

/// One layer, and few bytes a page.
pub(crate) fn small() -> Tiny {
    Tiny {
        layers: 1,
        embed: 64,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        ff: 64,
        context: 512,
        ..tiny()
    }
}

/// The next turn of a conversation; its answer.
pub(crate) fn turn(client: &mut Client, session: &str, id: &str) -> Value {
    request(client, &body(session, id));
    last(client, id)
}

fn body(session: &str, id: &str) -> Value {
    let mut body = World::endless(id, TOKENS);
    body["session"] = session.into();
    body
}

/// Asks for a verb on a conversation; the answer.
pub(crate) fn verb(client: &mut Client, session: &str, verb: &str) -> Value {
    let of = |what: &str| topic(&format!("session/{}/{session}/{what}", client.name));
    let (ask, result) = (of(verb), of("result"));
    client.publish(&Message::new(ask, ""));
    client.until(verb, |m| (m.topic == result).then(|| m.json()))
}

/// The files of a folder, in the order of their names.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_unstable();
    files
}

/// A daemon that keeps conversations in this folder of its own.
pub(crate) fn world(model: &Tiny, dir: impl FnOnce(&Path) -> PathBuf) -> (World, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = model_in(folder.path(), model);
    let dir = dir(folder.path());
    let engine = format!(
        "max_streams = 4\nqueue = 64\n[sessions]\ndir = \"{}\"",
        dir.display()
    );
    let context = format!("context = {}", model.context);
    let mut world = World::start(Kind::Mosquitto, folder, &path, &context, &engine);
    world.online();
    (world, dir)
}

impl Vault {
    pub(crate) fn new(sessions: usize) -> Self {
        let (world, dir) = world(&small(), |folder| folder.join("sessions"));
        let mut turns = Vec::new();
        let mut clients: Vec<Client> = (0..CLIENTS)
            .map(|c| world.client(Version::V5, &format!("c{c}")))
            .collect();
        // one conversation goes on, to know what the others would be answered
        for n in 0..3 {
            let end = turn(&mut clients[0], "first", &format!("first{n}"));
            turns.push(answer(&end));
        }
        verb(&mut clients[0], "first", "drop");
        let mut saved: Vec<Saved> = Vec::new();
        for (n, expected) in turns.iter().enumerate().take(2) {
            for s in 0..sessions {
                let client = &mut clients[s % CLIENTS];
                let session = format!("s{s}");
                let end = turn(client, &session, &format!("{n}-{s}"));
                assert_eq!(answer(&end), *expected, "{end}");
                let before = if n == 0 { files(&dir) } else { Vec::new() };
                let answer = verb(client, &session, "save");
                assert_eq!(answer["ok"], true, "{answer}");
                if n == 0 {
                    let mut new = files(&dir);
                    new.retain(|path| !before.contains(path));
                    let [path] = &new[..] else {
                        panic!("a save wrote {new:?}")
                    };
                    saved.push(Saved {
                        path: path.clone(),
                        old: std::fs::read(path).unwrap(),
                        new: Vec::new(),
                    });
                } else {
                    saved[s].new = std::fs::read(&saved[s].path).unwrap();
                }
            }
        }
        Self {
            world,
            dir,
            saved,
            turns,
            round: 0,
        }
    }

    /// Kills the daemon, lets `put` write the files of each conversation into the empty folder, starts the daemon, and
    /// asks one more turn of every conversation: how many turns each had (0: it begins anew), or the frame that says
    /// neither.
    pub(crate) fn round(
        &mut self,
        mut put: impl FnMut(usize, &Saved),
    ) -> Vec<Result<usize, Value>> {
        stop(&mut self.world);
        for path in files(&self.dir) {
            std::fs::remove_file(path).unwrap();
        }
        for (n, saved) in self.saved.iter().enumerate() {
            put(n, saved);
        }
        self.world.restart();
        self.round += 1;
        let (door, round, frames) = (self.world.door(), self.round, AtomicU64::new(0));
        let mut found: Vec<Option<Value>> = vec![None; self.saved.len()];
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..CLIENTS)
                .map(|c| {
                    let (door, frames) = (door.clone(), &frames);
                    let mut own = (0..self.saved.len()).filter(move |s| s % CLIENTS == c);
                    scope.spawn(move || {
                        let asker = Asker::numbered(c, 6, door, frames);
                        asker.ask(|| {
                            let s = own.next()?;
                            Some(body(&format!("s{s}"), &format!("r{round}-{s}")))
                        })
                    })
                })
                .collect();
            for answers in asking.into_iter().map(|a| a.join().unwrap()) {
                for (id, frame) in answers.last {
                    let s: usize = id.rsplit('-').next().unwrap().parse().unwrap();
                    found[s] = Some(frame);
                }
            }
        });
        let had = |frame: Option<Value>| {
            let frame = frame.unwrap();
            let turns = self.turns.iter().position(|turn| *turn == answer(&frame));
            turns.ok_or(frame)
        };
        found.into_iter().map(had).collect()
    }
}

/// What tells one turn from another.
fn answer(end: &Value) -> (Value, Value) {
    (
        end["usage"]["prompt_tokens"].clone(),
        end["choices"][0]["message"]["content"].clone(),
    )
}

/// The answers to so many turns of one conversation.
pub(crate) fn table(client: &mut Client, turns: usize) -> Vec<(Value, Value)> {
    let mut table = Vec::new();
    for n in 0..turns {
        let end = turn(client, "table", &format!("table{n}"));
        assert_eq!(end["choices"][0]["finish_reason"], json!("length"), "{end}");
        table.push(answer(&end));
    }
    table
}

/// How many turns a conversation had before this answer, by the table.
pub(crate) fn had(table: &[(Value, Value)], end: &Value) -> Option<usize> {
    table.iter().position(|turn| *turn == answer(end))
}
