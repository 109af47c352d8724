//! What is taken, and what daemon/docs/asyncapi.yaml says is taken.

use super::*;
use glowplug_firmware_config::limits::TOOLS_MAX;
use glowplug_tests::world::contract::fields_of;
use serde_json::{Map, Value, json};

/// A body that was taken must be valid by the document.
pub(super) fn takes(schema: &str, body: &str) {
    let told = CONTRACT.fits(schema, &serde_json::from_str(body).unwrap());
    told.unwrap_or_else(|why| panic!("{why}: {body}"));
}

/// Requests that have every field of the document between them.
fn requests() -> [Value; 3] {
    let hi = json!([{"role": "user", "content": "hi"}]);
    let tool = json!({"type": "function", "function": {
        "name": "light", "description": "Lights.", "parameters": {"type": "object"}, "strict": true,
    }});
    // too long for the macro
    let sampled = r#"{
        "messages": [{"role": "user", "content": "hi", "name": "a"}], "id": "a1", "session": "kitchen.1", "stream": true,
        "chunk": "token", "preset": "p", "priority": "urgent", "deadline_ms": 1000, "thinking": {"budget": 9, "visible": true},
        "max_tokens": 7, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
        "repeat_penalty": 1.1, "presence_penalty": -1, "frequency_penalty": 1, "seed": 3, "stop": ["x", "y"],
        "logit_bias": {"3": -100}, "logprobs": true, "top_logprobs": 2, "n": 1, "modalities": ["text"], "functions": [],
        "function_call": "none", "audio": null, "moderation": null, "web_search_options": null, "model": "m", "user": "u",
        "store": false, "metadata": {}, "service_tier": "auto", "stream_options": {}, "safety_identifier": "s",
        "prompt_cache_key": "k", "prompt_cache_options": {}, "prompt_cache_retention": "24h", "prediction": {},
        "reasoning_effort": "low", "verbosity": "low"
    }"#;
    [
        serde_json::from_str(sampled).unwrap(),
        json!({
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
                {"role": "user", "content": "light?"},
                {"role": "assistant", "content": null, "function_call": null, "reasoning_content": "hm", "refusal": null,
                    "annotations": [], "audio": null, "tool_calls": [
                        {"index": 0, "id": "c1", "type": "function", "function": {"name": "light", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "on"},
            ],
            "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "light"}},
            "parallel_tool_calls": false, "tool_execution": "daemon", "chunk": "sentence",
            "schema_in_prompt": true, "response_format": {"type": "json_schema", "json_schema": {
                "name": "n", "description": "d", "strict": true, "schema": {"type": "object"}}},
        }),
        json!({"messages": hi, "response_format": {"type": "regex", "pattern": "a|b"}, "stop": "x", "thinking": false}),
    ]
}

/// Values of all kinds, and what `value` is as an array and as an object: both are other ways to write a struct and a word.
fn others(value: &Value) -> Vec<Value> {
    let long = "x".repeat(300);
    let mut all = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(1.5),
        json!(20),
        json!(21),
        json!(1e9),
        json!(""),
        json!("a"),
        json!("a/b"),
        json!(long),
        json!("text"),
        json!("auto"),
        json!("none"),
        json!("user"),
        json!("tool"),
        json!([]),
        json!(["text"]),
        json!([""]),
        json!([null]),
        json!([{}]),
        json!({}),
        json!({"a": 1}),
        json!({"3": 101}),
        json!({"+3": 1}),
        json!({"type": "text"}),
        json!({"budget": null}),
        json!([value]),
    ];
    all.extend(match value {
        Value::Object(map) => Some(map.values().cloned().collect()),
        Value::String(word) => Some(json!({word: null})),
        _ => None,
    });
    all
}

/// Every place of a value, as a JSON pointer.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| places(value, &format!("{at}/{name}"), out)),
        Value::Array(all) => all
            .iter()
            .enumerate()
            .for_each(|(n, value)| places(value, &format!("{at}/{n}"), out)),
        _ => {}
    }
}

