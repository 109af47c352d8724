//! Models that are damaged, changed, or not numbers: F18 to F21, F27.

use crate::common::{Stop, body, comes, last, model_in, no_panic, rest, under};
use crate::rows::clients::beside;
use crate::table::{Outcome, Row, Run, Tally};
use ed25519_dalek::SigningKey;
use glowplug_model::gguf::GgmlType;
use glowplug_model::network::dims::Arch;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::daemon::glowplug;
use glowplug_tests::world::{Kind, World, request, tiny, topic};
use glowplug_tests::{Kv, SplitMix, Tiny, Types};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

pub(crate) const ROWS: [Row; 6] = [
    Row {
        name: "F18",
        fault: "bits flip in a model",
        asked: "all found before the first token, the model before goes on",
        run: flips,
    },
    Row {
        name: "F19",
        fault: "a model is cut off, also while it is mapped",
        asked: "refused, the model before goes on; no signal ends the daemon",
        run: cuts,
    },
    Row {
        name: "F20",
        fault: "models that this daemon or board cannot serve",
        asked: "refused in words, 8 MiB more resident at most, the model before goes on",
        run: unfit,
    },
    Row {
        name: "F21",
        fault: "the model is changed under load",
        asked: "no stream dropped, no answer of two models",
        run: swaps,
    },
    Row {
        name: "F27",
        fault: "logits are not numbers",
        asked: "ends as `internal` with 0 tokens, the others' answers are the same",
        run: nan,
    },
    Row {
        name: "F26",
        fault: "schema bombs",
        asked: "nothing yet",
        run: |_, _| {
            Err(crate::table::NotRun(
                "not yet: they come with schemas".to_owned(),
            ))
        },
    },
];

const ENGINE: &str = "max_streams = 4\nqueue = 16";

/// Asks for a model by name; the answer.
fn change(operator: &mut Client, name: &str) -> Value {
    operator.publish(&Message::new(
        topic("admin/model/request"),
        json!({"name": name}).to_string(),
    ));
    let response = topic("admin/model/response");
    operator.until("the answer", |m| (m.topic == response).then(|| m.json()))
}

/// Judges that a model is refused, in words.
fn refused(operator: &mut Client, name: &str, tally: &Tally, what: &str) {
    let answer = change(operator, name);
    let words = answer["error"]["message"].as_str().unwrap_or_default();
    tally.check(!words.is_empty(), || format!("{what}: {answer}"));
}

/// Judges that what was served is served.
fn goes_on(client: &mut Client, id: &str, expected: &Value) {
    request(client, &body(id, 8));
    let end = last(client, id);
    let text = &end["choices"][0]["message"]["content"];
    assert!(expected.is_null() || text == expected, "{end}");
}

/// Signs a model with the key in a file.
fn sign(model: &Path, key: &Path) {
    let [model, key] = [model, key].map(|path| path.to_str().unwrap());
    let signed = glowplug(&["sign", "--key", key, model]).output().unwrap();
    assert!(signed.status.success(), "{signed:?}");
}

fn flips(run: &Run, tally: &Tally) -> Outcome {
    let key = SigningKey::from_bytes(&[7; 32]);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, hex(&key.to_bytes())).unwrap();
    let model = model_in(folder.path(), &Tiny::smallest(Arch::Llama));
    sign(&model, &secret);
    let public = hex(key.verifying_key().as_bytes());
    let engine = format!("{ENGINE}\n[trust]\nkeys = [\"{public}\"]");
    let mut world = World::start(Kind::Mosquitto, folder, &model, "", &engine);
    world.online();
    let bytes = std::fs::read(&model).unwrap();
    let forged = world.folder().join("forged.gguf");
    std::fs::copy(
        glowplug::models::manifest::path(&model),
        glowplug::models::manifest::path(&forged),
    )
    .unwrap();
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    let mut random = SplitMix::new(run.seed, "F18");
    for n in 0..run.of(500, 10_000) {
        let (at, bit) = (random.below(bytes.len()), random.below(8));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        std::fs::write(&forged, flipped).unwrap();
        refused(
            &mut operator,
            "forged",
            tally,
            &format!("bit {bit} of byte {at}"),
        );
        if n % 100 == 0 {
            goes_on(&mut client, &n.to_string(), &Value::Null);
        }
    }
    // and without keys the packed file, which is what is mapped
    let packed = flips_of_packed(run, tally, &mut random);
    Ok(format!("signed; and {packed} flips of packed files"))
}

