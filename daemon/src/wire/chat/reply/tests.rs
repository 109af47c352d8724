use super::*;
use crate::wire::fault::Code;
use glowplug_tests::world::contract::CONTRACT;

const ENVELOPE: Envelope<'_> = Envelope {
    id: "a",
    node: "n",
    model: "m",
    seq: 3,
};

#[test]
fn instead_of_a_frame_there_is_whom_it_is_for_and_an_error() {
    let fault = Fault::new(Code::Internal, "too long");
    let long = "x".repeat(10_000);
    for frame in [
        json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion", "choices": [&long]}),
        json!({"client": "c", "session": "s", "verb": "save", "ok": true, "text": &long}),
        json!({"transaction": 7, "stats": {"text": &long}}),
    ] {
        let mut small = value(&instead(&encode(&frame), &fault));
        assert_eq!(small["error"]["code"], "internal");
        small.as_object_mut().unwrap().remove("error");
        assert!(small.to_string().len() < 60);
        for (name, value) in small.as_object().unwrap() {
            assert_eq!(frame[name], *value);
        }
    }
    let broken = value(&instead(b"no JSON", &fault));
    assert_eq!(broken["error"]["message"], "too long");
}

fn value(frame: &Bytes) -> Value {
    serde_json::from_slice(frame).unwrap()
}

#[test]
fn a_chunk() {
    let delta = Delta {
        role: Some("assistant"),
        content: "hé\"",
        ..Delta::default()
    };
    assert_eq!(
        value(&chunk(ENVELOPE, delta, None, None)),
        json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hé\""}, "finish_reason": null}]})
    );
    let event = ToolEvent::ToolCall {
        id: "1".to_owned(),
        name: "lamp".to_owned(),
        arguments: "{}".to_owned(),
    };
    assert_eq!(
        value(&chunk(ENVELOPE, Delta::default(), None, Some(&event))),
        json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {}, "finish_reason": null}],
            "tool_call": {"id": "1", "name": "lamp", "arguments": "{}"}})
    );
    let thought = Delta {
        reasoning_content: "hm",
        ..Delta::default()
    };
    assert_eq!(
        value(&chunk(ENVELOPE, thought, None, None))["choices"][0]["delta"],
        json!({"reasoning_content": "hm"})
    );
}

#[test]
fn the_last_frame() {
    let outcome = Outcome {
        finish: Finish::Stop,
        prompt_tokens: 9,
        cached_tokens: 4,
        completion_tokens: 5,
        reasoning_tokens: 2,
        forgotten_messages: 3,
    };
    let timings = Timings {
        queue_ms: 1.0,
        prompt_ms: 2.0,
        first_token_ms: 3.0,
        predicted_ms: 4.0,
        predicted_per_second: 5.0,
    };
    let answer = Answer {
        content: "42",
        reasoning: "hm",
        logprobs: None,
        calls: &[],
        runs: &[],
        outcome: &outcome,
        timings,
        ignored: &["user"],
        fingerprint: Some("ab12"),
    };
    assert_eq!(
        value(&last(ENVELOPE, &answer)),
        json!({"id": "a", "node": "n", "model": "m", "seq": 3, "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "42", "reasoning_content": "hm"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,
                "prompt_tokens_details": {"cached_tokens": 4, "forgotten_messages": 3}, "completion_tokens_details": {"reasoning_tokens": 2}},
            "timings": {"queue_ms": 1.0, "prompt_ms": 2.0, "first_token_ms": 3.0, "predicted_ms": 4.0, "predicted_per_second": 5.0},
            "ignored": ["user"], "system_fingerprint": "ab12"})
    );
    let bare = value(&last(
        ENVELOPE,
        &Answer {
            reasoning: "",
            ignored: &[],
            fingerprint: None,
            ..answer
        },
    ));
    assert!(
        bare.get("ignored").is_none()
            && bare["choices"][0]["message"]
                .get("reasoning_content")
                .is_none()
    );
}

#[test]
fn calls_are_openais() {
    let call = ToolCall {
        id: "call_1".into(),
        name: "light".into(),
        arguments: r#"{"on": true}"#.into(),
    };
    let delta = Delta {
        tool_calls: Some([Call::in_chunk(2, &call)]),
        ..Delta::default()
    };
    let function = json!({"name": "light", "arguments": "{\"on\": true}"});
    assert_eq!(
        value(&chunk(ENVELOPE, delta, None, None))["choices"][0]["delta"],
        json!({"tool_calls": [{"index": 2, "id": "call_1", "type": "function", "function": function}]})
    );
    let calls = [call];
    for (finish, reason) in [
        (Finish::Stop, "tool_calls"),
        // its tokens ended behind these calls, which are complete
        (Finish::Length, "tool_calls"),
        (Finish::Cancelled, "cancelled"),
    ] {
        let answer = Answer {
            content: "",
            reasoning: "",
            logprobs: None,
            calls: &calls,
            runs: &[],
            outcome: &crate::inference::messages::unheard(finish),
            timings: Timings::default(),
            ignored: &[],
            fingerprint: None,
        };
        assert_eq!(
            value(&last(ENVELOPE, &answer))["choices"][0],
            json!({"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": "",
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}})
        );
    }
    assert_eq!(
        no_text(Finish::Stop, &calls),
        "error: tool_calls: no answer: the model calls a tool, which plain text cannot say"
    );
}

