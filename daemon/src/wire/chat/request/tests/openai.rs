//! Every field of OpenAI's request, and what becomes of it.

use super::*;

/// What becomes of a field.
pub(super) enum Fate {
    /// it does what it says
    Honoured,
    /// it has no effect and is listed
    Listed,
    /// it is refused by its name
    Refused,
}
use Fate::{Honoured, Listed, Refused};

/// All of OpenAI's chat completion request but `messages` and `model`, which this page has elsewhere: a value, and its fate.
pub(super) const OPENAIS: &[(&str, &str, Fate)] = &[
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
        {"role":"assistant","content":"c","reasoning_content":"hm","audio":{"id":"x"}},{"role":"user","content":"1","tool_call_id":"c"}"#,
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
            "older form of `tool_calls`",
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
