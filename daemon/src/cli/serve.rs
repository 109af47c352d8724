//! `glowplug serve`: the daemon.

use super::config::sources;
use super::failure::Failure;
use crate::machine::systemd::Supervisor;
use crate::mqtt::broker::credentials;
use crate::server::{self, RunError};
use glowplug_model::gguf::guard;
use glowplug_model::pool::share_heap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

/// Run the daemon until SIGTERM or SIGINT
#[derive(clap::Args)]
pub(crate) struct Args {
    /// configuration file [default: /etc/glowplug/config.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// the board this runs on: its memory and what it keeps of it
    #[arg(long, value_name = "NAME")]
    board: Option<String>,
}

/// Runs until SIGTERM or SIGINT; then what runs is finished.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let draft =
        sources::load(args.config.as_deref(), args.board.as_deref()).map_err(Failure::of_daemon)?;
    let mut config = sources::finish(draft, None)?;
    match sources::model(&mut config) {
        // the daemon may know of another model, and says what became of this one
        Err(Failure::Missing(why)) => eprintln!("glowplug: {why}"),
        found => drop(found?),
    }
    config.model.remembered = true;
    // if the model's file is cut while it is mapped, requests end with an answer and the process with a message
    guard().map_err(|error| Failure::Run(format!("cannot guard the model's file: {error}")))?;
    config.supervisor = supervisor(&|name| env::var_os(name), std::process::id());
    log_to_stderr();
    server_runtime()?.block_on(async {
        let shutdown = shutdown()?;
        let (started, starting) = oneshot::channel::<server::Started>();
        let password = credentials::local_file(&config.state_dir);
        let announce = async {
            if let Ok(Some(url)) = starting.await.map(|started| started.embedded) {
                tracing::info!(
                    "the embedded broker is on {url}; user {}, password in {}",
                    credentials::LOCAL_USER,
                    password.display()
                );
            }
        };
        let (ended, ()) = tokio::join!(server::run(config, started, shutdown), announce);
        ended.map_err(|error| failure(&error))
    })
}

/// Ends at SIGTERM or SIGINT. It must be called inside a tokio runtime.
pub(crate) fn shutdown() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::Run(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}

/// The service manager as its variables name it; a watchdog may be meant for another process.
fn supervisor(var: &dyn Fn(&str) -> Option<OsString>, own: u32) -> Option<Supervisor> {
    let socket = var("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    let number = |name| var(name)?.to_str()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(own));
    let watchdog = number("WATCHDOG_USEC").filter(|us| ours && *us > 0);
    Some(Supervisor {
        socket,
        watchdog: watchdog.map(Duration::from_micros),
    })
}

/// The failure for an error of the daemon. A model that cannot be served until somebody changes something is bad input,
/// which no other start can help; everything else went wrong at run time.
pub(crate) fn failure(error: &RunError) -> Failure {
    match error {
        RunError::Model(why) => Failure::Use(why.clone()),
        RunError::NotNow(_)
        | RunError::OnTrial(_)
        | RunError::Broke(_)
        | RunError::Broker(_)
        | RunError::Keys(_)
        | RunError::Credentials(_) => Failure::Run(error.to_string()),
    }
}

/// The runtime of the daemon. It is the main thread alone, because its work is waiting, and the model computes on threads
/// of its own. Workers would take cores from those, and where the system refuses a thread, Tokio panics and then waits for
/// the workers that it has. Called before any thread is started, which all allocate from one heap from then on.
pub(crate) fn server_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    share_heap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("cannot start the runtime: {error}")))
}

/// Starts the log. `GLOWPLUG_LOG` chooses what is logged, in the syntax of tracing's `EnvFilter`. The broker's crate
/// reports every connection, so by default only its warnings are shown.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("GLOWPLUG_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,glowplug=info,glowplug_model=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_who_the_environment_says() {
        let found = |vars: &[(&str, &str)]| {
            let var = |name: &str| {
                let value = vars.iter().find(|(known, _)| *known == name);
                value.map(|(_, value)| OsString::from(value))
            };
            supervisor(&var, 7).map(|found| (found.socket, found.watchdog))
        };
        let socket = ("NOTIFY_SOCKET", "@s");
        let dog = ("WATCHDOG_USEC", "30000000");
        let told = |watchdog| Some((OsString::from("@s"), watchdog));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("NOTIFY_SOCKET", ""), dog]), None);
        assert_eq!(found(&[socket]), told(None));
        let thirty = told(Some(Duration::from_secs(30)));
        assert_eq!(found(&[socket, dog]), thirty);
        assert_eq!(found(&[socket, dog, ("WATCHDOG_PID", "7")]), thirty);
        assert_eq!(found(&[socket, dog, ("WATCHDOG_PID", "8")]), told(None));
        assert_eq!(found(&[socket, ("WATCHDOG_USEC", "0")]), told(None));
    }
}
