//! `glowplug prompt MODEL`: what the model is really given. It needs the template and the vocabulary of the file, and no tensor.

use super::{open, stdin};
use crate::cli::config::sources;
use crate::cli::failure::{Failure, put, put_json};
use crate::config::Preset;
use crate::wire::chat::request::{ChatDefaults, ChatRequest, parse_chat};
use glowplug_model::engine::Thinking;
use glowplug_model::text::{ChatTemplate, Tokenizer, conversation, described};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Most bytes of stdin that are read: the largest request that a daemon may be configured to take.
const STDIN_MAX: u64 = glowplug_firmware_config::limits::PAYLOAD_MAX as u64;

/// What the model is really given: messages or a chat request as JSON on stdin, the prompt on stdout
#[derive(clap::Args)]
pub(crate) struct Args {
    /// path of a GGUF file, or a name of the catalogue
    model: String,
    /// print the token ids instead, as a JSON list
    #[arg(long)]
    ids: bool,
    /// where a `preset` of the request is [default: /etc/glowplug/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Reads a conversation from stdin and prints its prompt.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let gguf = open(&args.model)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_gguf(&gguf)?;
    let chat = chat(&stdin(std::io::stdin().lock(), STDIN_MAX)?)?;
    let preset = chat.preset.as_ref();
    let preset = preset.map(|name| preset_of(args.config.as_deref(), name));
    let preset = preset.transpose()?;
    let format = match chat.format {
        Some(format) => format.format(),
        None => preset.as_ref().and_then(|preset| preset.format.clone()),
    };
    let mut messages = chat.messages;
    if let Some(format) = format.filter(|_| chat.schema_in_prompt) {
        messages = described(&messages, &format);
    }
    if let Some(system) = preset.and_then(|preset| preset.system()) {
        messages = conversation(&system, &messages);
    }
    let thinking = chat.thinking.is_none_or(|thinking| thinking.enabled);
    if args.ids {
        let prompt = template.prompt(&tokenizer, &messages, &[], thinking)?;
        return put_json(&json!(prompt.tokens));
    }
    put(&template.text(&tokenizer, &messages, thinking)?)
}

/// Reads a list of messages, or a whole request as a daemon takes it.
fn chat(stdin: &[u8]) -> Result<ChatRequest, Failure> {
    let list = stdin.trim_ascii_start().starts_with(b"[");
    let body = if list {
        [b"{\"messages\":", stdin, b"}"].concat()
    } else {
        stdin.to_vec()
    };
    let defaults = ChatDefaults {
        max_tokens: 1,
        thinking: Thinking {
            enabled: true,
            ..Thinking::default()
        },
    };
    parse_chat(&body, &defaults).map_err(|(fault, _)| {
        let field = fault
            .param
            .map_or(String::new(), |field| format!("`{field}` "));
        Failure::Use(format!("stdin: {field}{}", fault.message))
    })
}

/// A preset of this machine's configuration.
fn preset_of(file: Option<&Path>, name: &str) -> Result<Preset, Failure> {
    let config = sources::finish(sources::load(file, None)?, None)?;
    let preset = config.presets.into_iter().find(|p| p.name == name);
    preset.ok_or_else(|| Failure::Use(format!("the configuration has no preset `{name}`")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_alone_are_a_request_too() {
        let list = r#" [{"role":"user","content":"hi"}]"#;
        let whole = format!(r#"{{"messages":{list},"thinking":false}}"#);
        let (list, whole) = (
            chat(list.as_bytes()).unwrap(),
            chat(whole.as_bytes()).unwrap(),
        );
        assert_eq!(list.messages, whole.messages);
        assert!(list.thinking.is_none() && !whole.thinking.unwrap().enabled);
        for (bad, says) in [
            ("", "stdin: EOF"),
            ("[]", "`messages` "),
            ("[1]", "`messages[0]` "),
            (
                r#"{"messages":[{"role":"user","content":"a"}],"temprature":1}"#,
                "`temprature` ",
            ),
        ] {
            let failure = chat(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(&failure, Failure::Use(said) if said.contains(says)),
                "{bad}: {failure}"
            );
        }
    }
}
