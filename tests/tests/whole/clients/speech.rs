//! Answers that are spoken, thoughts that are not, and presets for those who say little, on both brokers.

use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, Reply, World, reply, request, tell, topic};
use glowplug_tests::{Think, Tiny};
use serde_json::{Value, json};

#[test]
fn speech_on_mosquitto() {
    speech(Kind::Mosquitto, Version::V5);
}

#[test]
fn speech_on_the_embedded_broker() {
    speech(Kind::Embedded, Version::V3);
}

#[test]
fn presets_on_mosquitto() {
    presets(Kind::Mosquitto, Version::V3);
}

#[test]
fn presets_on_the_embedded_broker() {
    presets(Kind::Embedded, Version::V5);
}

/// A thought, and an answer with marks whose sentences end within tokens.
const SCRIPT: [&str; 16] = [
    "<think>",
    "secret",
    " plan. ",
    "</think>",
    "**Hel",
    "lo**",
    " there",
    ". It",
    " is 3",
    ".",
    "5 de",
    "grees, e.g",
    ". now! ",
    "[See",
    "](http://x.org)",
    " it",
];
const SPOKEN: [&str; 3] = ["Hello there. ", "It is 3.5 degrees, e.g. now! ", "See it"];
const WRITTEN: &str = "**Hello** there. It is 3.5 degrees, e.g. now! [See](http://x.org) it";

fn ask(client: &mut Client, said: &str) -> String {
    let [question, answer] = ["", "/answer"].map(|end| topic(&format!("ask/{}{end}", client.name)));
    client.publish(&Message::new(question, said));
    client.until("an answer", |m| {
        (m.topic == answer).then(|| String::from_utf8(m.payload.clone()).unwrap())
    })
}

fn chat(client: &mut Client, id: &str, fields: &Value) -> Reply {
    let mut body = json!({"id": id, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "temperature": 0});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    request(client, &body);
    reply(client, id)
}

fn contents(reply: &Reply) -> Vec<&str> {
    let content = |chunk: &'_ Value| chunk["choices"][0]["delta"].get("content").is_some();
    let chunks = reply.chunks.iter().filter(|chunk| content(chunk));
    chunks
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect()
}

fn reasoning_tokens(reply: &Reply) -> u64 {
    let details = &reply.last["usage"]["completion_tokens_details"];
    details["reasoning_tokens"].as_u64().unwrap()
}

fn speech(kind: Kind, version: Version) {
    for think in [Think::Model, Think::Prompt] {
        // the model opens the thought, or the template does and the model once more
        let world = World::with(kind, &Tiny::saying(think, SCRIPT), "");
        let mut panel = world.client(version, "panel");
        for (id, thinking) in [
            ("on", json!(true)),
            ("seen", json!({"visible": true})),
            ("off", json!(false)),
        ] {
            let seen = id == "seen";
            let spoken = chat(
                &mut panel,
                &format!("s-{id}"),
                &json!({"chunk": "sentence", "thinking": thinking}),
            );
            assert_eq!(contents(&spoken), SPOKEN, "{id}");
            assert_eq!(spoken.message()["content"], SPOKEN.concat());
            let token = chat(
                &mut panel,
                &format!("t-{id}"),
                &json!({"chunk": "token", "thinking": thinking}),
            );
            assert_eq!(token.text("content"), WRITTEN, "{id}");
            assert_eq!(token.message()["content"], WRITTEN);
            for reply in [&spoken, &token] {
                assert_eq!(reply.finish(), "stop");
                assert_eq!(
                    reply.text("reasoning_content").contains("secret"),
                    seen,
                    "{id}"
                );
                assert_eq!(reasoning_tokens(reply) > 0, id != "off", "{id}");
            }
        }
        assert_eq!(ask(&mut panel, "hi"), SPOKEN.concat());
        let whole = chat(
            &mut panel,
            "w",
            &json!({"chunk": "sentence", "stream": false}),
        );
        assert!(whole.chunks.is_empty());
        assert_eq!(whole.message()["content"], SPOKEN.concat());
        let refused = chat(
            &mut panel,
            "l",
            &json!({"chunk": "sentence", "logprobs": true}),
        );
        assert_eq!(
            (refused.error(), &refused.last["error"]["param"]),
            ("invalid_request", &json!("logprobs"))
        );
    }
    // a long thought: its budget, and a word from outside
    let words: Vec<String> = (0..400).map(|n| format!(" w{n}")).collect();
    let world = World::with(kind, &Tiny::saying(Think::Prompt, words), "");
    let mut panel = world.client(version, "panel");
    let most = json!({"thinking": {"budget": 100, "visible": true}, "chunk": "sentence", "max_tokens": 400});
    let ended = chat(&mut panel, "b", &most);
    assert!(
        (80..=116).contains(&reasoning_tokens(&ended)),
        "{}",
        ended.last
    );
    let thought = ended.text("reasoning_content");
    assert!(
        thought.ends_with("\n\nOkay, I have thought enough and will answer now.\n"),
        "{thought}"
    );
    assert_eq!(ended.message()["reasoning_content"], thought.as_str());
    let mut body = World::endless("c", 3000);
    body["thinking"] = json!({"budget": 2000, "visible": true});
    body["chunk"] = json!("sentence");
    request(&mut panel, &body);
    panel.until("a thought", |m| {
        m.json()["choices"][0]["delta"]["reasoning_content"]
            .as_str()
            .map(drop)
    });
    tell(
        &mut panel,
        "control",
        &json!({"id": "c", "action": "end_thinking"}),
    );
    let mut seen = 0;
    let last = panel.until("the end", |m| {
        let frame = m.json();
        seen += usize::from(frame["choices"][0]["delta"].get("content").is_some());
        (frame["object"] == "chat.completion" && frame["id"] == "c").then_some(frame)
    });
    assert!(seen > 0, "an answer that is long goes out before its end");
    assert!(last["error"].is_null(), "{last}");
}

