#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::wire::chat::values::LOGIT_BIAS_MAX;
use crate::wire::fault::Code;
use glowplug_firmware_config::limits::{STOP_BYTES_MAX, STOPS_MAX};
use glowplug_model::text::Role;
use proptest::prelude::*;

const DEFAULTS: ChatDefaults = ChatDefaults {
    max_tokens: 256,
    thinking: Thinking {
        enabled: true,
        budget: Some(512),
        visible: false,
    },
};
const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

fn parse(body: &str) -> Result<ChatRequest, Fault> {
    parse_chat(body.as_bytes(), &DEFAULTS).map_err(|(fault, _)| fault)
}

fn with(fields: &str) -> Result<ChatRequest, Fault> {
    parse(&format!("{{{HI},{fields}}}"))
}

#[test]
fn every_field_is_read() {
    let r = with(
        r#""id":"a1","stream":false,"chunk":"token","max_tokens":7,"max_completion_tokens":7,"temperature":0,"top_p":0.9,
        "top_k":5,"min_p":0.1,"seed":3,"stop":["x","y"],"presence_penalty":-1,"frequency_penalty":1,"repeat_penalty":1.1,
        "logit_bias":{"3":-100,"4":1.5},"logprobs":true,"top_logprobs":2,"thinking":{"budget":9,"visible":true},
        "response_format":{"type":"text"},"tools":[],"tool_choice":"none","priority":"urgent","deadline_ms":1000,"session":"kitchen.1""#,
    )
    .unwrap();
    assert_eq!(
        r.messages,
        vec![Message {
            role: Role::User,
            content: "hi".into()
        }]
    );
    assert_eq!(
        (r.id.as_deref(), r.stream, r.max_tokens, r.deadline_ms),
        (Some("a1"), Some(false), Some(7), Some(1000))
    );
    assert_eq!(
        (r.session.as_deref(), r.priority),
        (Some("kitchen.1"), Priority::Urgent)
    );
    assert_eq!(r.stop, ["x", "y"]);
    assert_eq!(
        r.thinking,
        Some(Thinking {
            enabled: true,
            budget: Some(9),
            visible: true
        })
    );
    let s = &r.sampling;
    assert_eq!(
        (s.temperature, s.top_p, s.top_k, s.min_p),
        (Some(0.0), Some(0.9), Some(5), Some(0.1))
    );
    assert_eq!(
        (s.seed, s.logprobs, s.top_logprobs),
        (Some(3), true, Some(2))
    );
    assert_eq!(s.logit_bias, [(3, -100.0), (4, 1.5)]);
    assert!(r.ignored.is_empty());
}

