//! What the service manager is told: the lines of `sd_notify(3)` in datagrams. It is told that we are ready when the
//! model has answered. Its watchdog is fed when a report of the inference thread went through the server's loop, while
//! nothing waits or what waits gets on: so neither thread can hang unnoticed, nor can a queue stand still.

use std::ffi::{OsStr, OsString};
use std::io;
#[cfg(target_os = "android")]
use std::os::android::net::SocketAddrExt;
#[cfg(not(target_os = "android"))]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Reports come, and are passed on, so many times as often as they must.
const MARGIN: u32 = 4;
/// How long another model may load: it may have to be packed on a slow disk.
const LOADING: Duration = Duration::from_secs(600);

/// Where a service manager listens, as the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    /// The path of its socket, or `@name` of an abstract one.
    pub socket: OsString,
    /// It restarts us when it has heard nothing for so long.
    pub watchdog: Option<Duration>,
}

impl Supervisor {
    /// How often the inference thread must report.
    #[must_use]
    pub fn beat(&self) -> Option<Duration> {
        let beat = self.watchdog.map(|longest| longest / MARGIN);
        beat.map(|beat| beat.max(Duration::from_millis(1)))
    }
}

/// Connection to systemd's notify socket. Without one, every call does nothing.
#[derive(Debug, Default)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    beat: Option<Duration>,
    fed: Option<Instant>,
}

impl Notify {
    /// Opens the socket. If that fails, the log says so; the manager will notice that nothing comes.
    #[must_use]
    pub fn new(supervisor: Option<&Supervisor>) -> Self {
        let Some(supervisor) = supervisor else {
            return Self::default();
        };
        let open = || -> io::Result<_> {
            let socket = UnixDatagram::unbound()?;
            // a manager that does not read must not hold up the daemon
            socket.set_nonblocking(true)?;
            Ok((socket, address(&supervisor.socket)?))
        };
        Self {
            to: open()
                .inspect_err(|error| tracing::warn!("cannot notify the service manager: {error}"))
                .ok(),
            beat: supervisor.beat(),
            fed: None,
        }
    }

    /// The model answers. From here on the watchdog runs.
    pub fn ready(&mut self, now: Instant, model: &str) {
        // it must stay one line, and a model file's name may hold anything
        let model: String = model.chars().filter(|c| !c.is_control()).collect();
        let watchdog = self.beat.map_or(String::new(), |beat| {
            format!(
                "WATCHDOG_USEC={}\nWATCHDOG=1\n",
                (beat * MARGIN).as_micros()
            )
        });
        self.tell(&format!("READY=1\nSTATUS=serves {model}\n{watchdog}"));
        self.fed = Some(now);
    }

    /// Another model loads and has its own time for it: the inference thread reports nothing meanwhile.
    pub fn loading(&mut self) {
        if self.beat.is_some() && self.fed.take().is_some() {
            self.tell(&format!(
                "WATCHDOG_USEC={}\nSTATUS=loads\n",
                LOADING.as_micros()
            ));
        }
    }

    /// The inference thread has reported; what waits has stood still for so long. Once that is as long as the watchdog
    /// waits, the watchdog is left to notice it.
    pub fn alive(&mut self, now: Instant, stalled: Duration) {
        let (Some(beat), Some(fed)) = (self.beat, self.fed) else {
            return;
        };
        if stalled < beat * MARGIN && now.saturating_duration_since(fed) >= beat {
            self.fed = Some(now);
            self.tell("WATCHDOG=1\n");
        }
    }

    /// What runs is finished from here on, and nothing new is taken.
    pub fn stopping(&mut self) {
        self.tell("STOPPING=1\nSTATUS=drains\n");
        self.fed = None;
    }

    fn tell(&self, what: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(what.as_bytes(), address)
        {
            tracing::warn!("the service manager was not told: {error}");
        }
    }
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let next = || socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec());
        std::iter::from_fn(next)
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect()
    }

    fn notify(socket: impl Into<OsString>) -> Notify {
        Notify::new(Some(&Supervisor {
            socket: socket.into(),
            watchdog: Some(Duration::from_secs(8)),
        }))
    }

    #[test]
    fn the_watchdog_is_fed_by_news_alone_and_only_while_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notify = notify(path.as_os_str());
        let (start, at) = (Instant::now(), Duration::from_secs);
        notify.alive(start + at(100), Duration::ZERO);
        assert!(heard(&manager).is_empty(), "it loads");
        notify.ready(start, "Smol\nLM");
        assert_eq!(
            heard(&manager),
            ["READY=1\nSTATUS=serves SmolLM\nWATCHDOG_USEC=8000000\nWATCHDOG=1\n"]
        );
        for (seconds, fed) in [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (100, 1), (101, 0)] {
            notify.alive(start + at(seconds), Duration::ZERO);
            assert_eq!(heard(&manager), vec!["WATCHDOG=1\n"; fed], "{seconds}");
        }
        notify.loading();
        notify.alive(start + at(150), Duration::ZERO);
        assert_eq!(heard(&manager), ["WATCHDOG_USEC=600000000\nSTATUS=loads\n"]);
        notify.ready(start + at(160), "b");
        assert_eq!(heard(&manager).len(), 1);
        notify.stopping();
        notify.alive(start + at(200), Duration::ZERO);
        assert_eq!(heard(&manager), ["STOPPING=1\nSTATUS=drains\n"]);
    }

    #[test]
    fn a_queue_that_stands_still_is_not_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notify = notify(path.as_os_str());
        let (start, at) = (Instant::now(), Duration::from_secs);
        notify.ready(start, "m");
        assert_eq!(heard(&manager).len(), 1);
        // the thread says every two seconds that it lives, and the watchdog waits eight
        for second in (2..=40).step_by(2) {
            let stalled = if second < 30 { at(second) } else { at(0) };
            notify.alive(start + at(second), stalled);
            let fed = !(8..30).contains(&second);
            assert_eq!(heard(&manager).len(), usize::from(fed), "{second}");
        }
    }

    #[test]
    fn a_name_without_a_file_is_an_address_too() {
        let name = format!("glowplug-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&abstract_name).unwrap();
        notify(format!("@{name}")).stopping();
        assert_eq!(heard(&manager).len(), 1);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for mut notify in [
            Notify::new(None),
            notify("/nonexistent/notify"),
            notify("x".repeat(500)),
        ] {
            notify.ready(Instant::now(), "m");
            notify.alive(Instant::now() + Duration::from_secs(99), Duration::ZERO);
            notify.stopping();
        }
    }
}