#[test]
fn logprobs_are_openais() {
    let t = TokenLogprob {
        token: "h".into(),
        bytes: vec![104],
        logprob: -0.5,
        top: vec![("i".into(), vec![105], -1.0)],
    };
    let frame = value(&chunk(
        ENVELOPE,
        Delta {
            content: "h",
            ..Delta::default()
        },
        Some(&[t]),
        None,
    ));
    assert_eq!(
        frame["choices"][0]["logprobs"],
        json!({"content": [{"token": "h", "logprob": -0.5, "bytes": [104],
            "top_logprobs": [{"token": "i", "logprob": -1.0, "bytes": [105]}]}]})
    );
}

#[test]
fn an_error() {
    let fault = Fault::invalid("top_k", "no").retry_after(7);
    assert_eq!(
        value(&error(ENVELOPE, &fault)),
        json!({"id": "a", "node": "n", "model": "m", "seq": 3,
            "error": {"code": "invalid_request", "message": "no", "param": "top_k", "retry_after_ms": 7}})
    );
    assert_eq!(
        value(&error(ENVELOPE, &Fault::new(Code::Internal, "x")))["error"],
        json!({"code": "internal", "message": "x"})
    );
    assert_eq!(
        error_text(&Fault::new(Code::Draining, "bye")),
        "error: draining: bye"
    );
}

/// Frames with all that a frame can have: nothing else is written, and the document tells of nothing else.
#[test]
fn the_document_tells_of_every_frame() {
    let call = ToolCall {
        id: "call_1".into(),
        name: "light".into(),
        arguments: "{}".into(),
    };
    let logprob = [TokenLogprob {
        token: "h".into(),
        bytes: vec![104],
        logprob: -0.5,
        top: vec![("i".into(), vec![105], -1.0)],
    }];
    let delta = Delta {
        role: Some("assistant"),
        content: "h",
        reasoning_content: "hm",
        tool_calls: Some([Call::in_chunk(0, &call)]),
    };
    let event = |event| {
        let delta = Delta {
            role: Some("assistant"),
            ..Delta::default()
        };
        value(&chunk(ENVELOPE, delta, None, Some(&event)))
    };
    let (id, name, arguments) = ("a".to_owned(), "light".to_owned(), "{}".to_owned());
    let content = "on".to_owned();
    CONTRACT.wrote(
        "ChatChunk",
        &[
            value(&chunk(ENVELOPE, delta, Some(&logprob), None)),
            value(&chunk(ENVELOPE, Delta::default(), None, None)),
            event(ToolEvent::ToolCall {
                id: id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
            }),
            event(ToolEvent::ToolResult {
                id: id.clone(),
                content: content.clone(),
                ms: 7,
            }),
        ],
    );

    let run = ToolRun {
        id,
        name,
        arguments,
        content,
        ms: 7,
    };
    let calls = [call];
    let mut finals = Vec::new();
    for (finish, calls) in [
        (Finish::Stop, &calls[..]),
        (Finish::Stop, &[]),
        (Finish::Length, &[]),
        (Finish::Cancelled, &[]),
        (Finish::DeadlineExceeded, &[]),
        (Finish::Interrupted, &[]),
    ] {
        let outcome = Outcome {
            forgotten_messages: 1,
            ..crate::inference::messages::unheard(finish)
        };
        let answer = Answer {
            content: "h",
            reasoning: "hm",
            logprobs: Some(&logprob),
            calls,
            runs: std::slice::from_ref(&run),
            outcome: &outcome,
            timings: Timings::default(),
            ignored: &["user"],
            fingerprint: Some("ab12"),
        };
        finals.push(value(&last(ENVELOPE, &answer)));
    }
    CONTRACT.wrote("ChatFinal", &finals);

    let errors = Code::ALL.map(|code| {
        let param = Some("top_k".to_owned());
        let fault = Fault::new(code, "no").retry_after(7);
        value(&error(ENVELOPE, &Fault { param, ..fault }))
    });
    CONTRACT.wrote("ChatError", &errors);
    let instead = instead(&encode(&finals[0]), &Fault::new(Code::Internal, "too long"));
    CONTRACT.fits("ChatError", &value(&instead)).unwrap();
}
