//! Prompts and payloads at and beyond every bound: F23 to F25.

use crate::common::{body, last, no_panic, rest, world};
use crate::table::{Outcome, Row, Run, Tally};
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, World, request, topic};
use serde_json::{Value, json};

pub(crate) const ROWS: [Row; 3] = [
    Row {
        name: "F23",
        fault: "prompts around the context's length",
        asked: "answered up to one length, refused as `context_length_exceeded` from the next on",
        run: boundary,
    },
    Row {
        name: "F24",
        fault: "payloads that are no text",
        asked: "refused in words or not at all taken; nothing more resident after; the connection stays",
        run: bytes,
    },
    Row {
        name: "F25",
        fault: "JSON bombs",
        asked: "refused in words, no stack or memory grows",
        run: bombs,
    },
];

const ENGINE: &str = "max_streams = 4\nqueue = 16";
/// What may be resident besides after an input that is refused: allocators round up.
const MORE: u64 = 4 << 20;
/// Rounds before that is measured.
const WARM_UP: usize = 6;

fn boundary(run: &Run, tally: &Tally) -> Outcome {
    const CONTEXT: usize = 512;
    let world = world(Kind::Mosquitto, "context = 512", ENGINE);
    let mut client = world.client(Version::V5, "c");
    // a letter without merges: each is a token
    let mut ask = |letters: usize, tokens: u32| {
        let id = format!("{letters}-{tokens}");
        let mut body = World::endless(&id, tokens);
        body["messages"][0]["content"] = "Z".repeat(letters).into();
        request(&mut client, &body);
        last(&mut client, &id)
    };
    let around = ask(1, 1)["usage"]["prompt_tokens"].as_u64().unwrap() as usize - 1;
    let mut found = Vec::new();
    for tokens in [1, 2, 50] {
        let mut longest = 0;
        let mut refused = None;
        let near = CONTEXT - around;
        let far = run.of(8, 60);
        for letters in near - far..near + far {
            let end = ask(letters, tokens);
            let prompt = letters + around;
            match end["error"]["code"].as_str() {
                None => {
                    let of = &end["usage"];
                    // the last token is said, and never read again
                    let fits = of["prompt_tokens"] == prompt
                        && of["total_tokens"].as_u64().unwrap() <= CONTEXT as u64 + 1;
                    tally.check(fits && refused.is_none(), || {
                        format!("{prompt} tokens: {end}")
                    });
                    longest = longest.max(prompt);
                }
                Some(code) => {
                    tally.check(code == "context_length_exceeded", || {
                        format!("{prompt} tokens: {end}")
                    });
                    refused.get_or_insert(prompt);
                }
            }
        }
        tally.check(refused == Some(longest + 1), || {
            format!("answered up to {longest}, refused from {refused:?} on")
        });
        found.push(format!("{longest} and {tokens}"));
    }
    Ok(format!(
        "the longest prompts with their answers: {}",
        found.join(", ")
    ))
}

/// Publishes a payload as a request; the answer, if there is one before that of the next request.
fn send(client: &mut Client, n: usize, payload: Vec<u8>) -> Option<Value> {
    client.publish(&Message::new(topic("chat/c/request"), payload).wrong());
    let probe = format!("probe{n}");
    request(client, &body(&probe, 1));
    let mut answer = None;
    client.until("the next answer", |m| {
        if !m.topic.ends_with("/reply") {
            return None;
        }
        let frame = m.json();
        if frame["id"] == *probe {
            return crate::common::ended(&frame).then_some(());
        }
        answer = Some(frame);
        None
    });
    answer
}

/// Each is answered with one of these codes, or dropped by the broker; what is resident stays.
fn each(run: &Run, tally: &Tally, table: &[(&str, Vec<u8>, bool)]) -> Outcome {
    let mut world = world(Kind::Mosquitto, "context = 512", ENGINE);
    let boot = world.online_again();
    let mut operator = world.operator();
    let mut client = world.client(Version::V5, "c");
    let mut n = 0;
    // buffers that are kept grow at first
    for (_, payload, _) in table.iter().cycle().take(table.len() * WARM_UP) {
        n += 1;
        send(&mut client, n, payload.clone());
    }
    let before = crate::rows::clients::resident(&mut operator).0;
    for _ in 0..run.of(2, 20) {
        for (what, payload, answered) in table {
            n += 1;
            let answer = send(&mut client, n, payload.clone());
            let right = match &answer {
                Some(frame) => {
                    let code = frame["error"]["code"].as_str();
                    matches!(code, Some("invalid_request" | "payload_too_large"))
                }
                None => !answered,
            };
            tally.check(right, || format!("{what}: {answer:?}"));
        }
    }
    let after = crate::rows::clients::resident(&mut operator).0;
    let grown = after.saturating_sub(before);
    if grown > MORE {
        tally.fell_short(format!("{grown} bytes more"));
    }
    rest(&world);
    no_panic(&mut world, tally);
    if world.online_again() != boot {
        tally.fell_short("it is another daemon".to_owned());
    }
    Ok(format!(
        "{} payloads, {} KiB more",
        table.len(),
        grown >> 10
    ))
}

