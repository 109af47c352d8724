//! What the daemon tells of itself, and the admin verbs.

use crate::frames::{admin_request, admin_response};
use crate::requests::segment;
use crate::schema::{
    amount, count, counts, flag, nullable, object, of, one_of, text, whole_object,
};
use serde_json::{Map, Value, json};

/// The admin verbs, in the order of the page, each with what it does.
pub(crate) const VERBS: [(&str, &str); 6] = [
    (
        "model",
        "Says which model is served, or serves another one.",
    ),
    (
        "reload",
        "Loads the model again from its file as it is now.",
    ),
    (
        "drain",
        "Takes no more requests, and answers when everything that was accepted has ended.",
    ),
    (
        "stats",
        "The numbers of `metrics`, and those since the start.",
    ),
    ("forget", "Forgets everything of a client."),
    (
        "inhibit",
        "Refuses changes of the model, allows them again, or says which of the two holds.",
    ),
];

/// The name of a schema or channel of a verb: `adminModelRequest`.
pub(crate) fn name(kind: &str, verb: &str, end: &str) -> String {
    format!("{kind}{}{}{end}", verb[..1].to_uppercase(), &verb[1..])
}

pub(crate) fn schemas() -> Map<String, Value> {
    let all = [
        ("Status", status()),
        ("Info", info()),
        ("Model", model()),
        ("Metrics", numbers("Every few seconds.", json!({}))),
        ("Stats", stats()),
        ("ToolAudit", audit()),
        ("Discovery", discovery()),
        (
            "HomeAssistantStatus",
            one_of(&["online", "offline"], "Whether Home Assistant runs."),
        ),
    ];
    let mut all: Map<String, Value> = all
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    for (verb, _) in VERBS {
        let (required, asked, given) = admin(verb);
        all.insert(
            name("Admin", verb, "Request"),
            admin_request(required, asked),
        );
        all.insert(name("Admin", verb, "Response"), admin_response(verb, given));
    }
    all
}

/// What a verb is asked with, the required ones of it first, and what it gives.
fn admin(verb: &str) -> (&'static [&'static str], Value, Value) {
    let file = json!({"type": "string", "pattern": "^[^./\\\\\\x00][^/\\\\\\x00]*$", "maxLength": 255, "description": "The name of a file beside the one that is served, without a path."});
    match verb {
        "model" => (&[], json!({"name": nullable(file)}), of("Model")),
        "reload" => (&[], json!({}), of("Model")),
        "drain" => {
            let given = whole_object(
                "The state it is in.",
                json!({"state": {"const": "draining"}}),
            );
            (&[], json!({}), given)
        }
        "stats" => (&[], json!({}), of("Stats")),
        "forget" => {
            let client = json!({"type": "string", "pattern": segment(), "description": "Whose."});
            let given = json!({"client": text("Whose."), "sessions": count("So many sessions were forgotten.")});
            (
                &["client"],
                json!({"client": client}),
                whole_object("It is done.", given),
            )
        }
        _ => {
            let asked = json!({"on": nullable(flag("Whether they are refused from now on."))});
            let given = json!({"on": flag("Whether changes are refused.")});
            (&[], asked, whole_object("How it is.", given))
        }
    }
}

fn status() -> Value {
    whole_object(
        "Retained; the last will has the same `boot_id`.",
        json!({
            "state": one_of(&["starting", "online", "draining", "offline"], "`online`: requests are taken."),
            "boot_id": text("Tells a run of the daemon from others."),
            "since": count("Unix time in milliseconds."),
        }),
    )
}

fn model() -> Value {
    whole_object(
        "The model that is served.",
        json!({
            "name": text("From its file."),
            "architecture": text("As llama.cpp names it."),
            "quantisation": text("The format of most of its weights."),
            "file_bytes": count("The size of its file."),
            "sha256": nullable(text("Of its file; null until it is known.")),
            "version": nullable(count("Of its signed manifest; null where there is none.")),
            "fallback": flag("It took the place of the configured one, which did not answer."),
            "thinks": flag("Whether it thinks before it answers."),
        }),
    )
}

