#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::wire::chat::values::LOGIT_BIAS_MAX;
use crate::wire::fault::Code;
use glowplug_firmware_config::limits::{STOP_BYTES_MAX, STOPS_MAX};
use glowplug_model::text::Role;
use glowplug_tests::world::contract::CONTRACT;

mod any;
mod contract;
mod formats;
mod openai;
mod refusals;

use openai::OPENAIS;

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
    let parsed = parse_chat(body.as_bytes(), &DEFAULTS).map_err(|(fault, _)| fault)?;
    contract::takes("ChatRequest", body);
    Ok(parsed)
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
    assert_eq!(r.messages, vec![Message::new(Role::User, "hi")]);
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
    assert!(parse_cancel(br#"["a",null]"#).is_err());
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
    assert!(parse_control(br#"["a","end_thinking"]"#).is_err());
    assert_eq!(parse_ask("wie viel?".as_bytes()).unwrap(), "wie viel?");
    assert_eq!(parse_ask("\u{feff}why?".as_bytes()).unwrap(), "why?");
    assert!(
        parse_ask(b" \n").is_err() && parse_ask(b"a\0").is_err() && parse_ask(b"\xff").is_err()
    );
}
