//! `glowplug ask TEXT`: one question to a running daemon.

use super::Target;
use super::print;
use crate::cli::client_runtime;
use crate::cli::failure::{Failure, put_json};
use crate::cli::schema::Schema;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Ask a running daemon over MQTT
#[derive(clap::Args)]
pub(crate) struct Args {
    /// the question to ask the model
    text: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    manner: Manner,
    /// whose turn it is first [default: normal]
    #[arg(long, value_name = "urgent|normal|background", value_parser = ["urgent", "normal", "background"])]
    priority: Option<String>,
    /// hold the answer to the JSON schema in this file
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// print the final frame as JSON instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// How a conversation is had
#[derive(Default, clap::Args)]
pub(crate) struct Manner {
    /// a named conversation: the daemon keeps its history for this client, also after the end of this program
    #[arg(long, value_name = "NAME")]
    pub(crate) session: Option<String>,
    #[command(flatten)]
    assistant: Assistant,
}

/// What answers are like
#[derive(Default, clap::Args)]
pub(crate) struct Assistant {
    /// one of the presets that the daemon's configuration has for this client
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// let the model answer without a thought
    #[arg(long)]
    no_thinking: bool,
}

impl Assistant {
    /// The fields of a request that say it.
    pub(crate) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        if self.no_thinking {
            fields.insert("thinking".to_owned(), json!(false));
        }
        if let Some(preset) = &self.preset {
            fields.insert("preset".to_owned(), json!(preset));
        }
        fields
    }
}

/// Asks the question and prints the answer.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let schema = args.schema.as_deref().map(Schema::read).transpose()?;
    let format = schema.map(|schema| schema.response_format()).transpose()?;
    client_runtime()?.block_on(async {
        let mut client = args.target.connect(args.manner.session.as_deref())?;
        client.ready(None).await?;
        let mut request = request(&[turn("user", &args.text)], &args.manner, !args.json);
        if let Some(priority) = &args.priority {
            request["priority"] = json!(priority);
        }
        if let Some(format) = format {
            request["response_format"] = format;
        }
        let frame = if args.json {
            let reply = client
                .exchange(request, &mut |_| Ok(()))
                .await?
                .into_final()?;
            put_json(&reply)?;
            reply
        } else {
            print::stream(&mut client, request).await?
        };
        client.close().await;
        match frame["choices"][0]["finish_reason"].as_str() {
            Some("stop" | "length") => Ok(()),
            other => Err(Failure::Run(format!(
                "the answer ended early: {}",
                other.unwrap_or("no reason given")
            ))),
        }
    })
}

/// Builds a chat request from a whole conversation, or from what is new in a session.
pub(crate) fn request(messages: &[Value], manner: &Manner, stream: bool) -> Value {
    let mut request = manner.assistant.fields();
    if let Some(session) = &manner.session {
        request.insert("session".to_owned(), json!(session));
    }
    request.insert("messages".to_owned(), json!(messages));
    request.insert("stream".to_owned(), json!(stream));
    Value::Object(request)
}

/// Builds one message of a conversation.
pub(crate) fn turn(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_only_what_was_chosen() {
        let messages = [turn("user", "hi \"you\"")];
        assert_eq!(
            request(&messages, &Manner::default(), true),
            json!({"messages": [{"role": "user", "content": "hi \"you\""}], "stream": true})
        );
        let manner = Manner {
            session: Some("s".into()),
            assistant: Assistant {
                preset: Some("p".into()),
                no_thinking: true,
            },
        };
        let request = request(&messages, &manner, false);
        assert_eq!(
            (
                &request["thinking"],
                &request["session"],
                &request["preset"]
            ),
            (&json!(false), &json!("s"), &json!("p"))
        );
    }
}