fn info() -> Value {
    let limits = [
        ("max_payload_bytes", "Of a request."),
        ("max_packet_bytes", "Of an MQTT packet."),
        ("max_streams", "Answers that are made at the same time."),
        ("queue", "Requests that may wait."),
        ("queue_per_client", "Those of them of one client."),
        ("max_tokens", "Of an answer if its request does not say."),
        ("client_bytes", "Of a client's segment."),
        ("id_bytes", "Of an id."),
        ("session_bytes", "Of a session's name."),
        ("sessions", "In memory, of all clients."),
        ("dedup_window_s", "How long an id is remembered."),
        ("chunk_ms", "What a chunk puts together."),
    ];
    let limits: Map<String, Value> = limits
        .into_iter()
        .map(|(name, about)| (name.to_owned(), count(about)))
        .collect();
    let mut memory = object(
        "The memory plan in bytes, by line.",
        &["total", "budget"],
        json!({"total": count("All lines."), "budget": count("Resident memory stays below it.")}),
    );
    memory["additionalProperties"] = json!({"type": "integer", "minimum": 0});
    let board = json!({"name": nullable(text("Null: no board that is known.")), "why": text("How it was found.")});
    let offered = flag("Whether the broker has shared subscriptions, as far as it has said.");
    let pool =
        json!({"group": text("Of the shared subscription."), "shared_subscriptions": offered});
    let device = json!({"name": text("Which processor computes."), "why": text("Why this one.")});
    whole_object(
        "Retained: what can be asked of the daemon.",
        json!({
            "protocol": {"const": 1},
            "version": text("The daemon's."),
            "node": text("The daemon's."),
            "model": of("Model"),
            "board": whole_object("The board that this machine is.", board),
            "isa": text("The instruction set that kernels are chosen by."),
            "device": nullable(whole_object("Null until it is known.", device)),
            "context": count("Tokens of a conversation."),
            "memory": memory,
            "limits": whole_object("Bounds of this daemon.", limits.into()),
            "pool": nullable(whole_object("Null: it is in no pool.", pool)),
            "features": {"type": "array", "items": {"type": "string"}, "description": "What this daemon can do."},
        }),
    )
}

/// The numbers of `metrics`, and more.
fn numbers(about: &str, more: Value) -> Value {
    let kv = json!({
        "pages_total": count("There are."),
        "pages_used": count("Hold something."),
        "pages_free": count("Hold nothing."),
        "pages_shared": count("Are of more than one request or session."),
    });
    let bytes = json!({
        "budget": count("Resident memory stays below it."),
        "resident": count("Now."),
        "peak": count("At most so far."),
    });
    let pool = json!({"joined": flag("It takes requests of the pool now."), "taken": count("Requests that it took from there.")});
    let throttle = json!({"heat": count("0: none."), "pressure": count("0: none.")});
    let mut fields = json!({
        "running": count("Requests that are answered."),
        "queued": count("Requests that wait."),
        "parked": count("Requests that gave up their place for a while."),
        "stalled_s": count("How long nothing got on though there is work."),
        "sessions": count("In memory."),
        "tokens_per_second": amount("Of all answers together, while any was written."),
        "kv": whole_object("Pages of keys and values.", kv),
        "bytes": whole_object("Memory.", bytes),
        "prefix_hit_tokens": count("Tokens of prompts that were computed before."),
        "refused": counts("Requests that were refused or dropped, by code."),
        "finished": count("Requests that ended in any way."),
        "duplicates": count("Requests that came again."),
        "pool": nullable(whole_object("Null: it is in no pool.", pool)),
        "temperature_c": nullable(json!({"type": "number", "description": "Null: nothing measures it."})),
        "throttle": whole_object("How much less the daemon works, by cause.", throttle),
        "boot_id": text("That of `status`."),
        "uptime_s": count("Of the daemon."),
    });
    fields
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    whole_object(about, fields)
}

fn stats() -> Value {
    numbers(
        "Since the start.",
        json!({
            "tokens": count("Were written."),
            "prompt_tokens": count("Of all prompts."),
            "tokens_saved": count("Of prompts, because they were computed before."),
            "prefix_hit_rate": nullable(json!({"type": "number", "minimum": 0, "maximum": 1, "description": "Which share that is; null before the first prompt."})),
        }),
    )
}

fn audit() -> Value {
    whole_object(
        "A call of one of the daemon's own tools.",
        json!({
            "client": text("Whose request it was."),
            "request": text("Its id."),
            "tool": text("What was called."),
            "arguments": text("The text of a JSON object, as the model wrote it."),
            "outcome": text("What the model was told of it."),
        }),
    )
}

fn discovery() -> Value {
    let device = json!({
        "identifiers": {"type": "array", "items": {"type": "string"}},
        "name": text("For people."),
        "sw_version": text("The daemon's."),
    });
    let origin = json!({"name": {"const": "glowplug"}, "sw_version": text("The daemon's.")});
    let availability = json!({"topic": text("That of `status`."), "value_template": text("A template of Home Assistant's.")});
    whole_object(
        "A device of Home Assistant's discovery over MQTT; its keys are Home Assistant's.",
        json!({
            "device": whole_object("The daemon.", device),
            "origin": whole_object("Who says so.", origin),
            "availability": {"type": "array", "items": whole_object("When it is there.", availability)},
            "qos": {"const": 1},
            "components": {"type": "object", "additionalProperties": {"type": "object"}, "description": "By name: sensors, a notifier that asks, and an event for each answer."},
        }),
    )
}
