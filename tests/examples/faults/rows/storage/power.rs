//! The power goes: F10.

use crate::common::{comes, last, stop, under};
use crate::journal::{Disk, Tree, calls, put, tree};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use crate::vault::{small, turn, verb, world};
use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Client, Version};
use glowplug_tests::world::{World, topic};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

pub(crate) const ROWS: [Row; 1] = [Row {
    name: "F10",
    fault: "the power goes between two system calls; what was not synced is there, in part, or not",
    asked: "it starts and serves, nothing is lost that was acknowledged",
    run: power,
}];

/// What was acknowledged, and the line of the log at which it was.
struct Promise {
    line: usize,
    /// turns saved, and the model
    turns: usize,
    model: &'static str,
}

fn admin(operator: &mut Client, which: &str, body: &Value) -> Value {
    operator.publish(&glowplug_tests::world::client::Message::new(
        topic(&format!("admin/{which}/request")),
        body.to_string(),
    ));
    let response = topic(&format!("admin/{which}/response"));
    operator.until(which, |m| (m.topic == response).then(|| m.json()))
}

/// The hash of the model that is served, once it is known.
fn served(operator: &mut Client) -> String {
    for _ in 0..1000 {
        let answer = admin(operator, "model", &json!({}));
        if let Some(hash) = answer["model"]["sha256"].as_str() {
            return hash.to_owned();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("the model's hash is never known")
}

fn power(run: &Run, tally: &Tally) -> Outcome {
    if Command::new("strace").arg("-V").output().is_err() {
        return Err(NotRun("`apt-get install strace`".to_owned()));
    }
    let (mut world, _) = world(&small(), |folder| folder.join("sessions"));
    let other = Tiny { seed: 2, ..small() };
    other.write(&world.folder().join("other.gguf")).unwrap();
    let mut hashes = BTreeMap::new();
    let mut operator = world.operator();
    hashes.insert("model", served(&mut operator));
    stop(&mut world);
    let root = world.folder().to_owned();
    let begin = tree(&root);
    let trace = tempfile::tempdir().unwrap();
    let log = trace.path().join("log");
    let (promises, prompts) = record(&mut world, &log, run, &mut hashes);
    stop(&mut world);
    let text = std::fs::read_to_string(&log).unwrap();
    let mut disk = Disk::new(&root, &begin);
    let mut seen: Vec<(Tree, usize)> = Vec::new();
    for (line, call) in calls(&text) {
        if !disk.replay(&call) {
            continue;
        }
        let kept = promises.iter().rposition(|promise| promise.line < line);
        for tree in disk.after_a_cut() {
            // the same files: the later promise is the harder one to keep
            let kept = kept.map_or(0, |n| n + 1);
            match seen.iter_mut().find(|(known, _)| *known == tree) {
                Some((_, promised)) => *promised = (*promised).max(kept),
                None => seen.push((tree, kept)),
            }
        }
    }
    let all = seen.len();
    // the short form takes every so many-th of them
    let every = all.div_ceil(run.of(60, usize::MAX));
    for (tree, kept) in seen.iter().step_by(every.max(1)) {
        stop(&mut world);
        put(&root, tree);
        under(&mut world, &["env"], &[]);
        if !comes(&mut world) {
            tally.check(false, || {
                format!("it does not start: {}", world.daemon.said())
            });
            continue;
        }
        let mut client = world.client(Version::V5, "c");
        let end = turn(&mut client, "s", "after");
        let prompt = end["usage"]["prompt_tokens"].as_u64().unwrap();
        let had = prompts.iter().position(|of| *of == prompt);
        // it may have been saved once more, when there was nothing else to do
        let had = had.or((Some(&prompt) > prompts.last()).then_some(prompts.len()));
        let model = served(&mut world.operator());
        let promise = kept.checked_sub(1).map(|n| &promises[n]);
        let turns_kept = had >= promise.map(|promise| promise.turns);
        let model_kept = promise.is_none_or(|promise| {
            // the next change may have been on the disk already
            let next = promises.get(*kept).map(|next| next.model);
            let models = [Some(promise.model), next];
            models
                .into_iter()
                .flatten()
                .any(|name| hashes[name] == model)
        });
        tally.check(had.is_some() && turns_kept && model_kept, || {
            let promised = promise.map(|promise| (promise.turns, promise.model));
            format!("{promised:?} was promised, {had:?} turns and model {model} are there: {end}")
        });
    }
    Ok(format!(
        "{all} states of the disk by {} acknowledgements",
        promises.len()
    ))
}

/// Saves, changes the model, and notes what was acknowledged when, and the tokens of each turn's prompt.
fn record(
    world: &mut World,
    log: &Path,
    run: &Run,
    hashes: &mut BTreeMap<&'static str, String>,
) -> (Vec<Promise>, Vec<u64>) {
    let trace = "trace=openat,open,write,pwrite64,ftruncate,fsync,fdatasync,close,rename,renameat,renameat2,unlink,unlinkat";
    let log_path = log.to_str().unwrap();
    under(
        world,
        &[
            "strace",
            "-D",
            "-f",
            "-qq",
            "-xx",
            "-s",
            "10000000",
            "-e",
            trace,
            "-e",
            "signal=none",
            "-o",
            log_path,
        ],
        &[],
    );
    assert!(comes(world), "{}", world.daemon.said());
    let mut client = world.client(Version::V5, "c");
    let mut operator = world.operator();
    let mut promises = Vec::new();
    // tokens of the prompts of the turns, which tell how many there were before
    let mut prompts = Vec::new();
    let mut ask = |client: &mut Client, id: &str| {
        let end = turn(client, "s", id);
        prompts.push(end["usage"]["prompt_tokens"].as_u64().unwrap());
    };
    let mut model = "model";
    let lines = || std::fs::read_to_string(log).unwrap().lines().count();
    for turns in 1..=run.of(2, 5) {
        ask(&mut client, &format!("t{turns}"));
        let saved = verb(&mut client, "s", "save");
        assert_eq!(saved["ok"], true, "{saved}");
        promises.push(Promise {
            line: lines(),
            turns,
            model,
        });
        model = if model == "model" { "other" } else { "model" };
        let file = if model == "model" {
            "model.gguf"
        } else {
            "other"
        };
        let changed = admin(&mut operator, "model", &json!({"name": file}));
        assert!(changed["error"].is_null(), "{changed}");
        hashes.insert(model, served(&mut operator));
        promises.push(Promise {
            line: lines(),
            turns,
            model,
        });
    }
    ask(&mut client, "end");
    last_line(&mut client);
    (promises, prompts)
}

/// The daemon has done all that it had to do when it answers this.
fn last_line(client: &mut Client) {
    glowplug_tests::world::request(client, &World::endless("end of the log", 1));
    last(client, "end of the log");
}