/// The same body with one thing in it changed, in all ways.
fn changed(body: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    places(body, "", &mut pointers);
    let mut all = Vec::new();
    let mut change = |how: &dyn Fn(&mut Value)| {
        let mut body = body.clone();
        how(&mut body);
        all.push(body);
    };
    for at in &pointers {
        let value = body.pointer(at).unwrap();
        for other in others(value) {
            change(&|body| *body.pointer_mut(at).unwrap() = other.clone());
        }
        let Some(map) = value.as_object() else {
            continue;
        };
        for name in map.keys() {
            change(&|body| drop(object(body, at).remove(name)));
        }
        change(&|body| drop(object(body, at).insert("mood".to_owned(), json!(1))));
    }
    all
}

fn object<'v>(body: &'v mut Value, at: &str) -> &'v mut Map<String, Value> {
    body.pointer_mut(at).unwrap().as_object_mut().unwrap()
}

#[test]
fn what_the_document_rejects_is_refused_whatever_is_changed_in_a_request() {
    let (mut taken, mut refused) = (0, 0);
    for request in requests() {
        parse(&request.to_string()).unwrap();
        for body in changed(&request) {
            match parse(&body.to_string()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(taken > 300 && refused > 1000, "{taken} {refused}");
}

#[test]
fn what_the_document_rejects_is_no_cancel_and_no_control() {
    let mut taken = 0;
    for body in changed(&json!({"id": "a", "session": "s"}))
        .iter()
        .chain(&changed(&json!({"session": "s"})))
    {
        let body = body.to_string();
        if parse_cancel(body.as_bytes()).is_ok() {
            takes("Cancel", &body);
            taken += 1;
        }
    }
    for body in changed(&json!({"id": "a", "action": "end_thinking"})) {
        let body = body.to_string();
        if parse_control(body.as_bytes()).is_ok() {
            takes("Control", &body);
            taken += 1;
        }
    }
    assert!(taken > 20, "{taken}");
}

#[test]
fn the_document_tells_of_no_field_and_no_word_that_is_not_taken() {
    let mut seen = std::collections::BTreeSet::new();
    let more = [
        r#""chunk":"sentence","priority":"normal","response_format":{"type":"text"},"tools":null,"tool_choice":"none","tool_execution":"client""#,
        r#""priority":"background","response_format":{"type":"json_object"},"n":null,"function_call":null,"tool_choice":"auto""#,
        r#""priority":null,"chunk":null,"tool_execution":null,"tool_choice":null"#,
        r#""tools":[{"type":"function","function":{"name":"a"}}],"tool_choice":"required""#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{},"strict":null}}"#,
    ];
    let mut bodies: Vec<String> = more
        .iter()
        .map(|fields| format!("{{{HI},{fields}}}"))
        .collect();
    bodies.push(r#"{"messages":[{"role":"system","content":"a"},{"role":"user","content":"b"},{"role":"assistant","tool_calls":[
        {"id":"c","type":null,"function":{"name":"a","arguments":""}}]},{"role":"tool","tool_call_id":"c","content":""}]}"#.to_owned());
    bodies.extend(requests().iter().map(Value::to_string));
    for body in bodies {
        parse(&body).unwrap();
        seen.extend(fields_of(&serde_json::from_str(&body).unwrap()));
    }
    let told = CONTRACT.fields("ChatRequest");
    assert_eq!(
        told.difference(&seen).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}

/// At its bound a value is taken, and beyond it neither the daemon nor the document takes it.
#[test]
fn the_bounds_of_the_document_are_the_daemons() {
    let id = |n| json!("i".repeat(n));
    let message = json!({"role": "user", "content": "x"});
    let part = json!({"type": "text", "text": ""});
    let tools = |n: usize| -> Value {
        (0..n)
            .map(|n| json!({"type": "function", "function": {"name": format!("t{n}")}}))
            .collect()
    };
    let biases =
        |n: usize| -> Value { Value::Object((0..n).map(|n| (n.to_string(), json!(0))).collect()) };
    let parts = |n| json!([{"role": "user", "content": vec![&part; n]}]);
    for (field, least, most, beyond) in [
        ("id", id(1), id(ID_MAX), vec![id(0), id(ID_MAX + 1)]),
        (
            "session",
            id(1),
            id(CLIENT_MAX),
            vec![id(0), id(CLIENT_MAX + 1), json!("a b")],
        ),
        (
            "preset",
            id(1),
            id(CLIENT_MAX),
            vec![id(0), id(CLIENT_MAX + 1), json!("a/b")],
        ),
        (
            "max_tokens",
            json!(1),
            json!(u32::MAX),
            vec![json!(0), json!(1_u64 << 32)],
        ),
        (
            "deadline_ms",
            json!(1),
            json!(DEADLINE_MAX_MS),
            vec![json!(0), json!(DEADLINE_MAX_MS + 1)],
        ),
        (
            "temperature",
            json!(0),
            json!(2),
            vec![json!(-1e-12), json!(2.000_000_000_1)],
        ),
        (
            "top_p",
            json!(0),
            json!(1),
            vec![json!(-1e-12), json!(1.000_000_000_1)],
        ),
        (
            "min_p",
            json!(0),
            json!(1),
            vec![json!(-1e-12), json!(1.000_000_000_1)],
        ),
        (
            "repeat_penalty",
            json!(0.1),
            json!(10),
            vec![json!(0.099_999_999_9), json!(10.000_000_001)],
        ),
        (
            "presence_penalty",
            json!(-2),
            json!(2),
            vec![json!(-2.000_000_000_1), json!(2.000_000_000_1)],
        ),
        (
            "frequency_penalty",
            json!(-2),
            json!(2),
            vec![json!(-2.000_000_000_1), json!(2.000_000_000_1)],
        ),
        (
            "stop",
            id(1),
            json!(vec![id(STOP_BYTES_MAX); STOPS_MAX]),
            vec![
                id(0),
                id(STOP_BYTES_MAX + 1),
                json!(vec!["x"; STOPS_MAX + 1]),
            ],
        ),
        (
            "logit_bias",
            biases(0),
            biases(LOGIT_BIAS_MAX),
            vec![
                biases(LOGIT_BIAS_MAX + 1),
                json!({"1": 100.000_000_1}),
                json!({"-1": 0}),
            ],
        ),
        (
            "messages",
            json!([message]),
            json!(vec![&message; 1024]),
            vec![json!([]), json!(vec![&message; 1025])],
        ),
        ("messages", parts(0), parts(256), vec![parts(257)]),
        (
            "tools",
            tools(0),
            tools(TOOLS_MAX),
            vec![tools(TOOLS_MAX + 1)],
        ),
        (
            "thinking",
            json!({"budget": 0}),
            json!({"budget": u32::MAX}),
            vec![json!({"budget": -1}), json!({"budget": 1_u64 << 32})],
        ),
    ] {
        let body = |value: &Value| {
            let mut body = json!({"messages": [&message]});
            body[field] = value.clone();
            body
        };
        for value in [least, most] {
            parse(&body(&value).to_string()).unwrap_or_else(|fault| panic!("{field}: {fault:?}"));
        }
        for value in beyond {
            let body = body(&value);
            assert!(parse(&body.to_string()).is_err(), "{field}: {value:.100}");
            assert!(
                CONTRACT.fits("ChatRequest", &body).is_err(),
                "{field}: {value:.100}"
            );
        }
    }
    let logprobs = |n| format!("\"logprobs\":true,\"top_logprobs\":{n}");
    with(&logprobs(TOP_LOGPROBS_MAX)).unwrap();
    let beyond = format!("{{{HI},{}}}", logprobs(TOP_LOGPROBS_MAX + 1));
    assert!(
        parse(&beyond).is_err()
            && CONTRACT
                .fits("ChatRequest", &serde_json::from_str(&beyond).unwrap())
                .is_err()
    );
}
