//! `glowplug ask TEXT`: one question to a running daemon.

use super::client::Target;
use super::failure::{Failure, put_json};
use super::{client_runtime, print};
use serde_json::{Value, json};

/// Ask a running daemon over MQTT
#[derive(clap::Args)]
pub(crate) struct Args {
    /// the question
    text: String,
    #[command(flatten)]
    target: Target,
    /// let the model answer without a thought
    #[arg(long)]
    no_thinking: bool,
    /// print the final frame as JSON instead of the text as it comes
    #[arg(long)]
    json: bool,
}

/// Connects, asks, prints.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    client_runtime()?.block_on(async {
        let mut client = args.target.connect()?;
        client.ready(None).await?;
        let request = request(&[turn("user", &args.text)], args.no_thinking, !args.json);
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

/// A chat request over a whole conversation.
pub(crate) fn request(messages: &[Value], no_thinking: bool, stream: bool) -> Value {
    let mut request = json!({ "messages": messages, "stream": stream });
    if no_thinking {
        request["thinking"] = json!(false);
    }
    request
}

/// One message of a conversation.
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
            request(&messages, false, true).to_string(),
            r#"{"messages":[{"content":"hi \"you\"","role":"user"}],"stream":true}"#
        );
        assert_eq!(request(&messages, true, false)["thinking"], json!(false));
    }
}
