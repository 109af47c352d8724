//! What a preset adds to a request, and who may name it.

use super::*;
use glowplug_model::text::Format;

#[test]
fn a_preset_says_what_a_request_does_not() {
    let mut w = world_with(
        "[[presets]]\nname = 'a'\nsystem = 'Be brief.'\nlanguage = 'French'\nclients = ['c', 'x*']\nthinking = false\nmax_tokens = 9\n\
         [[presets]]\nname = 'b'\nmax_tokens = 2000",
    );
    let text = Some("Be brief.\n\nAnswer in French.");
    // plain text has its client's first
    let r = w.send("b/n/ask/c", "hi").submitted.remove(0);
    assert_eq!(
        (r.system.as_deref(), r.max_tokens, r.thinking.enabled),
        (text, 9, false)
    );
    let r = w.send("b/n/ask/d", "hi").submitted.remove(0);
    assert_eq!(
        (r.system, r.max_tokens, r.thinking.enabled),
        (None, 2000, true)
    );
    let body =
        |fields: &str| format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{fields}}}"#);
    let table = [
        ("", None, 1024, true),
        (r#","preset":"a""#, text, 9, false),
        (
            r#","preset":"a","max_tokens":5,"thinking":true"#,
            text,
            5,
            true,
        ),
        (r#","preset":"a","max_tokens":50"#, text, 9, false),
        (r#","preset":"b","max_tokens":50"#, None, 50, true),
    ];
    for (fields, system, max_tokens, thinks) in table {
        // what came before does not wait in this one
        w.admission = world().admission;
        let r = w.send(REQUEST, &body(fields)).submitted.remove(0);
        assert_eq!(
            (r.system.as_deref(), r.max_tokens, r.thinking.enabled),
            (system, max_tokens, thinks),
            "{fields}"
        );
    }
}

#[test]
fn a_format_is_the_requests_own_or_its_presets_and_is_not_spoken() {
    let mut w = world_with(
        "[[presets]]\nname = 'a'\nclients = ['c']\nresponse_format = { type = 'regex', pattern = 'on|off' }",
    );
    let preset = Some(Format::Regex("on|off".into()));
    let r = w.send("b/n/ask/c", "hi").submitted.remove(0);
    assert_eq!((r.format, r.schema_in_prompt), (preset.clone(), false));
    let body =
        |fields: &str| format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{fields}}}"#);
    for (fields, format, told) in [
        (r#""preset":"a""#, preset.clone(), false),
        (r#""preset":"a","schema_in_prompt":true"#, preset, true),
        (
            r#""preset":"a","response_format":{"type":"text"},"stop":"x""#,
            None,
            false,
        ),
        (
            r#""preset":"a","response_format":{"type":"json_object"},"chunk":"sentence""#,
            Some(Format::JsonObject),
            false,
        ),
    ] {
        w.admission = world().admission;
        let r = w.send(REQUEST, &body(fields)).submitted.remove(0);
        assert_eq!((&r.format, r.schema_in_prompt), (&format, told), "{fields}");
    }
    // stop strings would cut it
    let o = w.send(REQUEST, &body(r#""preset":"a","stop":"x""#));
    assert_eq!(o.frames[0].1["error"]["param"], "stop");
}

#[test]
fn a_preset_of_others_is_refused_as_one_that_is_not_there() {
    let mut w = world_with(
        "[[presets]]\nname = 'a'\nclients = ['c']\n[[presets]]\nname = 'b'\nmax_tokens = 20000",
    );
    for (client, name) in [("d", "a"), ("d", "none"), ("c", "none")] {
        let body = format!(
            r#"{{"id":"7","messages":[{{"role":"user","content":"hi"}}],"preset":"{name}"}}"#
        );
        let o = w.send(&format!("b/n/chat/{client}/request"), &body);
        assert!(o.submitted.is_empty());
        let frame = &o.frames[0].1;
        assert_eq!(
            (&frame["id"], &frame["error"]["param"]),
            (&"7".into(), &"preset".into())
        );
        let why = format!("there is no preset `{name}` for this client");
        assert_eq!(frame["error"]["message"], why);
    }
    // what a preset allows is not beyond what a frame holds
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"preset":"b","logprobs":true}"#;
    let o = w.send(REQUEST, body);
    assert_eq!(o.frames[0].1["error"]["param"], "logprobs");
}
