//! What requests are answered with.

use crate::schema::{amount, count, flag, object, of, one_of, strict, text, whole_object};
use glowplug::wire::fault::Code;
use glowplug_firmware_config::limits::{ID_MAX, TOOL_CALLS_MAX};
use serde_json::{Map, Value, json};

pub(crate) fn schemas() -> Map<String, Value> {
    let all = [
        ("ChatChunk", chunk()),
        ("ChatFinal", last()),
        ("ChatError", error_frame()),
        ("Fault", fault()),
        ("ToolCall", call()),
        ("Logprobs", logprobs()),
        (
            "Answer",
            json!({"type": "string", "description": "The whole answer without the thought, or `error: ` with a code and a sentence."}),
        ),
        ("SessionDone", session_done()),
        ("SessionRefused", session_refused()),
    ];
    all.into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// An object that begins as every frame does.
fn frame(about: &str, required: &[&str], more: Value) -> Value {
    let mut fields = json!({
        "id": {"type": "string", "maxLength": ID_MAX, "description": "The request's."},
        "node": text("The daemon's."),
        "model": text("The name of the model; empty before one is loaded."),
        "seq": count("Counts the frames of a request, without a gap."),
    });
    fields
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let required: Vec<&str> = ["id", "node", "model", "seq"]
        .iter()
        .chain(required)
        .copied()
        .collect();
    object(about, &required, fields)
}

/// The one element of `choices`.
fn choices(required: &[&str], fields: Value) -> Value {
    let choice = object("The answer.", required, fields);
    json!({"type": "array", "minItems": 1, "maxItems": 1, "items": choice})
}

fn chunk() -> Value {
    let mut call = call();
    call["properties"]["index"] = count("Counts the calls of an answer.");
    call["required"]
        .as_array_mut()
        .unwrap()
        .push("index".into());
    let some = |about: &str| json!({"type": "string", "minLength": 1, "description": about});
    let delta = object(
        "What is new.",
        &[],
        json!({
            "role": {"const": "assistant", "description": "In the first chunk."},
            "content": some("Of the answer."),
            "reasoning_content": some("Of the thought, if it is visible."),
            "tool_calls": {"type": "array", "minItems": 1, "maxItems": 1, "items": call, "description": "A complete call for the client."},
        }),
    );
    let choices = choices(
        &["index", "delta", "finish_reason"],
        json!({
            "index": {"const": 0},
            "delta": delta,
            "logprobs": of("Logprobs"),
            "finish_reason": {"type": "null"},
        }),
    );
    let called = json!({
        "id": text("The call's."),
        "name": text("The tool's."),
        "arguments": text("The text of a JSON object."),
    });
    let ended = json!({
        "id": text("The call's."),
        "content": text("What the model is told."),
        "ms": count("How long it took."),
    });
    frame(
        "What has come since the frame before.",
        &["object", "choices"],
        json!({
            "object": {"const": "chat.completion.chunk"},
            "choices": choices,
            "tool_call": whole_object("The daemon calls a tool of its own.", called),
            "tool_result": whole_object("Such a call has ended.", ended),
        }),
    )
}

fn call() -> Value {
    let function = whole_object(
        "What is called.",
        json!({"name": text("The tool's."), "arguments": text("The text of a JSON object, valid by the tool's schema.")}),
    );
    whole_object(
        "A call that the client is to make.",
        json!({"id": text("Its result names it."), "type": {"const": "function"}, "function": function}),
    )
}

fn logprobs() -> Value {
    let bytes = json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}, "description": "Of its text, which may be a part of a character."});
    let logprob = json!({"type": "number", "description": "Natural logarithm."});
    let token = json!({"token": text("Its text."), "logprob": logprob, "bytes": bytes});
    let other = whole_object("Another token that was likely.", token.clone());
    let mut token = token;
    token["top_logprobs"] = json!({"type": "array", "maxItems": 20, "items": other});
    let tokens = json!({"type": "array", "items": whole_object("A token.", token)});
    whole_object(
        "One for each token, as OpenAI has them.",
        json!({"content": tokens}),
    )
}

