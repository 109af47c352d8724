//! What holds on every broker and in both MQTT versions; `mosquitto` and `embedded` say which.

use glowplug_tests::world::client::{Message, Version};
use glowplug_tests::world::{
    Kind, NODE, World, frame, on_gpu, reply, request, tell, tiny, topic, wrong_request,
};
use serde_json::{Value, json};

/// Frames of answers, whole and streamed, one client and two, plain text, and what is told of the daemon.
pub(crate) fn conversation(kind: Kind, version: Version) {
    let mut world = World::new(kind);
    // a broker may hand out what was published before `online` after it, so the first numbers may be from then
    let has_pages = |metrics: &Value| metrics["kv"]["pages_free"].as_u64() > Some(0);
    world.metrics("free pages before any request", has_pages);
    let mut alice = world.client(version, "alice");
    let mut bob = world.client(version, "bob");

    request(&mut alice, &World::endless("a", 40));
    let streamed = reply(&mut alice, "a");
    assert!(!streamed.chunks.is_empty());
    assert_eq!(
        streamed.chunks[0]["choices"][0]["delta"]["role"],
        "assistant"
    );
    assert_eq!(streamed.message()["role"], "assistant");
    assert_eq!(streamed.message()["content"], streamed.text("content"));
    assert_eq!(
        (streamed.finish(), streamed.completion_tokens()),
        ("length", 40)
    );
    let timings = [
        "queue_ms",
        "prompt_ms",
        "first_token_ms",
        "predicted_ms",
        "predicted_per_second",
    ];
    for timing in timings {
        assert!(
            streamed.last["timings"][timing].as_f64().unwrap() >= 0.0,
            "{timing}"
        );
    }

    let mut whole = World::endless("b", 40);
    whole["stream"] = json!(false);
    whole["user"] = json!("a field of OpenAI's that has no effect here");
    request(&mut bob, &whole);
    request(&mut alice, &World::endless("c", 20));
    let whole = reply(&mut bob, "b");
    assert!(whole.chunks.is_empty());
    assert_eq!(
        whole.message()["content"],
        streamed.message()["content"],
        "greedy"
    );
    assert_eq!(whole.last["ignored"], json!(["user"]));
    assert_eq!(reply(&mut alice, "c").completion_tokens(), 20);

    alice.publish(&Message::new(topic("ask/alice"), "the rain in the"));
    let answer = alice.until("an answer", |m| {
        (m.topic == topic("ask/alice/answer")).then(|| m.clone())
    });
    assert!(String::from_utf8(answer.payload).is_ok());
    // nobody hears what is another's
    for (client, other) in [(&mut alice, "bob"), (&mut bob, "alice")] {
        let heard = client.rest();
        assert!(heard.iter().all(|m| !m.topic.contains(other)), "{heard:?}");
    }

    // retained: who comes later knows it too
    let mut late = world.connect(version, "late");
    late.subscribe(&topic("info"));
    let info = late.next();
    assert!(info.retain && info.topic == topic("info"));
    let info = info.json();
    assert_eq!(
        (&info["node"], &info["context"]),
        (&json!(NODE), &json!(16_384))
    );
    assert_eq!(info["model"]["name"], "Tiny");
    assert!(info["memory"]["budget"].as_u64().unwrap() > 0);
    assert_eq!(info["limits"]["max_payload_bytes"], 262_144);
    late.subscribe(&topic("status"));
    let status = late.next();
    assert!(status.retain && status.json()["state"] == "online");

    let metrics = world.metrics("metrics of the end", |m| m["finished"] == 4);
    let fields = [
        "running",
        "queued",
        "parked",
        "tokens_per_second",
        "kv",
        "bytes",
        "prefix_hit_tokens",
        "refused",
        "temperature_c",
        "boot_id",
        "uptime_s",
    ];
    for field in fields {
        assert!(metrics.get(field).is_some(), "`{field}`: {metrics}");
    }
    assert_eq!(metrics["boot_id"], status.json()["boot_id"]);
    let pages = ["pages_total", "pages_used", "pages_free", "pages_shared"];
    let [total, used, free, _] = pages.map(|n| metrics["kv"][n].as_u64().unwrap());
    assert_eq!(total, used + free);
    let [budget, resident, peak] =
        ["budget", "resident", "peak"].map(|n| metrics["bytes"][n].as_u64().unwrap());
    assert!(resident <= peak, "{metrics}");
    // a driver that computes on the processor has its device's memory, and its compiler, in the daemon
    assert!(on_gpu() || peak <= budget, "{metrics}");
}

