//! What every row does: starts daemons, asks them, and reads what they say of themselves.

use crate::table::Tally;
use glowplug_tests::world::client::{Client, Message, PATIENCE};
use glowplug_tests::world::daemon::{Daemon, glowplug};
use glowplug_tests::world::{CONFIG, Kind, STATE, World, frame, request, tiny, topic};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The lines of `[engine]` where a row has no reason for others: each token is a frame of its own.
pub(crate) const ENGINE: &str = "max_streams = 4\nqueue = 16\nchunk_ms = 0";

/// Writes a model into the folder of a world to be.
pub(crate) fn model_in(folder: &Path, model: &glowplug_tests::Tiny) -> PathBuf {
    let path = folder.join("model.gguf");
    model.write(&path).unwrap();
    path
}

/// A daemon that is online, on a tiny model in its folder, with these lines in `[model]` and from `[engine]` on.
pub(crate) fn world(kind: Kind, lines: &str, engine: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let model = model_in(folder.path(), &tiny());
    let mut world = World::start(kind, folder, &model, lines, engine);
    world.online();
    world
}

/// Ends a daemon that may have ended already.
pub(crate) fn stop(world: &mut World) {
    if world.daemon.alive() {
        world.daemon.signal("KILL");
        world.daemon.ended();
    }
}

/// The daemon of a world anew, started by another program, with these variables.
pub(crate) fn under(world: &mut World, program: &[&str], env: &[(&str, &Path)]) {
    stop(world);
    // what the one before said is none of this one's: it is here when the broker answers
    world.watch.subscribe(&topic("info"));
    world.watch.rest();
    let config = world.folder().join(CONFIG);
    let serve = glowplug(&["serve", "--config", config.to_str().unwrap()]);
    let mut command = Command::new(program[0]);
    command
        .args(&program[1..])
        .arg(serve.get_program())
        .args(serve.get_args())
        .stdin(Stdio::null());
    for (name, _) in serve.get_envs() {
        command.env_remove(name);
    }
    world.daemon = Daemon::run(command, &world.folder().join(STATE), env);
}

/// Whether a daemon that was just started comes online; it may end instead.
pub(crate) fn comes(world: &mut World) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        let message = world.watch.within(Duration::from_millis(20)).unwrap();
        let status = message.filter(|m| m.topic == topic("status") && !m.retain);
        if status.is_some_and(|m| m.json()["state"] == "online") {
            return true;
        }
        if !world.daemon.alive() {
            return false;
        }
        assert!(Instant::now() < until, "neither online nor ended");
    }
}

/// Judges that no thread of a daemon panicked.
pub(crate) fn no_panic(world: &mut World, tally: &Tally) {
    let said = world.daemon.said();
    if let Some((_, panic)) = said.split_once("panicked at ") {
        let lines: Vec<&str> = panic.lines().take(2).collect();
        tally.fell_short(format!("a thread panicked at {}", lines.join(" ")));
    }
}

/// Sets a flag when it goes, whatever happens: no thread must wait for one that panicked.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The pauses between the frames of an answer, which has all the tokens that `body` asks for.
pub(crate) fn gaps(client: &mut Client, body: &Value) -> Vec<Duration> {
    request(client, body);
    let id = body["id"].as_str().unwrap();
    let (mut gaps, mut before) = (Vec::new(), None::<Instant>);
    let end = client.until("the last frame", |m| {
        let frame = frame(m, id)?;
        let now = Instant::now();
        gaps.extend(before.replace(now).map(|before| now - before));
        ended(&frame).then_some(frame)
    });
    assert_eq!(
        end["usage"]["completion_tokens"], body["max_tokens"],
        "{end}"
    );
    gaps
}

/// The last frame of a request, however many came before; it may be an error.
pub(crate) fn last(client: &mut Client, id: &str) -> Value {
    client.until(&format!("the last frame of `{id}`"), |m| {
        frame(m, id).filter(ended)
    })
}

/// Is this the last frame of its request: its answer, or an error?
pub(crate) fn ended(frame: &Value) -> bool {
    frame["object"] != "chat.completion.chunk"
}

/// A body whose answer has exactly so many tokens, of a prompt of its own.
pub(crate) fn body(id: &str, tokens: u32) -> Value {
    let mut body = World::endless(id, tokens);
    body["messages"][0]["content"] = format!("the rain {id}").into();
    body
}

/// All numbers of a daemon, when nothing runs and nothing waits.
pub(crate) fn rest(world: &World) -> Value {
    let mut operator = world.operator();
    let until = Instant::now() + PATIENCE;
    loop {
        let stats = stats(&mut operator);
        if stats["running"] == 0 && stats["queued"] == 0 && stats["parked"] == 0 {
            return stats;
        }
        assert!(Instant::now() < until, "it never comes to rest: {stats}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All numbers of a daemon.
pub(crate) fn stats(operator: &mut Client) -> Value {
    operator.publish(&Message::new(topic("admin/stats/request"), "{}"));
    let response = topic("admin/stats/response");
    operator.until("the stats", |m| {
        (m.topic == response).then(|| m.json()["stats"].clone())
    })
}

/// The value at a part of 1 of the sorted times.
pub(crate) fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times
        .get((last as f64 * part) as usize)
        .copied()
        .unwrap_or_default()
}
