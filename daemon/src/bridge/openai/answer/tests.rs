use super::*;
use proptest::prelude::*;

fn frame(seq: u64, delta: &Value) -> Value {
    json!({ "id": "i", "node": "n", "model": "m", "seq": seq, "object": "chat.completion.chunk",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
}

fn last(message: &Value, reason: &str) -> Value {
    json!({ "id": "i", "node": "n", "model": "m", "seq": 9, "object": "chat.completion",
        "choices": [{ "index": 0, "message": message, "finish_reason": reason }],
        "usage": { "total_tokens": 3 }, "timings": {} })
}

fn call(name: &str) -> Value {
    json!({ "id": name, "type": "function", "function": { "name": name, "arguments": "{\"a\":1}" } })
}

/// All chunks of these frames.
fn all(usage: bool, frames: &[Value]) -> Vec<Value> {
    let mut stream = Stream::new(7, usage);
    let mut chunks = Vec::new();
    for (n, frame) in frames.iter().enumerate() {
        let (more, ended) = stream.take(frame);
        assert_eq!(ended, n + 1 == frames.len());
        chunks.extend(more);
    }
    chunks
}

fn text(chunks: &[Value], field: &str) -> String {
    let part = |chunk: &Value| {
        chunk["choices"][0]["delta"][field]
            .as_str()
            .map(str::to_owned)
    };
    chunks.iter().filter_map(part).collect()
}

#[test]
fn a_stream_is_openais() {
    let message = json!({ "role": "assistant", "content": "ab" });
    let chunks = all(
        true,
        &[
            frame(0, &json!({ "role": "assistant", "content": "a" })),
            frame(1, &json!({ "content": "b" })),
            last(&message, "stop"),
        ],
    );
    let chunk = |choices: Value| {
        json!({ "id": "i", "object": "chat.completion.chunk", "created": 7, "model": "m",
            "choices": choices })
    };
    let piece = |delta: Value| json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    let mut count = chunk(json!([]));
    count["usage"] = json!({ "total_tokens": 3 });
    assert_eq!(
        chunks,
        [
            chunk(piece(json!({ "role": "assistant", "content": "a" }))),
            chunk(piece(json!({ "content": "b" }))),
            chunk(json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }])),
            count,
        ]
    );
}

#[test]
fn calls_are_pieces_and_then_comes_an_empty_one() {
    let mut first = call("f");
    first["index"] = json!(0);
    let message =
        json!({ "role": "assistant", "content": "", "tool_calls": [call("f"), call("g")] });
    // the second call's chunk was lost
    let chunks = all(
        false,
        &[
            frame(0, &json!({ "role": "assistant", "tool_calls": [first] })),
            last(&message, "tool_calls"),
        ],
    );
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    for (index, name) in ["f", "g"].iter().enumerate() {
        let calls = &chunks[index]["choices"][0]["delta"]["tool_calls"];
        let mut expected = call(name);
        expected["index"] = json!(index);
        assert_eq!(*calls, json!([expected]));
    }
    let end = json!({ "index": 0, "delta": {}, "finish_reason": "tool_calls" });
    assert_eq!(chunks[2]["choices"], json!([end]));
}

#[test]
fn without_a_chunk_the_final_frame_says_it_all() {
    let message = json!({ "role": "assistant", "content": "ab", "reasoning_content": "hm" });
    let chunks = all(false, &[last(&message, "length")]);
    let delta = json!({ "role": "assistant", "content": "ab", "reasoning_content": "hm" });
    assert_eq!(chunks[0]["choices"][0]["delta"], delta);
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], "length");
    // even nothing has its role
    let chunks = all(
        false,
        &[last(&json!({ "role": "assistant", "content": "" }), "stop")],
    );
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
}

#[test]
fn logprobs_belong_to_the_text_of_their_chunk() {
    let mut first = frame(0, &json!({ "content": "a" }));
    first["choices"][0]["logprobs"] = json!({ "content": [{ "token": "a" }] });
    let mut end = last(&json!({ "role": "assistant", "content": "abc" }), "stop");
    let tokens = json!([{ "token": "a" }, { "token": "b" }, { "token": "c" }]);
    end["choices"][0]["logprobs"] = json!({ "content": tokens });
    let chunks = all(false, &[first, end]);
    let rest = json!({ "content": [{ "token": "b" }, { "token": "c" }] });
    assert_eq!(chunks[1]["choices"][0]["logprobs"], rest);
    assert_eq!(text(&chunks, "content"), "abc");
}

#[test]
fn an_error_ends_a_stream_and_an_answer() {
    let error = json!({ "id": "i", "error": { "code": "superseded", "message": "m" } });
    let chunks = all(
        false,
        &[frame(0, &json!({ "content": "a" })), error.clone()],
    );
    assert_eq!(chunks[1]["error"]["code"], "superseded");
    assert_eq!(whole(error, 7).unwrap_err().status.as_u16(), 409);
    for (reason, status) in [("cancelled", 400), ("interrupted", 503), ("new", 503)] {
        let broken = last(&json!({ "role": "assistant", "content": "a" }), reason);
        assert_eq!(
            all(false, std::slice::from_ref(&broken))[0].get("choices"),
            None
        );
        assert_eq!(whole(broken, 7).unwrap_err().status.as_u16(), status);
    }
}

#[test]
fn a_whole_answer_is_openais() {
    let message = json!({ "role": "assistant", "content": "", "tool_calls": [call("f")] });
    let answer = whole(last(&message, "tool_calls"), 7).unwrap();
    assert_eq!(answer["created"], 7);
    assert_eq!(answer.get("seq"), None);
    let said = &answer["choices"][0]["message"];
    assert_eq!(
        (&said["content"], &said["tool_calls"]),
        (&Value::Null, &json!([call("f")]))
    );
    let answer = whole(last(&json!({ "content": "" }), "deadline_exceeded"), 7).unwrap();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("length"), &json!(""))
    );
}

proptest! {
    /// Whatever is lost or repeated on the way, a client reads the text once and whole, with one role and one reason.
    #[test]
    fn a_text_comes_through_whole(
        pieces in prop::collection::vec(("[a-zä€ ]{0,6}", "[a-z]{0,3}"), 0..12),
        fates in prop::collection::vec(0..4_u8, 12),
    ) {
        let (mut frames, mut content, mut reasoning) = (Vec::new(), String::new(), String::new());
        for (seq, ((said, thought), fate)) in (0..).zip(pieces.iter().zip(&fates)) {
            content.push_str(said);
            reasoning.push_str(thought);
            let mut delta = Map::new();
            for (name, text) in [("content", said), ("reasoning_content", thought)] {
                if !text.is_empty() {
                    delta.insert(name.to_owned(), json!(text));
                }
            }
            let frame = frame(seq, &Value::Object(delta));
            match fate {
                0 => {}
                1 => frames.extend([frame.clone(), frame]),
                _ => frames.push(frame),
            }
        }
        frames.push(last(&json!({ "content": content, "reasoning_content": reasoning }), "stop"));
        let chunks = all(false, &frames);
        prop_assert_eq!(text(&chunks, "content"), content);
        prop_assert_eq!(text(&chunks, "reasoning_content"), reasoning);
        prop_assert_eq!(text(&chunks, "role"), "assistant");
        prop_assert_eq!(text(&chunks[..1], "role"), "assistant");
        let reasons = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop");
        prop_assert_eq!(reasons.count(), 1);
    }
}
