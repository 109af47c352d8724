//! The daemon's frames, made OpenAI's objects: chunks of a stream, or one whole answer.
//!
//! A final frame repeats the whole text. What of it was in no chunk, because chunks were lost on the way or their reader was
//! slow, goes out as one more.

use serde_json::{Map, Value, json};

use hyper::StatusCode;

use super::fault::Fault;

/// What the next chunk of a stream is made of, and how far it has come.
pub(super) struct Stream {
    /// Unix time in seconds, the same in every chunk.
    created: u64,
    /// Whether the tokens are counted in a chunk of their own at the end.
    usage: bool,
    /// The `seq` of the frame that joins what was sent. None after a gap.
    due: Option<u64>,
    begun: bool,
    /// Bytes of the text and of the thought that were sent.
    content: usize,
    reasoning: usize,
    /// How many calls of tools, and log-probabilities of tokens.
    calls: usize,
    tokens: usize,
}

impl Stream {
    pub(super) fn new(created: u64, usage: bool) -> Self {
        Self {
            created,
            usage,
            due: Some(0),
            begun: false,
            content: 0,
            reasoning: 0,
            calls: 0,
            tokens: 0,
        }
    }

    /// The chunks that a frame gives; true with those of the last one.
    pub(super) fn take(&mut self, frame: &Value) -> (Vec<Value>, bool) {
        if let Some(error) = frame.get("error") {
            return (vec![Fault::of_frame(error).body()], true);
        }
        if frame["object"] == "chat.completion" {
            return (self.last(frame), true);
        }
        match (frame["seq"].as_u64(), self.due) {
            (Some(seq), Some(due)) if seq == due => self.due = Some(due + 1),
            // the broker sent this one again
            (Some(seq), Some(due)) if seq < due => return (Vec::new(), false),
            _ => {
                self.due = None;
                return (Vec::new(), false);
            }
        }
        let choice = &frame["choices"][0];
        // a frame about a tool that the daemon runs itself has no text
        let (Some(delta), logprobs) = (choice["delta"].as_object(), &choice["logprobs"]) else {
            return (Vec::new(), false);
        };
        if delta.is_empty() && logprobs.is_null() {
            return (Vec::new(), false);
        }
        (
            vec![self.piece(frame, delta.clone(), logprobs.clone())],
            false,
        )
    }

    /// What was not sent yet, the reason of the end, and the count.
    fn last(&mut self, frame: &Value) -> Vec<Value> {
        let reason = match finish(frame) {
            Ok(reason) => reason,
            Err(fault) => return vec![fault.body()],
        };
        let choice = &frame["choices"][0];
        let message = &choice["message"];
        let mut rest = Map::new();
        for (name, sent) in [
            ("content", self.content),
            ("reasoning_content", self.reasoning),
        ] {
            let whole = message[name].as_str().unwrap_or_default();
            match whole.get(sent..) {
                Some(text) if !text.is_empty() => {
                    rest.insert(name.to_owned(), json!(text));
                }
                _ => {}
            }
        }
        let calls = message["tool_calls"].as_array();
        let calls = calls.into_iter().flatten().enumerate().skip(self.calls);
        let calls: Vec<Value> = calls.map(|(index, call)| indexed(index, call)).collect();
        if !calls.is_empty() {
            rest.insert("tool_calls".to_owned(), json!(calls));
        }
        let tokens = choice["logprobs"]["content"].as_array();
        let tokens: Vec<&Value> = tokens.into_iter().flatten().skip(self.tokens).collect();
        let logprobs = match tokens.len() {
            0 => Value::Null,
            _ => json!({ "content": tokens }),
        };
        let mut chunks = Vec::new();
        if !rest.is_empty() || !logprobs.is_null() || !self.begun {
            chunks.push(self.piece(frame, rest, logprobs));
        }
        let end = json!({ "index": 0, "delta": {}, "finish_reason": reason });
        chunks.push(self.chunk(frame, json!([end])));
        if self.usage {
            let mut count = self.chunk(frame, json!([]));
            count["usage"] = frame["usage"].clone();
            chunks.push(count);
        }
        chunks
    }

    /// A chunk with new text. The first one says whose it is.
    fn piece(&mut self, frame: &Value, mut delta: Map<String, Value>, logprobs: Value) -> Value {
        if !self.begun {
            delta.insert("role".to_owned(), json!("assistant"));
            delta.entry("content").or_insert_with(|| json!(""));
            self.begun = true;
        }
        let length = |name: &str| delta.get(name).and_then(Value::as_str).map_or(0, str::len);
        self.content += length("content");
        self.reasoning += length("reasoning_content");
        let many = |list: Option<&Value>| list.and_then(Value::as_array).map_or(0, Vec::len);
        self.calls += many(delta.get("tool_calls"));
        self.tokens += many(logprobs.get("content"));
        let mut choice = json!({ "index": 0, "delta": delta, "finish_reason": null });
        if !logprobs.is_null() {
            choice["logprobs"] = logprobs;
        }
        self.chunk(frame, json!([choice]))
    }

    fn chunk(&self, frame: &Value, choices: Value) -> Value {
        let mut chunk = json!({
            "id": frame["id"],
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": frame["model"],
        });
        chunk["choices"] = choices;
        chunk
    }
}

/// A call as a chunk has it.
fn indexed(index: usize, call: &Value) -> Value {
    let mut call = call.clone();
    call["index"] = json!(index);
    call
}

/// A final frame as OpenAI's whole answer. What else the frame says (`timings`, `ignored`) stays.
pub(super) fn whole(mut frame: Value, created: u64) -> Result<Value, Fault> {
    if let Some(error) = frame.get("error") {
        return Err(Fault::of_frame(error));
    }
    let reason = finish(&frame)?;
    if let Some(fields) = frame.as_object_mut() {
        fields.remove("seq");
    }
    frame["created"] = json!(created);
    let choice = &mut frame["choices"][0];
    choice["finish_reason"] = json!(reason);
    let message = &mut choice["message"];
    if message["content"] == "" && message.get("tool_calls").is_some() {
        message["content"] = Value::Null;
    }
    Ok(frame)
}

/// Why an answer ended, in OpenAI's words. An answer that was broken off is none.
fn finish(frame: &Value) -> Result<&'static str, Fault> {
    let broken = |status, code: &str, why: &str| Err(Fault::new(status, code, why));
    match frame["choices"][0]["finish_reason"].as_str() {
        Some("stop") => Ok("stop"),
        Some("tool_calls") => Ok("tool_calls"),
        // `deadline_ms` is a limit that the request had asked for
        Some("length" | "deadline_exceeded") => Ok("length"),
        Some("cancelled") => broken(
            StatusCode::BAD_REQUEST,
            "cancelled",
            "the answer was cancelled over MQTT",
        ),
        _ => broken(
            StatusCode::SERVICE_UNAVAILABLE,
            "interrupted",
            "the daemon stopped before the end of the answer",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
