//! How a command fails, and how it writes its results.

use crate::models::catalogue::Unreadable;
use crate::models::speed::NotMeasured;
use glowplug_model::engine::{LoadError, NotFed};
use glowplug_model::gguf::GgufError;
use glowplug_model::text::TextError;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command ended without its result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Bad use or bad input: what was asked for must change. The exit code is 2.
    #[error("{0}")]
    Use(String),
    /// A file that was named is not there. This is bad use as well, but the file may come by itself. The exit code is
    /// 2, but that of a daemon is 1.
    #[error("{0}")]
    Missing(String),
    /// Something went wrong at run time. The exit code is 1.
    #[error("{0}")]
    Run(String),
    /// The reader of our output went away (`glowplug … | head`), so nobody is left to tell.
    #[error("stdout is closed")]
    StdoutClosed,
}

impl Failure {
    /// The exit code is 2 for bad use or bad input, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Use(_) | Self::Missing(_) => 2,
            Self::Run(_) | Self::StdoutClosed => 1,
        })
    }

    /// The same failure for a daemon, which is started again after exit code 1 and not after 2: its files may be on a
    /// disk that is not mounted yet.
    pub(crate) fn of_daemon(self) -> Self {
        match self {
            Self::Missing(why) => Self::Run(why),
            failure => failure,
        }
    }

    /// A read or write failed of a file that the user did not choose.
    pub(crate) fn io(what: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::Run(format!("cannot {what} {}: {error}", path.display()))
    }
}

// A file that cannot be read as a model, or text that cannot be tokenised, is bad input.
impl From<GgufError> for Failure {
    fn from(error: GgufError) -> Self {
        Self::Use(error.to_string())
    }
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        Self::Run(error.to_string())
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::Use(error.to_string())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::Use(error.to_string())
    }
}

impl From<NotFed> for Failure {
    fn from(error: NotFed) -> Self {
        Self::Run(error.to_string())
    }
}

impl From<NotMeasured> for Failure {
    fn from(error: NotMeasured) -> Self {
        match error {
            NotMeasured::Load(error) => error.into(),
            NotMeasured::Fed(error) => error.into(),
        }
    }
}

/// Writes a result and flushes it, because a program may be reading it piece by piece.
pub(crate) fn put(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
            _ => Failure::Run(format!("cannot write to stdout: {error}")),
        })
}

/// Writes a line and flushes it.
pub(crate) fn put_line(text: &str) -> Result<(), Failure> {
    put(&format!("{text}\n"))
}

/// Writes one JSON value as a line.
pub(crate) fn put_json(value: &serde_json::Value) -> Result<(), Failure> {
    put_line(&value.to_string())
}
