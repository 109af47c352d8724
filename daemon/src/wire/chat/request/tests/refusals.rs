//! Bodies that are refused, each with the field at fault.

use super::*;

#[test]
fn refusals_name_the_field() {
    let table = [
        (r#""temprature":1"#, "temprature"),
        (r#""session":"""#, "session"),
        (r#""session":"a/b""#, "session"),
        (r#""session":"a b""#, "session"),
        (r#""session":"+""#, "session"),
        (r#""session":3"#, "session"),
        (r#""chunk":"word""#, "chunk"),
        (r#""chunk":"sentence","logprobs":true"#, "logprobs"),
        (r#""preset":"a b""#, "preset"),
        (r#""priority":"high""#, "priority"),
        (r#""priority":1"#, "priority"),
        (r#""tools":[{"type":"function"}]"#, "tools[0]"),
        (r#""tool_choice":"required""#, "tool_choice"),
        // an array for an object, and an object for a word
        (r#""tools":[["function",["f",null,null,null]]]"#, "tools[0]"),
        (
            r#""tools":[{"type":"function","function":["f",null,null,null]}]"#,
            "tools[0]",
        ),
        (
            r#""tool_choice":{"type":"function","function":["f"]}"#,
            "tool_choice",
        ),
        (r#""priority":{"urgent":null}"#, "priority"),
        (
            r#""response_format":{"type":{"text":null}}"#,
            "response_format",
        ),
        (r#""functions":[{"name":"f"}]"#, "functions"),
        (r#""function_call":"auto""#, "function_call"),
        (r#""function_call":[]"#, "function_call"),
        (r#""schema_in_prompt":"yes""#, "schema_in_prompt"),
        (r#""n":2"#, "n"),
        (r#""temperature":2.1"#, "temperature"),
        // it would be rounded to 2
        (r#""temperature":2.00000001"#, "temperature"),
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
            r#"{"messages":[{"role":{"user":null},"content":"x"}]}"#,
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
            "messages[0].tool_calls[0]",
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
