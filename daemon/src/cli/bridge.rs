//! `glowplug bridge`: other protocols, spoken by a client of a running daemon.

use super::client::{Target, ask::Assistant, options};
use super::client_runtime;
use super::failure::Failure;
use super::serve::{log_to_stderr, shutdown};
use crate::bridge::openai::{self, keys::Keys};
use crate::bridge::{BridgeError, Place, wyoming};
use crate::config::{BrokerAddress, Config};
use crate::wire::topics::Topics;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

/// Longest file of keys, in bytes.
const KEYS_FILE_MAX: u64 = 64 * 1024;

/// Serve other protocols as a client of a running daemon
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bridge: Bridge,
}

#[derive(clap::Subcommand)]
enum Bridge {
    /// An OpenAI-compatible HTTP endpoint: /v1/models and /v1/chat/completions
    Openai(Openai),
    /// A Wyoming service that answers what Home Assistant's Assist hears
    Wyoming(Wyoming),
}

#[derive(clap::Args)]
struct Openai {
    /// where to listen; anything but loopback needs keys
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// the keys that clients show: a key a line, and the client's segment that it stands for
    #[arg(long, value_name = "FILE", conflicts_with = "client")]
    api_keys: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    assistant: Assistant,
}

#[derive(clap::Args)]
struct Wyoming {
    /// where to listen; the protocol has no passwords, so whoever reaches this address may ask
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10400")]
    listen: SocketAddr,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    assistant: Assistant,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.bridge {
        Bridge::Openai(args) => openai(args),
        Bridge::Wyoming(args) => wyoming(args),
    }
}

fn openai(args: &Openai) -> Result<(), Failure> {
    let keys = args.api_keys.as_deref().map(read_keys).transpose()?;
    if keys.is_none() && !args.listen.ip().is_loopback() {
        return Err(Failure::Use(format!(
            "--listen {}: others can reach it, so it needs --api-keys",
            args.listen
        )));
    }
    let (config, server) = args.target.place()?;
    let clients = match &keys {
        Some(keys) => keys.clients().into_iter().collect(),
        None => vec![args.target.client("openai")?],
    };
    let places = clients
        .into_iter()
        .map(|client| place(&config, &server, client))
        .collect::<Result<_, _>>()?;
    log_to_stderr();
    client_runtime()?.block_on(async {
        let listener = listen(args.listen, "http").await?;
        openai::run(listener, places, keys, args.assistant.fields(), shutdown()?)
            .await
            .map_err(|error| failure(&error))
    })
}

fn wyoming(args: &Wyoming) -> Result<(), Failure> {
    let (config, server) = args.target.place()?;
    let place = place(&config, &server, args.target.client("wyoming")?)?;
    log_to_stderr();
    client_runtime()?.block_on(async {
        let listener = listen(args.listen, "tcp").await?;
        wyoming::run(listener, place, args.assistant.fields(), shutdown()?)
            .await
            .map_err(|error| failure(&error))
    })
}

/// A client of the daemon. Its MQTT identifier is one of a second connection, so that it ends no other of the same client.
fn place(config: &Config, server: &BrokerAddress, client: String) -> Result<Place, Failure> {
    let topics = Topics::new(&config.base_topic, &config.node);
    let id = format!("{client}:{:08x}", fastrand::u32(..));
    // its status last: when it is known that the daemon is there, all else is known and answers are heard
    let subscriptions = vec![topics.info(), topics.reply(&client), topics.status()];
    Ok(Place {
        options: options(config, server.clone(), id, subscriptions)?,
        topics,
        client,
        node: config.node.clone(),
    })
}

/// Listens, and says where: with port 0 the system chooses one.
async fn listen(address: SocketAddr, scheme: &str) -> Result<TcpListener, Failure> {
    let failed = |why| failure(&BridgeError::Listen { address, why });
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!("listening on {scheme}://{address}");
    Ok(listener)
}

fn failure(error: &BridgeError) -> Failure {
    Failure::Run(error.to_string())
}

fn read_keys(path: &Path) -> Result<Keys, Failure> {
    let wrong = |why: String| Failure::Use(format!("--api-keys {}: {why}", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(KEYS_FILE_MAX).read_to_string(&mut text))
        .map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 == KEYS_FILE_MAX {
        return Err(wrong(format!("longer than {KEYS_FILE_MAX} bytes")));
    }
    Keys::parse(&text).map_err(|error| wrong(error.to_string()))
}