fn presets(kind: Kind, version: Version) {
    let lines = "[[presets]]\nname = \"cabin\"\nsystem = \"You are the voice of a car, which is brief and calm at all times.\"\n\
        language = \"German\"\nclients = [\"alice\", \"c*\"]\nthinking = false\nmax_tokens = 3\n\
        [[presets]]\nname = \"plain\"\nclients = [\"bob\", \"alice\"]\nthinking = { budget = 100, visible = true }\n";
    let world = World::with(kind, &Tiny::saying(Think::Model, SCRIPT), lines);
    let [mut alice, mut bob, mut carol] =
        ["alice", "bob", "carol"].map(|name| world.client(version, name));
    // an `ask` has its client's own: three tokens, and no thought
    assert_eq!(ask(&mut alice, "hi"), "Hello there");
    assert_eq!(ask(&mut bob, "hi"), SPOKEN.concat());
    // who may name which
    let plain = chat(&mut alice, "p", &json!({"preset": "plain"}));
    assert!(plain.text("reasoning_content").contains("secret"));
    let own = chat(
        &mut alice,
        "o",
        &json!({"preset": "plain", "thinking": false}),
    );
    assert_eq!(
        reasoning_tokens(&own),
        0,
        "what a request says itself counts"
    );
    let cabin = chat(
        &mut alice,
        "c",
        &json!({"preset": "cabin", "max_tokens": 50}),
    );
    assert_eq!(
        (cabin.message()["content"].as_str(), cabin.finish()),
        (Some("**Hello** there"), "length")
    );
    for (who, id, name) in [
        ("bob", "x", "cabin"),
        ("carol", "y", "plain"),
        ("carol", "z", "none"),
    ] {
        let client = if who == "bob" { &mut bob } else { &mut carol };
        let refused = chat(client, id, &json!({"preset": name}));
        assert_eq!(
            (refused.error(), &refused.last["error"]["param"]),
            ("invalid_request", &json!("preset"))
        );
        let why = refused.last["error"]["message"].as_str().unwrap();
        assert_eq!(why, format!("there is no preset `{name}` for this client"));
    }
    // its text is a part of the prompt, and is the same for all who have it
    let none = chat(
        &mut alice,
        "n",
        &json!({"thinking": false, "max_tokens": 3}),
    );
    let tokens = |reply: &Reply| reply.last["usage"]["prompt_tokens"].as_u64().unwrap();
    let cached = |reply: &Reply| {
        let details = &reply.last["usage"]["prompt_tokens_details"];
        details["cached_tokens"].as_u64().unwrap()
    };
    assert!(
        tokens(&cabin) > tokens(&none) + 60,
        "{} {}",
        cabin.last,
        none.last
    );
    let hers = chat(
        &mut carol,
        "q",
        &json!({"preset": "cabin", "messages": [{"role": "user", "content": "what now"}]}),
    );
    assert!(cached(&hers) >= 32, "{}", hers.last);
    assert_eq!(
        cached(&hers) % 32,
        0,
        "nothing of what alice said: {}",
        hers.last
    );
    // a conversation with a preset
    for id in ["1", "2"] {
        let turn = chat(&mut carol, id, &json!({"preset": "cabin", "session": "s"}));
        assert_eq!(
            turn.message()["content"],
            "**Hello** there",
            "{}",
            turn.last
        );
    }
}