fn flips_of_packed(run: &Run, tally: &Tally, random: &mut SplitMix) -> usize {
    let mut world = crate::common::world(Kind::Mosquitto, "context = 512", ENGINE);
    let packed = world.folder().join("model.gguf.packed");
    let mut client = world.client(Version::V5, "c");
    request(&mut client, &body("a", 8));
    let text = last(&mut client, "a")["choices"][0]["message"]["content"].clone();
    let bytes = std::fs::read(&packed).unwrap();
    let rounds = run.of(5, 100);
    for _ in 0..rounds {
        let (at, bit) = (random.below(bytes.len()), random.below(8));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        world.daemon.signal("KILL");
        world.daemon.ended();
        std::fs::write(&packed, flipped).unwrap();
        world.restart();
        let mut client = world.client(Version::V5, "c");
        request(&mut client, &body("a", 8));
        let end = last(&mut client, "a");
        let same = end["choices"][0]["message"]["content"] == text;
        // not every byte of a packed file is one that is read
        tally.check(same, || {
            format!("bit {bit} of byte {at} of the packed file: {end}")
        });
    }
    rounds
}

fn cuts(run: &Run, tally: &Tally) -> Outcome {
    let mut world = crate::common::world(Kind::Mosquitto, "context = 512", ENGINE);
    let model = world.folder().join("model.gguf");
    let bytes = std::fs::read(&model).unwrap();
    let cut = world.folder().join("cut.gguf");
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    let mut random = SplitMix::new(run.seed, "F19");
    let ((), answered) = beside(&mut client, 8, || {
        for _ in 0..run.of(50, 1000) {
            let at = random.below(bytes.len());
            std::fs::write(&cut, &bytes[..at]).unwrap();
            refused(&mut operator, "cut", tally, &format!("cut at {at}"));
        }
    });
    // under its feet: of a packed model the file it came from, of another the one that is mapped
    for unpacked in [false, true] {
        if unpacked {
            world.daemon.signal("KILL");
            world.daemon.ended();
            std::fs::write(&model, &bytes).unwrap();
            let packed = world.folder().join("model.gguf.packed");
            let _ = std::fs::remove_file(&packed);
            // nothing can be packed where a folder is
            std::fs::create_dir(&packed).unwrap();
            std::fs::write(packed.join("x"), "x").unwrap();
            world.restart();
        }
        let mut client = world.client(Version::V5, "dave");
        request(&mut client, &body("before", 8));
        last(&mut client, "before");
        tally.injected(1);
        std::fs::OpenOptions::new()
            .write(true)
            .open(&model)
            .unwrap()
            .set_len(4096)
            .unwrap();
        request(&mut client, &body("after", 300));
        let end = loop {
            let message = client.within(Duration::from_millis(50)).unwrap();
            let end = message.and_then(|m| glowplug_tests::world::frame(&m, "after"));
            let end = end.filter(crate::common::ended);
            if end.is_some() || !world.daemon.alive() {
                break end;
            }
        };
        let whole = end.is_some_and(|end| end["choices"][0]["finish_reason"] == "length");
        if whole && world.daemon.alive() {
            tally.survived(1);
            continue;
        }
        // it may also end, with the code that says that another start can help, and serve when the file is back
        let status = world.daemon.ended().to_string();
        std::fs::write(&model, &bytes).unwrap();
        under(&mut world, &["env"], &[]);
        if status == "exit status: 1" && comes(&mut world) {
            tally.survived(1);
        } else {
            let said = world.daemon.said();
            tally.fell_short(format!(
                "cut in place, unpacked {unpacked}: {status}; {said}"
            ));
        }
    }
    Ok(format!("{answered} answers beside the cuts"))
}

