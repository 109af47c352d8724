//! What the daemon reads.

use crate::schema::{between, flag, nullable, of, one_of, short, strict, text, whole};
use glowplug_firmware_config::limits::{
    CLIENT_MAX, ID_MAX, STOP_BYTES_MAX, STOPS_MAX, TOOL_ANSWER_MAX, TOOL_CALLS_MAX, TOOL_NAME_MAX,
    TOOLS_MAX,
};
use serde_json::{Map, Value, json};

/// Fields of OpenAI's that have no effect.
const WITHOUT_EFFECT: [&str; 13] = [
    "model",
    "user",
    "store",
    "metadata",
    "service_tier",
    "stream_options",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prediction",
    "reasoning_effort",
    "verbosity",
];

/// A segment of a topic that names a client, a session or a preset.
pub(crate) fn segment() -> String {
    format!("^[A-Za-z0-9._-]{{1,{CLIENT_MAX}}}$")
}

fn named(about: &str) -> Value {
    nullable(json!({"type": "string", "pattern": segment(), "description": about}))
}

pub(crate) fn schemas() -> Map<String, Value> {
    let all = [
        ("ChatRequest", chat()),
        ("ChatMessage", message()),
        ("ContentPart", part()),
        ("PastToolCall", past_call()),
        ("Tool", tool()),
        ("ResponseFormat", response_format()),
        ("Cancel", cancel()),
        ("Control", control()),
        (
            "PlainText",
            json!({"type": "string", "minLength": 1, "description": "Text in UTF-8 that is more than blanks."}),
        ),
        (
            "Nothing",
            json!({"type": "string", "maxLength": 0, "description": "An empty payload."}),
        ),
        (
            "ToolAnswer",
            json!({"type": "string", "maxLength": TOOL_ANSWER_MAX, "description": "What the tool has to say, as text."}),
        ),
    ];
    all.into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn chat() -> Value {
    let mut fields = ours();
    let more = [openais(), sampling(), tools()];
    fields.extend(more.into_iter().flatten());
    strict(
        "The body of an OpenAI chat completion, with fields of our own. Of OpenAI's fields without effect those that are not null are listed in the final frame's `ignored`; any other field is refused by its name.",
        &["messages"],
        fields.into(),
    )
}

fn fields(fields: Value) -> Map<String, Value> {
    fields.as_object().unwrap().clone()
}

fn ours() -> Map<String, Value> {
    let thinking = strict(
        "How long to think, and whether the thought is told.",
        &[],
        json!({
            "budget": nullable(whole(0, u32::MAX.into(), "Most tokens of the thought; 0 switches it off.")),
            "visible": nullable(flag("Whether the thought comes in `reasoning_content`.")),
        }),
    );
    fields(json!({
        "messages": {"type": "array", "minItems": 1, "maxItems": 1024, "items": of("ChatMessage"), "description": "The conversation; in a session only what is new."},
        "id": nullable(short(ID_MAX, "It is in every frame, and the same id of the same client is the same request. Default: the Correlation Data, else one is made.")),
        "session": named("A conversation of this client that the daemon keeps."),
        "stream": nullable(flag("False: only the final frame is sent.")),
        "chunk": nullable(one_of(&["token", "sentence"], "What a chunk holds; sentences are for speech.")),
        "preset": named("A preset of the configuration that this client may use."),
        "priority": nullable(one_of(&["background", "normal", "urgent"], "Who goes first.")),
        "deadline_ms": nullable(whole(1, 86_400_000, "The request ends this long after its arrival. Default: the Message Expiry.")),
        "thinking": {"anyOf": [{"type": ["boolean", "null"]}, thinking], "description": "`false`: an empty thought is written for the model."},
        "response_format": {"anyOf": [of("ResponseFormat"), {"type": "null"}], "description": "What the answer is held to."},
        "schema_in_prompt": nullable(flag("Whether the model is told of the format.")),
        "tool_execution": nullable(one_of(&["client", "daemon"], "`daemon`: the daemon's own tools are offered too, and the daemon runs them.")),
    }))
}

fn sampling() -> Map<String, Value> {
    let bias = between(-100.0, 100.0, "It is added to the logit.");
    let stop = short(STOP_BYTES_MAX, "It ends the answer and is not part of it.");
    fields(json!({
        "max_tokens": nullable(whole(1, u32::MAX.into(), "For the thought and the answer together.")),
        "max_completion_tokens": nullable(whole(1, u32::MAX.into(), "The newer name of `max_tokens`.")),
        "temperature": nullable(between(0.0, 2.0, "0 is greedy.")),
        "top_p": nullable(between(0.0, 1.0, "As OpenAI means it.")),
        "top_k": nullable(json!({"type": "integer", "description": "As llama-server means it: 0 and less is off."})),
        "min_p": nullable(between(0.0, 1.0, "As llama-server means it.")),
        "repeat_penalty": nullable(between(0.1, 10.0, "As llama-server means it.")),
        "presence_penalty": nullable(between(-2.0, 2.0, "As OpenAI means it.")),
        "frequency_penalty": nullable(between(-2.0, 2.0, "As OpenAI means it.")),
        "seed": nullable(json!({"type": "integer", "description": "64 bits; -1 asks for a random one."})),
        "stop": {"anyOf": [stop.clone(), {"type": "array", "maxItems": STOPS_MAX, "items": stop}, {"type": "null"}], "description": "Not together with a format."},
        "logit_bias": nullable(json!({"type": "object", "maxProperties": 1024, "propertyNames": {"pattern": "^\\+?[0-9]+$"}, "additionalProperties": bias, "description": "By token id."})),
        "logprobs": nullable(flag("Whether the tokens come with their log-probabilities.")),
        "top_logprobs": nullable(whole(0, 20, "Alternatives for each token; needs `logprobs`.")),
    }))
}

fn tools() -> Map<String, Value> {
    let function = strict(
        "The function to call.",
        &["name"],
        json!({"name": text("The name of one of `tools`.")}),
    );
    let named = strict(
        "Calls of this tool.",
        &["type", "function"],
        json!({"type": {"const": "function"}, "function": function}),
    );
    fields(json!({
        "tools": nullable(json!({"type": "array", "maxItems": TOOLS_MAX, "items": of("Tool"), "description": "Functions that the model may call and the client runs."})),
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required", null]}, named], "description": "Default: `auto`."},
        "parallel_tool_calls": nullable(flag("False: the answer ends after its first call.")),
    }))
}

/// Fields of OpenAI's that ask for nothing, or for what is never done.
fn openais() -> Map<String, Value> {
    let mut all = fields(json!({
        "n": {"enum": [1, null], "description": "There is one answer."},
        "modalities": nullable(json!({"type": "array", "items": {"const": "text"}, "description": "Answers are text."})),
        "audio": {"type": "null", "description": "Answers are text."},
        "web_search_options": {"type": "null", "description": "Nothing is looked up."},
        "moderation": {"type": "null", "description": "Nothing is moderated."},
        "functions": nullable(json!({"type": "array", "maxItems": 0, "description": "The older form of `tools`."})),
        "function_call": {"enum": ["none", null], "description": "The older form of `tool_choice`."},
    }));
    for name in WITHOUT_EFFECT {
        all.insert(name.to_owned(), json!({"description": "Without effect."}));
    }
    all
}

fn message() -> Value {
    let without_effect = json!({"description": "Without effect."});
    let content = json!({
        "anyOf": [{"type": ["string", "null"]}, {"type": "array", "maxItems": 256, "items": of("ContentPart")}],
        "description": "Required, but for an assistant's message.",
    });
    strict(
        "One message of a conversation.",
        &["role"],
        json!({
            "role": one_of(&["developer", "system", "user", "assistant", "tool"], "Who says it; `developer` is another name of `system`."),
            "content": content,
            "tool_calls": nullable(json!({"type": "array", "maxItems": TOOL_CALLS_MAX, "items": of("PastToolCall"), "description": "Of an assistant alone."})),
            "tool_call_id": nullable(short(ID_MAX, "Required of a `tool`: the call whose result this is.")),
            "function_call": {"type": "null", "description": "The older form of `tool_calls`."},
            "name": without_effect,
            "reasoning_content": without_effect,
            "refusal": without_effect,
            "annotations": without_effect,
            "audio": without_effect,
        }),
    )
}

fn part() -> Value {
    let part = |kind: &str| {
        strict(
            "Text, which is all that the model reads.",
            &["type", kind],
            json!({"type": {"const": kind}, kind: text("What is said.")}),
        )
    };
    json!({"anyOf": [part("text"), part("refusal")]})
}

fn past_call() -> Value {
    let function = strict(
        "What was called.",
        &["name", "arguments"],
        json!({
            "name": tool_name(),
            "arguments": text("The text of a JSON object; an empty text stands for no arguments."),
        }),
    );
    strict(
        "A call as it was in an answer.",
        &["id", "function"],
        json!({
            "index": {"description": "As it was in a chunk; without effect."},
            "id": short(ID_MAX, "Its result names it."),
            "type": {"enum": ["function", null]},
            "function": function,
        }),
    )
}

fn tool_name() -> Value {
    let pattern = format!("^[A-Za-z0-9_-]{{1,{TOOL_NAME_MAX}}}$");
    json!({"type": "string", "pattern": pattern, "description": "By which the model calls it."})
}

fn tool() -> Value {
    let parameters = json!({"type": "object", "description": "The JSON Schema that arguments are held to. All of a request have at most 64 KiB."});
    let function = strict(
        "What may be called.",
        &["name"],
        json!({
            "name": tool_name(),
            "description": nullable(text("What it does, in words for the model.")),
            "parameters": nullable(parameters),
            "strict": nullable(flag("Arguments are held to the schema whatever it says.")),
        }),
    );
    strict(
        "A tool, as OpenAI has them.",
        &["type", "function"],
        json!({"type": {"const": "function"}, "function": function}),
    )
}

fn response_format() -> Value {
    let schema = strict(
        "A schema, as OpenAI has it.",
        &["name", "schema"],
        json!({
            "name": text("For people."),
            "schema": {"description": "A JSON Schema of at most 64 KiB and 64 levels."},
            "strict": {"enum": [true, null], "description": "What is given is enforced."},
            "description": nullable(text("For people.")),
        }),
    );
    let kind = |name: &str| json!({"const": name});
    json!({"anyOf": [
        strict("Any text, or JSON of any form.", &["type"], json!({"type": {"enum": ["text", "json_object"]}})),
        strict("JSON that is valid by a schema.", &["type", "json_schema"], json!({"type": kind("json_schema"), "json_schema": schema})),
        strict("Text that matches as a whole.", &["type", "pattern"], json!({"type": kind("regex"), "pattern": text("A regular expression.")})),
    ]})
}

fn cancel() -> Value {
    strict(
        "`id` or `session`; nothing in it stands for all requests of this client.",
        &[],
        json!({
            "id": nullable(text("This request.")),
            "session": named("Every request of this session."),
        }),
    )
}

fn control() -> Value {
    strict(
        "What to do with a request that runs.",
        &["id", "action"],
        json!({
            "id": text("The request."),
            "action": {"const": "end_thinking", "description": "The thought ends with a closing sentence, and the answer begins."},
        }),
    )
}