fn bytes(run: &Run, tally: &Tally) -> Outcome {
    let question = |content: &str| {
        format!(r#"{{"id":"x","messages":[{{"role":"user","content":"{content}"}}]}}"#)
    };
    let mut invalid = question("a?b").into_bytes();
    let at = invalid.iter().position(|b| *b == b'?').unwrap();
    invalid[at] = 0xff;
    let mut raw_nul = question("a?b").into_bytes();
    raw_nul[at] = 0;
    let mut cut = question("é").into_bytes();
    let e = cut.iter().position(|b| *b == 0xc3).unwrap();
    cut.remove(e + 1);
    let table = [
        ("nothing", Vec::new(), true),
        ("a NUL", vec![0], true),
        ("a NUL in a text", raw_nul, true),
        ("0xff in a text", invalid, true),
        ("half a character", cut, true),
        ("a lone surrogate", question("\\ud800").into_bytes(), true),
        (
            "surrogates the wrong way round",
            question("\\udc00\\ud800").into_bytes(),
            true,
        ),
        ("a list", b"[]".to_vec(), true),
        ("a number", b"1".to_vec(), true),
        (
            "half an object",
            question("a").into_bytes()[..20].to_vec(),
            true,
        ),
        ("300 KB", question(&"a".repeat(300_000)).into_bytes(), true),
        // larger than the daemon takes packets of: the broker may keep it
        (
            "10 MB",
            question(&"a".repeat(10_000_000)).into_bytes(),
            false,
        ),
    ];
    each(run, tally, &table)
}

fn bombs(run: &Run, tally: &Tally) -> Outcome {
    let of = |field: &str, value: &str| {
        format!(r#"{{"id":"x","messages":[{{"role":"user","content":"a"}}],"{field}":{value}}}"#)
            .into_bytes()
    };
    let keys: String = (0..20_000).map(|n| format!(r#""k{n}":1,"#)).collect();
    let deep = |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
    let biases: String = (0..20_000).map(|n| format!(r#""{n}":-1,"#)).collect();
    let stops = format!("[{}\"a\"]", "\"a\",".repeat(20_000));
    let one = r#"{"role":"user","content":"a"},"#;
    let many = format!(
        r#"{{"id":"x","messages":[{}{}]}}"#,
        one.repeat(7000),
        &one[..one.len() - 1]
    );
    let table = [
        (
            "depth 100,000, bare",
            deep("[", "]", 100_000).into_bytes(),
            true,
        ),
        (
            "depth 100,000 in a field",
            of("stop", &deep("[", "]", 100_000)),
            true,
        ),
        (
            "depth 40,000 of objects",
            of("metadata", &deep(r#"{"a":"#, "1}", 40_000)),
            true,
        ),
        ("depth 100,000, never closed", vec![b'['; 100_000], true),
        (
            "20,000 keys",
            format!("{{{keys}\"id\":\"x\"}}").into_bytes(),
            true,
        ),
        (
            "20,000 biases",
            of("logit_bias", &format!("{{{biases}\"1\":1}}")),
            true,
        ),
        ("20,000 stops", of("stop", &stops), true),
        ("7,000 messages", many.into_bytes(), true),
        ("1e999999", of("temperature", "1e999999"), true),
        (
            "100,000 digits",
            of("max_tokens", &"9".repeat(100_000)),
            true,
        ),
        (
            "a key twice",
            of("temperature", r#"1,"temperature":2"#),
            true,
        ),
        (
            "200,000 blanks, cut",
            format!("{{{}", " ".repeat(200_000)).into_bytes(),
            true,
        ),
        (
            "an id of 100 KB",
            json!({"id": "x".repeat(100_000)}).to_string().into_bytes(),
            true,
        ),
    ];
    each(run, tally, &table)
}
