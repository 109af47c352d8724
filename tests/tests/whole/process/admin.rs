//! The admin verbs: models changed under load, a drain, a client that is forgotten.

use glowplug_tests::Tiny;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::daemon::Daemon;
use glowplug_tests::world::{CONFIG, Kind, STATE, World, frame, reply, request, tiny, topic};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks for a verb, and waits for its answer.
pub(crate) fn ask(operator: &mut Client, verb: &str, body: &Value) -> Value {
    let mut body = body.clone();
    body["transaction"] = json!(verb);
    operator.publish(&Message::new(
        topic(&format!("admin/{verb}/request")),
        body.to_string(),
    ));
    let response = topic(&format!("admin/{verb}/response"));
    let answer = operator.until(verb, |m| (m.topic == response).then(|| m.json()));
    assert_eq!(answer["transaction"], verb);
    answer
}

/// What is refused, and why.
pub(crate) fn refused(operator: &mut Client, verb: &str, body: &Value) -> (String, String) {
    let answer = ask(operator, verb, body);
    let text = |name: &str| answer["error"][name].as_str().unwrap_or("").to_owned();
    (text("code"), text("message"))
}

/// Writes a model, and gives its hash.
fn write(path: &Path, tiny: &Tiny) -> String {
    tiny.write(path).unwrap();
    let hash = Sha256::digest(std::fs::read(path).unwrap());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `model.gguf` is served, `other.gguf` is another; their hashes.
fn world(kind: Kind) -> (World, [String; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let [model, other] = ["model.gguf", "other.gguf"].map(|name| folder.path().join(name));
    let hashes = [
        write(&model, &tiny()),
        write(&other, &Tiny { seed: 2, ..tiny() }),
    ];
    let mut world = World::start(
        kind,
        folder,
        &model,
        "context = 1024",
        "max_streams = 4\nqueue = 16",
    );
    world.online();
    (world, hashes)
}

/// Eight clients ask without a pause while the models take turns a hundred times.
#[test]
fn a_hundred_changes_of_the_model_drop_no_stream_and_mix_no_answer() {
    let (world, hashes) = world(Kind::Mosquitto);
    let mut operator = world.operator();
    let done = AtomicBool::new(false);
    let clients: Vec<Client> = (0..8)
        .map(|n| world.client(Version::V5, &format!("c{n}")))
        .collect();
    let mut resident = Vec::new();
    let answers = std::thread::scope(|scope| {
        let asking = clients.into_iter().map(|mut client| {
            let done = &done;
            scope.spawn(move || {
                let mut answers: BTreeMap<(String, String), usize> = BTreeMap::new();
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    n += 1;
                    let id = n.to_string();
                    request(&mut client, &World::endless(&id, 24));
                    let reply = reply(&mut client, &id);
                    assert_eq!((reply.finish(), reply.completion_tokens()), ("length", 24));
                    assert_eq!(reply.message()["content"], reply.text("content"));
                    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
                    let of = text(&reply.last["system_fingerprint"]);
                    let said = text(&reply.message()["content"]);
                    *answers.entry((of, said)).or_default() += 1;
                }
                answers
            })
        });
        let asking: Vec<_> = asking.collect();
        for n in 0..100 {
            let name = ["other", "model.gguf"][n % 2];
            let answer = ask(&mut operator, "model", &json!({"name": name}));
            assert_eq!(answer["model"]["sha256"], hashes[(n + 1) % 2], "{answer}");
            if n % 10 == 9 {
                let stats = ask(&mut operator, "stats", &json!({}));
                assert_eq!(stats["stats"]["refused"], json!({}), "{stats}");
                resident.push(stats["stats"]["bytes"]["resident"].as_u64().unwrap());
            }
        }
        done.store(true, Ordering::Relaxed);
        let mut all: BTreeMap<(String, String), usize> = BTreeMap::new();
        for answers in asking.into_iter().map(|asking| asking.join().unwrap()) {
            for (answer, n) in answers {
                *all.entry(answer).or_default() += n;
            }
        }
        all
    });
    // greedy: one text of each model; before the first hash was known an answer had none
    let texts = |hash: &str| {
        let of = answers.keys().filter(|(of, _)| of == hash);
        of.map(|(_, said)| said.clone()).collect::<Vec<_>>()
    };
    let [a, b] = hashes.each_ref().map(|hash| texts(hash));
    assert_eq!((a.len(), b.len()), (1, 1), "{answers:?}");
    assert_ne!(a, b);
    assert!(texts("").iter().all(|said| *said == a[0]));
    assert_eq!(answers.len() - texts("").len(), 2, "{answers:?}");
    // what a model took is given back
    assert!(resident[9] < resident[0] + (8 << 20), "{resident:?}");
}

#[test]
fn changes_that_cannot_be_are_refused_and_what_runs_goes_on() {
    let (mut world, hashes) = world(Kind::Embedded);
    let mut operator = world.operator();
    let folder = world.folder().to_owned();
    std::fs::write(folder.join("junk.gguf"), "GGUF").unwrap();
    let mut mute = tiny().writer();
    // sound, and all of it NaN
    mute.tensor("output_norm.weight").data.fill(0xff);
    std::fs::write(folder.join("mute.gguf"), mute.build()).unwrap();
    let huge = Tiny {
        context: 16_384,
        layers: 1,
        ..tiny()
    };
    write(
        &folder.join("small.gguf"),
        &Tiny {
            context: 64,
            ..huge
        },
    );
    let mut client = world.client(Version::V5, "c");
    for (name, code, says) in [
        ("nothing", "not_found", "no model of this name"),
        ("junk", "invalid_request", ""),
        // configured for 1,024 tokens
        ("small", "invalid_request", "64"),
        ("mute", "internal", "the one before is served"),
    ] {
        let error = refused(&mut operator, "model", &json!({"name": name}));
        assert_eq!(error.0, code, "{error:?}");
        assert!(error.1.contains(says), "{error:?}");
        assert!(!error.1.contains('/'), "{error:?}");
        request(&mut client, &World::endless(name, 8));
        let reply = reply(&mut client, name);
        assert_eq!(reply.last["system_fingerprint"], hashes[0]);
    }
    // inhibited over a restart, until it is allowed again
    assert_eq!(
        ask(&mut operator, "inhibit", &json!({"on": true}))["inhibit"]["on"],
        true
    );
    world.kill_and_restart();
    let mut operator = world.operator();
    for verb in ["model", "reload"] {
        let body = if verb == "model" {
            json!({"name": "other"})
        } else {
            json!({})
        };
        let error = refused(&mut operator, verb, &body);
        assert_eq!(error.0, "overloaded");
        assert!(error.1.contains("inhibited"), "{error:?}");
    }
    ask(&mut operator, "inhibit", &json!({"on": false}));
    let chosen = ask(&mut operator, "model", &json!({"name": "other"}));
    assert_eq!(chosen["model"]["sha256"], hashes[1]);
    // what was chosen is served after a restart too
    world.kill_and_restart();
    let mut operator = world.operator();
    let served = ask(&mut operator, "model", &json!({}));
    assert_eq!(served["model"]["sha256"], hashes[1], "{served}");
}

#[test]
fn a_drain_finishes_what_runs_and_a_reload_serves_again() {
    let (mut world, hashes) = world(Kind::Mosquitto);
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    request(&mut client, &World::endless("long", 400));
    client.until("its first token", |m| frame(m, "long"));
    operator.publish(&Message::new(
        topic("admin/drain/request"),
        "{\"transaction\":1}",
    ));
    world.states_until("draining");
    request(&mut client, &World::endless("late", 8));
    // in whichever order: on a loaded machine the first may have its end before the second was asked
    let (mut late, mut last) = (None, None);
    client.until("a refusal and an end", |m| {
        late = late.take().or_else(|| frame(m, "late"));
        let end = |m| frame(m, "long").filter(|f| f["object"] == "chat.completion");
        last = last.take().or_else(|| end(m));
        (late.is_some() && last.is_some()).then_some(())
    });
    let (late, last) = (late.unwrap(), last.unwrap());
    assert_eq!(late["error"]["code"], "draining", "{late}");
    assert_eq!(last["usage"]["completion_tokens"], 400);
    let response = topic("admin/drain/response");
    let drained = operator.until("drained", |m| (m.topic == response).then(|| m.json()));
    assert_eq!(
        drained,
        json!({"transaction": 1, "drain": {"state": "draining"}})
    );
    // another file has taken the place of the one that was loaded
    let model = world.folder().join("model.gguf");
    std::fs::rename(world.folder().join("other.gguf"), &model).unwrap();
    let served = ask(&mut operator, "reload", &json!({}));
    assert_eq!(served["reload"]["sha256"], hashes[1]);
    world.online();
    request(&mut client, &World::endless("again", 8));
    let again = reply(&mut client, "again");
    assert_eq!(again.last["system_fingerprint"], hashes[1]);
}

/// A conversation goes on with the next model; a client that is forgotten has none left.
#[test]
fn conversations_go_on_with_the_next_model_until_they_are_forgotten() {
    let (world, _) = world(Kind::Embedded);
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    let mut turn = |id: &str| {
        let mut body = World::endless(id, 8);
        body["session"] = json!("s");
        request(&mut client, &body);
        reply(&mut client, id).last["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap()
    };
    let first = turn("1");
    let second = turn("2");
    assert!(second > first + 8);
    ask(&mut operator, "model", &json!({"name": "other"}));
    assert!(turn("3") > second + 8);
    let forgotten = ask(&mut operator, "forget", &json!({"client": "c"}));
    assert_eq!(forgotten["forget"], json!({"client": "c", "sessions": 1}));
    assert_eq!(turn("4"), first);
}

#[test]
fn a_model_that_fails_three_starts_gives_way_to_the_last_one_that_answered() {
    let (mut world, hashes) = world(Kind::Embedded);
    let folder = world.folder().to_owned();
    let mut mute = tiny().writer();
    mute.tensor("output_norm.weight").data.fill(0xff);
    std::fs::write(folder.join("mute.gguf"), mute.build()).unwrap();
    world.daemon.signal("TERM");
    world.daemon.ended();
    let (config, state) = (folder.join(CONFIG), folder.join(STATE));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("model.gguf", "mute.gguf")).unwrap();
    for _ in 0..3 {
        let mut daemon = Daemon::serve(&config, &state, &[]);
        // not 2, which would tell a service manager not to try again
        assert_eq!(daemon.ended().code(), Some(1), "{}", daemon.said());
    }
    world.restart();
    let mut operator = world.operator();
    let served = ask(&mut operator, "model", &json!({}));
    assert_eq!(served["model"]["fallback"], true);
    assert_eq!(served["model"]["sha256"], hashes[0]);
    assert!(
        world
            .daemon
            .said()
            .contains("did not answer in its last starts")
    );
}
