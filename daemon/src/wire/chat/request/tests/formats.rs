//! What a request may say of the form of its answer, and what is refused.

use super::*;
use glowplug_firmware_config::limits::{SCHEMA_BYTES_MAX, SCHEMA_LEVELS_MAX};
use glowplug_model::text::Format;

fn format(value: &str) -> Result<Option<ResponseFormat>, Fault> {
    with(&format!(r#""response_format":{value}"#)).map(|request| request.format)
}

fn schema(schema: &str) -> String {
    format!(r#"{{"type":"json_schema","json_schema":{{"name":"x","schema":{schema}}}}}"#)
}

#[test]
fn every_form_is_read() {
    let held = |format| Some(ResponseFormat::Held(format));
    for (value, expected) in [
        ("null".to_owned(), None),
        (r#"{"type":"text"}"#.to_owned(), Some(ResponseFormat::Text)),
        (
            r#"{"type":"json_object"}"#.to_owned(),
            held(Format::JsonObject),
        ),
        (
            r#"{"pattern":"a|b","type":"regex"}"#.to_owned(),
            held(Format::Regex("a|b".into())),
        ),
        (
            schema(r#"{"type": "object", "properties": {"z": {}, "a": {"const": 1}}}"#),
            held(Format::JsonSchema(
                r#"{"type":"object","properties":{"z":{},"a":{"const":1}}}"#.into(),
            )),
        ),
        (
            r#"{"type":"json_schema","json_schema":{"strict":true,"description":"d","name":"n","schema":true}}"#.to_owned(),
            held(Format::JsonSchema("true".into())),
        ),
    ] {
        assert_eq!(format(&value).unwrap(), expected, "{value}");
    }
    assert!(with(r#""schema_in_prompt":true"#).unwrap().schema_in_prompt);
    assert!(!with(r#""schema_in_prompt":null"#).unwrap().schema_in_prompt);
}

#[test]
fn what_is_no_form_is_invalid_and_named() {
    for (value, param) in [
        (r#""json_object""#, "response_format"),
        ("{}", "response_format"),
        (r#"{"type":"xml"}"#, "response_format"),
        (r#"{"type":"json_object","schema":{}}"#, "response_format"),
        (r#"{"type":"text","pattern":"a"}"#, "response_format"),
        (r#"{"type":"regex"}"#, "response_format"),
        (r#"{"type":"regex","pattern":1}"#, "response_format"),
        (r#"{"type":"json_schema"}"#, "response_format"),
        (r#"{"type":"text","type":"text"}"#, "response_format"),
        (
            r#"{"type":"json_schema","json_schema":{"schema":{}}}"#,
            "response_format.json_schema",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"x"}}"#,
            "response_format.json_schema",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"x","schema":{},"mood":1}}"#,
            "response_format.json_schema",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"x","schema":{},"strict":false}}"#,
            "response_format.json_schema.strict",
        ),
    ] {
        let fault = format(value).unwrap_err();
        assert_eq!(
            (fault.code, fault.param.as_deref()),
            (Code::InvalidRequest, Some(param)),
            "{value}: {fault:?}"
        );
    }
}

#[test]
fn a_schema_that_is_not_enforced_is_invalid_at_its_place() {
    const WHOLE: &str = "response_format.json_schema.schema";
    let nested = |levels| r#"{"items":"#.repeat(levels) + "{}" + &"}".repeat(levels);
    let long = |bytes| format!(r#"{{"description":"{}"}}"#, "x".repeat(bytes));
    for (value, param) in [
        (
            schema(r#"{"properties":{"a":{"not":{}}}}"#),
            "response_format.json_schema.schema.properties.a.not",
        ),
        (
            schema(r#"{"type":"array","uniqueItems":true}"#),
            "response_format.json_schema.schema.uniqueItems",
        ),
        (schema("7"), WHOLE),
        (schema(&long(SCHEMA_BYTES_MAX)), WHOLE),
        (schema(&nested(10_000)), WHOLE),
        (
            r#"{"type":"regex","pattern":"("}"#.to_owned(),
            "response_format.pattern",
        ),
    ] {
        let fault = format(&value).unwrap_err();
        let start: String = value.chars().take(80).collect();
        assert_eq!(fault.code, Code::InvalidSchema, "{start}: {fault:?}");
        assert_eq!(fault.param.as_deref(), Some(param), "{start}: {fault:?}");
        assert!(!fault.message.is_empty());
    }
    let deep = format(&schema(&nested(SCHEMA_LEVELS_MAX))).unwrap_err();
    assert_eq!(deep.code, Code::InvalidSchema);
    format(&schema(&long(SCHEMA_BYTES_MAX - 20))).unwrap();
}

#[test]
fn stop_strings_would_cut_it() {
    for (fields, preset, fits) in [
        (
            r#""stop":"x","response_format":{"type":"json_object"}"#,
            false,
            false,
        ),
        (
            r#""stop":[],"response_format":{"type":"json_object"}"#,
            false,
            true,
        ),
        (r#""stop":"x""#, true, false),
        (
            r#""stop":"x","response_format":{"type":"text"}"#,
            true,
            true,
        ),
        (r#""stop":"x""#, false, true),
    ] {
        let checked = with(fields).unwrap().check_stop(preset);
        assert_eq!(checked.is_ok(), fits, "{fields}");
        if let Err(fault) = checked {
            assert_eq!(fault.param.as_deref(), Some("stop"));
        }
    }
}
