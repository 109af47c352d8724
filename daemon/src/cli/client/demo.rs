//! `glowplug demo`: the way without any set-up. It fetches a model, starts the daemon with its embedded broker, and
//! asks it over MQTT.

use super::Client;
use super::ask::{Manner, request, turn};
use super::{chat, print};
use crate::cli::config::sources;
use crate::cli::failure::Failure;
use crate::cli::models;
use crate::cli::models::pull;
use crate::cli::serve::{failure, server_runtime};
use crate::config::{BrokerAddress, Config};
use crate::models::catalogue;
use crate::mqtt::broker::credentials;
use crate::server;
use serde_json::{Value, json};
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The question that is asked without `--prompt`.
const QUESTION: &str = "What is MQTT? Answer in one sentence.";

/// Most tokens of an answer: the smallest models do not find an end by themselves.
const ANSWER_MAX: u32 = 256;

/// How long the daemon may take to stop once its answer is out.
const STOP: Duration = Duration::from_secs(10);

/// See it work: fetches a model, starts the daemon with its own broker on loopback, and asks it over MQTT
#[derive(clap::Args)]
pub(crate) struct Args {
    /// a name of the catalogue, or the path of a GGUF file
    #[arg(long, default_value = "smol")]
    model: String,
    /// what to ask; on a terminal it goes on as a chat
    #[arg(long, value_name = "TEXT", default_value = QUESTION)]
    prompt: String,
}

/// Fetches the model, starts the daemon, asks the question and explains what happened. Then it stops, or goes on as a
/// chat.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = fetch(&args.model)?;
    let mut draft = sources::load(None, None)?;
    draft
        .set("broker.listen", &format!("127.0.0.1:{}", free_port()))
        .map_err(|error| Failure::Run(error.to_string()))?;
    let config = sources::finish(draft, Some(model))?;

    let runtime = server_runtime()?;
    let result = runtime.block_on(async {
        let (started, starting) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // either the signal was sent or the sender is gone; both mean stop
            let _ = stopped.await;
        };
        let mut daemon = tokio::spawn(server::run(config.clone(), started, shutdown));
        let talk = async {
            match starting.await {
                Ok(started) => talk(args, &config, started.server).await,
                // the daemon ended before it began; its own error says why
                Err(_) => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            result = talk => result,
            ended = &mut daemon => return Err(early_end(ended)),
        };
        drop(stop);
        // the answer is out, so a daemon that does not stop in time may end with this process
        let _ = timeout(STOP, daemon).await;
        result
    });
    // on a terminal a thread waits for the next line of stdin
    runtime.shutdown_background();
    result
}

/// The file of the model, which is fetched if it is not here.
fn fetch(model: &str) -> Result<PathBuf, Failure> {
    match catalogue::find(model)? {
        Some(entry) if !Path::new(model).is_file() => {
            eprintln!("glowplug: model {} ({})", entry.title, entry.licence);
            pull::ensure(&entry)
        }
        _ => models::resolve(model),
    }
}

/// MQTT's own port if it is free, else any other.
fn free_port() -> u16 {
    match TcpListener::bind(("127.0.0.1", 1883)) {
        Ok(_) => 1883,
        Err(_) => 0,
    }
}

fn early_end(ended: Result<Result<(), server::RunError>, tokio::task::JoinError>) -> Failure {
    match ended {
        Ok(Err(error)) => failure(&error),
        Ok(Ok(())) => Failure::Run("the daemon stopped".into()),
        Err(error) => Failure::Run(format!("the daemon failed: {error}")),
    }
}

async fn talk(args: &Args, config: &Config, server: BrokerAddress) -> Result<(), Failure> {
    let mut client = Client::connect(config, server.clone(), "demo".into(), None)?;
    client.ready(None).await?;
    eprintln!(
        "glowplug: the daemon `{}` is online on mqtt://{server}",
        config.node
    );
    eprintln!("> {}", args.prompt);
    let mut question = request(&[turn("user", &args.prompt)], &Manner::default(), true);
    if client
        .info()
        .is_none_or(|info| info["model"]["thinks"] != json!(true))
    {
        question["max_tokens"] = json!(ANSWER_MAX);
    }
    let frame = print::stream(&mut client, question).await?;
    eprintln!("glowplug: {}", print::figures(&frame));
    explain_memory(client.info());
    explain_topics(config, &server);
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        eprintln!("glowplug: go on; /reset forgets the conversation, ctrl-d ends");
        let said = frame["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default();
        let messages = vec![turn("user", &args.prompt), turn("assistant", said)];
        chat::converse(&mut client, messages, &Manner::default(), None, false).await?;
    }
    client.close().await;
    Ok(())
}

/// Explains the memory plan in `info`, a line for each consumer.
fn explain_memory(info: Option<&Value>) {
    let Some(memory) = info.map(|info| &info["memory"]) else {
        return;
    };
    let mb = |bytes: &Value| bytes.as_f64().unwrap_or_default() / 1e6;
    eprintln!(
        "glowplug: memory plan, {:.1} MB in all",
        mb(&memory["total"])
    );
    let lines = memory.as_object().into_iter().flatten();
    for (line, bytes) in lines.filter(|(line, _)| !["total", "budget"].contains(&line.as_str())) {
        eprintln!("  {line:<16} {:>8.1} MB", mb(bytes));
    }
}

/// Prints commands that can be typed in a second terminal.
fn explain_topics(config: &Config, server: &BrokerAddress) {
    let broker = format!("-h {} -p {}", server.host, server.port);
    let user = if config.mqtt.server.is_some() {
        String::new()
    } else {
        let file = credentials::local_file(&config.state_dir);
        format!(
            " -u {} -P \"$(cat '{}')\"",
            credentials::LOCAL_USER,
            file.display()
        )
    };
    let topic = format!("{}/{}", config.base_topic, config.node);
    eprintln!("glowplug: the same from a second terminal, while the daemon runs:");
    eprintln!("  mosquitto_sub {broker}{user} -i me:sub -t '{topic}/ask/me/answer' &");
    eprintln!(
        "  mosquitto_pub {broker}{user} -i me -q 1 -t '{topic}/ask/me' -m 'Why is the sky blue?'"
    );
}