/// Bad requests, each answered with its code and what was wrong; the daemon goes on as if nothing had been.
pub(crate) fn refusals(kind: Kind, version: Version) {
    let mut world = World::new(kind);
    let mut mallory = world.client(version, "mallory");
    let question = json!([{"role": "user", "content": "x"}]);
    let long = "the rain ".repeat(20_000);
    let table = [
        (
            "invalid_request",
            json!("colour"),
            json!({"id": "r1", "messages": question, "colour": 1}),
        ),
        (
            "invalid_request",
            json!("tools[0].function.name"),
            json!({"id": "r2", "messages": question, "tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ),
        (
            "invalid_request",
            json!("session"),
            json!({"id": "r3", "messages": question, "session": "a/b"}),
        ),
        (
            "invalid_request",
            json!("temperature"),
            json!({"id": "r4", "messages": question, "temperature": "hot"}),
        ),
        (
            "invalid_request",
            json!("messages"),
            json!({"id": "r5", "messages": []}),
        ),
        (
            "context_length_exceeded",
            json!("messages"),
            json!({"id": "r6", "messages": [{"role": "user", "content": long}]}),
        ),
    ];
    for (code, param, body) in table {
        match code {
            "invalid_request" => wrong_request(&mut mallory, &body),
            _ => request(&mut mallory, &body),
        }
        let id = body["id"].as_str().unwrap();
        let refused = reply(&mut mallory, id);
        assert!(refused.chunks.is_empty());
        assert_eq!(
            (refused.error(), &refused.last["error"]["param"]),
            (code, &param),
            "{}",
            refused.last
        );
        harmless(refused.last["error"]["message"].as_str().unwrap());
    }

    // what has no id that could be read is answered under another
    let request_topic = topic("chat/mallory/request");
    // by default Mosquitto 2.1 takes 2 MB of a packet
    let large = [1 << 20, 10 << 20][usize::from(kind == Kind::Embedded)];
    let raw: [(&str, Vec<u8>); 4] = [
        ("payload_too_large", vec![b' '; large]),
        ("invalid_request", b"{\"messages\": \"\xff\xfe\"}".to_vec()),
        ("invalid_request", b"{\"messages\"".to_vec()),
        ("invalid_request", b"[".repeat(100_000)),
    ];
    for (code, payload) in raw {
        mallory.publish(&Message::new(request_topic.as_str(), payload).wrong());
        let refused = mallory.until(code, |m| m.topic.ends_with("/reply").then(|| m.json()));
        assert_eq!(
            (&refused["error"]["code"], &refused["seq"]),
            (&json!(code), &json!(0)),
            "{refused}"
        );
        harmless(refused["error"]["message"].as_str().unwrap());
    }

    let mut retained = Message::new(
        request_topic.as_str(),
        World::endless("kept", 1).to_string(),
    );
    retained.retain = true;
    mallory.publish(&retained);
    request(&mut mallory, &World::endless("good", 5));
    let good = mallory.until("the frame after", |m| {
        assert!(frame(m, "kept").is_none(), "a retained request was run");
        frame(m, "good").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(good["usage"]["completion_tokens"], 5);
    // the one too long was accepted before it was measured, so it has finished too
    let metrics = world.metrics("what was refused and finished", |m| {
        m["refused"]["retained"] == 1 && m["finished"] == 2
    });
    let counted = json!({
        "context_length_exceeded": 1, "invalid_request": 8, "payload_too_large": 1, "retained": 1,
    });
    assert_eq!(metrics["refused"], counted);
    assert!(world.daemon.alive() && !world.daemon.said().contains("panicked"));
}

/// No file, no address.
fn harmless(message: &str) {
    assert!(
        !message.contains(".gguf") && !message.contains("/tmp") && !message.contains("0x"),
        "{message}"
    );
}

/// The same (client, id) again, while it runs and after: one run, the same final frame.
pub(crate) fn duplicates(kind: Kind, version: Version) {
    let mut world = World::new(kind);
    let mut alice = world.client(version, "alice");
    let body = World::endless("same", 400);
    request(&mut alice, &body);
    alice.until("a chunk", |m| frame(m, "same"));
    request(&mut alice, &body);
    let finals = |m: &Message| frame(m, "same").filter(|f| f["object"] == "chat.completion");
    let first = alice.until("the final frame", finals);
    request(&mut alice, &body);
    let mut chunks = 0;
    let again = alice.until("the final frame again", |m| {
        chunks += usize::from(frame(m, "same").is_some_and(|f| f["object"] != "chat.completion"));
        finals(m)
    });
    assert_eq!((again, chunks), (first, 0));
    // another client's request of the same id is another request
    let mut bob = world.client(version, "bob");
    request(&mut bob, &World::endless("same", 3));
    assert_eq!(reply(&mut bob, "same").completion_tokens(), 3);
    let metrics = world.metrics("both", |m| m["finished"] == 2);
    assert_eq!(metrics["duplicates"], 2);
}

/// A cancel ends what runs and what waits, of this client alone; the pages are free afterwards.
pub(crate) fn cancels(kind: Kind, version: Version) {
    // one stream, so that the second request waits
    let mut world = World::with(kind, &tiny(), "max_streams = 1");
    let mut alice = world.client(version, "alice");
    let mut bob = world.client(version, "bob");
    request(&mut alice, &World::endless("runs", 12_000));
    alice.until("a chunk", |m| frame(m, "runs"));
    request(&mut alice, &World::endless("waits", 12_000));
    request(&mut bob, &World::endless("bob's", 10));
    // not his
    tell(&mut bob, "cancel", &json!({"id": "runs"}));
    tell(&mut alice, "cancel", &json!({"id": "waits"}));
    let waits = reply(&mut alice, "waits");
    assert_eq!(
        (waits.finish(), waits.completion_tokens()),
        ("cancelled", 0)
    );
    tell(&mut alice, "cancel", &json!({}));
    let finish = alice.until("the end", |m| {
        frame(m, "runs").filter(|f| f["object"] == "chat.completion")
    });
    assert_eq!(finish["choices"][0]["finish_reason"], "cancelled");
    assert!(finish["usage"]["completion_tokens"].as_u64().unwrap() < 12_000);
    let bobs = reply(&mut bob, "bob's");
    assert_eq!((bobs.finish(), bobs.completion_tokens()), ("length", 10));
    world.metrics("free pages", |m| {
        m["kv"]["pages_used"] == 0 && m["finished"] == 3
    });
}

/// A request that would take longer than it may.
pub(crate) fn deadlines(kind: Kind, version: Version) {
    let world = World::new(kind);
    let mut alice = world.client(version, "alice");
    let mut body = World::endless("late", 16_000);
    body["deadline_ms"] = json!(300);
    request(&mut alice, &body);
    let late = reply(&mut alice, "late");
    assert_eq!(late.finish(), "deadline_exceeded");
    assert!(late.completion_tokens() < 16_000);
    if version == Version::V5 {
        // one that waits, and whose deadline is the message's own expiry; 1 could be over when the second changes in
        // the broker
        for n in 0..8 {
            request(&mut alice, &World::endless(&format!("before {n}"), 16_000));
        }
        let body = World::endless("old", 1).to_string();
        let mut message = Message::new(topic("chat/alice/request"), body);
        message.expiry_s = Some(2);
        alice.publish(&message);
        assert_eq!(reply(&mut alice, "old").error(), "deadline_exceeded");
    }
}