/// Files that are no models for this daemon, and what is wrong with each.
fn unfits() -> Vec<(&'static str, Vec<u8>)> {
    let set = |key: &str, value: Kv| {
        let mut w = tiny().writer();
        w.set(key, value);
        w.build()
    };
    let mut quantisation = tiny().writer();
    // Q4_0_4_4, which ggml itself has taken out
    quantisation.tensors[3].ty = 31;
    let mut unknown = tiny().writer();
    unknown.tensors[3].ty = 9999;
    let mut missing = tiny().writer();
    missing.tensors.remove(3);
    let mut huge = tiny().writer();
    huge.tensors[3].dims = vec![1 << 40, 1 << 40];
    let mut tensors = tiny().writer();
    tensors.n_tensors = Some(u64::MAX);
    let mut keys = tiny().writer();
    keys.n_keys = Some(u64::MAX);
    let mut version = tiny().writer();
    version.version = 1;
    let mut nan = tiny().writer();
    nan.tensor("output_norm.weight").data.fill(0xff);
    let whole = tiny().bytes();
    vec![
        ("nothing", Vec::new()),
        ("four bytes", b"GGUF".to_vec()),
        ("text", b"a model, they said".repeat(1000)),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("quantisation", quantisation.build()),
        ("type", unknown.build()),
        ("a tensor less", missing.build()),
        ("2^80 weights", huge.build()),
        ("2^64 tensors", tensors.build()),
        ("2^64 keys", keys.build()),
        ("version 1", version.build()),
        ("all NaN", nan.build()),
        (
            "architecture",
            set("general.architecture", Kv::Str("mamba".into())),
        ),
        ("alignment 0", set("general.alignment", Kv::U32(0))),
        ("no layers", set("llama.block_count", Kv::U32(0))),
        ("2^31 layers", set("llama.block_count", Kv::U32(1 << 31))),
        ("no heads", set("llama.attention.head_count", Kv::U32(0))),
        ("other width", set("llama.embedding_length", Kv::U32(255))),
        ("vocabulary", set("tokenizer.ggml.tokens", Kv::Strs(vec![]))),
        ("small context", set("llama.context_length", Kv::U32(64))),
    ]
}

fn unfit(run: &Run, tally: &Tally) -> Outcome {
    let world = crate::common::world(Kind::Mosquitto, "context = 512", ENGINE);
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    request(&mut client, &body("a", 8));
    let text = last(&mut client, "a")["choices"][0]["message"]["content"].clone();
    let unfits = unfits();
    let path = world.folder().join("unfit.gguf");
    let mut grown = 0;
    for round in 0..run.of(1, 20) {
        for (what, bytes) in &unfits {
            std::fs::write(&path, bytes).unwrap();
            let before = crate::rows::clients::resident(&mut operator).0;
            refused(&mut operator, "unfit", tally, what);
            let after = crate::rows::clients::resident(&mut operator).0;
            grown = grown.max(after.saturating_sub(before));
            request(&mut client, &body("a", 8));
            // its answer again, and one that is computed
            last(&mut client, "a");
            let mut fresh = body("a", 8);
            fresh["id"] = format!("{what} {round}").into();
            request(&mut client, &fresh);
            let end = last(&mut client, fresh["id"].as_str().unwrap());
            assert_eq!(end["choices"][0]["message"]["content"], text, "{what}");
        }
    }
    // the one that is all NaN is found out by asking it: that one was loaded
    if grown > 8 << 20 {
        tally.fell_short(format!("{grown} bytes more"));
    }
    rest(&world);
    Ok(format!(
        "{} files, {} KiB more at most",
        unfits.len(),
        grown >> 10
    ))
}

