//! The driver of the device as everybody calls it: on the thread of its own, and until it is given up.

use super::thread::DriverThread;
use crate::ops::no_gpu::NoGpu;
use glowplug_firmware_config::limits::DEVICE_WAIT_MAX;
use std::fmt::Display;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why the device was given up. It is not tried again before the process starts again.
static GIVEN_UP: OnceLock<String> = OnceLock::new();

/// The longest that anybody waits for the driver from now on, in milliseconds.
static PATIENCE_MS: AtomicU64 = AtomicU64::new(DEVICE_WAIT_MAX.as_millis() as u64);

/// Where the driver is called.
#[derive(Debug, Clone)]
pub struct Driver(pub(super) DriverThread);

impl Driver {
    /// Starts the thread that calls it.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start() -> io::Result<Self> {
        DriverThread::start().map(Self)
    }

    /// Has the thread do `work`, and gives the device up if that panics or takes longer than anybody may wait.
    ///
    /// # Errors
    /// [`NoGpu::Device`] says why the device was given up, now or before.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoGpu> {
        if let Some(why) = Self::given_up() {
            return Err(NoGpu::Device(why.to_owned()));
        }
        let longest = Duration::from_millis(PATIENCE_MS.load(Ordering::Relaxed));
        let done = self.0.run(longest, work);
        done.map_err(|error| Self::give_up(&error))
    }

    /// Sets the longest that anybody waits for the driver from now on, up to [`DEVICE_WAIT_MAX`].
    pub fn wait_at_most(patience: Duration) {
        let patience = patience.min(DEVICE_WAIT_MAX).as_millis() as u64;
        PATIENCE_MS.store(patience, Ordering::Relaxed);
    }

    /// Gives the device up for this reason, or the one before.
    pub fn give_up(why: &impl Display) -> NoGpu {
        NoGpu::Device(GIVEN_UP.get_or_init(|| sentence(why)).clone())
    }

    /// Why the device was given up, if it was.
    #[must_use]
    pub fn given_up() -> Option<&'static str> {
        GIVEN_UP.get().map(String::as_str)
    }
}

/// What an error of the runtime says, on one line: its causes, without a backtrace.
pub(super) fn sentence(error: &impl Display) -> String {
    let error = error.to_string();
    let lines = error.lines().map(str::trim);
    let said = lines.take_while(|line| !line.starts_with("Backtrace"));
    let mut said: Vec<&str> = said
        .filter(|line| !line.is_empty() && !line.starts_with("Caused by"))
        .collect();
    said.dedup();
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_on_one_line() {
        let error = "The device is poisoned\nCaused by:\n  The device is poisoned\nCaused by:\n  Unknown: Device is lost\nBacktrace:\nNone\n";
        assert_eq!(
            sentence(&error),
            "The device is poisoned: Unknown: Device is lost"
        );
        assert_eq!(sentence(&"it is gone"), "it is gone");
    }
}