fn last() -> Value {
    let message = object(
        "The whole answer.",
        &["role", "content"],
        json!({
            "role": {"const": "assistant"},
            "content": text("All of it, also for whoever missed chunks."),
            "reasoning_content": {"type": "string", "minLength": 1, "description": "The thought, if it is visible."},
            "tool_calls": {"type": "array", "minItems": 1, "maxItems": TOOL_CALLS_MAX, "items": of("ToolCall"), "description": "What the client is to call."},
        }),
    );
    let ends = [
        "stop",
        "length",
        "tool_calls",
        "cancelled",
        "deadline_exceeded",
        "interrupted",
    ];
    let choices = choices(
        &["index", "message", "finish_reason"],
        json!({
            "index": {"const": 0},
            "message": message,
            "logprobs": of("Logprobs"),
            "finish_reason": one_of(&ends, "Why it ended."),
        }),
    );
    let run = json!({
        "id": text("The call's."),
        "name": text("The tool's."),
        "arguments": text("The text of a JSON object."),
        "content": text("What the model was told."),
        "ms": count("How long it took."),
    });
    frame(
        "The end of an answer.",
        &["object", "choices", "usage", "timings"],
        json!({
            "object": {"const": "chat.completion"},
            "choices": choices,
            "usage": usage(),
            "timings": timings(),
            "tool_results": {"type": "array", "minItems": 1, "items": whole_object("A call that the daemon made.", run)},
            "ignored": {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": "Fields of the request that had no effect."},
            "system_fingerprint": text("The SHA-256 of the model's file."),
        }),
    )
}

fn usage() -> Value {
    let prompt = object(
        "Of the prompt.",
        &["cached_tokens"],
        json!({
            "cached_tokens": count("Were computed before."),
            "forgotten_messages": {"type": "integer", "minimum": 1, "description": "Oldest messages of the session that no longer fit."},
        }),
    );
    let completion = json!({"reasoning_tokens": count("Were thought.")});
    whole_object(
        "Tokens.",
        json!({
            "prompt_tokens": count("Were read."),
            "completion_tokens": count("Were written."),
            "total_tokens": count("Both."),
            "prompt_tokens_details": prompt,
            "completion_tokens_details": whole_object("Of the answer.", completion),
        }),
    )
}

fn timings() -> Value {
    whole_object(
        "Milliseconds, and tokens per second.",
        json!({
            "queue_ms": amount("From the arrival to the request's turn."),
            "prompt_ms": amount("From there until the prompt was read."),
            "first_token_ms": amount("From the arrival to the first token."),
            "predicted_ms": amount("From the prompt to the last token."),
            "predicted_per_second": amount("Tokens by `predicted_ms`."),
        }),
    )
}

fn fault() -> Value {
    let codes = Code::ALL.map(Code::name);
    object(
        "Why a request failed.",
        &["code", "message"],
        json!({
            "code": one_of(&codes, "For programs."),
            "message": text("For people."),
            "param": text("The field at fault."),
            "retry_after_ms": count("After this time the same request may work."),
        }),
    )
}

fn error_frame() -> Value {
    frame(
        "The end of a request that failed.",
        &["error"],
        json!({"error": of("Fault")}),
    )
}

/// An object that begins as the answers to all verbs of sessions do.
fn session(about: &str, more: Value) -> Value {
    let mut fields = json!({
        "client": text("Whose session it is."),
        "session": text("Its name."),
        "verb": one_of(&["reset", "save", "drop"], "What was asked for."),
    });
    fields
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    whole_object(about, fields)
}

fn session_done() -> Value {
    session(
        "The verb was done.",
        json!({
            "ok": {"const": true},
            "tokens": count("Of the conversation that is left."),
            "pages": count("Of the cache that it has."),
            "turns": count("Of the conversation that is left."),
            "saved": flag("Whether it is in a file."),
        }),
    )
}

fn session_refused() -> Value {
    session("The verb was not done.", json!({"error": of("Fault")}))
}

/// The answer to an admin verb, with what it gives.
pub(crate) fn admin_response(verb: &str, result: Value) -> Value {
    object(
        "The transaction and what was asked for, or an error.",
        &["transaction"],
        json!({
            "transaction": {"type": ["string", "number", "null"], "description": "That of the request."},
            verb: result,
            "error": of("Fault"),
        }),
    )
}

/// What an admin verb is asked with.
pub(crate) fn admin_request(required: &[&str], fields: Value) -> Value {
    let mut all = json!({"transaction": {"type": ["string", "number", "null"], "maxLength": 64, "description": "It is echoed."}});
    all.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    strict(
        "An empty payload is the same as an object without fields.",
        required,
        all,
    )
}
