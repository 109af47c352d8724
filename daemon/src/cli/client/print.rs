//! Prints an answer as it comes over MQTT: the text on stdout, thoughts on stderr.

use super::{Client, Reply};
use crate::cli::failure::{Failure, put};
use serde_json::Value;
use std::io::{self, Write};

/// Sends a request, streams its answer and prints a line for each call of a tool. Returns the final frame.
pub(crate) async fn stream(client: &mut Client, request: Value) -> Result<Value, Failure> {
    let mut printer = Printer::default();
    let reply = client
        .exchange(request, &mut |delta| printer.delta(delta))
        .await;
    if !matches!(reply, Ok(Reply::Final(_))) {
        printer.end_line()?;
    }
    let frame = reply?.into_final()?;
    printer.rest(
        frame["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default(),
    )?;
    printer.end_line()?;
    let calls = frame["choices"][0]["message"]["tool_calls"].as_array();
    for call in calls.into_iter().flatten() {
        let text = |key: &str| call["function"][key].as_str().unwrap_or_default();
        put(&format!("call: {} {}\n", text("name"), text("arguments")))?;
    }
    Ok(frame)
}

/// One line with figures about a final frame, for stderr.
pub(crate) fn figures(frame: &Value) -> String {
    let (usage, timings) = (&frame["usage"], &frame["timings"]);
    format!(
        "{} tokens of prompt, first token after {:.0} ms, {} tokens at {:.1} tokens/s",
        usage["prompt_tokens"],
        timings["first_token_ms"].as_f64().unwrap_or_default(),
        usage["completion_tokens"],
        timings["predicted_per_second"].as_f64().unwrap_or_default(),
    )
}

#[derive(Default)]
struct Printer {
    shown: String,
}

impl Printer {
    fn delta(&mut self, delta: &Value) -> Result<(), Failure> {
        if let Some(thought) = delta["reasoning_content"].as_str() {
            // stderr may be closed, and a thought is not the result
            let _ = io::stderr().write_all(thought.as_bytes());
        }
        match delta["content"].as_str() {
            Some(text) => {
                self.shown.push_str(text);
                put(text)
            }
            None => Ok(()),
        }
    }

    /// Prints what the whole text has and the chunks so far did not have.
    fn rest(&mut self, whole: &str) -> Result<(), Failure> {
        let rest = whole.strip_prefix(self.shown.as_str()).unwrap_or_default();
        put(rest)?;
        self.shown.push_str(rest);
        Ok(())
    }

    fn end_line(&self) -> Result<(), Failure> {
        if self.shown.is_empty() || self.shown.ends_with('\n') {
            Ok(())
        } else {
            put("\n")
        }
    }
}
