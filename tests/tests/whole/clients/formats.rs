//! Answers that are held to a format, on both brokers: each form, each refusal, a preset, and calls that must be made.

use glowplug_tests::schemas::judge;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, Reply, World, reply, request, topic, wrong_request};
use glowplug_tests::{Think, Tiny};
use serde_json::{Value, json};

#[test]
fn formats_on_mosquitto() {
    formats(Kind::Mosquitto, Version::V5);
}

#[test]
fn formats_on_the_embedded_broker() {
    formats(Kind::Embedded, Version::V3);
}

/// What the model would say by itself.
const SCRIPT: [&str; 3] = ["**No.** ", "I would ", "rather not."];

fn body(id: &str, fields: &Value) -> Value {
    let mut body = json!({"id": id, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "temperature": 0});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn chat(client: &mut Client, id: &str, fields: &Value) -> Reply {
    request(client, &body(id, fields));
    reply(client, id)
}

fn ask(client: &mut Client) -> String {
    let [question, answer] = ["", "/answer"].map(|end| topic(&format!("ask/{}{end}", client.name)));
    client.publish(&Message::new(question, "hi"));
    client.until("an answer", |m| {
        (m.topic == answer).then(|| String::from_utf8(m.payload.clone()).unwrap())
    })
}

fn intent() -> Value {
    json!({
        "type": "object",
        "properties": {
            "room": {"enum": ["kitchen", "hall"]},
            "on": {"type": "boolean"},
            "level": {"type": "integer", "minimum": 0, "maximum": 100},
        },
        "required": ["room", "on"],
        "additionalProperties": false,
    })
}

fn by_schema(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "intent", "schema": schema, "strict": true}})
}

