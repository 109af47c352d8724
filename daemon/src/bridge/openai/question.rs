//! The body of OpenAI's chat completion, made a chat request of the daemon.

use serde_json::{Map, Value, json};

use super::fault::Fault;

/// A request, and what its answer has to look like.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) request: Map<String, Value>,
    /// Whether the answer comes in pieces.
    pub(super) stream: bool,
    /// Whether the last piece says how many tokens there were.
    pub(super) usage: bool,
}

/// Reads a body. What is in it is the daemon's to judge; `defaults` fills in what it does not say.
pub(super) fn question(body: &[u8], defaults: &Map<String, Value>) -> Result<Question, Fault> {
    let mut request = match serde_json::from_slice(body) {
        Ok(Value::Object(request)) => request,
        Ok(_) => return Err(Fault::invalid("", "the body must be a JSON object")),
        Err(why) => return Err(Fault::invalid("", &format!("the body is not JSON: {why}"))),
    };
    let stream = match request.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(Fault::invalid("stream", "must be a boolean")),
    };
    // over MQTT an answer comes in pieces unless it is asked not to
    request.insert("stream".to_owned(), json!(stream));
    let usage = match request.remove("stream_options") {
        None | Some(Value::Null) => false,
        Some(Value::Object(options)) => options.get("include_usage") == Some(&json!(true)),
        Some(_) => return Err(Fault::invalid("stream_options", "must be an object")),
    };
    for (field, value) in defaults {
        request
            .entry(field.clone())
            .or_insert_with(|| value.clone());
    }
    Ok(Question {
        request,
        stream,
        usage,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_body_goes_on_as_it_is() {
        let body = r#"{"zebra":1,"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"properties":{"z":{},"a":{},"m":{}}}}},"stream":null,"stream_options":{"include_usage":true}}"#;
        let defaults = json!({ "thinking": false, "zebra": 2 });
        let asked = question(body.as_bytes(), defaults.as_object().unwrap()).unwrap();
        assert!(!asked.stream && asked.usage);
        // the order of a schema's properties is that of its answers
        let expected = r#"{"zebra":1,"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"schema":{"properties":{"z":{},"a":{},"m":{}}}}},"stream":false,"thinking":false}"#;
        assert_eq!(Value::Object(asked.request).to_string(), expected);
        let streamed = question(br#"{"stream":true,"stream_options":null}"#, &Map::new()).unwrap();
        assert!(streamed.stream && !streamed.usage);
    }

    #[test]
    fn what_cannot_go_on_is_refused_with_its_name() {
        for (body, param) in [
            ("", None),
            ("[]", None),
            ("{\"stream\":1}", Some("stream")),
            ("{\"stream_options\":true}", Some("stream_options")),
            ("{\"a\":1}}", None),
        ] {
            let fault = question(body.as_bytes(), &Map::new()).unwrap_err();
            assert_eq!(
                (fault.status.as_u16(), fault.param.as_deref()),
                (400, param),
                "{body}"
            );
        }
    }
}