#[test]
fn absent_and_null_are_the_defaults() {
    let plain = parse(&format!("{{{HI}}}")).unwrap();
    let ours = [
        "id",
        "session",
        "priority",
        "chunk",
        "top_k",
        "min_p",
        "repeat_penalty",
        "thinking",
        "deadline_ms",
    ];
    let theirs = OPENAIS.iter().map(|(name, ..)| *name);
    for name in ours.into_iter().chain(theirs) {
        assert_eq!(with(&format!(r#""{name}":null"#)).unwrap(), plain, "{name}");
    }
    assert_eq!(plain.max_tokens, None);
}

#[test]
fn thinking_has_four_forms() {
    let thinking = |text: &str| {
        with(&format!(r#""thinking":{text}"#))
            .unwrap()
            .thinking
            .unwrap()
    };
    assert_eq!(
        thinking("false"),
        Thinking {
            enabled: false,
            ..DEFAULTS.thinking
        }
    );
    assert_eq!(thinking("true"), DEFAULTS.thinking);
    assert_eq!(
        thinking(r#"{"visible":true}"#),
        Thinking {
            visible: true,
            ..DEFAULTS.thinking
        }
    );
    assert!(!thinking(r#"{"budget":0}"#).enabled);
}

#[test]
fn one_stop_string_and_content_parts() {
    assert_eq!(with(r#""stop":"x""#).unwrap().stop, ["x"]);
    let r = parse(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
        {"role":"assistant","content":null,"reasoning_content":"t"},{"role":"tool","content":"1","tool_call_id":"c"}]}"#,
    );
    let texts: Vec<String> = r.unwrap().messages.into_iter().map(|m| m.content).collect();
    assert_eq!(texts, ["ab", "", "1"]);
}

#[test]
fn seeds_as_openai_and_llama_server_mean_them() {
    let seed = |text: &str| with(&format!(r#""seed":{text}"#)).unwrap().sampling.seed;
    assert_eq!(seed("18446744073709551615"), Some(u64::MAX));
    assert_eq!(seed("-2"), Some(u64::MAX - 1));
    assert_eq!(seed("-1"), None);
}

/// What becomes of a field.
enum Fate {
    /// it does what it says
    Honoured,
    /// it has no effect and is listed
    Listed,
    /// it is refused by its name
    Refused,
}
use Fate::{Honoured, Listed, Refused};

/// All of OpenAI's chat completion request but `messages` and `model`, which this page has elsewhere: a value, and its fate.
const OPENAIS: &[(&str, &str, Fate)] = &[
    ("audio", r#"{"voice":"alloy","format":"mp3"}"#, Refused),
    ("frequency_penalty", "0.5", Honoured),
    ("function_call", r#""none""#, Honoured),
    ("functions", "[]", Honoured),
    ("logit_bias", r#"{"1":-100}"#, Honoured),
    ("logprobs", "true", Honoured),
    ("max_completion_tokens", "8", Honoured),
    ("max_tokens", "8", Honoured),
    ("metadata", r#"{"a":"b"}"#, Listed),
    ("modalities", r#"["text"]"#, Listed),
    (
        "moderation",
        r#"{"model":"omni-moderation-latest"}"#,
        Refused,
    ),
    ("n", "1", Listed),
    ("parallel_tool_calls", "true", Listed),
    ("prediction", r#"{"type":"content","content":"x"}"#, Listed),
    ("presence_penalty", "0.5", Honoured),
    ("prompt_cache_key", r#""k""#, Listed),
    ("prompt_cache_options", "{}", Listed),
    ("prompt_cache_retention", r#""24h""#, Listed),
    ("reasoning_effort", r#""low""#, Listed),
    ("response_format", r#"{"type":"text"}"#, Honoured),
    ("safety_identifier", r#""u""#, Listed),
    ("seed", "7", Honoured),
    ("service_tier", r#""auto""#, Listed),
    ("stop", r#"["\n"]"#, Honoured),
    ("store", "false", Listed),
    ("stream", "true", Honoured),
    ("stream_options", r#"{"include_usage":true}"#, Listed),
    ("temperature", "0.5", Honoured),
    ("tool_choice", r#""none""#, Honoured),
    ("tools", "[]", Honoured),
    ("top_p", "0.5", Honoured),
    ("user", r#""u""#, Listed),
    ("verbosity", r#""low""#, Listed),
    ("web_search_options", "{}", Refused),
];

#[test]
fn every_field_of_openais_has_a_fate() {
    for (name, value, fate) in OPENAIS {
        let parsed = with(&format!(r#""{name}":{value}"#));
        match fate {
            Honoured => assert!(parsed.unwrap().ignored.is_empty(), "{name}"),
            Listed => assert_eq!(parsed.unwrap().ignored, [*name], "{name}"),
            Refused => assert_eq!(parsed.unwrap_err().param.as_deref(), Some(*name), "{name}"),
        }
    }
    assert_eq!(with(r#""model":"m""#).unwrap().ignored, ["model"]);
    let fault = with(r#""modalities":["text","audio"]"#).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("modalities"));
    assert!(
        fault.message.contains("`audio` is not `text`"),
        "{}",
        fault.message
    );
}

#[test]
fn messages_are_openais() {
    let messages = |list: &str| parse(&format!(r#"{{"messages":[{list}]}}"#));
    let text = |r: &ChatRequest| -> Vec<(Role, String)> {
        r.messages
            .iter()
            .map(|m| (m.role, m.content.clone()))
            .collect()
    };
    // what an answer of ours or OpenAI's looks like when it is sent back
    let r = messages(
        r#"{"role":"developer","content":"Be brief."},
        {"role":"user","content":[{"type":"text","text":"a"},{"text":"b","type":"text"}]},
        {"role":"assistant","content":"c","refusal":null,"annotations":[],"audio":null,"tool_calls":[],"function_call":null,"name":""},
        {"role":"assistant","content":[{"type":"refusal","refusal":"no"}],"tool_calls":null},
        {"role":"assistant"}"#,
    )
    .unwrap();
    let expected = [
        (Role::System, "Be brief."),
        (Role::User, "ab"),
        (Role::Assistant, "c"),
        (Role::Assistant, "no"),
        (Role::Assistant, ""),
    ];
    assert_eq!(
        text(&r),
        expected.map(|(role, said)| (role, said.to_owned()))
    );
    assert!(r.ignored.is_empty(), "{:?}", r.ignored);
    // what is in a field without effect is listed, once
    let r = messages(
        r#"{"role":"user","content":"a","name":"Ann"},{"role":"user","content":"b","name":"Ben"},
        {"role":"assistant","content":"c","reasoning_content":"hm","audio":{"id":"x"}},{"role":"tool","content":"1","tool_call_id":"c"}"#,
    );
    let listed = [
        "messages[].name",
        "messages[].reasoning_content",
        "messages[].audio",
        "messages[].tool_call_id",
    ];
    assert_eq!(r.unwrap().ignored, listed);
    // what asks for more is refused where it stands
    let table = [
        (
            r#"{"role":"function","name":"f","content":"1"}"#,
            "messages[0].role",
            "function",
        ),
        (
            r#"{"role":"assistant","content":null,"function_call":{"name":"f","arguments":""}}"#,
            "messages[0].function_call",
            "later version",
        ),
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}"#,
            "messages[0].content",
            "type `image_url` is not text",
        ),
        (
            r#"{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}"#,
            "messages[0].content",
            "type `input_audio` is not text",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"a","mood":1}]}"#,
            "messages[0].content",
            "`mood`",
        ),
        (
            r#"{"role":"user","content":[{"type":"text"}]}"#,
            "messages[0].content",
            "needs `text`",
        ),
        (
            r#"{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}"#,
            "messages[0].content",
            "`text`",
        ),
    ];
    for (message, param, why) in table {
        let fault = messages(message).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{message}");
        assert!(fault.message.contains(why), "{message}: {}", fault.message);
    }
}

#[test]
fn fields_without_effect_are_listed() {
    let r = with(r#""model":"gpt-4o","n":1,"user":"u","stream_options":{"include_usage":true},"metadata":{"a":[1,{}]}"#).unwrap();
    assert_eq!(
        r.ignored,
        ["model", "n", "user", "stream_options", "metadata"]
    );
}

#[test]
fn refusals_name_the_field() {
    let table = [
        (r#""temprature":1"#, "temprature"),
        (r#""session":"""#, "session"),
        (r#""session":"a/b""#, "session"),
        (r#""session":"a b""#, "session"),
        (r#""session":"+""#, "session"),
        (r#""session":3"#, "session"),
        (r#""chunk":"sentence""#, "chunk"),
        (r#""priority":"high""#, "priority"),
        (r#""priority":1"#, "priority"),
        (r#""tools":[{"type":"function"}]"#, "tools"),
        (r#""tool_choice":"auto""#, "tool_choice"),
        (
            r#""response_format":{"type":"json_object"}"#,
            "response_format",
        ),
        (
            r#""response_format":{"type":"regex","pattern":"a"}"#,
            "response_format",
        ),
        (r#""n":2"#, "n"),
        (r#""temperature":2.1"#, "temperature"),
        (r#""temperature":"hot""#, "temperature"),
        (r#""temperature":1e999"#, "temperature"),
        (r#""top_p":-0.1"#, "top_p"),
        (r#""top_k":1.5"#, "top_k"),
        (r#""min_p":2"#, "min_p"),
        (r#""repeat_penalty":0"#, "repeat_penalty"),
        (r#""presence_penalty":3"#, "presence_penalty"),
        (r#""frequency_penalty":-3"#, "frequency_penalty"),
        (r#""max_tokens":0"#, "max_tokens"),
        (r#""max_tokens":-1"#, "max_tokens"),
        (r#""max_tokens":4294967296"#, "max_tokens"),
        (
            r#""max_tokens":1,"max_completion_tokens":2"#,
            "max_completion_tokens",
        ),
        (r#""seed":1.5"#, "seed"),
        (r#""seed":18446744073709551616"#, "seed"),
        (r#""stop":"""#, "stop"),
        (r#""stop":[1]"#, "stop"),
        (r#""logit_bias":{"x":1}"#, "logit_bias"),
        (r#""logit_bias":{"1":101}"#, "logit_bias"),
        (r#""logit_bias":{"1":1,"1":2}"#, "logit_bias"),
        (r#""top_logprobs":2"#, "top_logprobs"),
        (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs"),
        (r#""logprobs":true,"max_tokens":16385"#, "logprobs"),
        (r#""thinking":{"budgett":1}"#, "thinking"),
        (r#""thinking":3"#, "thinking"),
        (r#""deadline_ms":0"#, "deadline_ms"),
        (r#""deadline_ms":86400001"#, "deadline_ms"),
        (r#""stream":"yes""#, "stream"),
        (r#""stream":true,"stream":true"#, "stream"),
        (r#""id":"""#, "id"),
        (r#""id":"a\nb""#, "id"),
        (r#""id":"\ud800""#, "id"),
    ];
    for (fields, param) in table {
        let fault = with(fields).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{fields}: {fault:?}");
    }
}

#[test]
fn bad_messages_name_the_place() {
    let table = [
        (r#"{"messages":[]}"#, "messages"),
        (r#"{"messages":null}"#, "messages"),
        (r#"{}"#, "messages"),
        (r#"{"messages":[{"role":"user"}]}"#, "messages[0].content"),
        (r#"{"messages":[{"content":"x"}]}"#, "messages[0].role"),
        (
            r#"{"messages":[{"role":"owner","content":"x"}]}"#,
            "messages[0].role",
        ),
        (
            r#"{"messages":[{"role":"user","content":"x"},{"role":"user","content":3}]}"#,
            "messages[1].content",
        ),
        (
            r#"{"messages":[{"role":"user","content":"a\u0000b"}]}"#,
            "messages[0].content",
        ),
        (
            r#"{"messages":[{"role":"user","content":"\udc00"}]}"#,
            "messages[0].content",
        ),
        (
            r#"{"messages":[{"role":"user","content":"x","mood":1}]}"#,
            "messages[0].mood",
        ),
        (
            r#"{"messages":[{"role":"user","role":"user","content":"x"}]}"#,
            "messages[0].role",
        ),
        (
            r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{}]}]}"#,
            "messages[0].tool_calls",
        ),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}]}"#,
            "messages[0].content",
        ),
        (r#"{"messages":[3]}"#, "messages[0]"),
    ];
    for (body, param) in table {
        let fault = parse(body).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{body}: {fault:?}");
    }
}

#[test]
fn bodies_that_are_no_request() {
    for body in [
        "",
        "null",
        "[]",
        "3",
        "\0",
        "{",
        "{}x",
        "{\"messages\":",
        "\u{feff}{}",
    ] {
        assert!(parse(body).is_err(), "{body}");
    }
    let mark = parse(&format!("\u{feff}{{{HI}}}")).unwrap_err();
    assert!(mark.message.contains("byte order mark"), "{}", mark.message);
    let (fault, id) = parse_chat(b"{\"id\":\"a\xff\"}", &DEFAULTS).unwrap_err();
    assert!(fault.message.contains("byte 8"), "{}", fault.message);
    assert_eq!(id, None);
}

#[test]
fn hostile_shapes_are_refused_at_once() {
    let deep = format!(r#"{{"metadata":{}"#, "[".repeat(100_000));
    assert!(parse(&deep).is_err());
    let deep = format!("{{\"messages\":{}", "[".repeat(100_000));
    assert!(parse(&deep).is_err());
    let many: String = (0..100_000).map(|i| format!(r#""k{i}":1,"#)).collect();
    let fault = parse(&format!("{{{many}{HI}}}")).unwrap_err();
    assert_eq!(fault.param.as_deref(), Some("k0"));
    let fault = parse(&format!(r#"{{"{}":1}}"#, "k".repeat(100_000))).unwrap_err();
    assert!(fault.param.unwrap().len() < 200);
    assert!(with(&format!(r#""temperature":{}"#, "9".repeat(100_000))).is_err());
}

#[test]
fn counts_are_bounded() {
    let stops = |n: usize| with(&format!(r#""stop":[{}]"#, vec![r#""s""#; n].join(",")));
    assert_eq!(stops(STOPS_MAX).unwrap().stop.len(), STOPS_MAX);
    assert!(stops(STOPS_MAX + 1).is_err());
    assert!(with(&format!(r#""stop":"{}""#, "x".repeat(STOP_BYTES_MAX))).is_ok());
    assert!(with(&format!(r#""stop":"{}""#, "x".repeat(STOP_BYTES_MAX + 1))).is_err());
    let biases = |n: usize| {
        with(&format!(
            r#""logit_bias":{{{}}}"#,
            (0..n)
                .map(|i| format!("\"{i}\":1"))
                .collect::<Vec<_>>()
                .join(",")
        ))
    };
    assert!(biases(LOGIT_BIAS_MAX).is_ok());
    assert!(biases(LOGIT_BIAS_MAX + 1).is_err());
    let messages = |n: usize| {
        parse(&format!(
            r#"{{"messages":[{}]}}"#,
            vec![r#"{"role":"user","content":""}"#; n].join(",")
        ))
    };
    assert_eq!(messages(1024).unwrap().messages.len(), 1024);
    assert_eq!(
        messages(1025).unwrap_err().param.as_deref(),
        Some("messages")
    );
    assert!(with(&format!(r#""id":"{}""#, "x".repeat(ID_MAX))).is_ok());
    assert!(with(&format!(r#""id":"{}""#, "x".repeat(ID_MAX + 1))).is_err());
    assert!(with(&format!(r#""session":"{}""#, "x".repeat(SESSION_NAME_MAX))).is_ok());
    assert!(
        with(&format!(
            r#""session":"{}""#,
            "x".repeat(SESSION_NAME_MAX + 1)
        ))
        .is_err()
    );
    assert!(with(r#""logprobs":true,"top_logprobs":15,"max_tokens":1024"#).is_ok());
    assert!(with(r#""logprobs":true,"top_logprobs":16,"max_tokens":1024"#).is_err());
}

#[test]
fn the_id_is_found_in_a_body_at_fault() {
    let (fault, id) = parse_chat(br#"{"bogus":1,"id":"a7"}"#, &DEFAULTS).unwrap_err();
    assert_eq!(
        (fault.param.as_deref(), id.as_deref()),
        (Some("bogus"), Some("a7"))
    );
    // one that is no text is refused as such, and still the answer's
    for (given, echoed) in [
        ("7", Some("7")),
        ("-7", Some("-7")),
        ("7.5", None),
        ("[7]", None),
        ("true", None),
    ] {
        let body = format!(r#"{{"id":{given},{HI}}}"#);
        let (fault, id) = parse_chat(body.as_bytes(), &DEFAULTS).unwrap_err();
        assert_eq!(
            (fault.param.as_deref(), id.as_deref()),
            (Some("id"), echoed)
        );
        assert!(
            fault.message.contains("must be a string"),
            "{}",
            fault.message
        );
    }
}

#[test]
fn cancel_control_and_ask() {
    assert_eq!(parse_cancel(b"").unwrap(), Cancel::All);
    assert_eq!(parse_cancel(b"{}").unwrap(), Cancel::All);
    assert_eq!(
        parse_cancel(br#"{"id":"a"}"#).unwrap(),
        Cancel::Id("a".into())
    );
    assert_eq!(
        parse_cancel(br#"{"session":"a"}"#).unwrap(),
        Cancel::Session("a".into())
    );
    for body in [r#"{"session":"a/b"}"#, r#"{"id":"a","session":"a"}"#] {
        let fault = parse_cancel(body.as_bytes()).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some("session"), "{body}");
    }
    assert!(parse_cancel(br#"{"ids":"a"}"#).is_err());
    for (body, param) in [(r#"{"id":7}"#, "id"), (r#"{"session":["a"]}"#, "session")] {
        let fault = parse_cancel(body.as_bytes()).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{body}");
        assert!(
            fault.message.contains("must be a string"),
            "{}",
            fault.message
        );
    }
    for (body, param) in [
        (r#"{"id":7,"action":"end_thinking"}"#, "id"),
        (r#"{"id":"a","action":7}"#, "action"),
    ] {
        let fault = parse_control(body.as_bytes()).unwrap_err();
        assert_eq!(fault.param.as_deref(), Some(param), "{body}");
    }
    assert_eq!(
        parse_control(br#"{"id":"a","action":"end_thinking"}"#).unwrap(),
        "a"
    );
    assert!(parse_control(br#"{"id":"a","action":"pause"}"#).is_err());
    assert!(parse_control(br#"{"action":"end_thinking"}"#).is_err());
    assert_eq!(parse_ask("wie viel?".as_bytes()).unwrap(), "wie viel?");
    assert_eq!(parse_ask("\u{feff}why?".as_bytes()).unwrap(), "why?");
    assert!(
        parse_ask(b" \n").is_err() && parse_ask(b"a\0").is_err() && parse_ask(b"\xff").is_err()
    );
}

/// Objects of known and unknown fields with values of all kinds.
fn nearly() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("true".to_owned()),
        Just(r#"["text"]"#.to_owned()),
        Just(r#"[{"role":"user","content":"x"}]"#.to_owned()),
        Just(r#"[{"role":"owner"}]"#.to_owned()),
        (-3i64..300).prop_map(|n| n.to_string()),
        "[a-z]{0,3}".prop_map(|s| format!("\"{s}\"")),
    ];
    let ours = [
        "id",
        "session",
        "priority",
        "top_k",
        "thinking",
        "deadline_ms",
        "mood",
    ];
    let names: Vec<&str> = OPENAIS.iter().map(|(name, ..)| *name).chain(ours).collect();
    let field = (proptest::sample::select(names), value);
    (any::<bool>(), proptest::collection::vec(field, 0..3)).prop_map(|(hi, fields)| {
        let mut all: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        all.extend(hi.then(|| HI.to_owned()));
        format!("{{{}}}", all.join(","))
    })
}

proptest! {
    /// Bytes of all kinds, and bodies that are nearly right: what is taken keeps every limit and is what JSON says it is;
    /// what is not has a code, a reason, and the field at fault where the bytes are an object at all.
    #[test]
    fn any_bytes_end_in_a_request_or_a_fault(body in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        nearly().prop_map(String::into_bytes),
    ]) {
        let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body);
        match parse_chat(&body, &DEFAULTS) {
            Ok(request) => {
                let object = object.unwrap();
                prop_assert!(!request.messages.is_empty() && request.messages.len() <= 1024);
                prop_assert_eq!(request.messages.len(), object["messages"].as_array().unwrap().len());
                prop_assert_eq!(request.id.as_deref(), object.get("id").and_then(|id| id.as_str()));
                prop_assert!(request.id.is_none_or(|id| (1..=ID_MAX).contains(&id.len())));
                prop_assert_ne!(request.max_tokens, Some(0));
                for name in request.ignored.iter().filter(|name| !name.starts_with("messages")) {
                    prop_assert!(!object[*name].is_null(), "{}", name);
                }
            }
            Err((fault, id)) => {
                prop_assert_eq!(fault.code, Code::InvalidRequest);
                prop_assert!(!fault.message.is_empty());
                prop_assert!(fault.param.is_some() || object.is_err(), "{:?}", fault);
                prop_assert!(id.is_none_or(|id| check_id(&id).is_ok()));
            }
        }
        for small in [parse_cancel(&body).err(), parse_control(&body).err()] {
            prop_assert!(small.is_none_or(|f| f.code == Code::InvalidRequest && !f.message.is_empty()));
        }
    }

    #[test]
    fn any_text_comes_through_unchanged(content in "[^\0]{0,100}") {
        let body = serde_json::json!({"messages": [{"role": "user", "content": content}]}).to_string();
        prop_assert_eq!(&parse(&body).unwrap().messages[0].content, &content);
    }

    #[test]
    fn a_changed_byte_is_a_request_or_a_fault(at in 0_usize..60, byte in any::<u8>()) {
        let mut body = format!("{{{HI},\"stop\":[\"a\"],\"seed\":1}}").into_bytes();
        let at = at % body.len();
        body[at] = byte;
        if let Err((fault, _)) = parse_chat(&body, &DEFAULTS) {
            prop_assert_eq!(fault.code, Code::InvalidRequest);
            prop_assert!(!fault.message.is_empty());
        }
    }
}
