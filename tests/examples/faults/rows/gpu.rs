//! A GPU that fails: F29. The faults are a layer of Vulkan's (`tests/vulkan/fault.c`), which the daemon's loader is told of.

use crate::common::{ended, last, model_in};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use glowplug_tests::world::client::{Client, Version};
use glowplug_tests::world::{Kind, World, frame, request, tiny, topic};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const ROWS: [Row; 1] = [Row {
    name: "F29",
    fault: "the GPU is lost, has no memory or hangs, while it is loaded or computes",
    asked: "what runs ends as `internal`, what waits and sessions go on, on the processor within 10 s; no last frame missing",
    run: lost,
}];

/// How the layer is told to fail.
const FAULTS: [&str; 3] = ["lost", "memory", "hang"];
/// Of so many faults, one of each kind is there while the model is loaded.
const SHORT: usize = 20;
const LONG: usize = 100;
/// Two that run, so that a third waits.
const ENGINE: &str = "max_streams = 2\nqueue = 16\nchunk_ms = 0";

/// The layer, built for this run, and the file that tells it to fail.
struct Layer {
    folder: TempDir,
}

impl Layer {
    fn build() -> Result<Self, NotRun> {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("vulkan/fault.c");
        let library = folder.path().join("fault.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status();
        if !built.is_ok_and(|status| status.success()) {
            return Err(NotRun("no C compiler for the layer".to_owned()));
        }
        let manifest = json!({
            "file_format_version": "1.2.0",
            "layer": {
                "name": "VK_LAYER_glowplug_fault", "type": "GLOBAL", "library_path": library, "api_version": "1.3.0",
                "implementation_version": "1", "description": "fails when it is told to",
            },
        });
        std::fs::write(folder.path().join("fault.json"), manifest.to_string()).unwrap();
        let layer = Self { folder };
        layer.tell("");
        Ok(layer)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("told")
    }

    fn tell(&self, how: &str) {
        std::fs::write(self.file(), how).unwrap();
    }

    /// A daemon on a GPU that has the layer.
    fn world(&self) -> World {
        let folder = tempfile::tempdir().unwrap();
        let model = model_in(folder.path(), &tiny());
        let file = self.file();
        let env = [
            ("VK_LAYER_PATH", self.folder.path()),
            ("VK_INSTANCE_LAYERS", Path::new("VK_LAYER_glowplug_fault")),
            ("FAULT_FILE", &file),
        ];
        let lines = "context = 2048\ndevice = \"gpu\"";
        World::start_with(Kind::Embedded, folder, &model, lines, ENGINE, &env)
    }
}

/// The next `info` that names this processor: why it does.
fn computes(world: &mut World, name: &str) -> String {
    world.watch.until(&format!("`info` of the {name}"), |m| {
        let device = (m.topic == topic("info")).then(|| m.json()["device"].clone())?;
        (device["name"] == name).then(|| device["why"].as_str().unwrap().to_owned())
    })
}

fn lost(run: &Run, tally: &Tally) -> Outcome {
    if cfg!(not(feature = "wgpu")) {
        return Err(NotRun("built without feature `wgpu`".to_owned()));
    }
    let layer = Layer::build()?;
    let mut slowest = Duration::ZERO;
    for n in 0..run.of(SHORT, LONG) {
        let how = FAULTS[n % FAULTS.len()];
        tally.injected(1);
        let found = if n < FAULTS.len() {
            while_loading(&layer, how)
        } else {
            while_computing(&layer, how)?
        };
        layer.tell("");
        match found {
            Ok(took) => {
                slowest = slowest.max(took);
                tally.survived(1);
            }
            Err(why) => tally.fell_short(format!("{how}, {n}: {why}")),
        }
    }
    if run.times && slowest > Duration::from_secs(10) {
        tally.fell_short(format!("answers again after {slowest:?}"));
    }
    Ok(format!(
        "answers again after {:.1} s at most",
        slowest.as_secs_f64()
    ))
}

/// A device that fails from the start: how long it takes until the processor answers.
fn while_loading(layer: &Layer, how: &str) -> Result<Duration, String> {
    layer.tell(how);
    let begun = Instant::now();
    let mut world = layer.world();
    world.online();
    let took = begun.elapsed();
    computes(&mut world, "cpu");
    let mut client = world.client(Version::V5, "ann");
    request(&mut client, &World::endless("a", 8));
    whole(&last(&mut client, "a"), 8)?;
    Ok(took)
}

/// A device that fails under two streams, with a third request waiting and a session between two turns: how long it takes from
/// then until the third is answered.
fn while_computing(layer: &Layer, how: &str) -> Result<Result<Duration, String>, NotRun> {
    let mut world = layer.world();
    world.online();
    let device = world.watch.until("what computes", |m| {
        (m.topic == topic("info")).then(|| m.json()["device"].clone())
    });
    if device["name"] != "gpu" {
        return Err(NotRun(format!("no GPU that computes: {}", device["why"])));
    }
    let turn = |id: &str| {
        let mut body = World::endless(id, 8);
        body["session"] = "s".into();
        body
    };
    let mut ann = world.client(Version::V5, "ann");
    request(&mut ann, &turn("first"));
    let first = last(&mut ann, "first");
    let mut running: Vec<_> = ["bob", "cat"]
        .map(|name| world.client(Version::V5, name))
        .into_iter()
        .collect();
    for client in &mut running {
        request(client, &World::endless("r", 1500));
    }
    for client in &mut running {
        client.until("a token", |m| frame(m, "r"));
    }
    let mut dan = world.client(Version::V5, "dan");
    request(&mut dan, &World::endless("waits", 8));
    layer.tell(how);
    let begun = Instant::now();
    let ends: Vec<Value> = running.iter_mut().map(|client| last(client, "r")).collect();
    let third = last(&mut dan, "waits");
    let took = begun.elapsed();
    request(&mut ann, &turn("second"));
    let second = last(&mut ann, "second");
    let why = computes(&mut world, "cpu");
    let more: Vec<Value> = (running.iter_mut().chain([&mut dan, &mut ann]))
        .flat_map(Client::rest)
        .filter(|m| m.topic.ends_with("/reply"))
        .map(|m| m.json())
        .filter(ended)
        .collect();
    // a call into a driver that hangs does not keep the process either
    world.daemon.signal("TERM");
    let code = world.daemon.ended().code();
    let judged = || {
        for end in &ends {
            let says = end["error"]["message"].as_str().unwrap_or_default();
            if end["error"]["code"] != "internal" || !says.contains("GPU") {
                return Err(format!("what ran ended as {end}"));
            }
        }
        whole(&third, 8)?;
        whole(&second, 8)?;
        let prompt = |end: &Value| end["usage"]["prompt_tokens"].as_u64();
        if prompt(&second) <= prompt(&first) {
            return Err(format!("the session is forgotten: {first}, {second}"));
        }
        if !more.is_empty() {
            return Err(format!("more than one last frame: {more:?}"));
        }
        if code != Some(0) || !why.contains("lost") {
            return Err(format!("code {code:?}; {why}"));
        }
        Ok(took)
    };
    Ok(judged())
}

/// Whether an answer is there with all of its tokens.
fn whole(end: &Value, tokens: u64) -> Result<(), String> {
    if end["usage"]["completion_tokens"] == tokens {
        Ok(())
    } else {
        Err(format!("no answer but {end}"))
    }
}
