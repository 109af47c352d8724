//! The messages: a schema each, and what MQTT 5 says beside it.

use crate::schema::of;
use crate::state::{VERBS, name};
use glowplug_firmware_config::limits::ID_MAX;
use serde_json::{Map, Value, json};

/// What a message is, as far as its properties go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may say where its reply goes.
    Request,
    /// It has the properties of a reply.
    Reply,
    /// It has no properties.
    News,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

pub(crate) const CORRELATION_IDS: [(&str, &str, &str); 2] = [
    (
        "request",
        "$message.payload#/id",
        "The request's id, in every frame. With MQTT 5 the Correlation Data is echoed as well.",
    ),
    (
        "transaction",
        "$message.payload#/transaction",
        "The administrator's own mark.",
    ),
];

fn message(summary: &str, schema: &str, content_type: &str, kind: Kind) -> Value {
    let correlation = json!({"type": "string", "maxLength": ID_MAX, "description": "It is echoed byte for byte."});
    let mut message =
        json!({"summary": summary, "contentType": content_type, "payload": of(schema)});
    let mqtt = match kind {
        Kind::Request => json!({
            "correlationData": correlation,
            "responseTopic": {"type": "string", "maxLength": 512, "description": "Below the client's own branch, or on the daemon's allow-list."},
            "bindingVersion": "0.2.0",
        }),
        Kind::Reply => json!({
            "payloadFormatIndicator": 1,
            "contentType": content_type,
            "correlationData": correlation,
            "bindingVersion": "0.2.0",
        }),
        Kind::News => return message,
    };
    message["bindings"] = json!({"mqtt": mqtt});
    message
}

/// All messages. Each has the name of its schema.
pub(crate) fn all() -> Map<String, Value> {
    let table = [
        (
            "Status",
            JSON,
            Kind::News,
            "The daemon's state changed; also the last will.",
        ),
        ("Info", JSON, Kind::News, "What can be asked of the daemon."),
        ("Metrics", JSON, Kind::News, "The daemon's numbers."),
        ("ChatRequest", JSON, Kind::Request, "A chat request."),
        ("ChatChunk", JSON, Kind::Reply, "A part of an answer."),
        (
            "ChatFinal",
            JSON,
            Kind::Reply,
            "The whole answer; the last frame.",
        ),
        (
            "ChatError",
            JSON,
            Kind::Reply,
            "Instead of an answer; the last frame.",
        ),
        ("Cancel", JSON, Kind::Request, "Ends requests."),
        (
            "Control",
            JSON,
            Kind::Request,
            "Changes a request that runs.",
        ),
        ("Nothing", TEXT, Kind::Request, "An empty payload."),
        (
            "PlainText",
            TEXT,
            Kind::Request,
            "A question in plain text.",
        ),
        ("Answer", TEXT, Kind::Reply, "The answer in plain text."),
        (
            "SessionDone",
            JSON,
            Kind::Reply,
            "A verb on a session was done.",
        ),
        (
            "SessionRefused",
            JSON,
            Kind::Reply,
            "A verb on a session was not done.",
        ),
        (
            "ToolAnswer",
            TEXT,
            Kind::News,
            "What a tool of the daemon's own has to say.",
        ),
        (
            "ToolAudit",
            JSON,
            Kind::News,
            "A tool of the daemon's own was called.",
        ),
        (
            "Discovery",
            JSON,
            Kind::News,
            "Home Assistant makes a device of it.",
        ),
        (
            "HomeAssistantStatus",
            TEXT,
            Kind::News,
            "Home Assistant has started, or ends.",
        ),
    ];
    let mut all = Map::new();
    for (name, content_type, kind, summary) in table {
        let mut message = message(summary, name, content_type, kind);
        if name.starts_with("Chat") || name == "Control" {
            message["correlationId"] = json!({"$ref": "#/components/correlationIds/request"});
        }
        let examples = examples(name);
        if !examples.is_empty() {
            let examples: Vec<Value> = examples
                .into_iter()
                .map(|payload| json!({"payload": payload}))
                .collect();
            message["examples"] = examples.into();
        }
        all.insert(name.to_owned(), message);
    }
    for (verb, about) in VERBS {
        for (end, kind) in [("Request", Kind::Request), ("Response", Kind::Reply)] {
            let name = name("Admin", verb, end);
            let mut message = message(about, &name, JSON, kind);
            message["correlationId"] = json!({"$ref": "#/components/correlationIds/transaction"});
            all.insert(name, message);
        }
    }
    all.insert(
        "ToolInvocation".to_owned(),
        json!({
            "summary": "A call of a tool, as the configuration of the tool says.",
            "payload": {"description": "The arguments, or what `payload` or `payload_text` makes of them."},
            "bindings": {"mqtt": {
                "responseTopic": {"type": "string", "description": "That of the channel `toolAnswer`."},
                "correlationData": {"type": "string", "description": "An answer on the Response Topic needs it."},
                "bindingVersion": "0.2.0",
            }},
        }),
    );
    all
}

fn examples(name: &str) -> Vec<Value> {
    match name {
        "Status" => {
            vec![json!({"state": "online", "boot_id": "6f1d2a", "since": 1_790_000_000_000_u64})]
        }
        "ChatRequest" => vec![
            json!({"messages": [{"role": "user", "content": "What is MQTT?"}]}),
            json!({
                "id": "7",
                "session": "kitchen",
                "messages": [{"role": "user", "content": "Set it to 21 degrees."}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "setting", "schema": {
                    "type": "object",
                    "properties": {"degrees": {"type": "integer"}},
                    "required": ["degrees"],
                    "additionalProperties": false,
                }}},
                "max_tokens": 64,
                "temperature": 0,
            }),
        ],
        "ChatChunk" => vec![json!({
            "id": "7", "node": "kitchen", "model": "Qwen2.5 0.5B", "seq": 1, "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "A protocol"}, "finish_reason": null}],
        })],
        "ChatError" => vec![json!({
            "id": "7", "node": "kitchen", "model": "Qwen2.5 0.5B", "seq": 0,
            "error": {"code": "overloaded", "message": "16 requests wait, the limit is 16", "retry_after_ms": 1000},
        })],
        "Cancel" => vec![json!({"id": "7"}), json!({"session": "kitchen"}), json!({})],
        "Control" => vec![json!({"id": "7", "action": "end_thinking"})],
        "PlainText" => vec!["What is MQTT?".into()],
        "Answer" => vec![
            "A protocol for messages.".into(),
            "error: draining: the daemon stops".into(),
        ],
        _ => Vec::new(),
    }
}
