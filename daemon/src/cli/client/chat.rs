//! `glowplug chat`: a conversation with a running daemon. It is kept here and sent whole each time, or kept there as a
//! session.

use super::ask::{Manner, request, turn};
use super::print;
use super::{Client, Target};
use crate::cli::client_runtime;
use crate::cli::failure::{Failure, put_json};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Longest line that is read. Every daemon would refuse a longer one.
const LINE_MAX: usize = crate::mqtt::PACKET_MAX / 4;

/// Talk with a running daemon over MQTT: /reset forgets the conversation, ctrl-c breaks off an answer, ctrl-d ends
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    manner: Manner,
    /// print each answer's final frame as JSON, one a line, instead of its text as it comes
    #[arg(long)]
    json: bool,
    /// tools that the model may call, as a JSON array of OpenAI's; you type their results
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
}

/// Talks with the daemon until stdin ends.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let tools = args.tools.as_deref().map(read_tools).transpose()?;
    let runtime = client_runtime()?;
    let result = runtime.block_on(async {
        let mut client = args.target.connect(args.manner.session.as_deref())?;
        client.ready(None).await?;
        let result = converse(
            &mut client,
            Vec::new(),
            &args.manner,
            tools.as_ref(),
            args.json,
        )
        .await;
        client.close().await;
        result
    });
    // the thread that reads stdin may be blocked in it for ever
    runtime.shutdown_background();
    result
}

/// Reads questions and prints answers until stdin ends. `messages` is the conversation so far. In a session it stays
/// empty, because the daemon has it.
///
/// Where the model calls `tools`, each next line is the result of one call, and the answer follows the last of them.
pub(crate) async fn converse(
    client: &mut Client,
    mut messages: Vec<Value>,
    manner: &Manner,
    tools: Option<&Value>,
    json: bool,
) -> Result<(), Failure> {
    let mut lines = lines()?;
    // the calls without a result, and how long the conversation was before their question
    let (mut due, mut begun) = (VecDeque::<(String, String)>::new(), 0);
    loop {
        if io::stdin().is_terminal() {
            let tool = due.front().map_or("", |(_, name)| name);
            // failing to show a prompt is no reason to end
            let _ = write!(io::stderr(), "{tool}> ").and_then(|()| io::stderr().flush());
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line.transpose()? else {
            return Ok(());
        };
        match (line.trim(), due.pop_front()) {
            ("/reset", _) => {
                messages.clear();
                due.clear();
                if let Some(session) = &manner.session {
                    match client.reset(session).await {
                        Err(failure @ Failure::Use(_)) => eprintln!("glowplug: {failure}"),
                        result => result?,
                    }
                }
                continue;
            }
            (text, Some((id, _))) => {
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": text }));
                if !due.is_empty() {
                    continue;
                }
            }
            ("", None) => continue,
            (command, None) if command.starts_with('/') => {
                eprintln!(
                    "glowplug: `{command}` is not a command; there is /reset, and ctrl-d to end"
                );
                continue;
            }
            (text, None) => {
                begun = messages.len();
                messages.push(turn("user", text));
            }
        }
        let mut request = request(&messages, manner, !json);
        if let Some(tools) = tools {
            request["tools"] = tools.clone();
        }
        let answer = if json {
            client
                .exchange(request, &mut |_| Ok(()))
                .await?
                .into_final()
        } else {
            print::stream(client, request).await
        };
        match answer {
            Ok(frame) => {
                if json {
                    put_json(&frame)?;
                }
                let said = &frame["choices"][0]["message"];
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                for call in said["tool_calls"].as_array().into_iter().flatten() {
                    due.push_back((text(&call["id"]), text(&call["function"]["name"])));
                }
                if manner.session.is_some() {
                    messages.clear();
                } else {
                    let mut turn = turn("assistant", &text(&said["content"]));
                    if !due.is_empty() {
                        turn["tool_calls"] = said["tool_calls"].clone();
                    }
                    messages.push(turn);
                }
            }
            // too long for the context, or a full queue: the conversation can go on without this question
            Err(failure @ Failure::Use(_)) => {
                eprintln!("glowplug: {failure}");
                messages.truncate(begun);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Reads the tools of a file, which the daemon checks.
fn read_tools(path: &Path) -> Result<Value, Failure> {
    let wrong = |why: String| Failure::Use(format!("--tools {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let tools: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !tools.is_array() {
        return Err(wrong(
            "must be a JSON array of OpenAI's function tools".to_owned(),
        ));
    }
    Ok(tools)
}

/// The lines of stdin. A thread of its own reads them, because a blocking read cannot be interrupted.
fn lines() -> Result<mpsc::Receiver<Result<String, Failure>>, Failure> {
    let (sender, lines) = mpsc::channel(1);
    let read = move || {
        for line in io::stdin().lines() {
            let line = match line {
                Ok(line) if line.len() > LINE_MAX => Err(Failure::Use(format!(
                    "a line of {} bytes, the limit is {LINE_MAX}",
                    line.len()
                ))),
                line => line.map_err(|error| Failure::Use(format!("cannot read stdin: {error}"))),
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(read)
        .map(|_| lines)
        .map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))
}