fn swaps(run: &Run, tally: &Tally) -> Outcome {
    const TOKENS: u32 = 24;
    let world = crate::common::world(Kind::Mosquitto, "context = 512", ENGINE);
    let other = Tiny { seed: 2, ..tiny() };
    other.write(&world.folder().join("other.gguf")).unwrap();
    let mut operator = world.operator();
    let clients = 8;
    let asking: Vec<Client> = (0..clients)
        .map(|n| world.client(Version::V5, &format!("c{n}")))
        .collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let asking: Vec<_> = asking
            .into_iter()
            .map(|mut client| {
                let done = &done;
                scope.spawn(move || {
                    let (mut n, mut texts) = (0, BTreeSet::new());
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut body = World::endless(&n.to_string(), TOKENS);
                        body["stream"] = false.into();
                        request(&mut client, &body);
                        let end = last(&mut client, &n.to_string());
                        assert_eq!(end["usage"]["completion_tokens"], TOKENS, "{end}");
                        let field = |value: &Value| value.as_str().unwrap_or("").to_owned();
                        texts.insert((
                            field(&end["system_fingerprint"]),
                            field(&end["choices"][0]["message"]["content"]),
                        ));
                        n += 1;
                    }
                    (n, texts)
                })
            })
            .collect();
        for n in 0..run.of(10, 100) {
            let answer = change(&mut operator, ["other", "model.gguf"][n % 2]);
            tally.check(answer["error"].is_null(), || answer.to_string());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        asking
            .into_iter()
            .map(|a| a.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut texts: BTreeSet<(String, String)> = BTreeSet::new();
    let mut sum = 0;
    for (n, of) in answers {
        sum += n;
        // before the hash of the first was known, its answers had none
        texts.extend(of.into_iter().filter(|(hash, _)| !hash.is_empty()));
    }
    if texts.len() != 2 {
        tally.fell_short(format!("{} pairs of model and text of 2", texts.len()));
    }
    Ok(format!("{sum} answers of {clients} clients"))
}

fn nan(run: &Run, tally: &Tally) -> Outcome {
    const EMBED: usize = 256;
    let fixture = Tiny {
        tied_head: false,
        types: Types {
            token_embd: GgmlType::F32,
            ..tiny().types
        },
        ..tiny()
    };
    let mut writer = fixture.writer();
    // the byte `Z` is token 90: only who says it has numbers that are none
    writer.tensor("token_embd.weight").data[90 * EMBED * 4..91 * EMBED * 4].fill(0xff);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, writer.build()).unwrap();
    let mut world = World::start(Kind::Mosquitto, folder, &path, "context = 2048", ENGINE);
    world.online();
    let mut bob = world.client(Version::V5, "bob");
    let mut mallory = world.client(Version::V5, "mallory");
    let story = |id: &str| World::endless(id, 200);
    request(&mut bob, &story("alone"));
    let alone = last(&mut bob, "alone")["choices"][0]["message"]["content"].clone();
    for n in 0..run.of(10, 200) {
        tally.injected(1);
        let (his, bad) = (format!("b{n}"), format!("m{n}"));
        request(&mut bob, &story(&his));
        let mut body = World::endless(&bad, 50);
        body["messages"][0]["content"] = format!("the rain Z {n}").into();
        request(&mut mallory, &body);
        let mut chunks = 0;
        let end = mallory.until("the last frame", |m| {
            let frame = glowplug_tests::world::frame(m, &bad)?;
            chunks += usize::from(!crate::common::ended(&frame));
            crate::common::ended(&frame).then_some(frame)
        });
        let beside = last(&mut bob, &his);
        // and his own next question, which begins with the same words
        let good = format!("good{n}");
        request(&mut mallory, &story(&good));
        let own = last(&mut mallory, &good);
        let same = [&beside, &own].map(|end| &end["choices"][0]["message"]["content"]);
        let same = same == [&alone, &alone];
        if end["error"]["code"] == "internal" && chunks == 0 && same {
            tally.survived(1);
        } else {
            tally.fell_short(format!(
                "{chunks} chunks, then {end}; beside it {beside}, after it {own}"
            ));
        }
    }
    no_panic(&mut world, tally);
    let used = rest(&world)["kv"]["pages_used"].clone();
    Ok(format!("{used} pages in use at the end"))
}
