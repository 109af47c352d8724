//! Tools that the client runs, on both brokers: a call in a chunk and in the final frame, its result, and the next answer.

use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, Reply, World, frame, reply, request, topic};
use glowplug_tests::{Think, Tiny};
use serde_json::{Value, json};

#[test]
fn tools_on_mosquitto() {
    tools(Kind::Mosquitto, Version::V5);
}

#[test]
fn tools_on_the_embedded_broker() {
    tools(Kind::Embedded, Version::V3);
}

/// Text, two calls, and text again.
pub(crate) const SCRIPT: [&str; 9] = [
    "One moment. ",
    "\n<tool_",
    "call>\n",
    r#"{"name": "set_light", "arguments""#,
    r#": {"room": "hall"}}"#,
    "\n</tool_call>",
    r#"<tool_call>{"name":"time"}"#,
    "</tool_call>",
    " Done.",
];

fn offered() -> Value {
    let parameters = json!({"type": "object", "properties": {"room": {"enum": ["kitchen", "hall"]}}, "required": ["room"]});
    json!([
        {"type": "function", "function": {"name": "set_light", "description": "Switches a lamp.", "parameters": parameters}},
        {"type": "function", "function": {"name": "time"}},
    ])
}

fn chat(client: &mut Client, id: &str, fields: &Value) -> Reply {
    let mut body = json!({"id": id, "max_tokens": 100, "temperature": 0, "thinking": false, "tools": offered()});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    request(client, &body);
    reply(client, id)
}

fn question() -> Value {
    json!([{"role": "user", "content": "light?"}])
}

/// A result for each call of an answer.
fn results(calls: &Value) -> Vec<Value> {
    let result =
        |call: &Value| json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"});
    calls.as_array().unwrap().iter().map(result).collect()
}

fn tools(kind: Kind, version: Version) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    Tiny::saying(Think::Never, SCRIPT).write(&model).unwrap();
    let sessions = format!(
        "[sessions]\ndir = \"{}\"",
        folder.path().join("sessions").display()
    );
    let mut world = World::start(kind, folder, &model, "context = 2048", &sessions);
    world.online();
    let mut panel = world.client(version, "panel");

    // as chunks, and as one frame
    let streamed = chat(
        &mut panel,
        "1",
        &json!({"messages": question(), "session": "s"}),
    );
    assert_eq!(
        (streamed.finish(), &streamed.text("content")[..]),
        ("tool_calls", "One moment.Done.")
    );
    let message = streamed.message().clone();
    let calls = &message["tool_calls"];
    assert_eq!(message["content"], "One moment.Done.");
    assert_eq!(
        calls[0]["function"],
        json!({"name": "set_light", "arguments": r#"{"room":"hall"}"#})
    );
    assert_eq!(
        calls[1]["function"],
        json!({"name": "time", "arguments": "{}"})
    );
    let chunks = streamed.chunks.iter().filter_map(|chunk| {
        let delta = &chunk["choices"][0]["delta"];
        delta
            .get("tool_calls")
            .map(|call| (call.clone(), delta.get("content").is_none()))
    });
    let expected = (0..2).map(|index| {
        let mut call = calls[index].clone();
        call["index"] = json!(index);
        (json!([call]), true)
    });
    let (chunks, expected): (Vec<_>, Vec<_>) = (chunks.collect(), expected.collect());
    assert_eq!(chunks, expected);
    let whole = chat(
        &mut panel,
        "2",
        &json!({"messages": question(), "stream": false, "parallel_tool_calls": false}),
    );
    assert_eq!(
        (
            whole.finish(),
            whole.message()["tool_calls"].as_array().unwrap().len()
        ),
        ("tool_calls", 1)
    );
    assert_ne!(whole.message()["tool_calls"][0]["id"], calls[0]["id"]);
    // the same id again: the same frame, the same calls
    request(
        &mut panel,
        &json!({"id": "1", "messages": question(), "tools": offered()}),
    );
    let again = panel.until("the frame again", |m| frame(m, "1"));
    assert_eq!(again["choices"][0]["message"], message);

    // a tool that is not offered is not called
    let none = chat(
        &mut panel,
        "3",
        &json!({"messages": question(), "tool_choice": "none"}),
    );
    assert_eq!(
        (none.finish(), none.message().get("tool_calls")),
        ("stop", None)
    );
    assert_eq!(none.message()["content"], SCRIPT.concat());

    // the results: wrong ones, too few, from another client, and the right ones after a restart
    let wrong = json!([{"role": "tool", "tool_call_id": "call_0", "content": "ok"}]);
    let refused = chat(&mut panel, "4", &json!({"messages": wrong, "session": "s"}));
    assert_eq!(refused.error(), "invalid_request");
    let refused = chat(
        &mut panel,
        "5",
        &json!({"messages": results(calls)[..1], "session": "s"}),
    );
    assert_eq!(refused.error(), "invalid_request");
    let mut other = world.client(version, "mallory");
    let refused = chat(
        &mut other,
        "6",
        &json!({"messages": results(calls), "session": "s"}),
    );
    assert_eq!(refused.error(), "invalid_request");
    let save = |what: &str| topic(&format!("session/panel/s/{what}"));
    panel.publish(&Message::new(save("save"), ""));
    let saved = panel.until("saved", |m| (m.topic == save("result")).then(|| m.json()));
    assert_eq!(saved["ok"], true, "{saved}");
    world.restart();
    world.online_again();
    let mut panel = world.client(version, "panel");
    let next = chat(
        &mut panel,
        "7",
        &json!({"messages": results(calls), "session": "s"}),
    );
    assert_eq!(next.finish(), "tool_calls");
    // the same without a session, as an OpenAI client has it
    let mut all = question().as_array().unwrap().clone();
    all.push(message.clone());
    all.extend(results(calls));
    let alone = chat(&mut panel, "8", &json!({"messages": all}));
    let tokens = |reply: &Reply| reply.last["usage"]["prompt_tokens"].clone();
    assert_eq!(tokens(&alone), tokens(&next));
    // a question where results are due
    let asked = chat(
        &mut panel,
        "9",
        &json!({"messages": question(), "session": "s"}),
    );
    assert_eq!(asked.finish(), "tool_calls");
    assert!(tokens(&asked).as_u64() > tokens(&next).as_u64());
}
