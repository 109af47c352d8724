//! `glowplug serve`: the daemon.

use super::failure::Failure;
use super::settings;
use crate::config::Server;
use crate::server::{self, RunError};
use crate::transport::credentials;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Run the daemon
#[derive(clap::Args)]
pub(crate) struct Args {
    /// configuration file [default: /etc/glowplug/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// the board this runs on: its memory and what it keeps of it
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
}

/// Runs until SIGTERM or SIGINT; then what runs is drained.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let draft = settings::load(args.config.as_deref(), args.board.as_deref())?;
    let config = settings::finish(draft, None)?;
    settings::model(&config)?;
    log_to_stderr();
    server_runtime()?.block_on(async {
        let failed = |error| Failure::Run(format!("cannot wait for signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let shutdown = async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        };
        let (started, starting) = oneshot::channel::<server::Started>();
        let embedded = config.mqtt.server.is_none();
        let password = credentials::local_file(&config.state_dir);
        let announce = async {
            if let (true, Ok(started)) = (embedded, starting.await) {
                let Server { host, port } = started.server;
                tracing::info!(
                    "the embedded broker is on mqtt://{host}:{port}; user {}, password in {}",
                    credentials::LOCAL_USER,
                    password.display()
                );
            }
        };
        let (ended, ()) = tokio::join!(server::run(config, started, shutdown), announce);
        ended.map_err(|error| failure(&error))
    })
}

/// A model that cannot be served is bad input; everything else went wrong at run time.
pub(crate) fn failure(error: &RunError) -> Failure {
    match error {
        RunError::Model(why) => Failure::Use(why.clone()),
        RunError::Broker(_) | RunError::Credentials(_) => Failure::Run(error.to_string()),
    }
}

/// Two threads: the daemon's own work is waiting; the model computes on threads of its own.
pub(crate) fn server_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the runtime: {error}")))
}

/// `GLOWPLUG_LOG` chooses what is logged, in the words of tracing's `EnvFilter`. The broker's own crate tells every
/// connection, so by default only its warnings are shown.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("GLOWPLUG_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,glowplug=info,glowplug_model=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