fn formats(kind: Kind, version: Version) {
    let lines = "[[presets]]\nname = \"cabin\"\nclients = [\"panel\"]\nthinking = false\n\
        response_format = '{\"type\":\"regex\",\"pattern\":\"(on|off) [0-9]{2}\"}'\n";
    let world = World::with(kind, &Tiny::saying(Think::Model, SCRIPT), lines);
    let mut panel = world.client(version, "panel");

    // by a schema: streamed, as one frame, in sentences, behind a thought
    for (id, fields) in [
        ("s1", json!({"thinking": false})),
        ("s2", json!({"thinking": false, "stream": false})),
        ("s3", json!({"thinking": false, "chunk": "sentence"})),
        ("s4", json!({"thinking": {"budget": 8}})),
        (
            "s5",
            json!({"thinking": false, "schema_in_prompt": true, "session": "s"}),
        ),
        ("s6", json!({"thinking": false, "session": "s"})),
    ] {
        let mut fields = fields;
        fields["response_format"] = by_schema(&intent());
        let held = chat(&mut panel, id, &fields);
        let text = held.message()["content"].as_str().unwrap();
        assert_eq!(held.finish(), "stop", "{id}: {text}");
        judge(&intent(), text).unwrap();
        if fields["stream"] != json!(false) {
            assert_eq!(held.text("content"), text, "{id}");
        }
    }
    // any object is long where nobody asks for an end; what has one is an object
    let object = chat(
        &mut panel,
        "o",
        &json!({"thinking": false, "response_format": {"type": "json_object"}}),
    );
    let text = object.message()["content"].as_str().unwrap();
    assert!(text.starts_with('{'), "{text}");
    if object.finish() == "stop" {
        assert!(serde_json::from_str::<Value>(text).unwrap().is_object());
    }
    let regex = json!({"type": "regex", "pattern": "(red|blue) [a-z]{4}"});
    let matched = chat(
        &mut panel,
        "r",
        &json!({"thinking": false, "response_format": regex, "logprobs": true}),
    );
    let text = matched.message()["content"].as_str().unwrap();
    let (colour, word) = text.split_once(' ').unwrap();
    assert!(
        ["red", "blue"].contains(&colour) && word.len() == 4,
        "{text}"
    );
    assert_eq!(
        matched.last["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .len() as u64,
        matched.completion_tokens()
    );
    // a text is a text
    let plain = chat(
        &mut panel,
        "t",
        &json!({"thinking": false, "response_format": {"type": "text"}}),
    );
    assert_eq!(plain.message()["content"], SCRIPT.concat());
    presets(&mut panel);
    refusals(&mut panel);
    calls(&mut panel);
}

fn presets(panel: &mut Client) {
    let is_it = |text: &str| {
        let (word, number) = text.split_once(' ').unwrap();
        assert!(["on", "off"].contains(&word) && number.len() == 2, "{text}");
    };
    is_it(&ask(panel));
    let named = chat(panel, "p1", &json!({"preset": "cabin"}));
    is_it(named.message()["content"].as_str().unwrap());
    // what a request says itself counts
    let text = json!({"preset": "cabin", "response_format": {"type": "text"}});
    let own = chat(panel, "p2", &text);
    assert_eq!(own.message()["content"], SCRIPT.concat());
}

fn refusals(panel: &mut Client) {
    let not = json!({"type": "object", "properties": {"a": {"not": {}}}});
    let mut nested = json!({});
    for _ in 0..70 {
        nested = json!({"items": nested});
    }
    let long = json!({"description": "x".repeat(65 * 1024)});
    let mut loose = by_schema(&intent());
    loose["json_schema"]["strict"] = json!(false);
    let whole = "response_format.json_schema.schema";
    for (n, (fields, code, param)) in [
        (
            json!({"response_format": by_schema(&not)}),
            "invalid_schema",
            "response_format.json_schema.schema.properties.a.not",
        ),
        (
            json!({"response_format": by_schema(&nested)}),
            "invalid_schema",
            whole,
        ),
        (
            json!({"response_format": by_schema(&long)}),
            "invalid_schema",
            whole,
        ),
        (
            json!({"response_format": {"type": "regex", "pattern": "(a"}}),
            "invalid_schema",
            "response_format.pattern",
        ),
        (
            json!({"response_format": loose}),
            "invalid_request",
            "response_format.json_schema.strict",
        ),
        (
            json!({"response_format": {"type": "yaml"}}),
            "invalid_request",
            "response_format",
        ),
        (
            json!({"response_format": by_schema(&intent()), "stop": "}"}),
            "invalid_request",
            "stop",
        ),
        (
            json!({"preset": "cabin", "stop": ["x"]}),
            "invalid_request",
            "stop",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"uniqueItems": true}}}]}),
            "invalid_schema",
            "tools[0].function.parameters.uniqueItems",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("x{n}");
        // what cannot be enforced is a request all the same
        match code {
            "invalid_schema" => request(panel, &body(&id, &fields)),
            _ => wrong_request(panel, &body(&id, &fields)),
        }
        let refused = reply(panel, &id);
        assert_eq!(refused.error(), code, "{}", refused.last);
        let at = refused.last["error"]["param"].as_str().unwrap();
        assert!(at.starts_with(param), "{}", refused.last);
    }
}

fn calls(panel: &mut Client) {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": intent()}});
    let named = json!({"type": "function", "function": {"name": "dim"}});
    for (id, choice, names) in [
        ("c1", json!("required"), ["light", "dim"]),
        ("c2", named, ["dim", "dim"]),
    ] {
        let called = chat(
            panel,
            id,
            &json!({
                "thinking": false, "max_tokens": 400, "parallel_tool_calls": false,
                "tools": [tool("light"), tool("dim")], "tool_choice": choice,
            }),
        );
        assert_eq!(called.finish(), "tool_calls", "{}", called.last);
        let calls = called.message()["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), called.text("content").as_str()), (1, ""));
        let function = &calls[0]["function"];
        assert!(names.contains(&function["name"].as_str().unwrap()));
        judge(&intent(), function["arguments"].as_str().unwrap()).unwrap();
    }
}
