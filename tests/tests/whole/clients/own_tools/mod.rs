//! Tools that the daemon runs, on both brokers: a house on the other side of them that answers well, badly, twice, or not.

use glowplug_tests::world::broker::Mosquitto;
use glowplug_tests::world::client::{Client, Message, Version};
use glowplug_tests::world::{Kind, Reply, World, frame, reply, request, tell, topic};
use glowplug_tests::{Think, Tiny};
use serde_json::{Value, json};

mod catalogue;
mod waits;

/// In every round that has tools the model calls the two that it knows; without tools that is what it says.
const SCRIPT: [&str; 9] = [
    "One moment. ",
    "\n<tool_",
    "call>\n",
    r#"{"name": "light", "arguments""#,
    r#": {"room": "hall", "state": "ON"}}"#,
    "\n</tool_call>",
    r#"<tool_call>{"name":"bell","arguments""#,
    r#":{"times":2}}"#,
    "</tool_call>",
];

/// It calls the bell alone.
const BELL: [&str; 4] = [
    "One moment. ",
    r#"<tool_call>{"name":"bell","arguments""#,
    r#":{"times":2}}"#,
    "</tool_call>",
];

/// The house's user, and its name on a broker of one user.
const HOUSE: &str = "dave";

/// `alice` has the light, `bob` the bell, `panel` both, everybody else none. The door is confirmed first.
fn tools(timeout_ms: u64) -> String {
    format!(
        r#"tools_max_rounds = 1
[[tools]]
name = "light"
description = "Switches a lamp."
parameters = '{{"type":"object","properties":{{"room":{{"enum":["kitchen","hall"]}},"state":{{"enum":["ON","OFF"]}}}},"required":["room","state"],"additionalProperties":false}}'
topic = "house/{{room}}/set"
payload = '{{"state":"{{state}}"}}'
reply_topic = "house/{{room}}"
timeout_ms = {timeout_ms}
clients = ["alice", "panel"]
[[tools]]
name = "bell"
parameters = '{{"type":"object","properties":{{"times":{{"type":"integer","minimum":1,"maximum":3}}}},"required":["times"]}}'
topic = "house/bell"
payload_text = "ring {{times}}"
timeout_ms = {timeout_ms}
clients = ["bob", "panel"]
[[presets]]
name = "spoken"
clients = ["alice"]
tools = ["light"]
"#
    )
}

const RULES: &str = "\nuser glowplug\ntopic readwrite house/#\ntopic readwrite zigbee2mqtt/#\ntopic read homeassistant/#\n\
    user dave\ntopic readwrite house/#\ntopic readwrite zigbee2mqtt/#\ntopic readwrite homeassistant/#\n\
    topic write glowplug/+/tool/+\ntopic read glowplug/+/tool/audit\n";

/// A daemon with these lines in and after `[engine]`, whose model says the script.
fn world<'a>(kind: Kind, script: impl IntoIterator<Item = &'a str>, engine: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    Tiny::saying(Think::Never, script).write(&model).unwrap();
    let broker = (kind == Kind::Mosquitto).then(|| Mosquitto::start_with(folder.path(), "", RULES));
    let mut world = World::start_on(broker, folder, &model, "context = 2048", engine, &[]);
    world.online();
    world
}

/// The other side of the tools, which hears every call and the audit.
fn house(world: &World) -> Client {
    let mut house = world.connect(Version::V5, HOUSE);
    for filter in ["house/+/set", "house/bell"] {
        house.subscribe(filter);
    }
    house.subscribe(&topic("tool/audit"));
    house
}

fn ask(client: &mut Client, id: &str, fields: &Value) {
    let mut body = json!({"id": id, "messages": [{"role": "user", "content": "light?"}], "max_tokens": 100,
        "temperature": 0, "thinking": false, "tool_execution": "daemon"});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    request(client, &body);
}

/// Waits for a call on a topic.
fn call(house: &mut Client, on: &str) -> Message {
    house.until(&format!("a call on `{on}`"), |m| {
        (m.topic == on).then(|| m.clone())
    })
}

/// Waits for the audit of a request.
fn audit(house: &mut Client, id: &str) -> Value {
    let audit = topic("tool/audit");
    house.until("an audit", |m| {
        let line = (m.topic == audit).then(|| m.json())?;
        (line["request"] == id).then_some(line)
    })
}

