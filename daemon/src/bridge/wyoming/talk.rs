//! What is said in Wyoming's events, both ways.

use serde_json::{Map, Value, json};

use super::event::{Event, encode};

/// An event to be sent, as bytes.
pub(super) type Reply = Vec<u8>;

/// The languages that Home Assistant may choose this service for. The models speak those of their training; which of them it
/// speaks well, nobody can ask it.
const LANGUAGES: [&str; 32] = [
    "ar", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id",
    "it", "ja", "ko", "nb", "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh",
];

/// The answer to `describe`. It does not wait for the daemon: Home Assistant waits for one second.
pub(super) fn info(info: Option<&Value>) -> Reply {
    let name = info.and_then(|info| info["model"]["name"].as_str());
    let attribution = json!({ "name": "glowplug", "url": "" });
    let version = env!("CARGO_PKG_VERSION");
    let program = json!({
        "name": "glowplug",
        "attribution": attribution,
        "installed": true,
        "description": "A small language model on a board of your own",
        "version": version,
        "supports_handled_streaming": false,
        "supports_home_control": false,
        "models": [{
            "name": name.unwrap_or("glowplug"),
            "attribution": attribution,
            "installed": true,
            "description": name.unwrap_or("The model that the daemon serves"),
            "version": version,
            "languages": LANGUAGES,
        }],
    });
    let none: [Value; 0] = [];
    let mut data = json!({ "handle": [program] });
    for kind in ["asr", "tts", "intent", "wake", "mic", "snd"] {
        data[kind] = json!(none);
    }
    encode("info", &data)
}

/// The answer to `ping`.
pub(super) fn pong(ping: &Event) -> Reply {
    encode("pong", &json!({ "text": ping.data.get("text") }))
}

/// An error, which has a code of the protocol.
pub(super) fn error(code: &str, text: &str) -> Reply {
    encode("error", &json!({ "text": text, "code": code }))
}

/// What a transcript asks of the daemon, or the answer if it asks nothing.
pub(super) fn request(
    transcript: &Event,
    defaults: &Map<String, Value>,
) -> Result<Map<String, Value>, Reply> {
    let text = transcript.data.get("text").and_then(Value::as_str);
    let text = text.map_or("", str::trim);
    if text.is_empty() {
        return Err(not_handled("Nothing was said."));
    }
    let mut request = defaults.clone();
    let message = json!({ "role": "user", "content": text });
    request.insert("messages".to_owned(), json!([message]));
    request.insert("stream".to_owned(), json!(false));
    // as it is spoken, without marks of Markdown
    request.insert("chunk".to_owned(), json!("sentence"));
    Ok(request)
}

/// Which conversation a transcript belongs to.
pub(super) fn conversation(transcript: &Event) -> Option<&str> {
    let context = transcript.data.get("context")?;
    context["conversation_id"]
        .as_str()
        .filter(|id| !id.is_empty())
}

/// The answer that the last frame of a request gives.
pub(super) fn reply(frame: &Value) -> Reply {
    if let Some(fault) = frame.get("error") {
        let text = |name: &str| fault[name].as_str().unwrap_or("internal");
        return error(text("code"), text("message"));
    }
    let choice = &frame["choices"][0];
    let text = choice["message"]["content"]
        .as_str()
        .unwrap_or_default()
        .trim();
    match choice["finish_reason"].as_str() {
        Some("stop" | "length" | "deadline_exceeded") if !text.is_empty() => {
            encode("handled", &json!({ "text": text }))
        }
        Some("stop" | "length" | "deadline_exceeded" | "tool_calls") => {
            not_handled("The model has no answer.")
        }
        Some(reason @ "cancelled") => error(reason, "The answer was cancelled."),
        _ => error("interrupted", "The answer was broken off."),
    }
}

fn not_handled(text: &str) -> Reply {
    encode("not-handled", &json!({ "text": text }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::event::Decoder;
    use super::*;

    fn event(bytes: &[u8]) -> Event {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        decoder.event().unwrap().unwrap()
    }

    fn transcript(data: &Value) -> Event {
        event(&encode("transcript", data))
    }

    #[test]
    fn a_transcript_is_a_question() {
        let said =
            json!({ "text": " hi ", "language": "de", "context": { "conversation_id": "c" } });
        let defaults = json!({ "thinking": false });
        let asked = request(&transcript(&said), defaults.as_object().unwrap()).unwrap();
        let expected = json!({ "thinking": false, "messages": [{ "role": "user", "content": "hi" }],
            "stream": false, "chunk": "sentence" });
        assert_eq!(Value::Object(asked), expected);
        assert_eq!(conversation(&transcript(&said)), Some("c"));
        for silent in [
            json!({}),
            json!({ "text": 7 }),
            json!({ "text": " " }),
            json!({ "text": "", "context": 1 }),
        ] {
            let silent = transcript(&silent);
            assert_eq!(
                event(&request(&silent, &Map::new()).unwrap_err()).kind,
                "not-handled"
            );
            assert_eq!(conversation(&silent), None);
        }
    }

    #[test]
    fn a_frame_is_an_answer() {
        let last = |reason: &str, text: &str| json!({ "choices": [{ "message": { "content": text }, "finish_reason": reason }] });
        let table = [
            (last("stop", " yes\n"), "handled", Some("yes")),
            (last("length", "ye"), "handled", Some("ye")),
            (last("stop", " "), "not-handled", None),
            (last("tool_calls", ""), "not-handled", None),
            (last("cancelled", "y"), "error", None),
            (last("interrupted", "y"), "error", None),
            (json!(null), "error", None),
            (
                json!({ "error": { "code": "overloaded", "message": "full" } }),
                "error",
                Some("full"),
            ),
        ];
        for (frame, kind, text) in table {
            let answer = event(&reply(&frame));
            assert_eq!(answer.kind, kind, "{frame}");
            assert!(
                text.is_none_or(|text| answer.data["text"] == text),
                "{frame}: {answer:?}"
            );
            assert_eq!(answer.data.contains_key("code"), kind == "error", "{frame}");
        }
    }

    #[test]
    fn the_model_is_named_where_it_is_known() {
        let unknown = event(&info(None));
        assert_eq!(unknown.data["handle"][0]["models"][0]["name"], "glowplug");
        let known = event(&info(Some(&json!({ "model": { "name": "Smol" } }))));
        assert_eq!(known.data["handle"][0]["models"][0]["name"], "Smol");
        assert_eq!(known.data["asr"], json!([]));
    }
}