fn say(house: &mut Client, on: &str, what: impl Into<Vec<u8>>) {
    house.publish(&Message::new(on, what));
}

/// Asks for the lamp in the hall, has the house answer the call with this, and gives the reply.
fn lit(client: &mut Client, house: &mut Client, id: &str, fields: &Value, said: &[u8]) -> Reply {
    ask(client, id, fields);
    call(house, "house/hall/set");
    say(house, "house/hall", said);
    reply(client, id)
}

fn results(reply: &Reply) -> Vec<&str> {
    let all = reply.last["tool_results"].as_array();
    let all = all.unwrap_or_else(|| panic!("{}", reply.last));
    all.iter()
        .map(|of| of["content"].as_str().unwrap())
        .collect()
}

#[test]
fn a_lamp_on_mosquitto() {
    lamp(Kind::Mosquitto);
}

#[test]
fn a_lamp_on_the_embedded_broker() {
    lamp(Kind::Embedded);
}

/// A tool with a reply topic, whose house answers in every way there is.
fn lamp(kind: Kind) {
    let mut world = world(kind, SCRIPT, &tools(60_000));
    let mut house = house(&world);
    let mut alice = world.client(Version::V5, "alice");
    // what the broker keeps of yesterday is no answer
    let mut stale = Message::new("house/hall", "yesterday");
    stale.retain = true;
    let id = house.publish(&stale);
    house.ack(id).unwrap();

    ask(&mut alice, "1", &json!({}));
    let called = call(&mut house, "house/hall/set");
    assert_eq!(called.json(), json!({"state": "ON"}));
    assert_eq!(
        (called.qos, called.retain, called.content_type.as_deref()),
        (1, false, Some("application/json"))
    );
    let response = called.response_topic.unwrap();
    let random = response.strip_prefix(&topic("tool/")).unwrap();
    assert!(
        random.len() == 32 && random.bytes().all(|b| b.is_ascii_hexdigit()),
        "{random}"
    );
    assert!(called.correlation_data.is_some_and(|data| data.len() >= 16));
    // twice, of which the first counts
    say(&mut house, "house/hall", r#"{"state":"ON"}"#);
    say(&mut house, "house/hall", "again");
    let answered = reply(&mut alice, "1");
    assert_eq!(
        (answered.finish(), results(&answered)),
        ("stop", vec![r#"{"state":"ON"}"#])
    );
    let message = answered.message();
    assert_eq!(message.get("tool_calls"), None);
    // without tools, in the last round, what looks like a call is text
    assert_eq!(message["content"], answered.text("content"));
    assert!(
        message["content"]
            .as_str()
            .unwrap()
            .starts_with("One moment."),
        "{message}"
    );
    let run = &answered.last["tool_results"][0];
    assert_eq!(
        (&run["name"], &run["arguments"]),
        (&json!("light"), &json!(r#"{"room":"hall","state":"ON"}"#))
    );
    let tells = |what: &str| {
        let told = answered
            .chunks
            .iter()
            .position(|chunk| chunk.get(what).is_some());
        told.map(|at| (at, answered.chunks[at][what].clone()))
            .unwrap()
    };
    let (calls, called) = tells("tool_call");
    let (ends, ended) = tells("tool_result");
    assert!(calls < ends);
    assert_eq!(
        called,
        json!({"id": run["id"], "name": "light", "arguments": run["arguments"]})
    );
    assert_eq!(
        (&ended["id"], &ended["content"]),
        (&run["id"], &run["content"])
    );
    assert!(ended["ms"].is_u64());
    let line = audit(&mut house, "1");
    assert_eq!(
        (&line["client"], &line["tool"], &line["outcome"]),
        (&json!("alice"), &json!("light"), &run["content"])
    );

    // the same id again: the same frame, and no second call
    ask(&mut alice, "1", &json!({}));
    let again = alice.until("the frame again", |m| frame(m, "1"));
    assert_eq!(again, answered.last);

    // rubbish, and more than anybody wants to read
    for (id, said, says) in [
        ("2", b"\xff\xfe".to_vec(), "error: the answer is not text"),
        ("3", Vec::new(), "error: the answer is not text"),
        (
            "4",
            vec![b'x'; 20_000],
            "error: the answer has 20000 bytes, the limit is 16384",
        ),
    ] {
        let answered = lit(&mut alice, &mut house, id, &json!({"stream": false}), &said);
        assert_eq!(
            (answered.finish(), results(&answered), answered.chunks.len()),
            ("stop", vec![says], 0)
        );
    }
    // an answer that is longer than its part of the context is cut
    let long = "0123456789".repeat(800);
    let answered = lit(&mut alice, &mut house, "5", &json!({}), long.as_bytes());
    let [said] = results(&answered)[..] else {
        panic!("{}", answered.last)
    };
    assert!(
        said.ends_with(" of 8000 bytes]") && said.len() < 4000,
        "{said}"
    );

    // a cancel in the wait ends it at once, and what comes later is nobody's
    ask(&mut alice, "6", &json!({}));
    call(&mut house, "house/hall/set");
    tell(&mut alice, "cancel", &json!({"id": "6"}));
    let cancelled = reply(&mut alice, "6");
    assert_eq!(cancelled.finish(), "cancelled");
    say(&mut house, "house/hall", "late");

    // plain text: the tools of the client's preset
    alice.publish(&Message::new(topic("ask/alice"), "light?"));
    call(&mut house, "house/hall/set");
    say(&mut house, "house/hall", "ON");
    let answer = alice.until("an answer", |m| {
        (m.topic == topic("ask/alice/answer")).then(|| m.payload.clone())
    });
    assert!(
        answer.starts_with(b"One moment."),
        "{}",
        String::from_utf8_lossy(&answer)
    );

    // a session keeps call and result
    let first = lit(&mut alice, &mut house, "7", &json!({"session": "s"}), b"ON");
    assert_eq!(first.finish(), "stop");
    ask(
        &mut alice,
        "8",
        &json!({"session": "s", "tool_execution": "client"}),
    );
    let next = reply(&mut alice, "8");
    assert_eq!(next.finish(), "stop", "{}", next.last);

    // who has no tools is offered none, and cannot name them
    let mut carol = world.client(Version::V5, "carol");
    ask(&mut carol, "1", &json!({}));
    let none = reply(&mut carol, "1");
    assert_eq!(
        (none.finish(), none.last.get("tool_results")),
        ("stop", None)
    );
    let named = json!({"type": "function", "function": {"name": "light"}});
    ask(&mut carol, "2", &json!({"tool_choice": named}));
    let refused = reply(&mut carol, "2");
    let error = &refused.last["error"];
    assert_eq!(
        (refused.error(), &error["param"]),
        ("invalid_request", &json!("tool_choice"))
    );
    assert!(
        error["message"].as_str().unwrap().contains("`light`"),
        "{error}"
    );
    let own = json!([{"type": "function", "function": {"name": "light"}}]);
    ask(&mut alice, "9", &json!({"tools": own}));
    let refused = reply(&mut alice, "9");
    assert_eq!(
        (refused.error(), &refused.last["error"]["param"]),
        ("invalid_request", &json!("tools[0].function.name"))
    );

    // of one's own and the daemon's: the daemon runs its own and leaves the rest
    let own = json!([{"type": "function", "function": {"name": "bell"}}]);
    let mixed = lit(&mut alice, &mut house, "10", &json!({"tools": own}), b"ON");
    assert_eq!(
        (mixed.finish(), results(&mixed)),
        ("tool_calls", vec!["ON"])
    );
    assert_eq!(mixed.message()["tool_calls"][0]["function"]["name"], "bell");
    assert_eq!(mixed.message()["tool_calls"].as_array().unwrap().len(), 1);

    // a restart in the wait: the request ends and is not run again
    ask(&mut alice, "11", &json!({}));
    call(&mut house, "house/hall/set");
    world.kill_and_restart();
    if kind == Kind::Mosquitto {
        // who stayed on the broker hears it without asking
        let last = alice.until("the end", |m| {
            frame(m, "11").filter(|f| f["object"] == "chat.completion")
        });
        assert_eq!(last["choices"][0]["finish_reason"], "interrupted");
    }
    let mut again = world.client(Version::V5, "alice");
    let mut hears = world.connect(Version::V5, HOUSE);
    hears.subscribe("house/+/set");
    ask(&mut again, "11", &json!({}));
    let interrupted = reply(&mut again, "11");
    assert_eq!(
        (interrupted.finish(), interrupted.last.get("tool_results")),
        ("interrupted", None)
    );
    // and neither is one that had ended
    ask(&mut again, "10", &json!({}));
    assert_eq!(reply(&mut again, "10").finish(), "interrupted");
    let answered = lit(&mut again, &mut hears, "12", &json!({}), b"ON");
    assert_eq!(results(&answered), ["ON"]);
    assert!(
        hears.rest().iter().all(|m| m.topic != "house/hall/set"),
        "called once"
    );
}

#[test]
fn a_bell_on_mosquitto() {
    bell(Kind::Mosquitto);
}

#[test]
fn a_bell_on_the_embedded_broker() {
    bell(Kind::Embedded);
}

/// A tool that answers where it was told to, and only as it was told.
fn bell(kind: Kind) {
    let ringing = world(kind, BELL, &tools(60_000));
    let mut house = self::house(&ringing);
    let mut bob = ringing.client(Version::V5, "bob");
    ask(&mut bob, "1", &json!({}));
    let called = call(&mut house, "house/bell");
    assert_eq!(
        (&called.payload[..], called.content_type.as_deref()),
        (&b"ring 2"[..], Some("text/plain"))
    );
    let response = called.response_topic.clone().unwrap();
    let answer = |payload: &str, correlation: Option<&[u8]>, retain| Message {
        correlation_data: correlation.map(<[u8]>::to_vec),
        retain,
        ..Message::new(response.clone(), payload)
    };
    let right = called.correlation_data.as_deref();
    for wrong in [
        answer("none", None, false),
        answer(
            "another's",
            Some(b"0123456789abcdef0123456789abcdef"),
            false,
        ),
        answer("kept", right, true),
    ] {
        let id = house.publish(&wrong);
        house.ack(id).unwrap();
    }
    house.publish(&answer("rang twice", right, false));
    let answered = reply(&mut bob, "1");
    assert_eq!(
        (answered.finish(), results(&answered)),
        ("stop", vec!["rang twice"])
    );
    // both tools in one answer, at once
    let world = world(kind, SCRIPT, &tools(60_000));
    let mut house = self::house(&world);
    let mut panel = world.client(Version::V3, "panel");
    ask(&mut panel, "2", &json!({}));
    let mut called = Vec::new();
    house.until("both calls", |m| {
        called.extend(m.topic.starts_with("house/").then(|| m.clone()));
        (called.len() == 2).then_some(())
    });
    for call in called {
        let said = if call.topic == "house/bell" {
            "rang"
        } else {
            "is on"
        };
        house.publish(&Message {
            correlation_data: call.correlation_data,
            ..Message::new(call.response_topic.unwrap(), said)
        });
    }
    let answered = reply(&mut panel, "2");
    let runs = answered.last["tool_results"].as_array().unwrap();
    let said = |name: &str| &runs.iter().find(|run| run["name"] == name).unwrap()["content"];
    assert_eq!(
        (runs.len(), said("light"), said("bell")),
        (2, &json!("is on"), &json!("rang"))
    );
}

#[test]
fn a_call_that_the_client_has_to_confirm() {
    let engine = tools(60_000).replacen("timeout_ms", "confirm = true\ntimeout_ms", 1);
    let world = world(Kind::Mosquitto, SCRIPT, &engine);
    let mut house = house(&world);
    let mut alice = world.client(Version::V5, "alice");
    ask(&mut alice, "1", &json!({"session": "s"}));
    let asked = reply(&mut alice, "1");
    assert_eq!(
        (asked.finish(), asked.last.get("tool_results")),
        ("tool_calls", None)
    );
    let call_id = &asked.message()["tool_calls"][0]["id"];
    let yes =
        json!([{"role": "tool", "tool_call_id": call_id, "content": "{\"confirmed\": true}"}]);
    ask(&mut alice, "2", &json!({"session": "s", "messages": yes}));
    let called = call(&mut house, "house/hall/set");
    assert_eq!(called.json(), json!({"state": "ON"}));
    say(&mut house, "house/hall", "ON");
    let confirmed = reply(&mut alice, "2");
    assert_eq!(results(&confirmed), ["ON"]);
}
